"""Reads verdicts from the end of their topics: the last ones, those since a time, and those that come next.

The two phases meet at one offset in each partition: a reading from a start to the ends, which are fixed first, and the
records from the ends on. No verdict is left out or repeated between them.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime

import msgspec
from aiokafka import TopicPartition

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract.records import EVERY_POLICY, Decision, Verdict
from safeguard_streams.errors import ConfigurationError, PolicyError, choices
from safeguard_streams.policies.document import in_languages, is_surface
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.settings import Settings

_WINDOW = 1000  # offsets of a partition that are searched first for its last verdicts

Offsets = Mapping[TopicPartition, int]


class VerdictFilter(msgspec.Struct, frozen=True):
    """What a verdict must have; a field that is None accepts everything. since: when it was written, or later."""

    policy_id: str | None = None
    rule: str | None = None
    decision: Decision | None = None
    content_id: str | None = None
    since: datetime | None = None
    author_id: str | None = None
    surface: str | None = None
    language: str | None = None

    def accepts(self, record: Record, verdict: Verdict) -> bool:
        # Brokers find the first record of a time. The records behind it may be older, as their producers say.
        return bool(
            (self.since is None or record.timestamp >= self.since.timestamp() * 1000)
            and self.policy_id in {None, verdict.policy_id}
            and (self.rule is None or self.rule in verdict.rule_ids)
            and self.decision in {None, verdict.decision}
            and self.content_id in {None, verdict.content_id}
            and self.author_id in {None, verdict.author_id}
            and (self.surface is None or is_surface(verdict.surface, [self.surface]))
            and (self.language is None or (verdict.language and in_languages(verdict.language, [self.language])))
        )


class Start(msgspec.Struct, frozen=True):
    """Which of the present verdicts to show. oldest: all that fit; last: at most so many, the newest; else none."""

    oldest: bool = False
    last: int | None = None


async def check_names(settings: Settings, wanted: VerdictFilter) -> None:
    """Raise ConfigurationError for a policy that was never released, and for a rule that no released version has."""
    if wanted.policy_id in {None, EVERY_POLICY} and wanted.rule is None:
        return
    history = await operator.history(settings)
    if wanted.policy_id not in {None, EVERY_POLICY}:
        history.require_known(wanted.policy_id)
    if wanted.rule is None:
        return
    rules: set[str] = set()
    for policy_id in history.policy_ids if wanted.policy_id is None else {wanted.policy_id}:
        documents = {(release.document, release.distilled) for release in history.releases(policy_id)}
        for document, distilled in documents:
            with contextlib.suppress(PolicyError):  # of a version whose format has changed since
                rules |= set(parse(document, policy_id, distilled).rules)
    if wanted.rule not in rules:
        raise ConfigurationError(f"no released policy has a rule {wanted.rule!r}{choices(wanted.rule, rules)}")


async def tail(
    settings: Settings, names: Sequence[str], wanted: VerdictFilter, start: Start, *, follow: bool
) -> AsyncGenerator[Verdict, None]:
    """Yield verdicts from a start to the end of the topics and, with `follow`, those that come next, without end."""
    async with kafka.reader(settings, names) as client:
        known = await (await kafka.EndOffsets.now(client)).resolve()
        ends = {TopicPartition(*partition): end for partition, end in known.items()}
        firsts = await _firsts(client, wanted.since, ends)
        if start.last is not None:
            for earlier in await _last(settings, client, wanted, start.last, firsts, ends):
                yield earlier
        elif start.oldest:
            async for record in _between(client, firsts, ends):
                if (verdict := _wanted(settings, record, wanted)) is not None:
                    yield verdict
        if not follow:
            return
        for tp, end in ends.items():
            client.seek(tp, end)
        async for record in client:
            if (verdict := _wanted(settings, record, wanted)) is not None:
                yield verdict


def _wanted(settings: Settings, record: Record, wanted: VerdictFilter) -> Verdict | None:
    verdict = kafka.decoded_or_left_out(settings, record, Verdict)
    return verdict if verdict is not None and wanted.accepts(record, verdict) else None


async def _firsts(client: StrictConsumer, since: datetime | None, ends: Offsets) -> Offsets:
    firsts: dict[TopicPartition, int] = await client.beginning_offsets(list(ends))
    return firsts if since is None else await kafka.offsets_at(client, since, firsts, ends)


async def _between(client: StrictConsumer, starts: Offsets, ends: Offsets) -> AsyncGenerator[Record, None]:
    """The records from starts to ends, in order within each partition."""
    unread = {tp for tp, end in ends.items() if starts[tp] < end}
    for tp in unread:
        client.seek(tp, starts[tp])
    while unread:
        for tp, records in (await client.getmany(*unread, timeout_ms=500)).items():
            for record in records:
                if record.offset < ends[tp]:
                    yield record
        unread = {tp for tp in unread if await client.position(tp) < ends[tp]}


async def _last(
    settings: Settings, client: StrictConsumer, wanted: VerdictFilter, count: int, firsts: Offsets, ends: Offsets
) -> list[Verdict]:
    """The newest verdicts, at most `count`, in the order in which they were written.

    Searches each partition backwards in growing steps, until it has that many or its first record is reached.
    """
    found: dict[TopicPartition, list[tuple[int, Verdict]]] = defaultdict(list)
    lows, window = dict(ends), max(count, _WINDOW)
    pending = {tp for tp in ends if count and firsts[tp] < ends[tp]}
    while pending:
        highs = {tp: lows[tp] for tp in pending}
        lows |= {tp: max(firsts[tp], high - window) for tp, high in highs.items()}
        step: dict[TopicPartition, list[tuple[int, Verdict]]] = defaultdict(list)
        async for record in _between(client, lows, highs):
            if (verdict := _wanted(settings, record, wanted)) is not None:
                step[TopicPartition(record.topic, record.partition)].append((record.timestamp, verdict))
        for tp, verdicts in step.items():
            found[tp] = (verdicts + found[tp])[-count:]
        pending = {tp for tp in pending if lows[tp] > firsts[tp] and len(found[tp]) < count}
        window *= 4
    merged = sorted((one for verdicts in found.values() for one in verdicts), key=lambda one: one[0])
    return [verdict for _, verdict in merged[-count:]] if count else []
