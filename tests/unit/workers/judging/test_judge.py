"""Judging with a scripted backend: these tests cover the logic around the model."""

import asyncio
import json
import math
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.contract import limits, topics
from safeguard_streams.contract.records import (
    SHADOW,
    Attempt,
    Canary,
    ContentEvent,
    Escalation,
    Message,
    PolicyRelease,
    PrefilterResult,
    Rationale,
    Tokens,
    Verdict,
    decode,
    encode,
    policy_key,
)
from safeguard_streams.errors import DependencyError, RecordError
from safeguard_streams.policies.document import ScoreMap
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.policies.parsing import parse as parse_policy
from safeguard_streams.releases import feed as feed_module
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import Completion, InferenceError
from safeguard_streams.workers.judging import asking, prompt, rationale
from safeguard_streams.workers.judging.cache import JudgementCache
from safeguard_streams.workers.judging.instructions import instructions_for
from safeguard_streams.workers.judging.judge import Judge
from safeguard_streams.workers.judging.judgement import Finding, Judgement
from safeguard_streams.workers.judging.parse import Answer
from safeguard_streams.workers.judging.rationale import build_rationale
from safeguard_streams.workers.judging.reasoner import MAX_WINDOWS, InferenceBudget
from tests.conftest import TIMEOUT

POLICY = load_library()["hate-harassment"]
RELEASED_SHADOW = PolicyRelease(POLICY.id, POLICY.version, 3, POLICY.document, datetime.now(UTC), "test", shadow=0.5)


def completed(violation=1, rules=("HH1",), p=0.9):
    final = json.dumps({"violation": violation, "rule_ids": rules, "confidence": "high", "reason": "It attacks."})
    tokens = encoding().encode(
        f"Because.<|end|><|start|>assistant<|channel|>final<|message|>{final}<|return|>",
        allowed_special="all",
    )
    return Completion(tokens, 600, 512, [{15: math.log(1 - p), 16: math.log(p)}] * len(tokens))


MALFORMED = Completion(encoding().encode("I think it is fine."), 600, 0)


def held(violation=1, rules=("HH1",)):
    """The rest of a final message that the prompt has begun, with the score of its decision."""
    final = json.dumps({"rule_ids": rules, "confidence": "low", "reason": "It attacks."}, separators=(",", ":"))
    tokens = harmony.encode_markup(f"{violation},{final[1:]}<|return|>")
    return Completion(tokens, 650, 600, [{15: math.log(0.2), 16: math.log(0.8)}] * len(tokens))


class Scripted:
    """Returns the scripted completions in order; raises those that are exceptions.

    scorings: the requests for a decision token alone, which are no step of the script.
    """

    model = "scripted"
    max_model_tokens = 8000
    concurrency = 64
    cache_tokens = None
    revision = None
    continues = True
    healthy = True

    def __init__(self, *script):
        self.script = list(script)
        self.prompts = []
        self.requests = []
        self.scorings = []

    async def generate(self, request):
        if request.max_tokens == 1 and request.written:
            self.scorings.append(request)
            return Completion([16], 600, 592, [{15: math.log(0.3), 16: math.log(0.7)}])
        self.requests.append(request)
        self.prompts.append(harmony.decode_tokens(request.prompt))
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
    """Takes a moment for each request."""

    async def generate(self, request):
        await asyncio.sleep(0.02)
        return await super().generate(request)


class Held(Scripted):
    """Says when it was asked, and answers when it may."""

    def __init__(self, *script):
        super().__init__(*script)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def generate(self, request):
        self.asked.set()
        await self.answer.wait()
        return await super().generate(request)


def escalation(
    text="some text",
    *,
    policy=POLICY.id,
    revision=3,
    lane="live",
    replay=None,
    number=1,
    event=None,
    origin=None,
    repaired=False,
    offset=0,
):
    event = event or ContentEvent(f"c{number}", text, datetime.now(UTC))
    result = PrefilterResult("label", "hate", 0.8, 0.3)
    # A replay names the very version that judges it.
    version = POLICY.version if lane == "replay" else "old-version"
    record = Escalation(
        event, policy, version, revision, result, lane, datetime.now(UTC), {"queue": 1.0}, replay, origin, repaired
    )
    return StoredRecord("content.escalations", 0, offset, 0, b"c1", encode(record), [("traceparent", b"00-t")])


async def judged(backend, feed, record=None):
    outputs = await Judge(backend, feed, InferenceBudget(500))([record or escalation()])
    rationale = [decode(o.value, Rationale) for o in outputs if o.topic == topics.RATIONALES]
    return outputs[0], decode(outputs[0].value, Verdict), rationale[0] if rationale else None


async def test_an_answer_becomes_a_verdict_and_a_rationale(feed):
    output, verdict, rationale = await judged(Scripted(completed()), feed)
    assert output.topic == topics.VERDICTS
    assert output.key == b"c1"
    assert ("traceparent", b"00-t") in output.headers
    assert (verdict.decision, verdict.rule_ids, verdict.confidence) == ("violates", ("HH1",), "high")
    assert verdict.score == pytest.approx(0.9, abs=1e-4)
    assert verdict.policy_version == POLICY.version, "the verdict names the version that judged it"
    assert (verdict.tokens.prompt, verdict.tokens.cached) == (600, 512)
    assert {"queue", "escalation", "reasoner"} <= set(verdict.latency)
    assert rationale.verdict_id == verdict.verdict_id
    assert verdict.answer == "first"
    assert rationale.attempts[0].analysis == "Because."
    assert "Because" not in output.value.decode(), "the analysis is for auditors only"


async def test_a_rejected_final_message_is_written_once_more_after_the_same_reasoning(feed):
    backend = Scripted(completed(1, ("HH5",)), held(1, ("HH1", "HH2")))
    _, verdict, rationale = await judged(backend, feed)
    assert (verdict.decision, verdict.rule_ids, verdict.answer) == ("violates", ("HH1", "HH2"), "constrained")
    assert verdict.score == pytest.approx(0.8, abs=1e-4)
    assert verdict.reasoning_effort == "low"
    assert [(a.analysis, a.refused) for a in rationale.attempts] == [("Because.", "contradiction"), ("Because.", None)]
    assert backend.prompts[1].endswith('Because.<|end|><|start|>assistant<|channel|>final<|message|>{"violation":')
    assert verdict.tokens.prompt == 600 + 650
    assert backend.scorings == [], "its first token is the decision"


async def test_a_score_that_cannot_be_had_takes_nothing_from_the_answer(feed):
    class Scoreless(Scripted):
        async def generate(self, request):
            if request.written:
                raise InferenceError("no")
            return await super().generate(request)

    unscored = msgspec.structs.replace(completed(), logprobs=())
    _, verdict, _ = await judged(Scoreless(unscored), feed)
    assert (verdict.decision, verdict.score) == ("violates", None)
    _, verdict, _ = await judged(Scripted(unscored), feed)
    assert (verdict.decision, verdict.score) == ("violates", 0.7)


async def test_a_malformed_output_is_retried_at_a_higher_effort(feed):
    backend = Scripted(MALFORMED, completed(0, ("HH5",), 0.1))
    _, verdict, rationale = await judged(backend, feed)
    assert verdict.decision == "safe"
    assert verdict.reasoning_effort == "medium"
    assert ["Reasoning: low" in backend.prompts[0], "Reasoning: medium" in backend.prompts[1]] == [True, True]
    assert [a.refused for a in rationale.attempts] == ["cut_off", None]


async def test_two_malformed_outputs_are_undetermined_and_never_safe(feed):
    _, verdict, rationale = await judged(Scripted(MALFORMED, MALFORMED), feed)
    assert verdict.decision == "undetermined"
    assert verdict.score is None
    assert verdict.rule_ids == ()
    assert verdict.reason == "the model gave no answer in the required format"
    assert len(rationale.attempts) == 2


async def test_a_request_that_the_backend_fails_twice_is_undetermined(feed):
    _, verdict, rationale = await judged(Scripted(InferenceError("no"), InferenceError("no")), feed)
    assert verdict.decision == "undetermined"
    assert rationale is None


async def test_a_dead_backend_is_not_the_records_fault(feed):
    with pytest.raises(DependencyError):
        await judged(Scripted(DependencyError("dead")), feed)


SAFE = completed(0, ("HH5",), 0.1)


async def test_long_content_is_judged_in_windows_and_the_worst_decides(feed):
    backend = Scripted(SAFE, MALFORMED, MALFORMED, completed(), SAFE)
    _, verdict, rationale = await judged(backend, feed, escalation("word " * 20_000))
    assert verdict.decision == "violates"
    assert not verdict.truncated
    assert len(backend.prompts) == 4, "windows after one that violates are not judged"
    assert verdict.tokens.prompt == 600 * 4
    assert len(rationale.attempts) == 4


async def test_a_window_that_cannot_be_judged_leaves_long_content_undetermined(feed):
    _, verdict, _ = await judged(Scripted(SAFE, MALFORMED, MALFORMED, SAFE, SAFE), feed, escalation("word " * 20_000))
    assert verdict.decision == "undetermined"


async def test_content_beyond_all_windows_is_sampled_from_end_to_end_and_marked_truncated(feed):
    backend = Scripted(*[SAFE] * MAX_WINDOWS)
    text = "the beginning " + "word " * 400_000 + "the end"
    _, verdict, _ = await judged(backend, feed, escalation(text))
    assert verdict.truncated
    assert verdict.decision == "safe"
    assert "the beginning" in backend.prompts[0]
    assert "the end" in backend.prompts[-1]


@given(st.integers(0, 30), st.integers(0, 400), st.integers(16, 80), st.integers(2, 9))
def test_windows_cover_the_content(head, length, max_tokens, max_windows):
    content = list(range(1000, 1000 + length))
    windows = prompt.windows([7] * head, content, max_tokens, max_windows)
    assert all(len(message) <= max_tokens for message in windows.messages)
    assert len(windows.messages) <= max_windows
    seen = {token for message in windows.messages for token in message if token >= 1000}
    assert windows.truncated or seen == set(content)
    if content:
        assert {content[0], content[-1]} <= seen


async def test_a_flood_of_one_text_costs_one_call(feed):
    backend = Slow(completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    floods = await asyncio.gather(*(judge([escalation(number=n)]) for n in range(50)))
    floods.append(await judge([escalation(number=50)]))
    assert len(backend.prompts) == 1
    verdicts = [decode(outputs[0].value, Verdict) for outputs in floods]
    assert len({v.verdict_id for v in verdicts}) == 51, "each content item has its own verdict"
    assert {v.decision for v in verdicts} == {"violates"}
    assert [v.cached for v in verdicts].count(False) == 1
    assert all(v.tokens == Tokens() for v in verdicts if v.cached)
    assert len({decode(outputs[1].value, Rationale).verdict_id for outputs in floods}) == 51


async def test_a_reused_judgement_names_each_items_own_author_and_surface(feed):
    backend = Slow(completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    abouts = [("u1", "chat", "en"), ("u2", None, "de"), (None, "chat", None), ("", None, None)]
    items = [
        ContentEvent(f"c{n}", "the same text", datetime.now(UTC), author, surface, language)
        for n, (author, surface, language) in enumerate(abouts)
    ]
    judged = await asyncio.gather(*(judge([escalation(event=item)]) for item in items))
    verdicts = [decode(outputs[0].value, Verdict) for outputs in judged]
    assert len(backend.prompts) == 1
    assert [(v.author_id, v.surface, v.language) for v in verdicts] == [*abouts[:3], (None, None, None)]


@pytest.mark.parametrize("lane", ["live", "audit", "shadow", "replay"])
async def test_a_verdict_of_every_lane_and_of_a_canary_names_the_author(feed, lane):
    feed.take(policy_key(POLICY.id, SHADOW), encode(RELEASED_SHADOW))
    event = ContentEvent("c1", "text", datetime.now(UTC), "u1")
    record = escalation(event=event, lane=lane, replay="r1" if lane == "replay" else None)
    assert (await judged(Scripted(completed()), feed, record))[1].author_id == "u1"
    canary = Judge(Scripted(completed()), feed, InferenceBudget(500), canary=Canary("new", 0.5))
    assert decode((await canary([record]))[0].value, Verdict).author_id == "u1"


async def test_the_verdict_that_an_erased_item_gets_names_no_author(feed):
    judge = Judge(Scripted(), feed, InferenceBudget(500), lambda *_: True)
    event = ContentEvent("c1", "text", datetime.now(UTC), "u1", author_created_at=datetime(2020, 1, 1, tzinfo=UTC))
    (output,) = await judge([escalation(event=event)])
    verdict = decode(output.value, Verdict)
    assert (verdict.author_id, verdict.account_age) == (None, None)


async def test_a_verdict_says_how_old_the_account_was_when_the_item_was_created(feed):
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    event = ContentEvent("c1", "text", moment, "u1", author_created_at=moment - timedelta(hours=1))
    assert (await judged(Scripted(completed()), feed, escalation(event=event)))[1].account_age == 3600


@pytest.mark.parametrize(
    ("answers", "severity"),
    [
        ([completed(rules=("HH2",))], "medium"),
        ([completed(rules=("HH2", "HH3"))], "critical"),
        ([SAFE], None),
        ([MALFORMED, MALFORMED], None),
    ],
)
async def test_a_violation_has_the_highest_severity_of_the_rules_that_it_cites(feed, answers, severity, monkeypatch):
    counted = []
    monkeypatch.setattr(metrics, "VERDICTS", SimpleNamespace(add=lambda n, labels: counted.append(labels["severity"])))
    assert (await judged(Scripted(*answers), feed))[1].severity == severity
    assert counted == [severity or "none"]


async def test_a_release_that_changes_severities_alone_holds_for_judgements_of_before(feed):
    judge = Judge(Scripted(completed()), feed, InferenceBudget(500))
    before = decode((await judge([escalation()]))[0].value, Verdict)
    document = POLICY.document.replace("  HH1: high\n", "  HH1: low\n")
    release = PolicyRelease(POLICY.id, POLICY.version, 4, document, datetime.now(UTC), "test")
    feed.take(POLICY.id.encode(), encode(release))
    after = decode((await judge([escalation(number=2)]))[0].value, Verdict)
    assert (before.severity, after.severity) == ("high", "low")
    assert after.cached, "the model sees no severity"
    assert before.policy_version == after.policy_version


async def test_an_undetermined_judgement_is_not_cached(feed):
    backend = Slow(MALFORMED, MALFORMED, completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    first = decode((await judge([escalation()]))[0].value, Verdict)
    second = decode((await judge([escalation()]))[0].value, Verdict)
    assert (first.decision, second.decision) == ("undetermined", "violates")


async def test_a_replay_shares_no_judgement_with_live_content(feed):
    backend = Slow(completed(), SAFE, SAFE)
    judge = Judge(backend, feed, InferenceBudget(500))
    for record in (escalation(), escalation(lane="replay", replay="r1"), escalation(lane="replay", replay="r2")):
        await judge([record])
    assert len(backend.prompts) == 3


async def test_a_waiting_caller_judges_when_the_first_caller_is_cancelled(feed):
    backend = Held(completed(), completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    first = asyncio.create_task(judge([escalation()]))
    await backend.asked.wait()
    second = asyncio.create_task(judge([escalation(number=2)]))
    await asyncio.sleep(0.005)
    first.cancel()
    backend.answer.set()
    verdict = decode((await second)[0].value, Verdict)
    assert (verdict.decision, verdict.cached) == ("violates", False)


async def test_the_cache_keeps_the_judgements_used_last(feed):
    backend = Slow(*[SAFE] * 5)
    judge = Judge(backend, feed, InferenceBudget(500, cache_size=2))
    for text in ("a", "b", "c", "a", "a"):
        await judge([escalation(text)])
    assert len(backend.prompts) == 4


@pytest.mark.parametrize(("policy", "revision"), [("unknown", 1), (POLICY.id, 4)])
async def test_content_waits_for_a_release_that_is_late_however_late(feed, monkeypatch, caplog, policy, revision):
    monkeypatch.setattr(feed_module, "LATE", 0.01)
    waiting = asyncio.create_task(judged(Scripted(), feed, escalation(policy=policy, revision=revision)))
    while "release not arrived" not in caplog.text:
        await asyncio.sleep(0.01)
    assert not waiting.done()
    feed.take(policy.encode(), None, [("revision", b"%d" % revision)])
    _, verdict, _ = await waiting
    assert (verdict.decision, verdict.reason) == ("undetermined", "the policy is no longer in force")
    assert verdict.policy_version == "old-version"


async def test_replayed_content_goes_to_its_own_topic_and_id(feed):
    _, live, _ = await judged(Scripted(completed()), feed)
    output, verdict, _ = await judged(Scripted(completed()), feed, escalation(lane="replay", replay="r1"))
    assert output.topic == topics.REPLAYS
    assert verdict.replay_id == "r1"
    assert verdict.verdict_id != live.verdict_id
    _, again, _ = await judged(Scripted(completed()), feed)
    assert again.verdict_id == live.verdict_id


async def test_a_record_that_is_not_an_escalation_is_rejected(feed):
    record = StoredRecord("content.escalations", 0, 0, 0, None, b"{}")
    with pytest.raises(RecordError, match="event: is missing"):
        await Judge(Scripted(), feed, InferenceBudget(500))([record])


def released(*documents):
    feed = PolicyFeed()
    for document in documents:
        policy = parse_policy(document)
        release = PolicyRelease(policy.id, policy.version, 3, document, datetime.now(UTC), "test")
        feed.take(policy.id.encode(), encode(release))
    return feed


def judging_with(policy=POLICY, **changes):
    return with_changes(policy.document, "judging", **changes)


async def test_the_majority_of_several_samples_decides_and_their_mean_is_the_score():
    feed = released(judging_with(samples=3, agreement=0.6))
    backend = Scripted(completed(p=0.99), SAFE, completed(rules=("HH2",), p=0.95))
    _, verdict, rationale = await judged(backend, feed)
    assert verdict.decision == "violates"
    assert verdict.score == pytest.approx((0.99 + 0.1 + 0.95) / 3, abs=1e-3)
    assert {request.temperature for request in backend.requests} == {1.0}
    assert verdict.tokens.prompt == 1800
    assert len(rationale.attempts) == 3


async def test_samples_that_disagree_leave_content_undetermined_with_the_reason():
    feed = released(judging_with(samples=4, agreement=0.8))
    _, verdict, _ = await judged(Scripted(completed(), completed(), completed(), SAFE), feed)
    assert verdict.decision == "undetermined"
    assert verdict.reason == "4 judgements disagree: 3 violates, 1 safe"
    assert verdict.score == pytest.approx((0.9 * 3 + 0.1) / 4, abs=1e-3)


async def test_a_malformed_sample_agrees_with_no_other():
    feed = released(judging_with(samples=2, agreement=1.0))
    _, verdict, _ = await judged(Scripted(completed(), MALFORMED, MALFORMED), feed)
    assert verdict.decision == "undetermined"


async def test_a_released_score_map_is_applied_and_named():
    score_map = ScoreMap(slope=0.5, intercept=-1.0)
    feed = released(judging_with(score_map={"slope": 0.5, "intercept": -1.0}))
    _, verdict, _ = await judged(Scripted(completed(p=0.9)), feed)
    assert verdict.score_map == score_map.name
    assert verdict.score == pytest.approx(1 / (1 + math.exp(1 - 0.5 * math.log(9))), abs=1e-3)
    _, plain, _ = await judged(Scripted(completed(p=0.9)), released(POLICY.document))
    assert plain.score_map is None


@given(st.floats(0.01, 5), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1))
def test_a_score_map_keeps_the_order_of_scores(slope, intercept, one, other):
    score_map = ScoreMap(slope, intercept)
    low, high = sorted((one, other))
    assert 0 <= score_map.apply(low) <= score_map.apply(high) <= 1


FRAUD = load_library()["fraud-spam"]


def bundle_completion(hate=1, fraud=0):
    final = {
        FRAUD.id: {
            "violation": fraud,
            "rule_ids": ["FS1" if fraud else "FS4"],
            "confidence": "high",
            "reason": "Money.",
        },
        POLICY.id: {"violation": hate, "rule_ids": ["HH1" if hate else "HH5"], "confidence": "low", "reason": "Hate."},
    }
    return Completion(
        harmony.encode_markup(
            f"Both.<|end|><|start|>assistant<|channel|>final<|message|>{json.dumps(final)}<|return|>"
        ),
        1200,
        1024,
    )


async def test_a_bundle_is_judged_in_one_call_with_a_verdict_for_each_policy():
    feed = released(
        judging_with(bundle="all"), judging_with(FRAUD, bundle="all"), load_library()["prompt-injection"].document
    )
    backend = Slow(bundle_completion())
    judge = Judge(backend, feed, InferenceBudget(500))
    outputs = await asyncio.gather(judge([escalation()]), judge([escalation(policy=FRAUD.id)]))
    hate, fraud = (decode(output[0].value, Verdict) for output in outputs)
    assert len(backend.prompts) == 1
    assert (hate.policy_id, hate.decision, hate.rule_ids, hate.policy_version) == (
        POLICY.id,
        "violates",
        ("HH1",),
        feed.policies.released[POLICY.id].policy.version,
    )
    assert (fraud.policy_id, fraud.decision, fraud.rule_ids) == (FRAUD.id, "safe", ("FS4",))
    assert hate.bundle == fraud.bundle is not None
    assert sorted(v.cached for v in (hate, fraud)) == [False, True]
    text = backend.requests[0].policy_text
    assert text.index(f"# Policy {FRAUD.id}") < text.index(f"# Policy {POLICY.id}")
    assert text.count("## Output") == 0
    assert "HH3: Threatens violence" in text
    assert "PI1" not in text


async def test_a_bundle_of_one_policy_uses_the_policys_own_text():
    backend = Scripted(completed())
    _, verdict, _ = await judged(backend, released(judging_with(bundle="all")))
    assert backend.requests[0].policy_text == POLICY.text
    assert verdict.bundle is None


async def test_a_bundle_with_one_wrong_part_is_undetermined_as_a_whole():
    feed = released(judging_with(bundle="all"), judging_with(FRAUD, bundle="all"))
    wrong = completed()
    refused = InferenceError("no structured outputs here")
    _, verdict, _ = await judged(Scripted(wrong, refused, wrong, refused), feed)
    assert verdict.decision == "undetermined"


async def test_effort_steps_down_while_live_content_waits_long_and_then_recovers():
    feed = released(POLICY.document.replace("effort: low", "effort: high"))
    judge = Judge(
        Scripted(completed(), completed(), completed(), completed(), completed()),
        feed,
        InferenceBudget(effort_by_lag={"medium": 30, "low": 120}),
    )
    efforts = []
    for waited, lane in ((0, "live"), (60, "live"), (300, "live"), (300, "audit"), (1, "live")):
        record = msgspec.structs.replace(
            escalation(f"text {waited} {lane}", lane=lane), timestamp=round((time.time() - waited) * 1000)
        )
        efforts.append(decode((await judge([record]))[0].value, Verdict))
    assert [v.reasoning_effort for v in efforts] == ["high", "medium", "low", "high", "high"]


@pytest.mark.parametrize("timestamp", [-1, 0, 1_700_000_000, 2**62])
async def test_a_timestamp_that_cannot_be_one_lowers_no_effort(feed, timestamp):
    judge = Judge(Scripted(completed()), feed, InferenceBudget(effort_by_lag={"low": 120}))
    record = msgspec.structs.replace(escalation(), timestamp=timestamp)
    assert decode((await judge([record]))[0].value, Verdict).reasoning_effort == POLICY.effort


async def test_rejected_outputs_are_counted_by_reason(feed):
    judge = Judge(Scripted(MALFORMED, completed(1, ("HH5",)), held()), feed, InferenceBudget(500))
    await judge([escalation()])
    assert judge.reasoner.outputs.malformed == {"cut_off": 1, "contradiction": 1}
    assert judge.reasoner.outputs.second_tries == {"constrained": 1, "again": 1}


async def test_requests_are_admitted_by_their_tokens(feed):
    class Counting(Slow):
        in_flight = peak = 0

        async def generate(self, request):
            self.in_flight += len(request.user)
            self.peak = max(self.peak, self.in_flight)
            try:
                return await super().generate(request)
            finally:
                self.in_flight -= len(request.user)

    backend = Counting(*[SAFE] * 40)
    judge = Judge(backend, feed, InferenceBudget(500, max_tokens_in_flight=4000))
    records = [escalation(f"{n} " + "word " * (900 if n % 2 else 20), number=n) for n in range(40)]
    await asyncio.gather(*(judge([record]) for record in records))
    assert len(backend.prompts) == 40
    assert 1800 < backend.peak <= 4000


async def test_a_shadow_is_judged_by_its_own_text_and_its_verdict_goes_where_no_enforcement_reads(feed):
    text = POLICY.document.replace("You review user content", "You look at user content")
    shadow = parse_policy(text)
    release = PolicyRelease(POLICY.id, shadow.version, 4, text, datetime.now(UTC), "test", shadow=0.5)
    feed.take(release.key, encode(release))
    backend = Scripted(completed(), completed(0, ("HH5",), 0.1))
    judge = Judge(backend, feed, InferenceBudget(500))
    live = await judge([escalation()])
    beside = await judge([escalation(lane="shadow", revision=4)])
    assert [o.topic for o in beside] == [topics.REPLAYS, topics.RATIONALES]
    one, other = decode(live[0].value, Verdict), decode(beside[0].value, Verdict)
    assert (one.lane, one.policy_version, one.decision) == ("live", POLICY.version, "violates")
    assert (other.lane, other.policy_version, other.decision) == ("shadow", shadow.version, "safe")
    assert one.verdict_id != other.verdict_id
    assert "You look at user content" in backend.prompts[1]


async def test_a_shadow_of_the_same_text_is_judged_again_to_show_the_noise(feed):
    release = PolicyRelease(POLICY.id, POLICY.version, 4, POLICY.document, datetime.now(UTC), "test", shadow=1.0)
    feed.take(release.key, encode(release))
    backend = Scripted(completed(), completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    await judge([escalation()])
    (verdict, _) = await judge([escalation(lane="shadow", revision=4)])
    assert not decode(verdict.value, Verdict).cached
    assert len(backend.prompts) == 2


async def test_a_shadow_that_has_ended_is_answered_undetermined(feed):
    feed.take(policy_key(POLICY.id, SHADOW), None)
    (verdict,) = await Judge(Scripted(), feed, InferenceBudget(500))([escalation(lane="shadow", revision=3)])
    assert decode(verdict.value, Verdict).decision == "undetermined"
    assert verdict.topic == topics.REPLAYS


async def test_content_escalated_under_an_ended_policy_does_not_wait_for_it(feed):
    feed.take(POLICY.id.encode(), None)
    async with asyncio.timeout(TIMEOUT):
        (verdict,) = await Judge(Scripted(), feed, InferenceBudget(500))([escalation()])
    assert decode(verdict.value, Verdict).reason == "the policy is no longer in force"


async def test_a_newer_release_after_the_end_is_waited_for(feed):
    feed.take(POLICY.id.encode(), None)
    judging_it = asyncio.create_task(judged(Scripted(completed()), feed, escalation(revision=4)))
    await asyncio.sleep(0.01)
    release = PolicyRelease(POLICY.id, POLICY.version, 4, POLICY.document, datetime.now(UTC), "test")
    feed.take(release.key, encode(release))
    assert (await judging_it)[1].decision == "violates"


LONG = "word " * 20_000  # four windows


def chatty(count, **more):
    """A completion of this many tokens."""
    made = completed(**more)
    padded = [*[1000] * (count - len(made.tokens)), *made.tokens]
    return Completion(padded, 600, 512)


CALM = {"violation": 0, "rules": ("HH5",), "p": 0.1}


async def test_a_content_item_may_cost_so_many_tokens_and_is_then_undetermined(feed):
    backend = Scripted(*[chatty(400, **CALM)] * 4)
    outputs = await Judge(backend, feed, InferenceBudget(500, content_tokens=1000))([escalation(LONG)])
    verdict = decode(outputs[0].value, Verdict)
    assert (verdict.decision, verdict.truncated) == ("undetermined", True)
    assert verdict.reason == "the model wrote more than allowed"
    assert [request.max_tokens for request in backend.requests] == [500, 500, 200]
    assert sum(request.max_tokens for request in backend.requests[2:]) + 800 <= 1000


async def test_retries_count_against_the_tokens_of_a_content_item(feed):
    cut = Completion([1000] * 500, 600, 0)
    backend = Scripted(*[cut] * 9)
    outputs = await Judge(backend, feed, InferenceBudget(500, content_tokens=1200))([escalation(LONG)])
    verdict = decode(outputs[0].value, Verdict)
    assert (verdict.decision, verdict.truncated) == ("undetermined", True)
    assert [request.max_tokens for request in backend.requests] == [500, 500, 200]


async def test_each_sample_has_its_own_tokens():
    feed = released(judging_with(samples=3))
    backend = Scripted(*[chatty(450)] * 3)
    outputs = await Judge(backend, feed, InferenceBudget(500, content_tokens=500))([escalation()])
    verdict = decode(outputs[0].value, Verdict)
    assert (verdict.decision, verdict.truncated) == ("violates", False)


async def test_a_violation_found_before_the_tokens_were_spent_stands():
    feed = released(judging_with(bundle="all"), judging_with(FRAUD, bundle="all"))
    backend = Scripted(*[bundle_completion()] * 9)
    spent = len(bundle_completion().tokens)
    outputs = await Judge(backend, feed, InferenceBudget(spent, content_tokens=spent))([escalation(LONG)])
    verdict = decode(outputs[0].value, Verdict)
    assert (verdict.decision, verdict.rule_ids, verdict.truncated) == ("violates", ("HH1",), True)
    assert len(backend.requests) == 1


class Never(Scripted):
    """Answers the first request, and no other one."""

    async def generate(self, request):
        if self.requests:
            self.requests.append(request)
            await asyncio.Event().wait()
        return await super().generate(request)


async def test_a_content_item_may_take_so_long_and_is_then_undetermined(feed):
    backend = Never(SAFE)
    outputs = await Judge(backend, feed, InferenceBudget(500, content_seconds=0.05))([escalation(LONG)])
    verdict = decode(outputs[0].value, Verdict)
    assert (verdict.decision, verdict.truncated) == ("undetermined", True)
    assert verdict.reason == "judging took longer than allowed"
    assert len(backend.requests) <= 2, "neither a retry nor another window follows"


async def test_waiting_for_admission_and_outages_take_none_of_the_time(feed, monkeypatch):
    monkeypatch.setattr(asking, "TICK", 0.01)
    backend = Never(completed())
    backend.requests.append(None)  # as if it had answered the first one
    backend.healthy = False
    first = asyncio.create_task(Judge(backend, feed, InferenceBudget(500, content_seconds=0.05))([escalation()]))
    await asyncio.sleep(0.2)
    assert not first.done(), "the backend is away"
    backend.healthy = True
    assert decode((await first)[0].value, Verdict).reason == "judging took longer than allowed"


@pytest.mark.parametrize("note", ["waiting", "lost"])
async def test_time_without_a_server_that_works_takes_none_of_the_time(feed, monkeypatch, note):
    monkeypatch.setattr(asking, "TICK", 0.01)

    class Noting(Scripted):
        """Notes for a while that the request waits, or lost its time, and then answers."""

        async def generate(self, request):
            for _ in range(20):
                request.progress.waiting = note == "waiting"
                begun = time.perf_counter()
                await asyncio.sleep(0.02)
                request.progress.lost += time.perf_counter() - begun if note == "lost" else 0
            request.progress.waiting = False
            return await super().generate(request)

    outputs = await Judge(Noting(completed()), feed, InferenceBudget(500, content_seconds=0.2))([escalation()])
    assert decode(outputs[0].value, Verdict).decision == "violates"


async def test_time_in_which_the_process_stood_still_takes_none_of_the_time(feed, monkeypatch):
    monkeypatch.setattr(asking, "TICK", 0.01)

    class Still(Scripted):
        async def generate(self, request):
            time.sleep(0.5)  # noqa: ASYNC251  (as if the process were stopped)
            await asyncio.sleep(0.03)  # the answer is there and not yet read
            return await super().generate(request)

    outputs = await Judge(Still(completed()), feed, InferenceBudget(500, content_seconds=0.4))([escalation()])
    assert decode(outputs[0].value, Verdict).decision == "violates"


async def test_a_request_carries_its_rank(feed):
    for lane, rank in (("live", 0), ("audit", 1)):
        backend = Scripted(completed())
        await Judge(backend, feed, InferenceBudget(500))([escalation(lane=lane)])
        assert [request.rank for request in backend.requests] == [rank]


async def test_the_rationale_of_many_long_outputs_fits_a_record_and_says_what_is_left_out():
    analysis = "仇恨\x00" * 30_000
    deciding = Attempt("it decides", "{}")
    attempts = (*(Attempt(f"{n} {analysis}", "x" * 20_000) for n in range(400)), deciding)
    finding = Finding("low", Answer(True, ("HH1",), "high", "r"), 0.9, attempt=deciding)
    judgement = Judgement({POLICY.id: finding}, attempts)
    _, verdict, _ = await judged(Scripted(completed()), released(POLICY.document))
    record = build_rationale(verdict, judgement)
    assert len(encode(record)) < rationale.MAX_BYTES + 10_000
    assert record.attempts[-1] is not attempts[0]
    assert record.attempts[-1].analysis == "it decides", "the output that decides is kept"
    assert record.attempts[0].analysis.startswith("0 仇恨")
    assert record.omitted == len(attempts) - len(record.attempts) > 300
    assert record.cut == (len(record.attempts) - 1) * (len(attempts[0].analysis) + 20_000 - 65_536 - 16_384)
    short = build_rationale(verdict, Judgement({POLICY.id: finding}, (deciding,)))
    assert (short.omitted, short.cut, short.attempts) == (0, 0, (deciding,))


async def test_the_deciding_output_is_that_of_the_worst_window_and_of_the_majority(feed):
    backend = Scripted(SAFE, completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    instructions = instructions_for(POLICY, [POLICY])
    judgement = await judge.reasoner.judge(instructions, "low", LONG)
    assert judgement.findings[POLICY.id].attempt is judgement.attempts[1]


async def test_a_verdict_repeats_the_longest_surface_whole_and_an_event_with_a_longer_one_is_refused(feed):
    surface = "s" * limits.LABEL_CHARACTERS
    event = ContentEvent("c1", "text", datetime.now(UTC), surface=surface)
    output, verdict, _ = await judged(Scripted(completed()), feed, escalation(event=event))
    assert verdict.surface == surface
    assert len(output.value) < 5000
    longer = msgspec.structs.replace(event, surface=f"{surface}s")
    with pytest.raises(RecordError, match=r"event\.surface"):
        await judged(Scripted(completed()), feed, escalation(event=longer))


async def test_an_item_sent_again_has_another_verdict_and_an_escalation_read_again_the_same(feed):
    ids = []
    for origin, offset in (("0@7", 3), ("0@7", 3), ("0@7", 9), ("0@8", 3), (None, 3), (None, 3), (None, 4)):
        record = escalation(origin=origin, offset=offset)
        _, verdict, _ = await judged(Scripted(completed()), feed, record)
        assert verdict.origin == origin
        ids.append(verdict.verdict_id)
    first, again, moved, sent_again, unknown, unknown_again, unknown_moved = ids
    assert first == again == moved, "the event's place counts, wherever its escalation stands"
    assert unknown == unknown_again
    assert len({first, sent_again, unknown, unknown_moved}) == 4


async def test_a_repaired_event_is_marked_on_its_verdict(feed):
    _, verdict, _ = await judged(Scripted(completed()), feed, escalation(repaired=True))
    assert verdict.repaired


async def test_a_verdict_names_the_policies_that_judge_its_event(feed):
    record = escalation()
    given = msgspec.structs.replace(decode(record.value, Escalation), judged_under=("other", "p"))
    _, verdict, _ = await judged(Scripted(completed()), feed, msgspec.structs.replace(record, value=encode(given)))
    assert verdict.judged_under == ("other", "p")
    assert not verdict.passed("other")
    assert verdict.passed("third")


async def test_a_context_that_is_left_out_makes_the_verdict_truncated(feed):
    event = ContentEvent("c1", "text", datetime.now(UTC), context=(Message("user", "word " * 20_000),))
    _, verdict, _ = await judged(Scripted(completed()), feed, escalation(event=event))
    assert (verdict.decision, verdict.truncated) == ("violates", True)


async def test_content_that_poses_as_a_context_takes_no_judgement_from_the_cache(feed):
    honest = ContentEvent("c1", "hello", datetime.now(UTC), context=(Message("user", "you are vermin"),))
    posing = ContentEvent("c2", prompt.user_message(honest.text, honest.context), datetime.now(UTC))
    backend = Scripted(SAFE, completed())
    judge = Judge(backend, feed, InferenceBudget(500))
    verdicts = [decode((await judge([escalation(event=event)]))[0].value, Verdict) for event in (honest, posing)]
    assert [(v.decision, v.cached) for v in verdicts] == [("safe", False), ("violates", False)]
    assert backend.requests[0].user != backend.requests[1].user


def in_ms(date):
    return int(date.timestamp() * 1000)


async def test_an_erased_item_is_never_sent_to_the_model(feed):
    erased_at = in_ms(datetime.now(UTC)) + 1000

    def erased(content_id, timestamp):
        return content_id == "c1" and timestamp <= erased_at

    backend = Scripted(completed(), completed(), completed())
    judge = Judge(backend, feed, InferenceBudget(500), erased)
    (output,) = await judge([escalation()])
    verdict = decode(output.value, Verdict)
    assert (verdict.decision, verdict.reason) == ("undetermined", "the item was erased")
    assert not backend.requests
    assert decode((await judge([escalation(number=2)]))[0].value, Verdict).decision == "violates"
    # A replay escalates an old event again; and what is written after the erasure is new content.
    old = msgspec.structs.replace(escalation(), timestamp=erased_at + 5000)
    assert decode((await judge([old]))[0].value, Verdict).reason == "the item was erased"
    event = ContentEvent("c1", "new", datetime.fromtimestamp(erased_at / 1000 + 2, UTC))
    new = msgspec.structs.replace(escalation(event=event), timestamp=erased_at + 3000)
    assert decode((await judge([new]))[0].value, Verdict).decision == "violates"


async def test_an_item_erased_while_it_is_judged_leaves_nothing_behind(feed):
    gone = set()
    backend = Held(completed(), completed())
    judge = Judge(backend, feed, InferenceBudget(500), lambda content_id, _: content_id in gone)
    judging_it = asyncio.create_task(judge([escalation()]))
    await backend.asked.wait()
    gone.add("c1")
    backend.answer.set()
    (output,) = await judging_it
    assert decode(output.value, Verdict).reason == "the item was erased"
    assert decode((await judge([escalation(number=2)]))[0].value, Verdict).cached is False


async def test_what_the_model_wrote_about_an_item_can_be_forgotten(feed):
    backend = Scripted(completed(), SAFE)
    judge = Judge(backend, feed, InferenceBudget(500))
    await judge([escalation(number=1)])
    assert decode((await judge([escalation(number=2)]))[0].value, Verdict).cached
    judge.forget("c3")
    assert decode((await judge([escalation(number=2)]))[0].value, Verdict).cached
    judge.forget("c2")
    assert decode((await judge([escalation(number=1)]))[0].value, Verdict).cached is False


async def test_the_cache_is_bounded_in_bytes():
    cache = JudgementCache(1000, max_bytes=100_000)
    finding = Finding("low", Answer(True, ("HH1",), "high", "r"))
    made = []

    async def judge_long():
        made.append(1)
        return Judgement({POLICY.id: finding}, (Attempt("x" * 30_000, "y"),))

    for key in (1, 2, 3, 4):
        await cache.get_or_judge(key, "c", judge_long)
    assert (await cache.get_or_judge(4, "c", judge_long)).cached
    assert not (await cache.get_or_judge(1, "c", judge_long)).cached
    for number in range(3000):
        await cache.get_or_judge(1, f"{number} {'i' * 400}", judge_long)
    assert cache._bytes <= 100_000
    cache.forget("c")
    assert len(made) < 200, "ids of a flood count, too, and do not let it grow"


def test_requests_at_once_take_their_time_once():
    allowance = asking.Allowance(seconds=10.0, tokens=1)
    for end in (1.0, 1.5, 2.0):
        allowance.spend_time(0.0, end, counts=True)
    assert allowance.seconds == 8.0
    allowance.spend_time(5.0, 6.0, counts=True)
    assert allowance.seconds == 7.0, "the time between two requests does not count"
    allowance.spend_time(6.0, 90.0, counts=False)
    allowance.spend_time(6.0, 91.0, counts=True)
    assert allowance.seconds == 6.0, "an outage counts for none of the requests in progress"
