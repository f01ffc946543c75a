"""Who decides and why is plain text, in every script."""

import json

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.cli.options import changed_by
from safeguard_streams.contract.records import Action
from safeguard_streams.enforcement import decisions, moderators
from safeguard_streams.enforcement.delivery import authorization
from safeguard_streams.enforcement.moderators import HeldAction
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime import settings
from tests.unit.enforcement.test_transform import WHEN


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\r", "\x1b[31mred", "\x00", "\x7f", "\x9b2J", "a\u2028b", "\u202eevil", "\u2066x", "\ud800", "x" * 2001],
)
async def test_a_name_or_a_reason_that_is_no_plain_text_is_refused_before_anything_is_read(text):
    for moderator in (ChangedBy(text, "ann"), ChangedBy("", text)):
        with pytest.raises(ConfigurationError, match="--why|--by") as caught:
            await decisions.decide(settings.load(bootstrap="127.0.0.1:1"), "c1", "allow", moderator)
        assert text not in str(caught.value)
        with pytest.raises(ConfigurationError, match="--why|--by"):
            await moderators.release(settings.load(bootstrap="127.0.0.1:1"), [], moderator)


@pytest.mark.parametrize(
    "text", ["Ünal Öz", "сатира, не угроза", "讽刺", "هجاء", "👩‍⚖️ [/x] $(ls) 'quoted'", "a\u00a0b"]
)
def test_plain_text_of_every_script_is_accepted(text):
    assert checked(ChangedBy(text, text)) == ChangedBy(text, text.replace("\u00a0", " "))


def test_names_and_reasons_have_one_form():
    """One person has one name: whatever composes its letters, and whatever blanks a form adds."""
    assert checked(ChangedBy(" sent twice ", "  U\u0308nal   O\u0308z ")) == ChangedBy("sent twice", "Ünal Öz")
    for empty in ("", " ", "\u00a0"):
        with pytest.raises(ConfigurationError, match="--by: give a name"):
            checked(ChangedBy("", empty))
    with pytest.raises(ConfigurationError, match="--by: write at most 200 characters"):
        checked(ChangedBy("", "x" * 201))


@pytest.mark.parametrize("value", ["a\nb", "Bearer \x00", "Bearer ключ"])
def test_an_authorization_that_no_header_can_carry_is_refused_and_not_printed(value):
    with pytest.raises(ConfigurationError, match="SAFEGUARD_WEBHOOK_AUTHORIZATION") as caught:
        authorization(settings.load(webhook_authorization=value))
    assert value not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("uid not found: 4711"), OSError("no username set")])
def test_a_user_id_without_a_name_needs_one(error, monkeypatch):
    def getuser():
        raise error

    monkeypatch.setattr("getpass.getuser", getuser)
    with pytest.raises(ConfigurationError, match="say who you are with --by"):
        changed_by("", None)
    assert changed_by("", "ann").by == "ann"


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_what_is_confirmed_is_what_is_released(answer, monkeypatch):
    """The number of held actions grows while the moderator reads the question."""
    waiting, released = [held_action(0)], []

    async def held(_, policy_id):
        shown = [one for one in waiting if one.action.policy_id == policy_id]
        waiting.extend(map(held_action, range(1, 201)))
        return shown

    async def release(_, shown, moderator, *, any_text):
        assert not any_text
        released.extend(one.action.action_id for one in shown)
        return len(shown)

    monkeypatch.setattr(moderators, "held", held)
    monkeypatch.setattr(moderators, "release", release)
    done = CliRunner().invoke(app, ["enforce", "release", "hate", "--by", "ann"], input=answer)
    assert "release under hate: remove 1?" in done.stdout
    assert (released, done.exit_code) == ((["a0"], 0) if answer == "y\n" else ([], 1))


def test_what_the_agent_did_not_release_may_wait_for_more_than_the_agent(monkeypatch):
    """An action that the agent will not release, such as that on an item edited meanwhile, is not announced."""

    async def held(_, policy_id=None):
        return [held_action(0), held_action(1)]

    async def release(*_, any_text):
        return 1

    monkeypatch.setattr(moderators, "held", held)
    monkeypatch.setattr(moderators, "release", release)
    words = ["enforce", "release", "hate", "--yes", "--by", "ann"]
    shown = " ".join(CliRunner().invoke(app, words).stdout.split())
    assert "1 action was released 1 more is not released yet" in shown
    assert "or newer texts or verdicts came meanwhile; see: safeguard enforce held" in shown
    done = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert done == {"policy": "hate", "released": 1, "pending": 1, "edited": 0}


def held_action(number, **more):
    action = Action(f"a{number}", f"c{number}", "remove", WHEN, policy_id="hate", state="held", rule="threats")
    return HeldAction(action, 0, "remove", **more)


@pytest.mark.parametrize(
    ("words", "waiting", "released"),
    [
        ([], [False, True, False], ["a0", "a2"]),
        (["--any-text"], [False, True, False], ["a0", "a1", "a2"]),
        ([], [True], []),
        (["--any-text"], [True], ["a0"]),
    ],
)
def test_actions_on_earlier_texts_are_released_only_on_request(words, waiting, released, monkeypatch):
    """A moderator who has seen one text releases no action on another."""
    found = []

    async def held(_, policy_id=None):
        return [held_action(number, edited=edited) for number, edited in enumerate(waiting)]

    async def release(_, shown, moderator, *, any_text):
        assert any_text == bool(words)
        found.extend(one.action.action_id for one in shown)
        return len(shown)

    monkeypatch.setattr(moderators, "held", held)
    monkeypatch.setattr(moderators, "release", release)
    done = CliRunner().invoke(app, ["enforce", "release", "hate", "--yes", "--by", "ann", *words])
    assert (done.exit_code, found) == (0, released)
    assert ("edited, and new verdicts are pending" in done.stderr) == ("give --any-text" in done.stderr) == (not words)
    listed = CliRunner().invoke(app, ["enforce", "held", "--no-texts"])
    assert listed.stdout.count("its verdict under hate is pending") == sum(waiting)
    (row,) = json.loads(CliRunner().invoke(app, ["enforce", "held", "--no-texts", "--json"]).stdout)
    assert [one["edited"] for one in row["examples"]] == waiting
