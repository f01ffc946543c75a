"""Judging, with an engine that says what the test wants: the logic around the model is ours."""

import asyncio
import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.document import load_library
from streams import topics
from streams.errors import DependencyError, RecordError
from streams.memory import StoredRecord
from streams.policy_feed import PolicyFeed
from streams.records import (
    ContentEvent,
    Escalation,
    PolicyRelease,
    PrefilterResult,
    Rationale,
    Tokens,
    Verdict,
    decode,
    encode,
)
from workers import judge as judging
from workers import prompt
from workers.inference import Completion, InferenceError
from workers.judge import Judge
from workers.reasoner import MOST_WINDOWS, Economy

POLICY = load_library()["hate-harassment"]


def said(violation=1, rules=("HH1",), p=0.9):
    final = json.dumps({"violation": violation, "rule_ids": rules, "confidence": "high", "reason": "It attacks."})
    tokens = prompt.encoding().encode(
        f"<|channel|>analysis<|message|>Because.<|end|><|start|>assistant<|channel|>final<|message|>{final}<|return|>",
        allowed_special="all",
    )
    return Completion(tokens, 600, 512, [{15: math.log(1 - p), 16: math.log(p)}] * len(tokens))


MALFORMED = Completion(prompt.encoding().encode("I think it is fine."), 600, 0)


class Scripted:
    """Answers as scripted; an exception is raised."""

    model = "scripted"
    longest = 8000
    slots = 64
    capacity = None
    well = True

    def __init__(self, *script):
        self.script = list(script)
        self.prompts = []

    async def generate(self, question):
        self.prompts.append(prompt.decode(question.prompt))
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def close(self):
        return


@pytest.fixture
def feed():
    feed = PolicyFeed()
    release = PolicyRelease(POLICY.id, POLICY.version, 3, POLICY.document, datetime.now(UTC), "test")
    feed.take(POLICY.id.encode(), encode(release))
    return feed


class Slow(Scripted):
    """Takes a moment for each."""

    async def generate(self, question):
        await asyncio.sleep(0.02)
        return await super().generate(question)


def escalation(text="some text", *, policy=POLICY.id, revision=3, lane="live", replay=None, number=1):
    event = ContentEvent(f"c{number}", text, datetime.now(UTC))
    result = PrefilterResult("label", "hate", 0.8, 0.3)
    record = Escalation(event, policy, "old-version", revision, result, lane, datetime.now(UTC), {"queue": 1.0}, replay)
    return StoredRecord("content.escalations", 0, 0, 0, b"c1", encode(record), [("traceparent", b"00-t")])


async def judged(engine, feed, record=None):
    outputs = await Judge(engine, feed, Economy(500))([record or escalation()])
    rationale = [decode(o.value, Rationale) for o in outputs if o.topic == topics.RATIONALES]
    return outputs[0], decode(outputs[0].value, Verdict), rationale[0] if rationale else None


async def test_an_answer_becomes_a_verdict_and_a_rationale(feed):
    output, verdict, rationale = await judged(Scripted(said()), feed)
    assert output.topic == topics.VERDICTS
    assert output.key == b"c1"
    assert ("traceparent", b"00-t") in output.headers
    assert (verdict.decision, verdict.rule_ids, verdict.confidence) == ("violates", ("HH1",), "high")
    assert verdict.score == pytest.approx(0.9, abs=1e-4)
    assert verdict.policy_version == POLICY.version, "the verdict names the version that judged it"
    assert (verdict.tokens.prompt, verdict.tokens.cached) == (600, 512)
    assert {"queue", "escalation", "reasoner"} <= set(verdict.latency)
    assert rationale.verdict_id == verdict.verdict_id
    assert rationale.attempts[0].analysis == "Because."
    assert "Because" not in output.value.decode(), "the analysis is for auditors only"


async def test_a_malformed_output_is_asked_again_at_higher_effort(feed):
    engine = Scripted(MALFORMED, said(0, ("HH5",), 0.1))
    _, verdict, rationale = await judged(engine, feed)
    assert verdict.decision == "safe"
    assert verdict.reasoning_effort == "medium"
    assert ["Reasoning: low" in engine.prompts[0], "Reasoning: medium" in engine.prompts[1]] == [True, True]
    assert [a.refused for a in rationale.attempts] == ["cut_off", None]


async def test_malformed_twice_is_undetermined_and_never_safe(feed):
    _, verdict, rationale = await judged(Scripted(MALFORMED, MALFORMED), feed)
    assert verdict.decision == "undetermined"
    assert verdict.score is None
    assert verdict.rule_ids == ()
    assert verdict.reason == "the model gave no answer in the form asked for"
    assert len(rationale.attempts) == 2


async def test_a_request_that_the_engine_fails_twice_is_undetermined(feed):
    _, verdict, rationale = await judged(Scripted(InferenceError("no"), InferenceError("no")), feed)
    assert verdict.decision == "undetermined"
    assert rationale is None


async def test_a_dead_engine_is_not_the_records_fault(feed):
    with pytest.raises(DependencyError):
        await judged(Scripted(DependencyError("dead")), feed)


SAFE = said(0, ("HH5",), 0.1)


async def test_long_content_is_judged_in_windows_and_the_worst_decides(feed):
    engine = Scripted(SAFE, MALFORMED, MALFORMED, said(), SAFE)
    _, verdict, rationale = await judged(engine, feed, escalation("word " * 20_000))
    assert verdict.decision == "violates"
    assert not verdict.truncated
    assert len(engine.prompts) == 4, "after one that violates nothing else needs to be asked"
    assert verdict.tokens.prompt == 600 * 4
    assert len(rationale.attempts) == 4


async def test_a_window_that_cannot_be_judged_leaves_long_content_undetermined(feed):
    _, verdict, _ = await judged(Scripted(SAFE, MALFORMED, MALFORMED, SAFE, SAFE), feed, escalation("word " * 20_000))
    assert verdict.decision == "undetermined"


async def test_content_beyond_all_windows_is_sampled_whole_and_said_to_be_truncated(feed):
    engine = Scripted(*[SAFE] * MOST_WINDOWS)
    text = "the beginning " + "word " * 400_000 + "the end"
    _, verdict, _ = await judged(engine, feed, escalation(text))
    assert verdict.truncated
    assert verdict.decision == "safe"
    assert "the beginning" in engine.prompts[0]
    assert "the end" in engine.prompts[-1]


@given(st.integers(0, 30), st.integers(0, 400), st.integers(16, 80), st.integers(2, 9))
def test_windows_cover_the_content(head, length, room, most):
    content = list(range(1000, 1000 + length))
    parts, truncated = prompt.windows([7] * head, content, room, most)
    assert all(len(part) <= room for part in parts)
    assert len(parts) <= most
    seen = {token for part in parts for token in part if token >= 1000}
    assert truncated or seen == set(content)
    if content:
        assert {content[0], content[-1]} <= seen


async def test_a_flood_of_one_text_costs_one_call(feed):
    engine = Slow(said())
    judge = Judge(engine, feed, Economy(500))
    floods = await asyncio.gather(*(judge([escalation(number=n)]) for n in range(50)))
    floods.append(await judge([escalation(number=50)]))
    assert len(engine.prompts) == 1
    verdicts = [decode(outputs[0].value, Verdict) for outputs in floods]
    assert len({v.verdict_id for v in verdicts}) == 51, "each content has a verdict of its own"
    assert {v.decision for v in verdicts} == {"violates"}
    assert [v.cached for v in verdicts].count(False) == 1
    assert all(v.tokens == Tokens() for v in verdicts if v.cached)
    assert len({decode(outputs[1].value, Rationale).verdict_id for outputs in floods}) == 51


async def test_what_was_not_judged_is_asked_again(feed):
    engine = Slow(MALFORMED, MALFORMED, said())
    judge = Judge(engine, feed, Economy(500))
    first = decode((await judge([escalation()]))[0].value, Verdict)
    second = decode((await judge([escalation()]))[0].value, Verdict)
    assert (first.decision, second.decision) == ("undetermined", "violates")


async def test_a_replay_is_judged_anew(feed):
    engine = Slow(said(), SAFE, SAFE)
    judge = Judge(engine, feed, Economy(500))
    for record in (escalation(), escalation(lane="replay", replay="r1"), escalation(lane="replay", replay="r2")):
        await judge([record])
    assert len(engine.prompts) == 3


async def test_who_waits_asks_when_the_one_who_asked_is_gone(feed):
    engine = Slow(said(), said())
    judge = Judge(engine, feed, Economy(500))
    first = asyncio.create_task(judge([escalation()]))
    await asyncio.sleep(0.005)
    second = asyncio.create_task(judge([escalation(number=2)]))
    await asyncio.sleep(0.005)
    first.cancel()
    verdict = decode((await second)[0].value, Verdict)
    assert (verdict.decision, verdict.cached) == ("violates", False)


async def test_few_judgements_are_kept(feed):
    engine = Slow(*[SAFE] * 5)
    judge = Judge(engine, feed, Economy(500, kept=2))
    for text in ("a", "b", "c", "a", "a"):
        await judge([escalation(text)])
    assert len(engine.prompts) == 4


@pytest.mark.parametrize(("policy", "revision"), [("unknown", 1), (POLICY.id, 4)])
async def test_a_policy_that_never_comes_leaves_no_content_unanswered(feed, monkeypatch, policy, revision):
    monkeypatch.setattr(judging, "POLICY_PATIENCE", 0.01)
    _, verdict, _ = await judged(Scripted(), feed, escalation(policy=policy, revision=revision))
    assert verdict.decision == "undetermined"
    assert verdict.policy_version == "old-version"


async def test_replayed_content_goes_to_its_own_topic_and_id(feed):
    _, live, _ = await judged(Scripted(said()), feed)
    output, verdict, _ = await judged(Scripted(said()), feed, escalation(lane="replay", replay="r1"))
    assert output.topic == topics.REPLAYS
    assert verdict.replay_id == "r1"
    assert verdict.verdict_id != live.verdict_id
    _, again, _ = await judged(Scripted(said()), feed)
    assert again.verdict_id == live.verdict_id


async def test_a_record_that_is_no_escalation_is_refused(feed):
    record = StoredRecord("content.escalations", 0, 0, 0, None, b"{}")
    with pytest.raises(RecordError, match="event: is missing"):
        await Judge(Scripted(), feed, Economy(500))([record])
