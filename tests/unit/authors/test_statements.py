"""Statements of reasons about accounts: when they are issued and withdrawn, what they say, and what they never say."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.authors.rates import Rates
from safeguard_streams.authors.state import AuthorsState
from safeguard_streams.authors.statements import AccountStatements
from safeguard_streams.authors.transform import Ledger
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    AuthorAction,
    AuthorPost,
    AuthorStanding,
    StatementOfReasons,
    Strike,
    TextFacts,
    decode,
    encode,
)
from safeguard_streams.enforcement import dsa
from safeguard_streams.enforcement.author_rules import AUTHOR_ACTIONS, AuthorRules, Rate, Threshold
from safeguard_streams.enforcement.policy_words import KnownPolicies, PolicyVersion
from safeguard_streams.enforcement.rules import EnforcementRules
from safeguard_streams.enforcement.statement_rules import StatementRules
from safeguard_streams.enforcement.statement_texts import sentences
from safeguard_streams.errors import BusError, DependencyError, ForbiddenError
from safeguard_streams.policies.files import load_library
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord

START, DAY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)
LIBRARY = load_library()
WORDS = "the author wrote: xyzzy plugh"
ASK = "https://example.com/appeals"
RULES = AuthorRules(
    threshold=(
        Threshold(name="first", action="warn", weight=1),
        Threshold(name="spam", action="review", weight=2, policies=("fraud-spam",)),
        Threshold(name="third", action="limit", weight=3, within="30d"),
        Threshold(name="fifth", action="suspend", weight=5),
        Threshold(name="ninth", action="suspend", weight=9),
    )
)
STATING = StatementRules(appeal=ASK)


def known(*policies):
    """The words of policies, of which nothing else is to be read."""
    words = KnownPolicies()
    for policy in policies or LIBRARY.values():
        words.add(policy)
    return words


def strike(name, weight=1, day=0, policy="hate-harassment", rules=("HH1",), language="en", **more):
    at = START + day * DAY
    shipped = LIBRARY.get(policy)
    facts = {"about": TextFacts(language, at - DAY), "verdict_id": f"v{name}", "author_id": "author-xyzzy", **more}
    return Strike(
        name,
        state="given",
        at=at,
        content_id=f"item xyzzy {name}",
        policy_id=policy,
        rule_ids=rules,
        weight=weight,
        expires_at=at + 90 * DAY,
        policy_version=shipped.version if shipped else None,
        **facts,
    )


def about(name, state, day=0, **more):
    return Strike(name, "author-xyzzy", state, START + day * DAY, by="Ann Xyzzy", why=WORDS, **more)


class Stating:
    """A ledger with statements, and what it wrote."""

    def __init__(self, rules=RULES, stating=STATING, policies=None):
        self.offset, self.actions, self.statements, self.standing = 0, [], [], None
        self.partitions = []
        said = EnforcementRules(authors=rules, statements=stating)
        self.ledger = Ledger(rules, None, AccountStatements(settings.load(), said, policies or known()))
        self.ledger.states[0] = AuthorsState()

    def records(self, *entries):
        start, self.offset = self.offset, self.offset + len(entries)
        return [
            StoredRecord(topics.STRIKES, 0, start + number, 0, b"", encode(one)) for number, one in enumerate(entries)
        ]

    def __call__(self, *entries):
        """Follow records in one batch; returns the records of statements."""
        outputs = asyncio.run(self.ledger.process(self.records(*entries)))
        said = [decode(one.value, StatementOfReasons) for one in outputs if one.topic == topics.STATEMENTS]
        self.actions += [decode(one.value, AuthorAction) for one in outputs if one.topic == topics.AUTHOR_ACTIONS]
        self.statements += said
        for one in outputs:
            if one.topic == topics.AUTHOR_STANDING:
                self.standing = one.value and decode(one.value, AuthorStanding)
            if one.topic == topics.STATEMENTS:
                assert (one.by_key, one.key) == (True, b"author-xyzzy")
        return said

    def restart(self):
        """Let another owner go on, from what stands."""
        self.ledger.states[0] = AuthorsState()
        if self.standing is not None:
            self.ledger.states[0].put(self.standing)


def submitted(said, stated_at=START):
    """A statement as the database takes it, which is checked."""
    said = msgspec.structs.replace(said, stated_at=stated_at)
    found = dsa.submission(said, created_at=said.content_created_at, ended_at=None)
    assert dsa.problem(found) is None
    return found


def every_word(one):
    return "\n".join(map(str, msgspec.to_builtins(one).values()))


@pytest.mark.parametrize("language", ["en", "de-AT", "fr", "es-MX"])
@pytest.mark.parametrize(("action", "weight"), [("limit", 3), ("suspend", 5)])
@pytest.mark.parametrize("policy", LIBRARY)
def test_each_restriction_for_each_policy_has_a_statement_that_the_database_takes(policy, action, weight, language):
    shipped = LIBRARY[policy]
    for rule in shipped.violating:
        stating = Stating()
        (said,) = stating(strike("a", weight, policy=policy, rules=(rule,), language=language))
        submission = submitted(said)
        decided = {"decision_account", "decision_visibility"} & submission.keys()
        assert decided == {"decision_account" if action == "suspend" else "decision_visibility"}
        assert said.language == language[:2]
        note = shipped.statements[rule].notes.get(said.language, shipped.notes[rule])
        assert note in said.text.splitlines()
        assert f"{shipped.title}, {rule}: {shipped.rules[rule]}" in said.text
        assert ASK in said.text
        assert sentences(said.language).account.action[action] in said.text
        assert (said.account_action, said.action, said.content_id) == (action, None, None)
        assert (said.policy_version, said.rule_ids, said.strike_ids) == (shipped.version, (rule,), ("a",))
        assert (said.automated_detection, said.automated_decision) == (True, "fully")
        for words in (every_word(said), str(submission)):
            assert "plugh" not in words
        assert "xyzzy" not in said.text
        assert "xyzzy" not in str(submission), "nothing personal"
        (written,) = stating.actions
        assert (written.statement.statement_id, written.statement.text) == (said.statement_id, said.text)


def test_the_guide_shows_a_statement_about_an_account_as_it_is():
    guide = Path(__file__).parents[3] / "docs/guides/statements.md"
    (said,) = Stating()(
        strike("a", 3, policy="fraud-spam", rules=("FS2",)), strike("b", 2, 9, policy="fraud-spam", rules=("FS2",))
    )[-1:]
    assert f"```text\n{said.text}\n```" in guide.read_text("utf-8")


@pytest.mark.parametrize("entry", [strike("a"), strike("a", 2, policy="fraud-spam", rules=("FS1",))])
def test_to_warn_and_to_review_restrict_nothing(entry):
    stating = Stating()
    assert stating(entry) == []
    assert stating.standing.action in ("warn", "review")
    decided = [about(f"d{action}", "decided", action=action) for action in ("none", "warn", "review")]
    assert stating(*decided) == []


def test_what_comes_again_writes_no_second_statement():
    stating = Stating()
    entries = [strike("a", 3), strike("b", 2, 1)]
    first, gone, second = stating(*entries)
    assert (gone.statement_id, gone.text) == (first.statement_id, sentences("en").account.replaced)
    assert (first.account_action, second.account_action) == ("limit", "suspend")
    stating.restart()
    assert stating(*entries, *entries) == []
    assert stating.standing.statement.statement_id == second.statement_id


def test_a_batch_that_is_read_once_more_after_a_crash_writes_the_same_statement():
    one, other = Stating(), Stating()
    (first,), (again,) = one(strike("a", 5)), other(strike("a", 5))
    assert first.statement_id == again.statement_id


def test_a_reversal_withdraws_the_statement_in_the_language_it_had():
    stating = Stating()
    (said,) = stating(strike("a", 5, language="de"))
    stating.restart()
    (gone,) = stating(about("a", "taken-back", 2))
    assert (gone.state, gone.statement_id, gone.language) == ("withdrawn", said.statement_id, "de")
    assert gone.text == sentences("de").account.lifted
    assert (gone.account_action, gone.author_id) == (None, "author-xyzzy")
    assert (stating.actions[-1].ends_statement, stating.actions[-1].statement) == (said.statement_id, None)
    assert stating.standing.statement is None


@pytest.mark.parametrize(
    "end", [about("a", "forgiven", 2), about("f", "forgotten", 2), about("d", "decided", 2, action="warn")]
)
def test_a_person_who_ends_a_restriction_withdraws_its_statement(end):
    stating = Stating()
    (said,) = stating(strike("a", 5))
    (gone,) = stating(end)
    assert (gone.state, gone.statement_id) == ("withdrawn", said.statement_id)
    assert "xyzzy" not in every_word(msgspec.structs.replace(gone, author_id=None)).lower()


def test_strikes_for_rates_are_found_by_automated_means_and_dated_by_the_post():
    rule = Threshold(name="flooding", action="suspend", given_by=("flood",))
    ledger = Stating(AuthorRules(rate=(Rate("flood", 2, "10m"),), threshold=(rule,)))
    rates = Rates(ledger.ledger._rules, None)
    post = AuthorPost("author-xyzzy", "c2", START - DAY)
    place = StoredRecord(topics.AUTHOR_POSTS, 3, 41, 0, b"author-xyzzy", encode(post))
    (said,) = ledger(rates._strike(rates._rules.rate[0], post, place))
    assert (said.automated_detection, said.automated_decision, said.account_action) == (True, "fully", "suspend")
    found = sentences("en").account.found
    assert found["automated"] in said.text
    assert found["initiative"] not in said.text
    assert said.content_created_at == START - DAY, "without a date it is never submitted"
    ledger.restart()
    (ended, again) = ledger(about("d1", "decided", action="suspend"))
    assert (ended.statement_id, again.automated_detection) == (said.statement_id, True)


@pytest.mark.parametrize(("strikes", "automated"), [([], "not"), ([strike("a", rules=("HH2",))], "partially")])
def test_a_persons_restriction_is_stated_without_what_they_wrote(strikes, automated):
    stating = Stating()
    assert not strikes or stating(*strikes) == []
    (said,) = stating(about("d", "decided", 1, action="suspend"))
    assert (said.automated_decision, said.automated_detection) == (automated, bool(strikes))
    assert said.rule_ids == (("HH2",) if strikes else ())
    assert "xyzzy" not in said.text.lower()
    text = sentences("en")
    assert said.ends_at is None
    assert text.duration in said.text
    assert (text.account.uncited in said.text) == (not strikes)
    assert text.account.contents not in said.text, "the strikes do not end what a person decided"
    assert dsa.problem(dsa.submission(said, created_at=START, ended_at=None)) is None
    assert stating(about("d", "decided", 2, action="suspend")) == [], "the same record once more"


def test_a_decision_that_ends_leaves_the_statement_of_what_the_strikes_say():
    stating = Stating()
    stating(strike("a", 5))
    gone, decided = stating(about("d", "decided", 1, action="suspend"))
    assert gone.state == "withdrawn"
    gone, again = stating(about("u", "undecided", 2))
    assert gone.statement_id == decided.statement_id
    assert (again.automated_decision, again.ends_at) == ("fully", START + 90 * DAY)
    assert (stating.actions[-1].action, stating.actions[-1].previous) == ("suspend", "suspend")


def test_a_higher_threshold_of_the_same_restriction_is_stated_and_falling_below_it_is_not():
    stating = Stating()
    (first,) = stating(strike("a", 5))
    gone, second = stating(strike("b", 4, 1))
    assert gone.statement_id == first.statement_id
    assert second.strike_ids == ("a", "b")
    assert stating(about("b", "taken-back", 2)) == []
    assert stating.standing.statement.statement_id == second.statement_id


def test_the_threshold_says_which_strikes_count_and_until_when():
    stating = Stating()
    stating(strike("old", 2))
    (said,) = stating(strike("a", 2, 40), strike("b", 1, 41))
    assert said.account_action == "suspend"
    assert said.strike_ids == ("old", "a", "b")
    assert said.ends_at == START + 90 * DAY
    assert "on 1 April 2026 at the latest" in said.text
    submission = submitted(said)
    assert submission["decision_account"] == "DECISION_ACCOUNT_SUSPENDED"
    assert submission["end_date_account_restriction"] == "2026-04-01"
    window = AuthorRules(threshold=RULES.threshold[2:3])
    (limited,) = Stating(window)(strike("old"), strike("a", 2, 40), strike("b", 1, 41))
    assert (limited.strike_ids, limited.ends_at) == (("a", "b"), START + 70 * DAY)
    assert submitted(limited)["end_date_visibility_restriction"] == "2026-03-12"


def test_an_end_that_is_past_when_the_statement_is_written_ends_that_day():
    (said,) = Stating()(strike("a", 5, day=-1000))
    assert said.ends_at < said.stated_at
    assert submitted(said, said.stated_at)["end_date_account_restriction"] == str(said.stated_at.date())


def test_of_several_policies_the_one_that_weighs_most_is_first():
    stating = Stating()
    (said,) = stating(
        strike("a", 1, 0, "fraud-spam", ("FS1",), "de"),
        strike("b", 2, 1, rules=("HH1", "HH2"), language="de-CH"),
        strike("c", 2, 2, rules=("HH2",), language="fr"),
    )[-1:]
    assert (said.policy_id, said.rule_ids, said.language) == ("hate-harassment", ("HH1", "HH2"), "de")
    hate, spam = LIBRARY["hate-harassment"], LIBRARY["fraud-spam"]
    assert said.text.index(hate.title) < said.text.index(spam.title)
    assert said.category == hate.statements["HH1"].category
    assert said.more_categories == (spam.statements["FS1"].category,)
    assert submitted(said)["category_addition"] == [spam.statements["FS1"].category]
    assert "3 Verstößen. Der erste wurde am 1. Januar 2026 festgestellt, der letzte am 3. Januar 2026" in said.text
    assert said.content_created_at == START + DAY


def test_a_rule_that_a_newer_version_lacks_is_stated_in_the_words_of_its_own():
    shipped = LIBRARY["fraud-spam"]
    rules = {name: text for name, text in shipped.rules.items() if name != "FS3"}
    newer = msgspec.structs.replace(shipped, version="newer", rules=rules, violating=("FS1", "FS2"))
    before, after = (
        strike("a", 3, 0, "fraud-spam", ("FS3",)),
        strike("b", 3, 1, "fraud-spam", ("FS1",)),
    )
    after = msgspec.structs.replace(after, policy_version="newer")
    (said,) = Stating(policies=known(shipped, newer))(before, after)[-1:]
    assert shipped.notes["FS3"] in said.text.splitlines()
    assert shipped.notes["FS1"] in said.text.splitlines()
    assert said.text.count(shipped.title) == 2
    same = msgspec.structs.replace(before, rule_ids=("FS2",))
    (said,) = Stating(policies=known(shipped, newer))(same, after)[-1:]
    assert said.text.count(shipped.title) == 1, "one policy is named once, whatever its versions are"
    assert (said.policy_version, said.rule_ids) == ("newer", ("FS2", "FS1"))


@pytest.mark.parametrize("reporter", ["user", "trusted_flagger", "authority"])
def test_a_report_is_named_as_what_led_to_the_restriction(reporter):
    reported = strike("b", 4, 1, about=TextFacts("en", START, reporter))
    (said,) = Stating()(strike("a", 1, verdict_id=None), reported)
    found = sentences("en").account.found
    assert f"{found['initiative']} {found[reporter]}" in said.text
    assert (said.reporter, said.automated_detection) == (reporter, False)


def test_strikes_from_before_an_upgrade_and_unknown_policies_are_stated_as_far_as_they_are_known():
    bare = strike("a", 5, policy="odd", rules=("OD1",), about=None)
    (said,) = Stating(stating=StatementRules("fr"))(bare)
    assert (said.ground, said.explanation, said.language, said.content_created_at) == ("odd, OD1", None, "fr", None)
    assert "1er janvier 2026" in said.text
    about = TextFacts("und", datetime(2026, 1, 1))  # noqa: DTZ001 - producers leave offsets out
    naive = strike("b", 5, about=about, policy=None, rules=())
    (said,) = Stating()(strike("a"), naive)
    assert said.content_created_at == START
    submitted(said)


def test_a_policy_that_nobody_released_is_a_persons_own_words_and_reaches_no_author():
    words, cited = known(), "Go away,\nyou xyzzy"
    words._missing.add(PolicyVersion(cited, ""))
    own = strike("a", 5, policy=cited, rules=("plugh",), verdict_id=None)
    (said,) = Stating(policies=words)(own)
    assert (said.policy_id, said.rule_ids) == (None, ())
    assert sentences("en").account.uncited in said.text
    said = msgspec.structs.replace(said, author_id="")
    assert not any(one in every_word(said) for one in ("xyzzy", "plugh"))
    submitted(said)


def test_a_law_makes_the_content_illegal():
    shipped = LIBRARY["fraud-spam"]
    entry = msgspec.structs.replace(shipped.statements["FS1"], law="Section 263 of the Criminal Code")
    words = known(msgspec.structs.replace(shipped, statements={"FS1": entry}))
    (said,) = Stating(policies=words)(strike("a", 5, policy="fraud-spam", rules=("FS1",)))
    assert submitted(said)["decision_ground"] == "DECISION_GROUND_ILLEGAL_CONTENT"
    assert "Section 263 of the Criminal Code" in said.text


@pytest.mark.parametrize("error", [BusError, ForbiddenError])
def test_policies_that_cannot_be_read_are_no_fault_of_the_strike(error):
    words = known()

    async def fetch(*_):
        raise error("away")

    words.fetch = fetch
    stating = Stating(policies=words)
    with pytest.raises(DependencyError):
        stating(strike("a", 5))
    assert len(stating.ledger.states[0]) == 0


STRIKES = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 120), st.sampled_from(["hate-harassment", "fraud-spam"])), max_size=12
)


@given(STRIKES)
def test_a_restriction_ends_when_its_statement_says_if_nothing_is_added(strikes):
    given_ones = [strike(f"s{n}", weight, day, policy, ()) for n, (weight, day, policy) in enumerate(strikes)]
    moment = START + 130 * DAY
    for action in AUTHOR_ACTIONS[1:]:
        ends = RULES.ends(action, given_ones, moment)
        least = AUTHOR_ACTIONS.index(action)
        days = [moment + day * DAY for day in range(250)]
        first = next((day for day in days[1:] if RULES.stands(given_ones, day).rank[0] < least), None)
        changes = any(one.expires_at > moment for one in given_ones)
        if RULES.stands(given_ones, moment).rank[0] >= least:
            assert ends == first
            assert changes
