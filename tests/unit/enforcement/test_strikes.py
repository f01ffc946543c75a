"""Strikes against authors: given while an item is restricted for a violation, taken back when it is not, each once."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_streams.authors.ledger import Place, follow
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Appeal,
    AuthorStanding,
    EnforcementInput,
    Strike,
    decode,
    encode,
)
from safeguard_streams.enforcement import moderators, rules, strikes
from safeguard_streams.enforcement.author_rules import AuthorRules, Rate, StrikeCount, StrikeRule, Threshold
from safeguard_streams.enforcement.moderators import HeldAction
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules
from safeguard_streams.enforcement.strikes import strike_id
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_edits import KIND, LONGER, THREAT, about, cleared, judged, undecide
from tests.unit.enforcement.test_transform import WHEN, Enforced, person, verdict

AUTHORS = AuthorRules(
    expires="30d",
    strike=(StrikeRule("grave", 3, min_severity="high"), StrikeRule("any", 1)),
)
REMOVE = (EnforcementRule("threats", "remove", rules=("HH3",)), EnforcementRule("insults", "review", rules=("HH1",)))
RULES = EnforcementRules(REMOVE, authors=AUTHORS)


class Striking(Enforced):
    """An enforcer, and the strikes that it wrote: all records, and the last of each strike."""

    def __init__(self, rules=RULES, **more):
        super().__init__(rules, **more)
        self.entries = []

    async def follow(self, *inputs, requeued=False):
        outputs = await self.enforcer.process([self.record(one, requeued) for one in inputs])
        written = [one for one in outputs if one.topic == topics.STRIKES]
        assert all(one.by_key for one in written), "an author's strikes meet in one partition"
        self.entries += [decode(one.value, Strike) for one in written]
        assert all(one.key == decode(one.value, Strike).author_id.encode() for one in written)
        others = [one for one in outputs if one.topic != topics.STRIKES]
        process, self.enforcer.process = self.enforcer.process, lambda _: done(others)
        try:
            return await super().follow(*inputs, requeued=requeued)
        finally:
            self.enforcer.process = process

    @property
    def given(self):
        last = {one.strike_id: one for one in self.entries}
        return {(one.content_id, one.policy_id): one.weight for one in last.values() if one.state == "given"}

    def take_over(self):
        self.state = self.enforcer.states[0] = self.restored()


async def done(outputs):
    return outputs


def violation(number, content="c1", rule="HH3", policy="hate", **more):
    return verdict(number, content, policy, rule_ids=(rule,), author_id="ann", **more)


def safe(number, supersedes=None, content="c1", policy="hate"):
    return verdict(number, content, policy, "safe", author_id="ann", supersedes=supersedes)


def test_a_strike_says_what_it_follows_and_when_it_expires():
    run = Striking()
    (removed,) = run(violation(1, severity="high"))
    (strike,) = run.entries
    assert strike.strike_id == strike_id("c1", "sha", "hate")
    assert (strike.author_id, strike.state, strike.weight, strike.rule) == ("ann", "given", 3, "grave")
    assert (strike.verdict_id, strike.action_id, strike.rule_ids) == ("v1", removed.action_id, ("HH3",))
    assert strike.expires_at - strike.at == timedelta(days=30)


def test_who_wrote_nothing_known_and_who_violated_nothing_gets_no_strike():
    run = Striking()
    run(verdict(1, rule_ids=("HH3",)), verdict(2, "c2", decision="safe", author_id="ann"))
    run(violation(3, "c3", rule="HH1"), verdict(4, "c4", decision="undetermined", author_id="ann"))
    assert run.entries == []


def test_without_rules_about_authors_nothing_is_written():
    run = Enforced(EnforcementRules(REMOVE))
    run(violation(1))
    assert run.standings[-1].value.find(b"violation") < 0


def test_a_dry_run_gives_no_strike():
    run = Enforced(RULES, dry_run=True)
    assert len(run(violation(1))) == 1


def test_a_superseding_verdict_takes_a_strike_back_and_another_one_gives_it_again():
    """As when a replay is promoted and then reverted."""
    run = Striking()
    run(violation(1))
    run(safe(2, supersedes="v1"))
    assert run.given == {}
    run.take_over()
    run(violation(3, supersedes="v2"))
    assert run.given == {("c1", "hate"): 1}
    assert len({one.strike_id for one in run.entries}) == 1


def test_a_verdict_that_comes_twice_gives_and_takes_nothing_twice():
    run = Striking()
    run(violation(1), violation(1))
    run.take_over()
    run(violation(1))
    assert [one.state for one in run.entries] == ["given"]
    run(safe(2, supersedes="v1"), violation(3, supersedes="v2"), safe(2, supersedes="v1"))
    assert [one.state for one in run.entries] == ["given", "taken-back", "given"]


def test_a_moderators_decision_takes_strikes_back_and_its_end_gives_them_again():
    run = Striking()
    run(violation(1), violation(2, policy="spam"))
    assert run.given == {("c1", "hate"): 1, ("c1", "spam"): 1}
    run(person(action="allow"))
    assert run.given == {}
    run.take_over()
    run(undecide())
    assert run.given == {("c1", "hate"): 1, ("c1", "spam"): 1}


def test_what_waits_for_a_person_is_no_strike_until_the_person_restricts_it():
    run = Striking()
    run(violation(1, rule="HH1", severity="high"))
    assert run.given == {}
    run(person(action="remove"))
    assert run.given == {("c1", "hate"): 3}, "one strike, by the verdict's severity, not another for the decision"
    run(undecide())
    assert run.given == {}


def test_what_only_a_moderator_found_is_a_strike_under_the_policy_that_the_moderator_cites():
    run = Striking()
    decided = msgspec.structs.replace(
        person(action="remove"), author_id="ann", cited_policy="spam", rule_ids=("FS1",), content_sha256="sha"
    )
    run(decided)
    assert run.given == {("c1", "spam"): 1}
    run(undecide())
    assert run.given == {}


def test_a_held_action_is_no_strike_until_it_is_released():
    run = Striking(EnforcementRules(REMOVE, Cap(1), authors=AUTHORS))
    run(violation(1, "c1"), violation(2, "c2"))
    assert run.given == {("c1", "hate"): 1}
    (held,) = [policy.held for policy in run.state["c2"].policies]
    run(moderators._released(HeldAction(held, 0, "remove"), Moderator))
    assert run.given == {("c1", "hate"): 1, ("c2", "hate"): 1}


class Moderator:
    by, why = "ann", ""


def test_a_released_action_gives_the_strike_for_a_new_account():
    strict = msgspec.structs.replace(AUTHORS, strike=(StrikeRule("new", max_account_age="1d"),))
    run = Striking(msgspec.structs.replace(RULES, authors=strict, cap=Cap(1, "1h")))
    run(violation(1, account_age=0), violation(2, "c2", account_age=60))
    assert run.given == {("c1", "hate"): 1}
    (held,) = [policy.held for policy in run.state["c2"].policies]
    (released,) = run(moderators._released(HeldAction(held, 0, "remove"), Moderator))
    assert released.account_age == 60
    assert run.given == {("c1", "hate"): 1, ("c2", "hate"): 1}


def test_a_held_reversal_takes_no_strike_back_until_it_is_released():
    run = Striking(EnforcementRules(REMOVE, Cap(1), authors=AUTHORS))
    run(violation(1), safe(2, supersedes="v1"))
    assert run.given == {("c1", "hate"): 1}
    (held,) = [policy.held for policy in run.state["c1"].policies]
    run(moderators._released(HeldAction(held, 0, "allow"), Moderator))
    assert run.given == {}


def test_an_undetermined_verdict_takes_nothing_back():
    run = Striking()
    run(violation(1), verdict(2, decision="undetermined", author_id="ann"))
    run.take_over()
    assert run.given == {("c1", "hate"): 1}
    run(safe(3, supersedes="v2"))
    assert run.given == {}


def test_an_edit_takes_no_strike_back_and_a_superseding_verdict_on_the_earlier_text_does():
    run = Striking()
    run(judged(1, THREAT, 1, author_id="ann"))
    run(cleared(2, "c1", KIND, 2, author_id="ann"))
    assert run.given == {("c1", "hate"): 1}, "the text was published"
    assert run.state.restricted() == {}
    run.take_over()
    run(judged(3, THREAT, 1, rule=None, author_id="ann", supersedes="v1"))
    assert run.given == {}
    run(judged(4, THREAT, 1, author_id="ann", supersedes="v3"))
    assert run.given == {("c1", "hate"): 1}, "the promotion is reverted"


def test_an_item_whose_author_is_corrected_counts_against_the_author_that_it_has():
    run = Striking()
    run(judged(1, THREAT, 1, author_id="ann"))
    run(judged(2, THREAT, 2, author_id="bea"))
    assert [(one.author_id, one.state) for one in run.entries] == [
        ("ann", "given"),
        ("ann", "taken-back"),
        ("bea", "given"),
    ]
    run.take_over()
    run(judged(3, THREAT, 2, rule=None, author_id="bea", supersedes="v2"))
    assert [(one.author_id, one.state) for one in run.entries[3:]] == [("bea", "taken-back")]


def test_a_message_that_is_sent_again_gives_no_strike_again():
    run = Striking()
    (removed,) = run(violation(1))
    assert run(removed, requeued=True) != []
    assert [one.state for one in run.entries] == ["given"]


def test_what_has_expired_is_not_given_again_when_a_decision_ends(monkeypatch):
    run = Striking()
    run(violation(1))
    run(person(action="allow"))
    monkeypatch.setattr(strikes, "now", lambda: rules.now() + timedelta(days=31))
    run(undecide())
    assert run.given == {}
    assert [one.state for one in run.entries] == ["given", "taken-back"]


def test_a_decision_about_a_violation_that_has_expired_gives_no_second_strike(monkeypatch):
    run = Striking()
    run(violation(1))
    monkeypatch.setattr(strikes, "now", lambda: rules.now() + timedelta(days=31))
    run(person(action="remove"))
    assert [(one.state, one.verdict_id) for one in run.entries] == [("given", "v1")]


def test_an_edit_after_a_moderators_removal_takes_no_strike_back():
    run = Striking()
    run(judged(1, THREAT, 1, rule="HH1", author_id="ann"))
    run(person(action="remove"))
    run(judged(2, KIND, 2, rule=None, policy="spam", author_id="ann", under=("hate",)))
    assert run.state["c1"].in_force is None
    assert run.given == {("c1", "hate"): 1}


def test_each_violating_text_of_an_item_is_a_strike():
    run = Striking()
    run(judged(1, THREAT, 1, author_id="ann"), judged(2, LONGER, 2, author_id="ann"))
    states = [(one.strike_id, one.state) for one in run.entries]
    assert len({name for name, state in states if state == "given"}) == 2
    assert "taken-back" not in {state for _, state in states}


def test_a_verdict_on_an_earlier_text_that_comes_late_is_a_strike_although_it_has_no_effect():
    run = Striking()
    run(judged(2, LONGER, 2, author_id="ann"))
    (late,) = run(judged(1, THREAT, 1, author_id="ann"))
    assert late.state == "overridden"
    assert [one.state for one in run.entries] == ["given", "given"]


def test_a_rule_may_look_at_the_strikes_that_the_author_has():
    """The second spam in a week is removed."""
    second = EnforcementRule("second", "remove", strikes=StrikeCount(within="7d", policies=("hate",)))
    known = {"ann": [Strike("s", "ann", "given", rules.now(), policy_id="hate", weight=1, expires_at=FAR)]}
    run = Striking(EnforcementRules((second,), authors=AUTHORS), strikes_of=lambda name: known.get(name, ()))
    (action,) = run(violation(1))
    assert (action.action, action.rule) == ("remove", "second")
    (other,) = run(verdict(2, "c2", author_id="ben"))
    assert other.action == "review"


def test_a_rule_may_look_at_strikes_for_a_rate():
    """Whatever a rate says, content is removed for a verdict alone."""
    flooding = EnforcementRule("flooding", "remove", strikes=StrikeCount(given_by=("flood",)))
    authors = msgspec.structs.replace(AUTHORS, rate=(Rate("flood", 20, "10m"),))
    known = [Strike("s", "ann", "given", rules.now(), rule="flood", weight=1, expires_at=FAR)]
    run = Striking(EnforcementRules((flooding,), authors=authors), strikes_of=lambda _: known)
    assert run(violation(1))[0].action == "remove"
    known[0] = msgspec.structs.replace(known[0], rule="grave")
    assert run(violation(2, "c2"))[0].action == "review"
    assert StrikeCount(policies=("hate",)).passed([known[0]], rules.now()) is False


def test_rules_look_at_the_age_of_the_account():
    young = EnforcementRule("young", "remove", max_account_age="1d")
    weighty = msgspec.structs.replace(
        AUTHORS, strike=(StrikeRule("new", weight=5, max_account_age="1d"), *AUTHORS.strike)
    )
    run = Striking(EnforcementRules((young, *REMOVE), authors=weighty))
    found = [run(violation(n, f"c{n}", account_age=age))[0] for n, age in enumerate((0, 86400, 86401, None))]
    assert [one.rule == "young" for one in found] == [True, True, False, False]
    assert [one.account_age for one in found] == [0, 86400, 86401, None]
    assert [one.rule == "new" for one in run.entries] == [True, True, False, False]


FAR = WHEN.replace(year=2999)


async def test_known_authors_are_the_newest_records_and_broken_ones_are_nobodys():
    from safeguard_streams.contract.records import AuthorStanding, encode
    from safeguard_streams.enforcement.known_authors import KnownAuthors
    from safeguard_streams.runtime.memory_broker import StoredRecord

    known, strike = KnownAuthors(), Strike("s", "ann", "given", WHEN, expires_at=FAR)
    for value in (encode(AuthorStanding("ann", 1)), encode(AuthorStanding("ann", 1, (strike,)))):
        known.take(StoredRecord(topics.AUTHOR_STANDING, 0, 0, 0, b"ann", value))
    known.take(StoredRecord(topics.AUTHOR_STANDING, 0, 0, 0, b"ben", b"no JSON"))
    known.take(StoredRecord(topics.AUTHOR_STANDING, 0, 0, 0, None, b"{}"))
    assert known.strikes("ann") == (strike,)
    assert known.strikes("ben") == known.strikes("carl") == known.strikes(None) == ()
    known.take(StoredRecord(topics.AUTHOR_STANDING, 0, 0, 0, b"ann", None))
    assert known.strikes("ann") == ()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1), (0, 2, 1, 3), (2, 0, 3, 1)])
def test_strikes_of_an_author_who_was_moved_are_those_of_the_new_partition(order):
    """A repartition leaves a tombstone in the former partition, which may be read at any time."""
    from safeguard_streams.enforcement.known_authors import KnownAuthors
    from safeguard_streams.runtime.memory_broker import StoredRecord

    known, first, second = KnownAuthors(), *(Strike(name, "ann", "given", WHEN, expires_at=FAR) for name in "ab")
    records = [
        StoredRecord(topics.AUTHOR_STANDING, 1, 0, 0, b"ann", encode(AuthorStanding("ann", 4, (first,)))),
        StoredRecord(topics.AUTHOR_STANDING, 1, 1, 0, b"ann", None),
        StoredRecord(topics.AUTHOR_STANDING, 4, 0, 0, b"ann", encode(AuthorStanding("ann", 6, (first,)))),
        StoredRecord(topics.AUTHOR_STANDING, 4, 1, 0, b"ann", encode(AuthorStanding("ann", 6, (first, second)))),
    ]
    for place in order:
        known.take(records[place])
    assert known.strikes("ann") == (first, second)


# ---------------------------------------------------------------------- any sequence of inputs

content = st.sampled_from(["c1", "c2"])
policy = st.sampled_from(["hate", "spam"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("verdict"), content, policy, st.sampled_from(["HH3", "HH1", None])),
        st.tuples(st.just("decide"), content, st.sampled_from(["allow", "remove", "review"])),
        st.tuples(st.just("undecide"), content),
        st.tuples(st.just("take over")),
    ),
    max_size=25,
)


def expected(stands):
    """The strikes by what stands: verdicts by policy, and a decision, for each item. A computation of its own."""
    found = set()
    for name, (verdicts, decision) in stands.items():
        violated = {one for one, cited in verdicts.items() if cited}
        if decision == "remove":
            found |= {(name, one) for one in violated} or {(name, None)}
        elif decision is None:
            found |= {(name, one) for one in violated if verdicts[one] == "HH3"}
    return found


@settings(max_examples=100, deadline=None)
@given(steps)
def test_strikes_are_those_of_what_stands_whatever_came_before(script):
    run, stands = Striking(), {"c1": ({}, None), "c2": ({}, None)}
    names = {}
    for number, (kind, *more) in enumerate(script):
        if kind == "verdict":
            name, under, cited = more
            decided, cites = ("violates", (cited,)) if cited else ("safe", ())
            run(verdict(number, name, under, decided, rule_ids=cites, author_id="ann", supersedes="before"))
            stands[name][0][under] = cited
        elif kind == "decide":
            name, action = more
            names[name] = f"d{number}"
            run(msgspec.structs.replace(person(name, action, names[name]), author_id="ann", content_sha256="sha"))
            stands[name] = (stands[name][0], action)
        elif kind == "undecide" and stands[more[0]][1] is not None:
            run(undecide(f"u{number}", names[more[0]], more[0]))
            stands[more[0]] = (stands[more[0]][0], None)
        elif kind == "take over":
            run.take_over()
        assert set(run.given) == expected(stands)


# ---------------------------------------------------------------------- the file of rules


RATE = "[[authors.rate]]\nname='x'\nposts=20\nwithin='10m'\n"


def loaded(tmp_path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return rules.load(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[authors.threshold]]\nname='x'\naction='ban'", "choose from: warn, review, limit, suspend"),
        ("[[authors.threshold]]\nname='x'\naction='none'", "choose warn, review, limit or suspend"),
        ("[[authors.strike]]\nname='x'\nweight=0", "weight"),
        ("[[authors.strike]]\nname='x'\nexpires='soon'", "expires"),
        ("[[authors.strike]]\nname='x'\nseverity='high'", "severity"),
        ("[[authors.strike]]\nname='x'\nmin_severity='bad'", "choose from: low, medium, high, critical"),
        ("[[rule]]\nname='x'\naction='remove'\n[rule.strikes]\nweight=0", "weight"),
        ("[[rule]]\nname='x'\naction='remove'\nmax_account_age='young'", "max_account_age"),
        ("[[authors.rate]]\nname='x'\nposts=20", "missing required field `within`"),
        ("[[authors.rate]]\nname='x'\nposts=1\nwithin='10m'", "posts"),
        ("[[authors.rate]]\nname='x'\nposts=129\nwithin='10m'", "posts"),
        ("[[authors.rate]]\nname='x'\nposts=20\nwithin='2d'", "within: a rate counts a day at most"),
        ("[[authors.rate]]\nname='x'\nposts=9\nwithin='1h'\nsimilar=false\nmin_characters=5", "min_characters: goes"),
        ("[[authors.rate]]\nname='x'\nposts=9\nwithin='1h'\npolicies=['spam']", "policies"),
    ],
)
def test_a_mistake_about_authors_is_named(tmp_path, text, problem):
    with pytest.raises(ConfigurationError, match=problem):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[authors.strike]]\nname='x'\npolicies=['nothing']", "no policy 'nothing'"),
        ("[[authors.strike]]\nname='x'\nrules=['ZZ9']", "no policy has a rule 'ZZ9'"),
        ("[[authors.strike]]\nname='x'\n[[authors.strike]]\nname='x'", "two of kind strike or rate are named 'x'"),
        (f"[[authors.strike]]\nname='x'\n{RATE}", "two of kind strike or rate are named 'x'"),
        (f"{RATE}[[authors.threshold]]\nname='x'\naction='warn'\ngiven_by=['y']", "'y' gives strikes; there are: x"),
        (f"{RATE}[[rule]]\nname='r'\naction='remove'\n[rule.strikes]\ngiven_by=['y']", "rule 'r': nothing named 'y'"),
        ("[[authors.threshold]]\nname='x'\naction='warn'\npolicies=['nothing']", "no policy 'nothing'"),
        ("[[authors.threshold]]\nname='x'\naction='warn'", "no strike is ever given"),
        ("[[rule]]\nname='x'\naction='remove'\n[rule.strikes]\nweight=2", "a rule looks at strikes"),
    ],
)
def test_what_can_never_have_an_effect_is_named(tmp_path, text, problem):
    assert any(problem in found for found in loaded(tmp_path, text).problems(load_library(LIBRARY)))


def test_rates_alone_give_strikes(tmp_path):
    found = loaded(tmp_path, f"{RATE}[[authors.threshold]]\nname='x'\naction='limit'\ngiven_by=['x']")
    assert found.problems(load_library(LIBRARY)) == []


def test_the_rules_of_the_package_have_no_problem():
    assert rules.load(rules.SHIPPED).problems(load_library(LIBRARY)) == []


# ---------------------------------------------------------------------- appeals


class Appealed(Striking):
    """Also takes appeals."""

    def record(self, one, requeued=False):
        if not isinstance(one, Appeal):
            return super().record(one, requeued)
        self.offset += 1
        return StoredRecord(topics.ENFORCEMENT, 0, self.offset, 0, b"c1", encode(EnforcementInput(appeal=one)))

    def standing_of_the_author(self):
        """What the ledger makes of the strikes: the action about the author."""
        standing = AuthorStanding("ann", 1)
        thresholds = AuthorRules(
            threshold=(Threshold(name="first", action="suspend", weight=1),), strike=AUTHORS.strike
        )
        for offset, entry in enumerate(self.entries):
            standing, _ = follow(standing, entry, thresholds, Place(0, offset))
        return standing.action


def appeal_of(name, **named):
    return Appeal("c1", "author", WHEN, name, **named)


def outcome_of(name, action="allow", what="overturned", **more):
    return Action(f"o{name}", "c1", action, WHEN, "bob", "read", appeal_id=name, outcome=what, **more)


@pytest.mark.parametrize(
    ("what", "action", "left", "account"),
    [
        ("overturned", "allow", {}, "none"),
        ("overturned", "label", {("c1", "hate"): 1, ("c1", "spam"): 1}, "suspend"),
        ("upheld", "remove", {("c1", "hate"): 1, ("c1", "spam"): 1}, "suspend"),
    ],
)
def test_an_overturned_appeal_takes_the_strikes_and_what_they_did_to_the_account_with_it(what, action, left, account):
    run = Appealed()
    run(violation(1), violation(2, policy="spam"))
    assert run.standing_of_the_author() == "suspend"
    run(appeal_of("p1", verdict_id="v1"), outcome_of("p1", action, what))
    run.take_over()
    run(violation(3), violation(4, policy="spam"))  # the model says so again
    assert (run.given, run.standing_of_the_author()) == (left, account)


def test_an_overturned_appeal_of_a_moderators_own_restriction_takes_its_strike_back():
    run = Appealed()
    run(msgspec.structs.replace(person(action="remove"), author_id="ann"))
    assert run.standing_of_the_author() == "suspend"
    run(appeal_of("p1", action_id="d1"), outcome_of("p1"))
    assert (run.given, run.standing_of_the_author()) == ({}, "none")


def test_an_overturned_appeal_of_a_text_that_was_edited_meanwhile_takes_the_strike_of_that_text_back():
    run = Appealed()
    run(judged(1, THREAT, 1, author_id="ann"))
    run(judged(2, KIND, 2, rule=None, policy="spam", under=("hate", "spam"), author_id="ann"))
    assert run.state["c1"].effective == "remove", "hate has not judged the new text yet"
    run(appeal_of("p1", verdict_id="v1"), about(KIND, 2, outcome_of("p1")))
    assert run.state["c1"].effective == "allow"
    assert (run.given, run.standing_of_the_author()) == ({}, "none")
    run.take_over()
    run(judged(3, THREAT, 1, author_id="ann"))  # late, and of the earlier text
    assert run.given == {}
    run(judged(4, LONGER, 3, author_id="ann"))
    assert run.given == {("c1", "hate"): 1}, "another text is another violation"


def test_an_overturned_appeal_that_is_undone_gives_the_strikes_again():
    run = Appealed()
    run(judged(1, THREAT, 1, author_id="ann"))
    run(judged(2, KIND, 2, rule=None, policy="spam", under=("hate", "spam"), author_id="ann"))
    run(appeal_of("p1", verdict_id="v1"), about(KIND, 2, outcome_of("p1")))
    run(undecide("u1", "op1"))
    assert (run.state["c1"].effective, run.given) == ("remove", {("c1", "hate"): 1})
