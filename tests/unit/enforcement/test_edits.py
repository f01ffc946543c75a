"""Authors edit content: which verdicts and decisions still count, whatever the order in which they arrive."""

import itertools
from datetime import timedelta

import msgspec
import pytest

from safeguard_streams.contract.records import (
    EVERY_POLICY,
    Action,
    ModeratorDecision,
    PolicyStanding,
    Standing,
    came_later,
    content_sha256,
    decode,
    encode,
)
from safeguard_streams.enforcement.rules import Cap, EnforcementRules
from tests.unit.enforcement.test_transform import RULES, WHEN, Enforced, person, verdict

THREAT, KIND, LONGER = "I will find you", "Have a nice day", "Have a very nice day"


def about(text, offset, one, *, partition=0):
    """A verdict on a text whose event stands at an offset of content.events."""
    return msgspec.structs.replace(one, content_sha256=content_sha256(text), origin=f"{partition}@{offset}")


def judged(number, text, offset, rule="HH3", policy="hate", content="c1", under=None, **more):
    decided = "violates" if rule else "safe"
    one = verdict(number, content, policy, decided, rule_ids=(rule,) if rule else (), judged_under=under, **more)
    return about(text, offset, one)


def cleared(number, content, text, offset, **more):
    return about(text, offset, verdict(f"c{number}", content, EVERY_POLICY, "safe", **more))


def undecide(name="u1", withdraws="d1", content="c1"):
    return Action(name, content, "allow", WHEN, by="ben", why="mistaken", withdraws=withdraws)


def test_an_edit_to_text_that_is_cleared_ends_the_action():
    run = Enforced()
    (removed,) = run(judged(1, THREAT, 1))
    (back,) = run(cleared(2, "c1", KIND, 2))
    assert (back.action, back.previous, back.effective, back.changes) == ("allow", "remove", "allow", True)
    assert (back.policy_id, back.verdict_id, back.reverses) == ("hate", "vc2", removed.action_id)
    assert back.rule == "the edited text passed the gate"
    assert run.state.restricted() == run.restored().restricted() == {}
    assert run.standings[-1].value is None, "nothing stands any more"
    assert run(cleared(2, "c1", KIND, 2)) == []


def test_what_is_cleared_of_an_item_on_which_nothing_stands_leads_to_nothing():
    run = Enforced()
    assert run(cleared(1, "c1", KIND, 1)) == []
    assert not run.standings


@pytest.mark.parametrize(
    "late",
    [
        cleared(2, "c1", KIND, 4),  # an older version
        cleared(2, "c1", THREAT, 6),  # the gate passes the very text that was judged
        cleared(2, "c1", KIND, 5),  # the place of the judged event itself
        cleared(2, "c1", KIND, 6, judged_under=("hate",)),  # an audit will judge it
        msgspec.structs.replace(cleared(2, "c1", KIND, 6), origin=None),  # the order is unknown
        msgspec.structs.replace(cleared(2, "c1", KIND, 6), origin="x"),
    ],
)
def test_a_cleared_verdict_that_says_nothing_newer_lifts_nothing(late):
    run = Enforced()
    run(judged(1, THREAT, 5))
    assert run(late) == []
    assert run.state.restricted() == {"c1": "remove"}


def test_cleared_texts_lift_nothing_that_an_agent_before_these_fields_wrote():
    """Which text was judged is unknown, and a cleared verdict of last week may come first."""
    run = Enforced()
    old = Standing("c1", "remove", 1, (PolicyStanding("hate", ("v1",), "remove", "a1"),), content_sha256="sha")
    run.state.put(decode(encode(old), Standing))
    assert run(cleared(2, "c1", KIND, 2)) == []
    run(judged(3, THREAT, 3))
    assert [action.effective for action in run(cleared(4, "c1", KIND, 4))] == ["allow"]


def test_a_slow_verdict_on_an_earlier_text_has_no_effect_and_is_recorded():
    run = Enforced()
    run(judged(1, THREAT, 1), cleared(2, "c1", KIND, 3))
    (late,) = run(judged(3, "Another threat", 2))
    assert (late.state, late.why, late.effective) == ("overridden", "it is about an earlier text", "allow")
    (second,) = run(judged(4, KIND, 5, "HH1", policy="fraud", surface="chat"))
    assert (second.state, second.effective) == ("applied", "label")
    (third,) = run(judged(5, THREAT, 4))
    assert (third.state, third.effective) == ("overridden", "label")
    assert run.restored().restricted() == {"c1": "label"}


def test_another_policys_gate_that_passes_the_edit_ends_its_action():
    run = Enforced()
    run(judged(1, THREAT, 1), judged(2, THREAT, 1, "HH1", policy="fraud", surface="chat"))
    assert run.state["c1"].effective == "remove"
    lifted, kept = run(judged(3, KIND, 2, "HH1", policy="fraud", surface="chat", under=("fraud",)))
    assert (lifted.policy_id, lifted.action, lifted.effective) == ("hate", "allow", "label")
    assert (kept.policy_id, kept.action, kept.effective) == ("fraud", "label", "label")
    assert run.restored().restricted() == {"c1": "label"}


def test_a_policy_that_judges_the_edit_too_keeps_its_action_until_its_verdict():
    run = Enforced()
    run(judged(1, THREAT, 1))
    run(judged(2, KIND, 2, None, policy="fraud", under=("hate", "fraud")))
    assert run.state.restricted() == {"c1": "remove"}
    run(judged(3, KIND, 2, None, under=("hate", "fraud")))
    assert run.state.restricted() == {}


def test_verdicts_of_reasoners_that_name_no_policies_lift_nothing_of_others():
    run = Enforced()
    run(judged(1, THREAT, 1), judged(2, KIND, 2, None, policy="fraud"))
    assert run.state.restricted() == {"c1": "remove"}


def test_the_end_of_actions_counts_towards_the_cap():
    run = Enforced(EnforcementRules(RULES.rule, Cap(2)))
    run(judged(1, THREAT, 1), judged(2, THREAT, 2, content="c2"))
    (held,) = run(cleared(3, "c1", KIND, 3))
    assert (held.state, held.action, held.effective) == ("held", "allow", "remove")
    assert run.state.held() == run.restored().held() == {"hate": 1}
    assert run(cleared(3, "c1", KIND, 3)) == [], "held once"


@pytest.mark.parametrize(
    "edit", [cleared(3, "c1", KIND, 3), judged(3, KIND, 3, None, policy="fraud", under=("fraud",))]
)
def test_a_held_action_ends_when_the_edit_passes_the_gate(edit):
    """A moderator would else release it on a text that nothing judged."""
    run = Enforced(EnforcementRules(RULES.rule, Cap(1)))
    run(judged(1, THREAT, 1, content="c0"), judged(2, THREAT, 2))
    assert run.state.held() == {"hate": 1}
    assert [(action.action, action.changes) for action in run(edit)] == [("allow", False)]
    assert run.state.held() == run.restored().held() == {}
    assert run.state.restricted() == {"c0": "remove"}


# ---------------------------------------------------------------- moderators


def decided(action="allow", text=THREAT, offset=1, **more):
    return msgspec.structs.replace(person(action=action), content_sha256=content_sha256(text), **more)


def test_a_decision_ends_with_its_text_and_the_verdicts_count_again():
    run = Enforced()
    run(judged(1, THREAT, 1), decided())
    assert run.state.restricted() == {}
    (action,) = run(judged(2, "I will hurt you", 2))
    assert (action.state, action.effective, action.changes) == ("applied", "remove", True)
    assert action.why == "the text was edited after a moderator decided: allow"
    assert run.state.restricted() == run.restored().restricted() == {"c1": "remove"}


def test_a_decision_ends_when_the_edit_is_cleared():
    run = Enforced()
    run(judged(1, THREAT, 1, None), decided("remove"))
    assert run.state.restricted() == {"c1": "remove"}
    (action,) = run(cleared(2, "c1", KIND, 2))
    assert (action.policy_id, action.action, action.previous, action.changes) == ("*", "allow", "remove", True)
    assert action.why == "the text was edited after a moderator decided: remove"
    assert run.restored().restricted() == {}


def test_a_decision_counts_again_when_the_item_gets_its_text_back():
    run = Enforced()
    run(judged(1, THREAT, 1), decided(), judged(2, LONGER, 2), judged(3, THREAT, 3))
    assert run.state.restricted() == run.restored().restricted() == {}
    assert run.actions[-1].why == "the item has the text again about which a moderator decided: allow"
    assert (run.actions[-1].previous, run.actions[-1].effective, run.actions[-1].changes) == ("remove", "allow", True)


def test_earlier_verdicts_say_no_more_than_the_moderator_who_overruled_them():
    """Another policy's verdict on the edit is still to come; the false positive on the earlier text is over."""
    run = Enforced()
    run(judged(1, THREAT, 1), decided())
    (note,) = run(judged(2, KIND, 2, "HH1", policy="fraud", surface="chat", under=("hate", "fraud")))
    assert (note.effective, run.state["c1"].policy("hate").action) == ("label", "allow")


def test_a_decision_may_cover_any_text():
    run = Enforced()
    run(judged(1, THREAT, 1), decided(any_text=True))
    for number, one in enumerate((judged(2, LONGER, 2), cleared(3, "c1", KIND, 3), judged(4, THREAT, 4)), 2):
        run(one)
        assert run.state.restricted() == run.restored().restricted() == {}, number


def test_a_decision_about_a_text_that_was_edited_meanwhile_has_no_effect():
    run = Enforced()
    run(judged(1, THREAT, 5))
    (late,) = run(decided(text=KIND, origin="0@4"))
    assert (late.state, late.effective) == ("overridden", "remove")
    assert run.state["c1"].decision is None


def test_a_decision_about_a_text_that_no_verdict_has_reached_yet_covers_it():
    run = Enforced()
    run(judged(1, THREAT, 1), decided(text=LONGER, origin="0@2"))
    (action,) = run(judged(2, LONGER, 2))
    assert (action.state, run.state.restricted()) == ("overridden", {})


def test_decisions_of_agents_before_these_fields_hold_for_the_text_they_name():
    run = Enforced()
    for sha, effective in ((content_sha256(THREAT), "remove"), (None, "allow")):
        run.state.put(Standing("c1", "allow", 1, decision=ModeratorDecision("allow", "d1", WHEN, content_sha256=sha)))
        (action,) = run(judged(f"1{sha}", LONGER, 2))
        assert action.effective == effective


def test_what_a_decision_of_an_earlier_agent_holds_down_stays_down_after_the_upgrade():
    """A verdict on an edit was overridden then, and left the text's hash alone behind."""
    run = Enforced()
    old = Standing(
        *("c1", "allow", 1, (PolicyStanding("hate", ("v1",), "remove", "a1"),)),
        ModeratorDecision("allow", "d1", WHEN, content_sha256=content_sha256(THREAT)),
        content_sha256(LONGER),
    )
    run.state.add(run.record(decided()), decode(encode(old), Standing))
    assert run.state["c1"].in_force is not None
    assert run(judged(2, KIND, 2, None, policy="fraud")) == [], "its end changes nothing"
    assert run.state.restricted() == run.restored().restricted() == {}
    assert run(judged(3, "I will hurt you", 3))[0].effective == "remove"


def test_undecide_lets_the_verdicts_stand_again():
    run = Enforced()
    run(judged(1, KIND, 1, None), decided(text=KIND), judged(2, KIND, 2))
    assert run.state.restricted() == {}
    (back,) = run(undecide())
    assert (back.action, back.previous, back.effective, back.changes, back.by) == (
        *("remove", "allow", "remove", True),
        "ben",
    )
    assert run.state.restricted() == run.restored().restricted() == {"c1": "remove"}
    assert run(undecide("u2")) == [], "withdrawn once"


def test_undecide_takes_back_the_decision_that_it_names_and_no_later_one():
    run = Enforced()
    run(person(action="remove"), person(action="label", name="d2"))
    assert run(undecide()) == []
    assert run(undecide(withdraws="d2"))[0].effective == "allow"
    assert run.restored().restricted() == {}


def test_an_item_that_was_decided_about_waits_for_review_once_the_decision_is_withdrawn():
    run = Enforced(EnforcementRules(RULES.rule, Cap(1)))
    run(judged(1, THREAT, 1, content="c0"), judged(2, THREAT, 2), decided(text=THREAT))
    assert run.state.held() == {}
    run(undecide())
    assert run.state.held() == run.restored().held() == {"hate": 1}


# ---------------------------------------------------------------- any order

EDITS = (  # the versions of one item, with what judges each
    (
        judged(1, THREAT, 1, under=("hate", "fraud")),
        judged(2, THREAT, 1, None, policy="fraud", under=("hate", "fraud")),
    ),
    (cleared(3, "c1", KIND, 2),),
    (judged(4, LONGER, 3, "HH1", policy="fraud", surface="chat", under=("fraud",)),),
)


@pytest.mark.parametrize("versions", range(1, 4))
def test_the_newest_text_decides_whatever_the_order_of_the_verdicts(versions):
    """Cleared texts come again once something stands, as the stage for them sees to it."""
    given = [one for edits in EDITS[:versions] for one in edits]
    for order in itertools.permutations(given):
        run = Enforced()
        for one in order:
            run(one)
        for one in filter(lambda one: one.clears, order):
            run(one)
        assert run.state.restricted() == ({}, {"c1": "remove"}, {}, {"c1": "label"})[versions], order
        assert run.restored().restricted() == run.state.restricted()


def test_places_are_compared_within_a_partition():
    assert [came_later("0@10", than) for than in ("0@9", "0@10", "0@11", "1@11")] == [True, False, False, None]
    for odd in (None, "", "1", "1@", "@1", "1@-1", "1@2@3", "a@1", "1@" + "9" * 30, "\u0661@1"):
        assert came_later("0@1", odd) is came_later(odd, "0@1") is None


def test_a_cleared_verdict_after_a_decision_of_unknown_text_counts_by_its_time():
    run = Enforced()
    run(decided("remove", offset=None))
    before = msgspec.structs.replace(cleared(2, "c1", KIND, 2), decided_at=WHEN - timedelta(hours=1))
    assert run(before) == []
    after = msgspec.structs.replace(cleared(3, "c1", KIND, 3), decided_at=WHEN + timedelta(hours=1))
    assert [action.effective for action in run(after)] == ["allow"]


@pytest.mark.parametrize("text", [THREAT, KIND])
def test_what_is_cleared_in_another_partition_lifts_nothing(text):
    """Producers whose keys are not the items' ids: which version is newer is unknown, and the threat may be."""
    run = Enforced()
    run(judged(1, THREAT, 7))
    assert run(about(text, 9, cleared(2, "c1", KIND, 9), partition=1)) == []
    assert run.state.restricted() == {"c1": "remove"}
    (second,) = run(about(LONGER, 3, judged(3, LONGER, 3, None), partition=1))
    assert second.effective == "allow", "a judgement of unknown order counts as newer"


def test_a_decision_that_was_read_before_the_text_came_again_keeps_the_newer_place():
    run = Enforced()
    run(judged(1, THREAT, 3), decided(origin="0@1"))
    (late,) = run(judged(2, LONGER, 2, policy="fraud"))
    assert (late.state, late.why, late.effective) == ("overridden", "a moderator decided: allow", "allow")
    assert run.state["c1"].origin == run.restored()["c1"].origin == "0@3"


def test_a_verdict_without_a_place_on_the_same_text_leaves_the_place_known():
    run = Enforced()
    run(judged(1, THREAT, 5), msgspec.structs.replace(judged(2, THREAT, 5, policy="fraud"), origin=None))
    (late,) = run(judged(3, LONGER, 2, policy="spam"))
    assert (late.state, late.why) == ("overridden", "it is about an earlier text")


def test_only_a_safe_verdict_under_every_policy_clears():
    run = Enforced()
    run(judged(1, THREAT, 1))
    run(msgspec.structs.replace(cleared(2, "c1", KIND, 2), decision="violates"))
    assert run.state.restricted() == {"c1": "remove"}


def test_times_without_an_offset_are_taken_as_utc():
    """Other producers may write them; a comparison with another time would end the agent again and again."""
    naive = WHEN.replace(tzinfo=None)
    run = Enforced()
    run(msgspec.structs.replace(decided("remove", offset=None), acted_at=naive))
    before = msgspec.structs.replace(cleared(2, "c1", KIND, 2), decided_at=naive - timedelta(hours=1))
    assert run(before) == []
    counted = Action("a9", "c9", "remove", naive, policy_id="hate", sequence=1)
    run.state.add_recent(counted)
    assert [action.state for action in run(judged(3, THREAT, 3, content="c3"))] == ["applied"]


def release(held, name="r1", *, any_text=False):
    more = {"state": "applied", "alert": False, "by": "ann", "why": "checked", "sequence": None}
    return msgspec.structs.replace(held, action_id=name, releases=held.action_id, any_text=any_text, **more)


@pytest.mark.parametrize(
    "newer",
    [
        judged(5, KIND, 5, rule="", policy="spam"),
        cleared(5, "c1", KIND, 5, judged_under=("hate",)),  # an audit will judge it
    ],
)
def test_an_action_on_an_earlier_text_is_released_only_on_request(newer):
    """The item has a newer text, known from another verdict; that of the action's policy is pending."""
    run = Enforced(EnforcementRules(RULES.rule, Cap(0)))
    (held,) = run(judged(1, THREAT, 1))
    assert held.state == "held"
    run(newer)
    assert run.state.held() == run.restored().held() == {"hate": 1}
    assert run(release(held)) == []
    assert run.state.restricted() == {}
    (released,) = run(release(held, "r2", any_text=True))
    assert (released.state, released.effective, released.any_text) == ("applied", "remove", True)
    assert run.state.restricted() == run.restored().restricted() == {"c1": "remove"}


def test_an_action_whose_text_was_published_again_is_released():
    run = Enforced(EnforcementRules(RULES.rule, Cap(0)))
    (held,) = run(judged(1, THREAT, 1))
    run(judged(2, THREAT, 2, rule="", policy="spam"))
    assert [one.effective for one in run(release(held))] == ["remove"]
