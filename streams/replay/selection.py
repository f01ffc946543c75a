"""Which events a replay escalates, and under which versions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import Received, read_event
from safeguard_streams.contract.records import (
    ContentEvent,
    Decision,
    Escalation,
    PolicyRelease,
    Replay,
    Verdict,
    carried,
    encode,
    now,
    origin_of,
    schema_header,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.policies.document import Policy, in_languages, is_surface
from safeguard_streams.prefilter.batches import parts
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.event_batch import AuditRates, EscalationReason
from safeguard_streams.prefilter.outputs import as_sent
from safeguard_streams.prefilter.sampling import drawn, hashed
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.replay import jobs
from safeguard_streams.runtime.settings import Settings

_ESCALATION = schema_header(Escalation)


class Selection(NamedTuple):
    """What a replay makes of some records: escalations, the number of events that it covers, and of unreadable ones."""

    outputs: list[Output]
    items: int
    unreadable: int


EarlierDecisions = Mapping[tuple[str, str], Decision]
"""The last decision by content id and policy id, where it is one that the replay selects."""


async def earlier_decisions(settings: Settings, replay: Replay) -> EarlierDecisions:
    """The last decisions on content items under the replay's policies that it selects. Empty unless it filters by
    them.
    """
    decisions: dict[tuple[str, str], Decision] = {}
    if replay.decisions:
        policies = {one.policy_id for one in replay.policies}
        since = await jobs.first_event_at(settings, replay)
        async for _, verdict in kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since):
            key = verdict.content_id, verdict.policy_id
            if verdict.policy_id in policies and verdict.decision in replay.decisions:
                decisions[key] = verdict.decision
            else:
                decisions.pop(key, None)
    return decisions


class ReplaySelector:
    """Selects what a replay escalates, from content.events to the replay lane."""

    def __init__(self, replay: Replay, classifier: Classifier, earlier: EarlierDecisions) -> None:
        self._replay = replay
        self._earlier = earlier
        feed = PolicyFeed()
        for one in replay.policies:
            if one.before_version and one.before_document:
                _put(feed, one.policy_id, one.before_version, one.before_document, one.before_distilled, None)
            _put(feed, one.policy_id, one.version, one.document, one.distilled, 1.0)
        # The version before is in force here and the new one is its shadow: the prefilter escalates what the gates of
        # either one escalate.
        self._prefilter = Prefilter(classifier, feed, AuditRates(0.0, 0.0))
        # Where a version is compared with itself, its own verdicts already measure the noise.
        self._changed = {one.policy_id for one in replay.policies if one.before_version != one.version}
        self._sample_seed = np.array([hashed(f"{replay.replay_id} sample")], dtype=np.uint64)
        self._noise_seed = np.array([hashed(f"{replay.replay_id} noise")], dtype=np.uint64)

    async def __call__(self, records: Sequence[Record]) -> Selection:
        found = [await asyncio.to_thread(self._select, part) for part in parts(records)]
        return Selection(
            [output for selection in found for output in selection.outputs],
            sum(selection.items for selection in found),
            sum(selection.unreadable for selection in found),
        )

    def _select(self, records: Sequence[Record]) -> Selection:
        read = self._read(records)
        readable = [(record, received) for record, received in read if received is not None]
        selected = self._sampled([(record, received) for record, received in readable if self._fits(received.event)])
        outputs = self._escalations(selected) if selected else []
        return Selection(outputs, len(selected), len(read) - len(readable))

    def _sampled(self, selected: Sequence[tuple[Record, Received]]) -> list[tuple[Record, Received]]:
        if not selected:
            return []
        in_sample = drawn(self._hashes(selected), self._sample_seed)[:, 0] < self._replay.sample
        return [one for one, drawn_ in zip(selected, in_sample, strict=True) if drawn_]

    @staticmethod
    def _hashes(selected: Sequence[tuple[Record, Received]]) -> npt.NDArray[np.uint64]:
        return np.array([hashed(received.event.content_id) for _, received in selected], dtype=np.uint64)

    def _escalations(self, selected: Sequence[tuple[Record, Received]]) -> list[Output]:
        judged_again = drawn(self._hashes(selected), self._noise_seed)[:, 0] < self._replay.noise
        reasons, released = self._prefilter.reasons([received.event for _, received in selected])
        outputs = []
        for row, (record, received) in enumerate(selected):
            for reason in reasons.get(row, ()):
                policy = released[reason.column].policy
                judge = reason.lane == "shadow" or (judged_again[row] and policy.id in self._changed)
                if judge and self._fits_earlier(received.event, policy.id):
                    outputs.append(self._escalation(record, received, policy, reason))
        return outputs

    def _read(self, records: Sequence[Record]) -> list[tuple[Record, Received | None]]:
        """The records between the replay's bounds, with what the intake reads; None for what it cannot read."""
        starts, ends = self._replay.starts, self._replay.ends
        read: list[tuple[Record, Received | None]] = []
        for record in records:
            partition = str(record.partition)
            if starts.get(partition, 0) <= record.offset < ends.get(partition, 0):
                try:
                    read.append((record, read_event(record.value)))
                except RecordError:  # the prefilter has already written it to the dead letters
                    read.append((record, None))
        return read

    def _fits(self, event: ContentEvent) -> bool:
        """Whether an event passes the filters: by surface, language, author, and decision under one of the policies."""
        replay = self._replay
        return (
            (not replay.surfaces or is_surface(event.surface, replay.surfaces))
            and in_languages(event.language, replay.languages)
            and (not replay.authors or event.author_id in replay.authors)
            and any(self._fits_earlier(event, one.policy_id) for one in replay.policies)
        )

    def _fits_earlier(self, event: ContentEvent, policy_id: str) -> bool:
        return not self._replay.decisions or self._earlier.get((event.content_id, policy_id)) in self._replay.decisions

    def _escalation(self, record: Record, received: Received, policy: Policy, reason: EscalationReason) -> Output:
        escalation = Escalation(
            event=as_sent(received),
            policy_id=policy.id,
            policy_version=policy.version,
            policy_revision=0,
            prefilter=reason.result,
            lane="replay",
            escalated_at=now(),
            replay_id=self._replay.replay_id,
            origin=origin_of(record.partition, record.offset),
            repaired=received.repaired,
        )
        key = received.event.content_id.encode()
        return Output(topics.ESCALATIONS_REPLAY, key, encode(escalation), [_ESCALATION, *carried(record.headers)])


def _put(
    feed: PolicyFeed, policy_id: str, version: str, document: str, distilled: str | None, shadow: float | None
) -> None:
    release = PolicyRelease(policy_id, version, 1, document, now(), "replay", "", distilled, shadow)
    feed.take(release.key, encode(release))
