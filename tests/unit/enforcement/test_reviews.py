"""What waits for a moderator, and what the webhook's receiver rejected."""

import asyncio
import base64
import contextlib
import json
import re
from datetime import datetime, timedelta

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app, enforce_review
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, ContentEvent, DeadLetter, Origin, PolicyChange, decode, encode
from safeguard_streams.enforcement import moderators, rejections, reviews
from safeguard_streams.enforcement.moderators import PlacedStanding
from safeguard_streams.enforcement.rules import Cap, EnforcementRules
from safeguard_streams.enforcement.stages import DELIVERING
from safeguard_streams.errors import RecordError
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ReleaseHistory
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_edits import LONGER, judged
from tests.unit.enforcement.test_transform import RULES, WHEN, Enforced, person, verdict


def invoke(*words):
    return CliRunner().invoke(app, ["enforce", *words])


def event(content_id):
    surface, language = {"c1": ("Chat", "en-GB"), "c5": ("profile", "de")}.get(content_id, (None, None))
    return ContentEvent(content_id, f"the text of {content_id}", WHEN, surface=surface, language=language)


def lines(*words):
    return [json.loads(line) for line in invoke("review", "--json", *words).stdout.splitlines()]


@pytest.fixture
def queue(monkeypatch):
    """What an agent with a small cap leaves behind."""
    run = Enforced(EnforcementRules(RULES.rule, Cap(2)))
    run(verdict(1, "c1", "hate", "undetermined"), verdict(2, "c2", "hate", rule_ids=("HH1",)))
    run(verdict(3, "c3", "fraud", rule_ids=("HH3",)), verdict(4, "c4", "hate", rule_ids=("HH3",)))
    run(verdict(5, "c5", "fraud", rule_ids=("HH1",)), person("c5", "review"))
    run(verdict(6, "c6", "fraud", rule_ids=("HH1",)), person("c6", "allow"))

    async def each_standing(_, made, partition=None):
        standings = [PlacedStanding(0, run.state[f"c{number}"]) for number in range(1, 9)]
        return [one for one in map(made, standings) if one is not None]

    async def history(_):
        change = PolicyChange("release", "unused", WHEN, "ann")
        return ReleaseHistory([change], {}, {})

    async def events_of(_, places):
        asked.extend(one.content_id for one in places)
        return {one: event(one.content_id) for one in places if one.content_id != "c2"}

    asked = run.asked = []
    monkeypatch.setattr(moderators, "each_standing", each_standing)
    monkeypatch.setattr(moderators, "events_of", events_of)
    monkeypatch.setattr(operator, "history", history)
    return run


def test_what_waits_is_listed_by_policy_with_its_cause(queue):
    found = lines()
    assert [(one["policy_id"], one["content_id"], one["cause"], one["action"]) for one in found] == [
        ("*", "c5", "moderator", "review"),
        ("hate", "c1", "undetermined", "review"),
        ("hate", "c2", "rule", "review"),
        ("hate", "c4", "held", "remove"),
    ]
    assert all(one["since"] for one in found)
    assert found[2]["rule"] == "violates, no rule matches"


def test_what_waits_is_shown_with_its_text(queue):
    queue(judged(7, LONGER, 2, "", content="c4", policy="fraud"))
    shown = invoke("review").stdout
    assert "\nc1\n  text        the text of c1\n  since       " in shown
    assert "\n  waits for   held: remove\n" in shown
    assert "\nc2\n  no text     past retention, erased" in shown
    assert shown.count("its verdict under hate is pending") == 1, "c4 was edited"
    found = {one["content_id"]: one for one in lines()}
    assert {name: one["text"] for name, one in found.items() if one["text"] is None} == {"c2": None}
    assert found["c1"]["text"] == "the text of c1"
    assert [name for name, one in found.items() if one["edited"]] == ["c4"]
    without = invoke("review", "--no-texts").stdout
    assert "the text of" not in without
    assert "no text" not in without
    assert "held: remove" in without
    assert {one["text"] for one in lines("--no-texts")} == {None}


def test_an_edit_after_a_decision_puts_an_item_into_the_queue(queue):
    queue(judged(7, LONGER, 2, "HH1", content="c6", policy="fraud"))
    found = {one["content_id"]: one for one in lines()}
    assert (found["c6"]["cause"], found["c6"]["action"], found["c6"]["policy_id"]) == ("held", "review", "fraud")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--surface", "chat"], {"c1", "c2", "c4"}),
        (["--language", "en"], {"c1", "c2", "c4"}),
        (["--language", "de"], {"c5", "c2", "c4"}),
        (["--language", "de", "--surface", "chat"], {"c2", "c4"}),
        (["--language", "en", "--policy", "hate"], {"c1", "c2", "c4"}),
        (["--surface", "chat", "--limit", "1"], {"c1"}),
    ],
)
def test_a_surface_and_a_language_select_and_hide_no_item_of_which_they_are_unknown(queue, words, found):
    assert {one["content_id"] for one in lines(*words)} == found
    assert {one["text"] for one in lines(*words, "--no-texts")} == {None}
    assert "shown: " in invoke("review", *words).stdout


def test_only_the_events_of_what_is_shown_are_read_in_parts(queue, monkeypatch):
    monkeypatch.setattr(reviews, "PART", 1)
    assert [one["content_id"] for one in lines("--limit", "1")] == ["c5", "c1"]
    assert queue.asked == ["c5", "c1"]
    queue.asked.clear()
    lines("--no-texts")
    assert queue.asked == []


def test_how_long_an_item_has_waited_is_shown(queue):
    shown = invoke("review", "--no-texts").stdout
    assert re.search(r"item +since +age +waits for +rule", shown)
    assert re.search(r"c1 +\S+ +[0-9]+[smhd] +undetermined", shown)
    assert [enforce_review._age(seconds) for seconds in (-3, 59.9, 60, 7199, 86_400 * 40)] == [
        *("0s", "59s", "1m", "1h", "40d"),
    ]


def test_a_policy_selects_and_an_unknown_one_is_an_error(queue):
    assert "c5" in invoke("review", "--policy", "*").stdout
    shown = invoke("review", "--policy", "hate", "-n", "2").stdout
    assert "hate: 3 waiting" in shown
    assert "1 more; show them with --limit or --json" in shown
    assert "nothing waits for review" in invoke("review", "--policy", "unused").stdout
    for words in (("review", "--policy", "hat"), ("release", "hat", "--by", "ann")):
        assert "no policy 'hat' was ever released; available: unused" in str(invoke(*words).exception)


async def test_records_of_earlier_agents_come_first_because_their_time_is_unknown(queue):
    state = queue.state
    old = msgspec.structs.replace(state["c2"].policy("hate"), at=None, decision=None, rule=None)
    state.put(msgspec.structs.replace(state["c2"], policies=(old,)))
    found = await reviews.waiting(None, "hate")
    assert [one.content_id for one in found] == ["c2", "c1", "c4"]


def action(name, content="c1", action="remove", **more):
    return Action(name, content, action, WHEN, sequence=1, policy_id="hate", verdict_id=name, **more)


def letter(value, offset, stage=DELIVERING, reason="webhook: the receiver rejected the message: answered 422"):
    origin = Origin(topics.ACTIONS, 0, offset, 0)
    encoded = None if value is None else base64.b64encode(value).decode()
    return DeadLetter(origin, stage, "RecordError", reason, 1, WHEN + timedelta(seconds=offset), value=encoded)


@pytest.fixture
def logs(monkeypatch):
    """The dead letters, and the actions by offset, as readers find them."""
    letters, actions = [], {}

    async def read_all(_, names, partition=None, **__):
        for offset, one in enumerate(letters):
            key = None
            with contextlib.suppress(RecordError):
                key = decode(one.original().value, Action).content_id.encode()
            yield StoredRecord(topics.DEAD_LETTERS, 0, offset, 0, key, encode(one))

    async def read_decoded(_, names, kind, partition=None, **__):
        for offset, one in actions.items():
            yield StoredRecord(topics.ACTIONS, 0, offset, 0, None, None), one

    monkeypatch.setattr(rejections.kafka, "read_all", read_all)
    monkeypatch.setattr(rejections.kafka, "read_decoded", read_decoded)
    return letters, actions


async def states(content=None):
    return {one.action_id: one.state for one in await rejections.rejections(None, content)}


async def test_a_rejected_message_is_listed_with_what_became_of_it(logs):
    letters, actions = logs
    for offset, one in enumerate((action("a0"), action("a1", "c2"), action("a2", "c3"), action("a3", "c4"))):
        letters.append(letter(encode(one), offset))
        actions[offset] = one
    actions[10] = action("a1", "c2")  # after a retry
    actions[11] = action("a9", "c3", "allow", previous="remove")
    actions[12] = action("a8", "c4", "remove", previous="remove")  # changes nothing
    assert await states() == {"a0": "not delivered", "a1": "sent again", "a2": "outdated", "a3": "not delivered"}
    assert await states("c2") == {"a1": "sent again"}
    (one,) = await rejections.rejections(None, "c1")
    assert (one.problem, one.action, one.policy_id, one.attempts) == ("answered 422", "remove", "hate", 1)


@pytest.mark.parametrize("time", [datetime(2026, 1, 1), datetime(1, 1, 1), datetime.max])  # noqa: DTZ001, DTZ901  (without an offset)
async def test_odd_times_of_letters_and_actions_hide_no_other(logs, time):
    """Every role may write dead letters, and thus times without an offset or in the year 1."""
    letters, actions = logs
    actions[0] = action("a0")
    odd = msgspec.structs.replace(action("a1", "c2"), acted_at=time)
    letters += [letter(encode(actions[0]), 0), msgspec.structs.replace(letter(encode(odd), 1), failed_at=time)]
    assert await states() == {"a0": "not delivered", "a1": "not delivered"}


async def test_a_message_that_was_rejected_again_after_a_retry_is_not_delivered(logs):
    letters, actions = logs
    actions[0], actions[10] = action("a0"), action("a0")
    letters += [letter(encode(action("a0")), 0), letter(encode(action("a0")), 10)]
    assert await states() == {"a0": "not delivered"}


async def test_other_letters_and_broken_ones_are_left_out(logs):
    letters, _ = logs
    letters += [letter(encode(action("a0")), 0, stage="enforcement"), letter(b"junk", 1), letter(None, 2)]
    letters.append(msgspec.structs.replace(letter(b"", 3), left_out=("value",)))
    assert await states() == {}
    assert "the receiver rejected no message" in (await asyncio.to_thread(invoke, "deliveries")).stdout


def test_what_waits_says_how_severe_the_violation_is():
    run = Enforced(EnforcementRules())
    run(verdict(1, policy="spam", rule_ids=("S1",), severity="low"))
    run(verdict(2, policy="hate", rule_ids=("H1",), severity="critical"))
    run(verdict(3, "c2", "spam", "undetermined"))
    items = [run.state[name] for name in ("c1", "c2")]
    found = {(one.content_id, one.policy_id): one.severity for each in items for one in reviews.waiting_on(each)}
    assert found == {("c1", "spam"): "low", ("c1", "hate"): "critical", ("c2", "spam"): None}
    run(person(action="review"))
    (sent,) = [one for one in reviews.waiting_on(run.state["c1"]) if one.policy_id == "*"]
    assert (sent.cause, sent.severity) == ("moderator", "critical")
