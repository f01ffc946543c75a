"""A change that somebody was asked about: made once, and never after another."""

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import once, operator
from safeguard_streams.releases.once import Asked
from safeguard_streams.releases.operator import ChangedBy, ReleaseHistory

POLICY, OTHER = list(load_library().values())[:2]
ANN = ChangedBy("clearer", "ann")


@pytest.fixture
def changes(monkeypatch):
    """The history, as `operator.change` would write it."""
    made = []

    async def change(_settings, plan):
        in_force = {one.policy_id: one.release for one in made if one.action == "release"}
        shadows = {one.policy_id: one.release for one in made if one.action == "shadow"}
        new = plan(ReleaseHistory(list(made), in_force, shadows))
        made.extend(new)
        return new

    monkeypatch.setattr(operator, "change", change)
    return made


def asked(changes, by=ANN, policy=POLICY, action="release"):
    return Asked(policy.id, changes, action, by, policy.document)


async def test_the_same_request_is_one_change(changes):
    first = await once.change(None, asked(0), operator.releasing([POLICY], ANN))
    again = await once.change(None, asked(0), operator.releasing([POLICY], ANN))
    assert again is first
    assert len(changes) == 1


async def test_a_change_of_another_policy_is_in_nobodys_way(changes):
    await once.change(None, asked(0, policy=OTHER), operator.releasing([OTHER], ANN))
    assert await once.change(None, asked(0), operator.releasing([POLICY], ANN))
    assert len(changes) == 2


@pytest.mark.parametrize("other", [ChangedBy("clearer", "ben"), ChangedBy("another reason", "ann")])
async def test_another_request_since_the_question_is_refused(changes, other):
    await once.change(None, asked(0, other), operator.releasing([POLICY], other))
    with pytest.raises(ConfigurationError, match=f"{other.by} changed {POLICY.id} meanwhile"):
        await once.change(None, asked(0), operator.releasing([POLICY], ANN))
    assert len(changes) == 1


async def test_what_stands_already_is_no_change(changes):
    await once.change(None, asked(0), operator.releasing([POLICY], ANN))
    assert await once.change(None, asked(1), operator.releasing([POLICY], ANN)) is None
    assert len(changes) == 1


async def test_the_same_as_a_shadow_is_another_request(changes):
    await once.change(None, asked(0), operator.releasing([POLICY], ANN))
    with pytest.raises(ConfigurationError):
        await once.change(None, asked(0, action="shadow"), operator.releasing([POLICY], ANN, shadow=0.1))
