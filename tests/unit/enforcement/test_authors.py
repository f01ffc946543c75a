"""Whose content an action is about: from the verdict, or else from what stands on the item."""

import json

import msgspec
import pytest

from safeguard_streams.contract import limits
from safeguard_streams.contract.records import EVERY_POLICY, Action, PolicyStanding, Standing, decode, encode
from safeguard_streams.enforcement.delivery import message_for
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, load
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.releases.erasures import standing_without_words, without_words
from tests.unit.enforcement.test_transform import WHEN, Enforced, person, verdict

RULES = EnforcementRules((EnforcementRule("all", "remove"),))
HOSTILE = ["a" * limits.LABEL_CHARACTERS, "line\nbreak\x00\x1b[2J", "\u202eecila", "аlice", '"},"x":{"']


@pytest.mark.parametrize("author", ["u1", *HOSTILE])
def test_an_action_and_its_message_name_the_author_as_the_producer_wrote_it(author):
    (action,) = Enforced(RULES)(verdict(author_id=author))
    assert action.author_id == author
    assert json.loads(message_for(action, 0).body)["data"]["author_id"] == author


def test_without_an_author_nothing_is_lost():
    (action,) = Enforced(RULES)(verdict())
    assert action.author_id is None
    assert (action.action, action.state) == ("remove", "applied")


def test_a_verdict_that_names_no_author_loses_the_known_one_to_no_action():
    run = Enforced(RULES)
    run(verdict(1, author_id="u1"))
    (again,) = run(verdict(2, policy="spam"))
    assert again.author_id == "u1"


def test_what_moderators_decide_and_withdraw_names_the_author_also_after_a_takeover():
    run = Enforced(RULES)
    run(verdict(author_id="u1"))
    run.state = run.enforcer.states[0] = run.restored()
    (decided,) = run(person(action="allow"))
    withdrawal = msgspec.structs.replace(person(name="w1"), withdraws="d1")
    (withdrawn,) = run(withdrawal)
    assert (decided.author_id, withdrawn.author_id) == ("u1", "u1")


def test_a_decision_on_an_allowed_item_names_the_author_that_its_verdict_named():
    run = Enforced(RULES)
    run(verdict(decision="safe", author_id="u1"))
    (decided,) = run(person(action="remove"))
    assert decided.author_id == "u1"


def test_a_decision_keeps_the_author_that_the_command_found():
    (decided,) = Enforced(RULES)(msgspec.structs.replace(person(action="remove"), author_id="u1"))
    assert decided.author_id == "u1"


def test_a_released_action_names_the_author():
    run = Enforced(EnforcementRules((EnforcementRule("all", "remove"),), Cap(1)))
    _, held = run(verdict(1, content="c0", author_id="u0"), verdict(2, author_id="u1"))
    assert held.state == "held"
    release = msgspec.structs.replace(
        held, action_id="r1", releases=held.action_id, by="ann", sequence=None, author_id=None
    )
    (released,) = run(release)
    assert (released.state, released.author_id) == ("applied", "u1")


def test_a_cleared_edit_ends_the_action_and_names_the_author():
    run = Enforced(RULES)
    run(verdict(1, author_id="u1", origin="0@1"))
    edited = verdict(2, policy=EVERY_POLICY, decision="safe", origin="0@2", author_id="u1")
    (ended,) = run(msgspec.structs.replace(edited, content_sha256="other"))
    assert (ended.action, ended.author_id) == ("allow", "u1")


def test_a_rule_compares_authors_exactly():
    rules = EnforcementRules((EnforcementRule("watched", "remove", authors=("alice",)),))
    run = Enforced(rules)
    names = ["alice", "Alice", "аlice", "alice ", "alice\u200b", None]
    actions = [run(verdict(n, content=f"c{n}", author_id=name))[0].action for n, name in enumerate(names)]
    assert actions == ["remove", *["review"] * 5]


def test_a_moderators_record_with_a_longer_author_than_events_may_have_is_refused():
    decision = msgspec.structs.replace(person(), author_id="a" * (limits.LABEL_CHARACTERS + 1))
    with pytest.raises(RecordError, match="author_id"):
        decode(encode(decision), Action)


def test_records_about_an_erased_item_name_no_author():
    def erased(content_id, timestamp):
        return content_id == "c1" and timestamp <= WHEN.timestamp() * 1000

    assert without_words(verdict(author_id="u1"), erased).author_id is None
    assert without_words(verdict(account_age=5), erased).account_age is None
    assert without_words(verdict(content="c2", author_id="u1"), erased).author_id == "u1"
    (action,) = Enforced(RULES, erased=erased)(verdict(author_id="u1"))
    assert action.author_id is None
    standing = Standing("c1", "remove", 1, (PolicyStanding("hate", at=WHEN),), author_id="u1")
    assert standing_without_words(standing, erased).author_id is None
    later = msgspec.structs.replace(standing.policies[0], at=WHEN.replace(year=2027))
    newer = msgspec.structs.replace(standing, policies=(*standing.policies, later))
    assert standing_without_words(newer, erased).author_id == "u1", "new content under the same id"


@pytest.mark.parametrize(
    ("severity", "action"), [("low", "review"), ("high", "remove"), ("critical", "remove"), (None, "review")]
)
def test_a_rule_may_ask_for_a_severity(severity, action):
    rules = EnforcementRules((EnforcementRule("severe", "remove", min_severity="high"),))
    (acted,) = Enforced(rules)(verdict(severity=severity))
    assert (acted.action, acted.severity) == (action, severity)


def test_a_severity_that_there_is_not_is_refused_with_those_that_there_are(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "a"\naction = "remove"\nmin_severity = "sever"\n')
    with pytest.raises(ConfigurationError, match="choose from: low, medium, high, critical"):
        load(path)
