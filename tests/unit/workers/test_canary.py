"""A canary: which items it draws, what its verdicts are, and that it leaves everything else to the live workers."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Canary, ContentEvent, Escalation, Rationale, Verdict, decode, encode
from safeguard_streams.errors import DependencyError
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.prefilter.sampling import is_drawn
from safeguard_streams.quality.model_comparison import DRAW
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.workers.canary import CanaryPlan, CanaryTransform, CanaryWorker, name_of
from safeguard_streams.workers.judging.judge import Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget
from tests.conftest import TIMEOUT
from tests.unit.workers.judging.test_judge import MALFORMED, POLICY, Scripted, completed, escalation, feed, held

__all__ = ["feed"]  # the fixture
ALL = Canary("try", 1.0)


def judge_of(backend, feed, canary=ALL, **more):
    return Judge(backend, feed, InferenceBudget(500), canary=canary, **more)


def of(origin="0@7", **more):
    return escalation(origin=origin, **more)


async def test_its_verdict_is_a_canarys_and_goes_where_no_enforcement_reads(feed):
    backend = Scripted(completed())
    backend.revision = "abc"
    verdict, rationale = await judge_of(backend, feed)([of()])
    assert [verdict.topic, rationale.topic] == [topics.REPLAYS, topics.RATIONALES]
    found = decode(verdict.value, Verdict)
    assert (found.lane, found.canary, found.model_revision) == ("canary", ALL, "abc")
    assert (found.replay_id, found.policy_version, found.origin) == (None, POLICY.version, "0@7")
    assert decode(rationale.value, Rationale).model_revision == "abc"


async def test_a_live_verdict_has_the_revision_and_its_id_does_not(feed):
    verdicts = []
    for revision in (None, "abc", "def"):
        backend = Scripted(completed())
        backend.revision = revision
        outputs = await Judge(backend, feed, InferenceBudget(500))([of()])
        assert outputs[0].topic == topics.VERDICTS
        verdicts.append(decode(outputs[0].value, Verdict))
    assert [one.model_revision for one in verdicts] == [None, "abc", "def"]
    assert len({one.verdict_id for one in verdicts}) == 1, "a judgement that is repeated by other weights is the same"
    assert {one.canary for one in verdicts} == {None}


async def test_a_judgement_of_other_weights_is_not_reused(feed):
    backend = Scripted(completed(), completed(0, ("HH5",), 0.1))
    backend.revision = "abc"
    judge = Judge(backend, feed, InferenceBudget(500))
    verdicts = []
    for revision in ("abc", "abc", "def"):
        backend.revision = revision
        verdicts.append(decode((await judge([of()]))[0].value, Verdict))
    assert [(one.model_revision, one.cached) for one in verdicts] == [("abc", False), ("abc", True), ("def", False)]
    assert [one.decision for one in verdicts] == ["violates", "violates", "safe"]


async def test_ids_tell_canaries_and_live_verdicts_of_one_model_apart_and_repeat(feed):
    ids = []
    for canary in (None, Canary("one", 1.0), Canary("two", 1.0), Canary("two", 0.5)):
        outputs = await judge_of(Scripted(completed()), feed, canary)([of()])
        ids.append(decode(outputs[0].value, Verdict).verdict_id)
    assert len(set(ids)) == 3
    assert ids[2] == ids[3], "the share is no part of it"


async def test_rejected_outputs_are_counted_in_the_verdict(feed):
    outputs = await judge_of(Scripted(MALFORMED, completed(1, ("HH5",)), held()), feed)([of()])
    verdict = decode(outputs[0].value, Verdict)
    assert (verdict.malformed, verdict.answer) == (2, "constrained")
    again = await judge_of(Scripted(completed()), feed)([of()])
    assert decode(again[0].value, Verdict).malformed == 0


async def test_it_has_no_verdict_on_what_is_erased_or_no_longer_in_force(feed):
    backend = Scripted()
    assert await judge_of(backend, feed, erased=lambda *_: True)([of()]) == []
    feed.take(POLICY.id.encode(), None)
    assert await judge_of(backend, feed)([of()]) == []
    assert not backend.requests


def record(number, policy=POLICY.id):
    event = ContentEvent(f"item-{number}", f"text {number}", datetime.now(UTC))
    return of(event=event, policy=policy, offset=number)


async def test_the_share_is_honoured_by_item(feed):
    share, count = 0.2, 1000
    drawn = {f"item-{n}" for n in range(count) if is_drawn(f"item-{n}", DRAW, share)}
    assert 150 < len(drawn) < 250
    backend = Scripted(*[completed()] * len(drawn))
    canary = Canary("try", share)
    transform = CanaryTransform(judge_of(backend, feed, canary), canary)
    outputs = [one for n in range(count) for one in await transform([record(n)])]
    judged = [decode(one.value, Verdict) for one in outputs if one.topic == topics.REPLAYS]
    assert sorted(one.content_id for one in judged) == sorted(drawn)
    assert (transform.counts.read, transform.counts.judged, transform.counts.failed) == (count, len(drawn), 0)
    assert drawn <= {f"item-{n}" for n in range(count) if is_drawn(f"item-{n}", DRAW, 0.3)}


@pytest.mark.parametrize("value", [None, b"", b"{", b'{"event": {"text": "x"}}'])
async def test_it_leaves_what_it_cannot_read_to_the_live_workers(feed, value):
    transform = CanaryTransform(judge_of(Scripted(), feed), ALL)
    assert await transform([StoredRecord("content.escalations", 0, 3, 0, b"k", value, [])]) == []
    assert transform.counts.failed == 0


async def test_a_judgement_that_fails_is_left_out_without_words_of_the_content(feed, caplog):
    transform = CanaryTransform(judge_of(Scripted(KeyError("secret words"), completed()), feed), ALL)
    assert await transform([record(1)]) == []
    assert len(await transform([record(2)])) == 2
    assert (transform.counts.judged, transform.counts.failed) == (1, 1)
    assert "error=KeyError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_model_that_is_gone_ends_it(feed):
    transform = CanaryTransform(judge_of(Scripted(DependencyError("gone")), feed), ALL)
    with pytest.raises(DependencyError):
        await transform([record(1)])


class Backend(Scripted):
    model = "openai/gpt oss"
    revision = "abc"
    concurrency = 8


def worker_of(**plan):
    current = settings.load(prefix="eu.", lanes="audit", effort_by_lag={"low": 1})
    return CanaryWorker(current, CanaryPlan(0.1, **plan), None)


def test_it_reads_live_content_in_a_group_of_its_own():
    worker = worker_of()
    judge = worker._new_judge(Backend())
    (engine,) = worker._engines(Backend(), judge)
    assert (engine.bus.group, engine.stage) == ("eu.canary-openai-gpt-oss-abc", "canary")
    assert engine.bus._topics == ["eu.content.escalations"]
    assert worker.settings.effort_by_lag == {}, "it judges at the policies' own effort, however late"
    assert worker.state()["canary"] == {"name": "openai-gpt-oss-abc", "share": 0.1}
    assert engine.bus.group.removeprefix("eu.") not in topics.LANE_GROUPS.values()


async def test_it_stops_when_its_time_is_over():
    worker, stop = worker_of(time=timedelta(milliseconds=10)), asyncio.Event()

    class Lane:
        async def run(self, stop):
            await stop.wait()

    worker.engines = [Lane()]
    await asyncio.wait_for(worker._run_engines(stop), TIMEOUT)
    assert stop.is_set()


@pytest.mark.parametrize(
    ("model", "revision", "name"),
    [
        ("openai/gpt-oss-safeguard-20b", None, "openai-gpt-oss-safeguard-20b"),
        ("gpt-oss-safeguard:20b", "abc", "gpt-oss-safeguard-20b-abc"),
        ("模型", None, "model"),
        ("a" * 300, "v2", "a" * 97 + "-v2"),
    ],
)
def test_its_name_is_that_of_the_model_and_fits_a_group(model, revision, name):
    assert name_of(model, revision) == name


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--server"),
        (["--server", "http://x/v1", "--share", "0"], "--share"),
        (["--server", "http://x/v1", "--share", "1.5"], "--share"),
        (["--server", "http://x/v1", "--name", "two words"], "--name"),
        (["--server", "http://x/v1", "--name", ""], "--name"),
        (["--server", "http://x/v1", "--for", "soon"], "--for"),
        (["--server", "http://x/v1", "--for", "0s"], "--for"),
        (["--server", "http://x/v1", "--for", ""], "--for"),
    ],
)
def test_wrong_options_are_named(arguments, problem):
    shown = CliRunner().invoke(app, ["reason", "canary", *arguments])
    assert shown.exit_code == 2
    assert problem in shown.output


def test_its_role_cannot_write_live_verdicts():
    role = ROLES["canary"]
    assert topics.VERDICTS not in role.writes
    assert set(role.writes) >= {topics.REPLAYS, topics.RATIONALES}
    assert topics.ESCALATIONS in role.reads
    assert topics.EVENTS not in role.reads


def test_an_escalation_has_no_canary_lane():
    text = encode(decode(of().value, Escalation)).replace(b'"lane":"live"', b'"lane":"canary"')
    with pytest.raises(Exception, match="lane"):
        decode(text, Escalation)


def test_a_canary_judges_without_the_first_judge_of_live_workers():
    worker = CanaryWorker(settings.load(first_servers="http://127.0.0.1:1/v1"), CanaryPlan(0.1), None)
    assert worker.settings.first_servers == ""
