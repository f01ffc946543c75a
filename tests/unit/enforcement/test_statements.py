"""Statements of reasons: when they are issued and withdrawn, what they say, and what they never say."""

import asyncio
import re
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    AuthorStatement,
    Automation,
    EnforcementInput,
    PolicyChange,
    PolicyRelease,
    PrefilterResult,
    Reporter,
    Standing,
    StatementOfReasons,
    Strike,
    Verdict,
    decode,
    encode,
    now,
)
from safeguard_streams.enforcement import dsa, dsa_export, policy_words
from safeguard_streams.enforcement.author_rules import AuthorRules, StrikeRule
from safeguard_streams.enforcement.delivery import Delivery
from safeguard_streams.enforcement.policy_words import KnownPolicies
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, Webhook, load
from safeguard_streams.enforcement.signing import Signer
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.statement_rules import StatementRules
from safeguard_streams.enforcement.statement_texts import Sentences, language_for, languages, sentences
from safeguard_streams.enforcement.statements import RESTRICTIONS, Statements
from safeguard_streams.enforcement.transform import Enforcer
from safeguard_streams.errors import BusError, ConfigurationError, DependencyError, ForbiddenError
from safeguard_streams.policies.files import load_library
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
LIBRARY = load_library()
REASON = "the author wrote: xyzzy plugh"
ASK = "https://example.com/appeal"
STATING = StatementRules(appeal=ASK)


def known(*policies):
    """The words of policies, of which nothing else is to be read."""
    words = KnownPolicies()
    for policy in policies or LIBRARY.values():
        words.add(policy)
    return words


async def empty(_):
    return EnforcementState()


SIGNER = Signer(b"of tests", "")


class Stating:
    """An enforcer with statements, its records, and the statement that a reader of moderation.statements knows."""

    def __init__(self, action="remove", stating=STATING, policies=None, **more):
        rules = (EnforcementRule("all", action), *more.pop("rules", ()))
        rules = EnforcementRules(more.pop("only", rules), **more)
        statements = Statements(settings.load(), stating, policies or known())
        self.enforcer = Enforcer(rules, 1, empty, statements=statements, signer=SIGNER)
        self.enforcer.states[0] = EnforcementState()
        self.actions, self.statements, self.offset, self.standing = [], [], 0, {}

    def __call__(self, *inputs):
        """Follow verdicts and moderators' records in one batch; returns the records of statements."""
        outputs = asyncio.run(self.enforcer.process([self.record(one) for one in inputs]))
        self.actions += [decode(one.value, Action) for one in outputs if one.topic == topics.ACTIONS]
        for one in outputs:
            if one.topic == topics.STANDING:
                self.standing[one.key] = one.value and decode(one.value, Standing)
        said = [decode(one.value, StatementOfReasons) for one in outputs if one.topic == topics.STATEMENTS]
        self.statements += said
        assert {one.topic for one in outputs} <= {topics.ACTIONS, topics.STANDING, topics.STATEMENTS}
        return said

    def record(self, one):
        self.offset += 1
        value = EnforcementInput(verdict=one) if isinstance(one, Verdict) else EnforcementInput(action=one)
        signature = (SIGNER.header(0, encode(one)),)  # of an action that is sent again
        return StoredRecord(topics.ENFORCEMENT, 0, self.offset, 0, one.content_id.encode(), encode(value), signature)

    def restart(self):
        """Let another owner go on, from what stands."""
        state = EnforcementState()
        for key, standing in self.standing.items():
            state.add(StoredRecord(topics.STANDING, 0, 0, 0, key, standing and encode(standing)), standing)
        self.enforcer.states[0] = state

    @property
    def holding(self):
        """The statements that hold, by id."""
        found = {}
        for one in self.statements:
            if one.state == "issued":
                assert one.statement_id not in found
                found[one.statement_id] = one
            else:
                del found[one.statement_id]  # each is withdrawn once, after it was issued
        return found


def verdict(number=0, policy="hate-harassment", rules=("HH1",), decision="violates", text="sha", **more):
    more = {"language": "en", "created_at": WHEN, "content_id": "c1", **more}
    shipped = LIBRARY.get(policy)
    return Verdict(
        verdict_id=f"v{number}-{policy}",
        content_sha256=text,
        policy_id=policy,
        policy_version=shipped.version if shipped else "p1",
        decision=decision,
        stage="reasoner",
        lane="live",
        model="m",
        decided_at=WHEN,
        rule_ids=rules,
        reason=REASON,
        origin=f"0@{number}",
        judged_under=tuple(LIBRARY),
        **more,
    )


def person(action="remove", name="d1", **more):
    return Action(name, "c1", action, more.pop("acted_at", WHEN), by="Ann Xyzzy", why=REASON, **more)


def every_word(one):
    return "\n".join(map(str, msgspec.to_builtins(one).values()))


@pytest.mark.parametrize("language", ["en", "de-AT", "fr", "es-MX"])
@pytest.mark.parametrize("action", sorted(RESTRICTIONS))
@pytest.mark.parametrize("policy", LIBRARY)
def test_each_action_under_each_policy_has_a_statement_that_the_database_takes(policy, action, language):
    shipped = LIBRARY[policy]
    for rule in shipped.violating:
        stating = Stating(action)
        (said,) = stating(verdict(policy=policy, rules=(rule,), language=language, author_id="author-xyzzy"))
        submission = dsa.submission(said, created_at=said.content_created_at, ended_at=None)
        assert dsa.problem(submission) is None
        assert said.language == language[:2]
        note = shipped.statements[rule].notes.get(said.language, shipped.notes[rule])
        assert note in said.text.splitlines()
        assert f"{shipped.title}, {rule}: {shipped.rules[rule]}" in said.text
        assert ASK in said.text
        assert sentences(said.language).action[action] in said.text
        assert (said.action, said.policy_version, said.rule_ids) == (action, shipped.version, (rule,))
        for words in (every_word(said), str(submission)):
            assert "plugh" not in words
        assert "xyzzy" not in str(submission), "nothing personal"
        (written,) = stating.actions
        assert written.statement is not None
        assert (written.statement.statement_id, written.statement.text) == (said.statement_id, said.text)


def test_the_guide_shows_a_statement_as_it_is():
    guide = Path(__file__).parents[3] / "docs/guides/statements.md"
    stating = Stating(stating=StatementRules(appeal="https://example.com/appeals"))
    (said,) = stating(verdict(policy="fraud-spam", rules=("FS2",)))
    assert f"```text\n{said.text}\n```" in guide.read_text("utf-8")


@pytest.mark.parametrize("action", ["allow", "review"])
def test_what_restricts_nothing_has_no_statement(action):
    stating = Stating(action)
    assert stating(verdict()) == []


def test_a_reversal_withdraws_the_statement_and_says_so():
    stating = Stating()
    (said,) = stating(verdict(language="de"))
    stating.restart()
    (gone,) = stating(verdict(1, decision="safe", rules=("HH5",), language="de"))
    assert (gone.state, gone.statement_id, gone.language) == ("withdrawn", said.statement_id, "de")
    assert gone.text == sentences("de").lifted
    assert stating.actions[-1].ends_statement == said.statement_id
    assert stating.actions[-1].statement is None
    assert not stating.holding


def test_a_verdict_that_comes_again_after_a_restart_and_one_that_changes_nothing_are_silent():
    stating = Stating()
    stating(verdict())
    stating.restart()
    assert stating(verdict(), verdict(1), verdict(2, text="edited")) == []
    assert len(stating.holding) == 1


def test_a_verdict_that_cites_other_rules_replaces_the_statement_although_the_action_stays():
    stating = Stating()
    (first,) = stating(verdict(rules=("HH1", "HH2")))
    assert stating(verdict(1, rules=("HH2", "HH1"))) == [], "the same rules in another order"
    gone, second = stating(verdict(2, rules=("HH3",), text="edited"))
    assert (gone.statement_id, gone.state) == (first.statement_id, "withdrawn")
    assert (second.rule_ids, second.action, second.content_sha256) == (("HH3",), "remove", "edited")
    told = stating.actions[-1]
    assert (told.statement.statement_id, told.ends_statement) == (second.statement_id, first.statement_id)
    assert not told.changes
    assert told.told
    stating.restart()
    assert stating(verdict(3, rules=("HH3",))) == []


def test_a_statement_comes_with_the_action_that_it_explains_whatever_else_the_verdict_changes():
    """The edit passes the gate of fraud-spam, whose action ends, and violates another rule of the first policy."""
    stating = Stating(
        only=(EnforcementRule("spam", "label", policies=("fraud-spam",)), EnforcementRule("all", "remove"))
    )
    stating(verdict(), verdict(1, "fraud-spam", ("FS1",)))
    edited = verdict(2, rules=("HH3",), text="edited")
    gone, issued = stating(msgspec.structs.replace(edited, judged_under=("hate-harassment",)))
    spam, hate = stating.actions[-2:]
    assert [(one.policy_id, one.action) for one in (spam, hate)] == [
        ("fraud-spam", "allow"),
        ("hate-harassment", "remove"),
    ]
    assert (spam.statement, spam.ends_statement) == (None, None)
    assert (hate.statement.statement_id, hate.ends_statement) == (issued.statement_id, gone.statement_id)
    assert issued.action_id == hate.action_id


def test_a_precaution_that_a_verdict_confirms_is_stated_as_a_violation():
    stating = Stating(
        only=(EnforcementRule("all", "limit"), EnforcementRule("unsure", "limit", decision="undetermined"))
    )
    (careful,) = stating(verdict(decision="undetermined", rules=()))
    gone, sure = stating(verdict(1))
    assert gone.statement_id == careful.statement_id
    assert "precaution" not in sure.text
    assert stating(verdict(2, decision="undetermined", rules=())) == [], "it reverses nothing"
    (by_hand,) = [one for one in stating(person("remove", content_sha256="sha")) if one.state == "issued"]
    assert by_hand.rule_ids == ("HH1",), "what the violation cites is still known"


def test_of_two_policies_the_first_to_restrict_is_stated_until_it_lifts():
    stating = Stating()
    (first,) = stating(verdict())
    assert stating(verdict(1, "fraud-spam", ("FS1",))) == []
    assert stating(verdict(2)) == [], "another verdict of the first policy is no other restriction"
    gone, second = stating(verdict(3, decision="safe", rules=()))
    assert (gone.statement_id, gone.text) == (first.statement_id, sentences("en").replaced)
    assert (second.policy_id, second.rule_ids, second.state) == ("fraud-spam", ("FS1",), "issued")
    assert LIBRARY["fraud-spam"].notes["FS1"] in second.text
    assert list(stating.holding) == [second.statement_id]


def test_a_severer_action_replaces_the_statement():
    stating = Stating(only=(EnforcementRule("threats", "remove", rules=("HH3",)), EnforcementRule("all", "limit")))
    (limited,) = stating(verdict())
    gone, removed = stating(verdict(1, rules=("HH3",)))
    assert gone.statement_id == limited.statement_id
    assert (limited.action, removed.action) == ("limit", "remove")


def test_a_moderator_who_overrides_withdraws_and_one_who_takes_that_back_restates():
    stating = Stating()
    (said,) = stating(verdict())
    (gone,) = stating(person("allow"))
    assert (gone.state, gone.statement_id) == ("withdrawn", said.statement_id)
    stating.restart()
    (again,) = stating(Action("w1", "c1", "allow", WHEN, by="Ann", withdraws="d1"))
    assert again.statement_id != said.statement_id
    assert (again.rule_ids, again.automated_decision) == (("HH1",), "fully")
    assert LIBRARY["hate-harassment"].notes["HH1"] in again.text


@pytest.mark.parametrize(
    ("before", "cited", "policy", "rules", "automated"),
    [
        ((), {}, None, (), (False, "not")),
        ((), {"cited_policy": "fraud-spam", "rule_ids": ("FS2",)}, "fraud-spam", ("FS2",), (False, "not")),
        ((verdict(rules=("HH2",)),), {}, "hate-harassment", ("HH2",), (True, "partially")),
        (
            (verdict(rules=("HH2",)),),
            {"cited_policy": "fraud-spam", "rule_ids": ("FS2",)},
            "fraud-spam",
            ("FS2",),
            (True, "partially"),
        ),
    ],
)
def test_a_moderators_restriction_is_stated_without_what_they_wrote(before, cited, policy, rules, automated):
    stating = Stating("review")
    assert not before or stating(*before) == []
    (said,) = stating(person(**cited))
    assert (said.policy_id, said.rule_ids) == (policy, rules)
    assert (said.automated_detection, said.automated_decision) == automated
    assert "xyzzy" not in every_word(said).lower()
    submission = dsa.submission(said, created_at=WHEN, ended_at=None)
    assert dsa.problem(submission) is None


@pytest.mark.parametrize("before", [(), (verdict(rules=("HH2",)),)])
def test_a_policy_that_nobody_released_is_the_moderators_own_words_and_reaches_no_author(before):
    words = known()
    cited = "Go away,\nyou xyzzy"
    words._missing.add(policy_words.PolicyVersion(cited, ""))
    stating = Stating("review", policies=words)
    assert not before or stating(*before) == []
    (said,) = stating(person(cited_policy=cited, rule_ids=("plugh",)))
    assert (said.policy_id, said.rule_ids) == (("hate-harassment", ("HH2",)) if before else (None, ()))
    assert not re.search("xyzzy|plugh", every_word(said).lower())


async def test_a_retired_policy_that_a_moderator_cites_is_read_from_the_history(monkeypatch):
    shipped = LIBRARY["fraud-spam"]
    path = Path(__file__).parents[3] / "policies/library/fraud-spam/policy.md"
    release = PolicyRelease("fraud-spam", shipped.version, 1, path.read_text("utf-8"), WHEN, "kim")
    shadow = msgspec.structs.replace(release, version="later", document="", shadow=0.1)

    async def history(*_):
        yield None, PolicyChange("release", "fraud-spam", WHEN, "kim", release=release)
        yield None, PolicyChange("shadow", "fraud-spam", WHEN, "kim", release=shadow)
        yield None, PolicyChange("retire", "fraud-spam", WHEN, "kim")

    monkeypatch.setattr(policy_words.kafka, "read_decoded", history)
    words, cited = KnownPolicies(), policy_words.PolicyVersion("fraud-spam", "")
    await words.fetch(settings.load(), [cited, policy_words.PolicyVersion("Go away", "")])
    assert words[cited].title == shipped.title
    assert words["Go away", ""] is None
    words.add(msgspec.structs.replace(shipped, title="Another title", version="1.0.1"))
    assert words[cited].title == "Another title", "released again since"


@pytest.mark.parametrize("acted_at", [datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)])
def test_a_statement_has_the_time_of_the_agent_whatever_time_a_record_written_by_hand_has(acted_at):
    stating, begun = Stating(), now()
    (said,) = stating(person(acted_at=acted_at))
    (gone,) = stating(person("allow", "d2", acted_at=acted_at))
    assert begun <= said.stated_at <= gone.stated_at <= now()


def test_a_record_written_by_hand_states_and_withdraws_nothing():
    stating = Stating()
    forged = person("allow", statement=AuthorStatement("s1", "en", "xyzzy"), ends_statement="s2")
    assert stating(forged) == []
    (action,) = stating.actions
    assert (action.statement, action.ends_statement) == (None, None)


def test_a_message_that_is_sent_again_has_its_statement_only_while_that_holds():
    stating = Stating()
    stating(verdict())
    removed = stating.actions[0]
    stating(removed)
    assert stating.actions[-1].statement == removed.statement, "it holds"
    stating(person("allow"), Action("w1", "c1", "allow", WHEN, by="Ann", withdraws="d1"))
    assert list(stating.holding) != [removed.statement.statement_id]
    stating(removed)
    assert (stating.actions[-1].action_id, stating.actions[-1].statement) == (removed.action_id, None)


def test_a_decision_that_is_sent_again_is_as_it_was_written():
    """Its policy grades rules now, and did not then."""
    stating = Stating(policies=known(msgspec.structs.replace(LIBRARY["hate-harassment"], severity={"HH3": "critical"})))
    stating(person(cited_policy="hate-harassment", rule_ids=("HH3",), content_sha256="sha"))
    (decided,) = stating.actions
    assert decided.severity == "critical"
    stating(msgspec.structs.replace(decided, severity=None))
    assert [one.severity for one in stating.actions] == ["critical", None]


@pytest.mark.parametrize("error", [BusError, ForbiddenError])
def test_policies_that_cannot_be_read_are_no_fault_of_the_verdict(error):
    words = known()

    async def fetch(*_):
        raise error("away")

    words.fetch = fetch
    stating = Stating(policies=words)
    with pytest.raises(DependencyError):
        stating(verdict())
    assert len(stating.enforcer.states[0]) == 0


def test_the_words_of_a_held_action_are_learned_before_its_release():
    words, asked = known(), []

    async def fetch(_, wanted):
        asked.append(set(wanted))

    words.fetch = fetch
    stating = Stating(policies=words, cap=Cap(1))
    stating(verdict(content_id="c0"), verdict(1))
    held = stating.actions[-1]
    assert held.state == "held"
    stating(Action("r1", "c1", "remove", WHEN, by="Ann", policy_id=held.policy_id, releases=held.action_id))
    assert (held.policy_id, held.policy_version) in asked[-1]


def test_a_held_action_is_stated_when_a_moderator_releases_it():
    stating = Stating(cap=Cap(1, "1h"))
    stating(verdict(content_id="c0"))
    assert stating(verdict(1)) == []
    held = stating.actions[-1]
    assert held.state == "held"
    release = Action("r1", "c1", "remove", WHEN, by="Ann", policy_id=held.policy_id, releases=held.action_id)
    (said,) = stating(release)
    assert (said.automated_decision, said.rule_ids) == ("partially", ("HH1",))


@pytest.mark.parametrize("reporter", ["user", "trusted_flagger", "authority"])
def test_a_report_is_named_as_what_led_to_the_restriction(reporter):
    stating = Stating()
    (said,) = stating(verdict(prefilter=PrefilterResult("report", reporter=reporter)))
    assert (said.reporter, said.automated_detection) == (reporter, False)
    assert sentences("en").found[reporter] in said.text


def test_an_undetermined_verdict_that_restricts_is_stated_as_a_precaution():
    stating = Stating(only=(EnforcementRule("unsure", "limit", decision="undetermined"),))
    (said,) = stating(verdict(decision="undetermined", rules=()))
    assert "The measure is a precaution." in said.text
    assert dsa.problem(dsa.submission(said, created_at=WHEN, ended_at=None)) is None


def test_an_edit_that_clears_withdraws_the_statement():
    stating = Stating()
    stating(verdict())
    edit = msgspec.structs.replace(
        verdict(5, "*", (), "safe", "other"), judged_under=None, stage="prefilter", reason=None, language=None
    )
    (gone,) = stating(edit)
    assert gone.state == "withdrawn"
    assert not stating.holding


def test_a_rule_without_a_note_is_stated_by_its_name_and_an_unknown_policy_by_its_id():
    shipped = LIBRARY["fraud-spam"]
    bare = msgspec.structs.replace(shipped, notes={}, statements={})
    (said,) = Stating(policies=known(bare))(verdict(policy="fraud-spam", rules=("FS1",), language="de"))
    assert said.explanation == shipped.rules["FS1"]
    unknown = known(bare)
    unknown._missing.add(policy_words.PolicyVersion("odd", "p1"))
    (said,) = Stating(policies=unknown)(verdict(policy="odd", rules=("OD1",)))
    assert (said.ground, said.explanation) == ("odd, OD1", None)
    assert dsa.problem(dsa.submission(said, created_at=WHEN, ended_at=None)) is None


def test_a_released_title_or_rule_with_line_breaks_and_controls_reaches_no_author():
    shipped = LIBRARY["fraud-spam"]
    odd = msgspec.structs.replace(
        shipped, title="Fraud\n\x1b[31mspam", rules={**shipped.rules, "FS1": "Scams\u202e"}, notes={}, statements={}
    )
    (said,) = Stating(policies=known(odd))(verdict(policy="fraud-spam", rules=("FS1",)))
    assert "Fraud\ufffd\ufffd[31mspam" in said.text
    assert all(line.isprintable() for line in said.text.split("\n"))


def test_a_law_makes_the_content_illegal():
    shipped = LIBRARY["fraud-spam"]
    entry = msgspec.structs.replace(shipped.statements["FS1"], law="Section 263 of the Criminal Code")
    (said,) = Stating(policies=known(msgspec.structs.replace(shipped, statements={"FS1": entry})))(
        verdict(policy="fraud-spam", rules=("FS1",))
    )
    submission = dsa.submission(said, created_at=WHEN, ended_at=None)
    assert submission["decision_ground"] == "DECISION_GROUND_ILLEGAL_CONTENT"
    assert dsa.problem(submission) is None
    assert "Section 263 of the Criminal Code" in said.text


@pytest.mark.parametrize(
    ("text", "day"),
    [("0001-01-01T00:00:00+14:00", "0001-01-01"), ("9999-12-31T23:59:59-14:00", None), ("2026-01-01", "2026-01-01")],
)
def test_no_content_is_dated_after_the_decision_about_it(text, day):
    """Producers' clocks may be ahead, or wrong."""
    (said,) = Stating()(verdict())
    submission = dsa.submission(said, created_at=datetime.fromisoformat(text), ended_at=None)
    assert submission["content_date"] == (day or submission["application_date"])
    assert (dsa.problem(submission) is None) == (day != "0001-01-01")


def test_where_it_holds_and_the_terms_come_from_the_rules():
    stating = Stating(stating=StatementRules("de", ("EU", "CH"), "", "https://example.com/terms"))
    (said,) = stating(verdict(language="sw"))
    assert said.language == "de"
    assert "Sie gilt in folgenden Gebieten: EU, CH." in said.text
    submission = dsa.submission(said, created_at=WHEN, ended_at=WHEN)
    assert len(submission["territorial_scope"]) == 27
    assert submission["decision_ground_reference_url"] == "https://example.com/terms"
    assert submission["content_language"] == "SW"
    assert dsa.territories(("US",)) == []
    assert len(dsa.territories(())) == len(dsa.territories(("EEA",))) == 30


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('language = "xx"', "language: there are sentences in de, en, es, fr"),
        ('territory = ["Germany"]', "$.statements.territory[0]"),
        ('appeal = "two\\nlines"', "appeal: write one line of plain text"),
        ('terms = "example.com"', "$.statements.terms"),
        ("duration = 3", "unknown field `duration`"),
    ],
)
def test_what_the_rules_file_cannot_say_is_refused_with_its_place(tmp_path, text, problem):
    path = tmp_path / "rules.toml"
    path.write_text(f"[statements]\n{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert problem in str(caught.value)


STEPS = st.one_of(
    st.tuples(
        st.just("verdict"),
        st.sampled_from(["hate-harassment", "fraud-spam"]),
        st.sampled_from(["violates", "severe", "safe", "undetermined"]),
        st.sampled_from(["first", "second"]),
    ),
    st.tuples(st.just("cleared"), st.sampled_from(["first", "second"])),
    st.tuples(st.just("person"), st.sampled_from(["allow", "label", "remove", "review"])),
    st.tuples(st.just("withdrawal"), st.booleans()),
    st.tuples(st.just("restart")),
)


def step(number, kind, *what):
    """The input of a step."""
    if kind == "person":
        return person(what[0], f"d{number}")
    if kind == "withdrawal":
        return Action(f"w{number}", "c1", "allow", WHEN, by="Ann", withdraws=f"d{number - 1}", reinstates=what[0])
    if kind == "cleared":
        clear = verdict(number, "*", (), "safe", what[0], language=None)
        return msgspec.structs.replace(clear, judged_under=None, stage="prefilter")
    policy, decision, text = what
    rules = {"violates": ("HH1", "FS1"), "severe": ("HH3", "FS3")}.get(decision, ())
    cited = tuple(rule for rule in rules if rule in LIBRARY[policy].violating)
    return verdict(number, policy, cited, "violates" if decision == "severe" else decision, text)


@given(st.lists(STEPS, max_size=12))
@example([("person", "label"), ("person", "remove"), ("withdrawal", True), ("withdrawal", False)])
@example([("verdict", "fraud-spam", "violates", "first"), ("cleared", "second"), ("restart",)])
@example(
    [
        ("verdict", "hate-harassment", "severe", "first"),
        ("person", "remove"),
        ("verdict", "hate-harassment", "severe", "second"),
    ]
)
def test_one_statement_holds_whatever_comes_if_the_item_is_restricted_and_none_else(steps):
    severe = EnforcementRule("severe", "remove", rules=("HH3", "FS3"))
    stating = Stating(only=(severe, EnforcementRule("others", "limit")))
    for number, (kind, *what) in enumerate(steps):
        if kind == "restart":
            stating.restart()
        else:
            stating(step(number, kind, *what))
        effective = stating.enforcer.states[0]["c1"].effective
        assert [one.action for one in stating.holding.values()] == ([effective] if effective in RESTRICTIONS else [])
    named = [one.statement.statement_id for one in stating.actions if one.statement]
    ended = [one.ends_statement for one in stating.actions if one.ends_statement]
    assert named == [one.statement_id for one in stating.statements if one.state == "issued"]
    assert ended == [one.statement_id for one in stating.statements if one.state == "withdrawn"]
    assert all(one.told for one in stating.actions if one.statement or one.ends_statement), "the webhook tells it"


def every_sentence(found, above=""):
    """The sentences in a file and in its tables, by their keys."""
    for name, text in found.items():
        if isinstance(text, str):
            yield above + name, text
        elif isinstance(text, dict):
            yield from every_sentence(text, f"{above}{name}.")
        else:
            yield from ((f"{above}{name}.{number}", one) for number, one in enumerate(text))


@pytest.mark.parametrize("language", languages())
def test_each_language_has_each_sentence_with_the_same_braces(language):
    def braces(one):
        return {
            name: {field for _, field, _, _ in string.Formatter().parse(text) if field}
            for name, text in every_sentence(msgspec.to_builtins(one))
        }

    assert braces(sentences(language)) == braces(sentences("en"))
    assert isinstance(sentences(language), Sentences)
    said = sentences(language)
    tables = (said.action, said.decided, said.found, said.account.action, said.account.decided, said.account.found)
    keys = (RESTRICTIONS, get_args(Automation), {*get_args(Reporter), "automated", "initiative"})
    account = ({"limit", "suspend"}, *keys[1:])
    assert [set(one) for one in tables] == list(map(set, (*keys, *account)))
    assert len(set(said.months)) == 12


@pytest.mark.parametrize("language", languages())
def test_each_sentence_is_set_as_its_language_is(language):
    """No straight apostrophes or quotes, blanks before punctuation in French alone, and those do not break."""
    for name, text in every_sentence(msgspec.to_builtins(sentences(language))):
        assert text == text.strip(), name
        assert not re.search(r"""['"]|  |\s[,.]""", text), name
        if language == "fr":
            assert not re.search(r"(?<!\u00a0):|(?<![\u00a0\u202f])[;?!]", text), name
        else:
            assert not re.search(r"\s[:;?!]", text), name


@pytest.mark.parametrize(
    ("tag", "language"), [("de-CH", "de"), ("DE_at", "de"), ("und", "fr"), (None, "fr"), ("ja", "fr"), ("\u202e", "fr")]
)
def test_a_statement_is_in_the_items_language_or_in_the_services(tag, language):
    assert language_for(tag, "fr") == language


def test_the_schema_refuses_what_the_interface_refuses():
    (said,) = Stating()(verdict())
    fine = dsa.submission(said, created_at=WHEN, ended_at=None)
    assert dsa.problem(fine) is None
    for name in fine:
        if name not in ("content_language", "category_specification"):
            without = {key: value for key, value in fine.items() if key != name}
            assert dsa.problem(without) is not None, name
    for name, value in {
        "category": "STATEMENT_CATEGORY_SPAM",
        "territorial_scope": ["US"],
        "puid": "a b",
        "content_date": "1999-12-31",
        "content_language": "XX",
        "application_date": "2038-01-02",
        "end_date_visibility_restriction": "2040-01-01",
        "decision_facts": "a" * 5001,
        "automated_detection": True,
        "author": "ann",
    }.items():
        assert dsa.problem({**fine, name: value}) is not None, name
    assert "a b" not in dsa.problem({**fine, "puid": "a b"})


def test_a_date_that_the_interface_does_not_take_spoils_no_batch():
    (said,) = Stating()(verdict())
    taken = dsa.submission(said, created_at=WHEN, ended_at=None)
    for day, fine in (("2038-01-01", True), ("2038-01-02", False), ("2000-01-01", True), ("1999-12-31", False)):
        assert (dsa.problem({**taken, "content_date": day}) is None) == fine, day


@pytest.mark.parametrize("tag", ["xx", "sh-Latn", "gsw", "und", None])
def test_a_language_that_the_interface_does_not_know_is_left_out(tag):
    (said,) = Stating()(verdict(language=tag))
    submission = dsa.submission(said, created_at=WHEN, ended_at=None)
    assert "content_language" not in submission
    assert dsa.problem(submission) is None


def test_no_restriction_ends_before_it_begins():
    (said,) = Stating()(verdict())
    submission = dsa.submission(said, created_at=WHEN, ended_at=said.stated_at - timedelta(days=2))
    assert submission["end_date_visibility_restriction"] == submission["application_date"]


def test_batches_go_on_after_files_with_names_of_their_own(tmp_path):
    body = '{"statements": [{"puid": "s1"}]}'
    for name in ("statements-000007.json", "statements-000009 (sent).json", "statements-sent.json"):
        (tmp_path / name).write_text(body)
    batches = dsa_export._Batches(tmp_path)
    assert batches.known == {"s1"}
    batches.add({"puid": "s2"})
    batches.flush()
    assert (tmp_path / "statements-000008.json").exists()


async def test_the_webhook_tells_a_statement_that_replaces_one_where_the_item_stays_as_restricted():
    sent = []

    class Receiver(Delivery):
        async def _send(self, message):
            sent.append(message.message_id)

    same = Action("a1", "c1", "remove", WHEN, previous="remove", policy_id="p", sequence=1)
    stated = msgspec.structs.replace(same, action_id="a2", statement=AuthorStatement("s2", "en", "why"))
    receiver = Receiver(Webhook("http://127.0.0.1:1"), b"key", None)
    await receiver.process([StoredRecord(topics.ACTIONS, 0, 0, 0, b"c1", encode(one)) for one in (same, stated)])
    assert sent == ["action-a2"]


def test_what_a_verdict_tells_of_an_allowed_text_is_known_after_a_restart_too():
    found = []
    for restarted in (False, True):
        stating = Stating()
        allowed = verdict(decision="safe", rules=(), language="de")
        if restarted:
            stating.enforcer.states[0].add_text(allowed)
        else:
            stating(allowed)
        found += stating(person(content_sha256="sha"))
    assert [(one.language, one.content_created_at) for one in found] == [("de", WHEN)] * 2


@pytest.mark.parametrize(
    ("cited", "severity"),
    [
        ({"cited_policy": "hate-harassment", "rule_ids": ("HH3", "HH1")}, "critical"),
        ({"cited_policy": "hate-harassment", "rule_ids": ()}, "low"),
        ({"cited_policy": "hate-harassment", "rule_ids": ("HH3",), "severity": "high"}, "high"),
        ({"cited_policy": "hate-harassment", "rule_ids": ("HH3",), "action": "allow"}, None),
        ({"cited_policy": "never released"}, None),
        ({}, None),
    ],
)
def test_what_a_moderator_cites_has_the_severity_of_its_rules_and_weighs_as_much(cited, severity):
    graded = {"HH1": "low", "HH3": "critical"}
    policy = msgspec.structs.replace(LIBRARY["hate-harassment"], severity=graded)
    words = known(policy)
    words._missing.add(policy_words.PolicyVersion("never released", ""))
    authors = AuthorRules(strike=(StrikeRule("grave", 3, min_severity="high"), StrikeRule("any", 1)))
    enforcer = Stating(policies=words, authors=authors)
    decided = person(cited.pop("action", "remove"), author_id="ann", content_sha256="sha", **cited)
    outputs = asyncio.run(enforcer.enforcer.process([enforcer.record(decided)]))
    (action,) = [decode(one.value, Action) for one in outputs if one.topic == topics.ACTIONS]
    strikes = [decode(one.value, Strike) for one in outputs if one.topic == topics.STRIKES]
    assert action.severity == severity
    heavy = severity in ("high", "critical")
    assert [(one.severity, one.weight) for one in strikes] == (
        [] if action.action == "allow" else [(severity, 3 if heavy else 1)]
    )
