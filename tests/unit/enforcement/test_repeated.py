"""A moderator's request that is written twice is followed once; an undo brings back what stood before."""

import msgspec
import pytest

from safeguard_streams.contract.records import Action, Standing, decode
from safeguard_streams.enforcement.moderator_actions import MAX_REPLACED
from safeguard_streams.releases.erasures import standing_without_words
from tests.unit.enforcement.test_edits import KIND, THREAT, cleared, judged, undecide
from tests.unit.enforcement.test_transform import WHEN, Enforced, person, verdict


def undo(decision, name=None):
    return Action(name or f"undo-{decision}", "c1", "allow", WHEN, by="ben", withdraws=decision, reinstates=True)


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize(
    "between",
    [(person(action="label", name="d2"),), (undecide(),), (person("c1", "limit", "d2"), undo("d2"), undo("d1"))],
)
def test_a_repeated_decision_changes_nothing_whatever_came_between(between, restored):
    """A process that was killed after it sent, and whose request is tried again: others decided meanwhile."""
    run = Enforced()
    run(verdict(1, "c1", rule_ids=("HH3",)), person(action="allow"), *between)
    before = run.state["c1"]
    if restored:
        run.state = run.enforcer.states[0] = run.restored()
    assert run(person(action="allow")) == []
    assert run.state["c1"] == run.restored()["c1"] == before


def test_a_verdict_that_a_record_written_by_hand_names_is_followed_after_a_restart_too():
    run = Enforced()
    run(msgspec.structs.replace(person(action="label"), verdict_id="v1", content_sha256="other"), undecide())
    run.state = run.enforcer.states[0] = run.restored()
    (followed,) = run(verdict(1, "c1", rule_ids=("HH3",)))
    assert (followed.verdict_id, followed.effective) == ("v1", "remove")


def test_a_repeated_withdrawal_does_not_end_a_later_decision():
    run = Enforced()
    run(person(action="remove"), undecide(), person(action="label", name="d2"))
    assert run(undecide()) == []
    assert run.state.restricted() == run.restored().restricted() == {"c1": "label"}


def test_one_id_on_two_items_is_two_decisions():
    run = Enforced()
    run(person("c1", "remove"), person("c2", "label"))
    assert run.state.restricted() == {"c1": "remove", "c2": "label"}


def test_an_undo_brings_back_the_decision_before_and_undecide_none():
    for back, stands in ((undo("d2"), "label"), (undecide("u1", "d2"), "remove")):
        run = Enforced()
        run(verdict(1, "c1", rule_ids=("HH3",)), person(action="label"), person(action="allow", name="d2"))
        (done,) = run(back)
        assert (done.action, done.effective, done.previous) == (stands, stands, "allow")
        assert run.state.restricted() == run.restored().restricted() == {"c1": stands}


def test_each_undo_goes_one_decision_back():
    run = Enforced()
    run(verdict(1, "c1", rule_ids=("HH3",)))
    for name, action in (("d1", "allow"), ("d2", "label"), ("d3", "limit")):
        run(person(action=action, name=name))
        run.state = run.enforcer.states[0] = run.restored()
    found = [run(undo(name))[0].effective for name in ("d3", "d2", "d1")]
    assert found == ["label", "allow", "remove"]
    assert run(undo("d1", "again")) == [], "nobody decided any more"
    assert run.restored()["c1"].decision is None


def test_an_undo_of_a_decision_that_was_replaced_meanwhile_changes_nothing_and_ends_it():
    """Ann undoes her decision at the moment at which Ben decides, and Ben then undoes his."""
    run = Enforced()
    run(person(action="label"), person(action="remove", name="d2"))
    assert run(undo("d1")) == []
    assert run.state.restricted() == run.restored().restricted() == {"c1": "remove"}
    assert run(undo("d2"))[0].effective == "allow"
    assert run.restored().restricted() == {}


def test_a_decision_that_comes_back_covers_its_own_text_only():
    run = Enforced()
    run(judged(1, THREAT, 1), person(action="label"))
    run(judged(2, KIND, 2, policy="fraud"), person(action="allow", name="d2"))
    (done,) = run(undo("d2"))
    assert run.state["c1"].decision.action_id == "d1"
    assert run.state["c1"].in_force is None, "it is about the text before"
    assert done.effective == "remove"


def test_what_an_undo_needs_is_bounded_and_holds_no_words_about_an_erased_item():
    run = Enforced()
    for number in range(MAX_REPLACED + 5):
        run(person(action="label", name=f"d{number}"))
    standing = run.restored()["c1"]
    assert [one.action_id for one in standing.replaced] == [f"d{MAX_REPLACED + 3 - n}" for n in range(MAX_REPLACED)]
    assert all(one.why for one in standing.replaced)
    erased = standing_without_words(standing, lambda *_: True)
    assert [one.why for one in (erased.decision, *erased.replaced)] == [""] * (MAX_REPLACED + 1)
    assert standing_without_words(standing, lambda *_: False) == standing


def test_a_withdrawal_with_nothing_left_leaves_who_decided():
    run = Enforced()
    run(person(action="remove"), person(action="label", name="d2"), undecide("u1", "d2"))
    left = decode(run.standings[-1].value, Standing)
    assert (left.effective, left.stands, left.deciders) == ("allow", False, ("ann", "ben"))
    assert run(cleared(5, "c1", KIND, 5)) == []
    assert run(msgspec.structs.replace(person(), withdraws="d1")) == []
