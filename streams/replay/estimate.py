"""What a replay will escalate and cost, before it starts.

A sample of its events passes through the same selection as the replay itself. What a judgement takes is measured on the
newest verdicts: those under the replay's policies, or else those under any policy. So is the number of judgements at a
time, if the workers were busy and the settings do not tell.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from typing import Literal

import msgspec
from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Partition, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import ContentEvent, Replay, Verdict, aware
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.policies.document import in_languages, is_surface
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs
from safeguard_streams.replay.selection import EarlierDecisions, ReplaySelector, earlier_decisions
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.settings import Settings

SAMPLE = 2000  # events that an estimate looks at, in PLACES places of each partition
PLACES = 5
MEASURED = 1000  # verdicts that the cost of a judgement is measured on
ENOUGH = 100  # of them, to measure how many judgements run at a time
Source = Literal["settings", "measured", "default"]
_NO_LANGUAGE = "x-none"
_NAMED = 10  # surfaces or languages that an error names
_SERVERS_CONCURRENCY, _SMALL_CONCURRENCY = 64, 8  # requests at once, as a worker's defaults


class JudgementCost(msgspec.Struct, frozen=True):
    """What a judgement took on average, measured on so many verdicts under these policies.

    seconds: of one judgement, among others at the same time. concurrency: judgements at a time, and `source` where the
    number is from: on one worker by its settings or their default, or measured on all workers, which were busy.
    """

    measured: int
    policies: tuple[str, ...]
    prompt_tokens: float
    completion_tokens: float
    seconds: float
    concurrency: int
    source: Source = "default"


class Estimate(msgspec.Struct, frozen=True):
    """What a replay will do. events: offsets between its bounds, and looked_at those that the estimate is based on.

    escalated: the share of the events that becomes judgements, of both versions; above 1 where several policies
    escalate the same event. gpu_seconds: of `concurrency` judgements at a time, without live content. What no verdict
    tells yet is absent.
    """

    events: int
    looked_at: int
    escalated: float
    judgements: int
    cost: JudgementCost | None
    prompt_tokens: int | None
    completion_tokens: int | None
    gpu_seconds: float | None


async def plan(
    settings: Settings, request: jobs.ReplayRequest, changed_by: ChangedBy, classifier: Classifier
) -> tuple[Replay, Estimate]:
    """A job that is not written yet, and its estimate. Raises ConfigurationError as `jobs.plan` and `estimate` do."""
    replay = await jobs.plan(settings, request, changed_by)
    return replay, await estimate(settings, replay, classifier, await earlier_decisions(settings, replay))


async def estimate(settings: Settings, replay: Replay, classifier: Classifier, earlier: EarlierDecisions) -> Estimate:
    """Estimate a replay that has not begun.

    Raises ConfigurationError if no event between its bounds is on one of its surfaces, in one of its languages, or by
    one of its authors.
    """
    # All of the sample passes through the selection: a small share of few events would tell little.
    all_of_it = msgspec.structs.replace(replay, sample=1.0)
    whole = await asyncio.to_thread(ReplaySelector, all_of_it, classifier, earlier)  # it may load the encoder
    escalations, looked_at = 0, 0
    missing = _Missing(replay)
    async for records in _sampled(settings, replay):
        looked_at += len(records)
        escalations += len((await whole(records)).outputs)
        missing.look(records)
    if missing.names and looked_at < replay.total:
        await _search(settings, replay, missing)
    missing.require()
    share = replay.sample * escalations / looked_at if looked_at else 0.0
    judgements = round(share * replay.total)
    cost = await _cost(settings, replay)
    if cost is None:
        return Estimate(replay.total, looked_at, share, judgements, None, None, None, None)
    return Estimate(
        replay.total,
        looked_at,
        share,
        judgements,
        cost,
        round(judgements * cost.prompt_tokens),
        round(judgements * cost.completion_tokens),
        round(judgements * cost.seconds / cost.concurrency, 1),
    )


class _Missing:
    """The filters of a replay that no event has matched yet, and what the events had instead."""

    def __init__(self, replay: Replay) -> None:
        filters = {"surface": replay.surfaces, "language": replay.languages, "author": replay.authors}
        self.names = {(kind, name) for kind, names in filters.items() for name in names}
        self._seen: dict[str, Counter[str]] = {"surface": Counter(), "language": Counter()}

    def look(self, records: Sequence[Record]) -> None:
        """Take more events."""
        if self.names:
            for record in records:
                try:
                    event = read_event(record.value).event
                except RecordError:
                    continue
                self.names = {name for name in self.names if not _matches(event, *name)}
                self._seen["surface"][event.surface or ""] += 1
                self._seen["language"][event.language or ""] += 1

    def require(self) -> None:
        """Raise ConfigurationError if a filter is left that no event has matched."""
        for kind, name in sorted(self.names):
            if kind == "author":  # others' ids help nobody
                raise ConfigurationError(f"--author: no event between these bounds has {name!r}")
            seen = [one for one, _ in self._seen[kind].most_common() if one]
            more = f" and {len(seen) - _NAMED} more" if len(seen) > _NAMED else ""
            there = f"there are: {', '.join(seen[:_NAMED])}{more}" if seen else f"none of them names a {kind}"
            raise ConfigurationError(f"--{kind}: no event between these bounds has {name!r}; {there}")


def _matches(event: ContentEvent, kind: str, name: str) -> bool:
    if kind == "surface":
        return is_surface(event.surface, [name])
    if kind == "author":
        return event.author_id == name
    # A tag that names no language is in every range, also in one that no language is in.
    return in_languages(event.language, [name]) and not in_languages(event.language, [_NO_LANGUAGE])


async def _sampled(settings: Settings, replay: Replay) -> AsyncIterator[Sequence[Record]]:
    """Some of the events between a replay's bounds, from several places of each partition."""
    each = -(-SAMPLE // (PLACES * len(replay.ends)))
    async with kafka.reader(settings, [topics.EVENTS]) as consumer:
        for number, end in sorted(replay.ends.items()):
            tp, start = TopicPartition(settings.prefix + topics.EVENTS, int(number)), replay.starts[number]
            step = max(each, (end - start) // PLACES)
            for place in range(start, end, step):
                yield await _some(consumer, tp, place, min(place + each, end))


async def _some(consumer: StrictConsumer, tp: TopicPartition, start: int, end: int) -> list[Record]:
    """The records of a partition between two offsets. Moves the consumer."""
    found: list[Record] = []
    consumer.seek(tp, start)
    while await consumer.position(tp) < end:
        fetched = (await consumer.getmany(tp, timeout_ms=500, max_records=end - start)).get(tp, ())
        found += [record for record in fetched if record.offset < end]
    return found


async def _search(settings: Settings, replay: Replay, missing: _Missing) -> None:
    """Read the replay's events until all filters have matched one."""
    for number, end in replay.ends.items():
        after = {Partition(settings.prefix + topics.EVENTS, int(number)): replay.starts[number]}
        async with contextlib.aclosing(kafka.read_all(settings, [topics.EVENTS], int(number), after=after)) as records:
            async for record in records:
                if record.offset >= end or not missing.names:
                    break
                missing.look([record])


async def _cost(settings: Settings, replay: Replay) -> JudgementCost | None:
    """What the newest judgements took; None where there are none."""
    ends = await kafka.end_offsets(settings, topics.VERDICTS)
    after = {partition: max(0, end - -(-MEASURED // len(ends))) for partition, end in ends.items()}
    read = kafka.read_decoded(settings, [topics.VERDICTS], Verdict, after=after)
    verdicts = [verdict async for _, verdict in read if _is_measured(verdict)]
    policies = {one.policy_id for one in replay.policies}
    measured = [verdict for verdict in verdicts if verdict.policy_id in policies] or verdicts
    if not measured:
        return None
    concurrency, source = _concurrency(settings, verdicts)
    tokens = [verdict.tokens for verdict in measured if verdict.tokens is not None]
    return JudgementCost(
        measured=len(measured),
        policies=tuple(sorted({verdict.policy_id for verdict in measured})),
        prompt_tokens=_mean([one.prompt for one in tokens]),
        completion_tokens=_mean([one.completion for one in tokens]),
        seconds=_mean([verdict.latency["reasoner"] / 1000 for verdict in measured]),
        concurrency=concurrency,
        source=source,
    )


def _concurrency(settings: Settings, verdicts: Sequence[Verdict]) -> tuple[int, Source]:
    """How many judgements run at a time: as set, or as many as the verdicts overlap, if most of them had to wait.

    Workers that wait for content tell nothing of what they can do.
    """
    if settings.max_in_flight:
        return settings.max_in_flight, "settings"
    waited = sum(verdict.latency.get("escalation", 0.0) > verdict.latency["reasoner"] for verdict in verdicts)
    if 2 * waited > len(verdicts) >= ENOUGH:
        return _overlap(verdicts), "measured"
    return (_SMALL_CONCURRENCY if _on_cpu(settings) else _SERVERS_CONCURRENCY), "default"


def _overlap(verdicts: Sequence[Verdict]) -> int:
    """The most judgements that were under way at one moment, at least one."""
    ends = [aware(verdict.decided_at).timestamp() for verdict in verdicts]
    begins = [end - verdict.latency["reasoner"] / 1000 for end, verdict in zip(ends, verdicts, strict=True)]
    changes = sorted([*((end, -1) for end in ends), *((begin, 1) for begin in begins)])  # at one moment, ends first
    return max(1, *accumulate(change for _, change in changes))


def _is_measured(verdict: Verdict) -> bool:
    """Whether the model judged the item for this verdict: it reused no judgement, and none was promoted."""
    judged = verdict.tokens is not None and verdict.tokens.completion > 0 and "reasoner" in verdict.latency
    return judged and not verdict.cached and verdict.replay_id is None


def _on_cpu(settings: Settings) -> bool:
    return settings.model == "small" and not settings.servers


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3) if values else 0.0
