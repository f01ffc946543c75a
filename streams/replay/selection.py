"""Which events a replay escalates, and under which versions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Decision,
    Escalation,
    PolicyRelease,
    Replay,
    Verdict,
    carried,
    decode,
    encode,
    now,
    schema_header,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.policies.document import Policy, in_languages
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import AuditRates, EscalationReason, Prefilter
from safeguard_streams.prefilter.sampling import drawn, hashed
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.settings import Settings

_ESCALATION = schema_header(Escalation)

EarlierDecisions = Mapping[tuple[str, str], Decision]
"""The last decision by content id and policy id."""


async def earlier_decisions(settings: Settings, replay: Replay) -> EarlierDecisions:
    """The last decision on each content item under the replay's policies. Empty unless the replay filters by them."""
    decisions: dict[tuple[str, str], Decision] = {}
    if replay.decisions:
        policies = {one.policy_id for one in replay.policies}
        async for record in kafka.read_all(settings, [topics.VERDICTS]):
            verdict = decode(record.value, Verdict)
            if verdict.policy_id in policies:
                decisions[verdict.content_id, verdict.policy_id] = verdict.decision
    return decisions


class ReplaySelector:
    """The transform of a replay, from content.events to escalations on the replay lane."""

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
        # Policies whose text changes. Where only the gate changes, both versions have one text and its verdicts already
        # measure the noise.
        self._changed = {one.policy_id for one in replay.policies if one.before_version != one.version}
        self._sample_seed = np.array([hashed(f"{replay.replay_id} sample")], dtype=np.uint64)
        self._noise_seed = np.array([hashed(f"{replay.replay_id} noise")], dtype=np.uint64)

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        selected = self._select(records)
        if not selected:
            return []
        ids = np.array([hashed(event.content_id) for _, event in selected], dtype=np.uint64)
        in_sample = drawn(ids, self._sample_seed)[:, 0] < self._replay.sample
        judged_again = drawn(ids, self._noise_seed)[:, 0] < self._replay.noise
        reasons, released = self._prefilter.reasons([event for _, event in selected])
        outputs = []
        for row, (record, event) in enumerate(selected):
            if in_sample[row]:
                for reason in reasons.get(row, ()):
                    policy = released[reason.column].policy
                    judge = reason.lane == "shadow" or (judged_again[row] and policy.id in self._changed)
                    if judge and self._fits_earlier(event, policy.id):
                        outputs.append(self._escalation(record, event, policy, reason))
        return outputs

    def _select(self, records: Sequence[Record]) -> list[tuple[Record, ContentEvent]]:
        """The readable events between the replay's bounds that pass its filters."""
        starts, ends = self._replay.starts, self._replay.ends
        selected = []
        for record in records:
            partition = str(record.partition)
            if starts.get(partition, 0) <= record.offset < ends.get(partition, 0):
                with contextlib.suppress(RecordError):  # the prefilter has already written it to the dead letters
                    event = decode(record.value, ContentEvent)
                    if self._fits(event):
                        selected.append((record, event))
        return selected

    def _fits(self, event: ContentEvent) -> bool:
        replay = self._replay
        return (not replay.surfaces or event.surface in replay.surfaces) and (
            in_languages(event.language, replay.languages)
        )

    def _fits_earlier(self, event: ContentEvent, policy_id: str) -> bool:
        return not self._replay.decisions or self._earlier.get((event.content_id, policy_id)) in self._replay.decisions

    def _escalation(self, record: Record, event: ContentEvent, policy: Policy, reason: EscalationReason) -> Output:
        escalation = Escalation(
            event=event,
            policy_id=policy.id,
            policy_version=policy.version,
            policy_revision=0,
            prefilter=reason.result,
            lane="replay",
            escalated_at=now(),
            replay_id=self._replay.replay_id,
        )
        return Output(
            topics.ESCALATIONS_REPLAY, record.key, encode(escalation), [_ESCALATION, *carried(record.headers)]
        )


def _put(
    feed: PolicyFeed, policy_id: str, version: str, document: str, distilled: str | None, shadow: float | None
) -> None:
    release = PolicyRelease(policy_id, version, 1, document, now(), "replay", "", distilled, shadow)
    feed.take(release.key, encode(release))
