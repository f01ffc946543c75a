"""The prefilter's decision: which policies want a content judged, and what is cleared. Knows nothing of Kafka."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    EVERY_POLICY,
    SHADOW,
    ContentEvent,
    Escalation,
    Lane,
    PrefilterResult,
    Stratum,
    Verdict,
    carried,
    content_sha256,
    decode,
    encode,
    milliseconds_since,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.gates import Gates, Scored
from safeguard_streams.prefilter.normalise import Flags
from safeguard_streams.releases.feed import PolicyFeed, PolicySet, Released
from safeguard_streams.runtime import metrics

log = logging.getLogger(__name__)

STAGE = "prefilter"
NEAR = 0.5  # of the threshold: from here on, what passes is near it
_ESCALATION = schema_header(Escalation)
_VERDICT = schema_header(Verdict)


class AuditRates(msgspec.Struct, frozen=True):
    """Shares of what a policy's gates let pass that are judged all the same, to know what is missed.

    near: of content that scores at least half the threshold; far: of all other content. 0 to 1.
    """

    near: float = 0.02
    far: float = 0.002


class EscalationReason(NamedTuple):
    """Why an event is judged under a policy (by its column), or which gate came nearest to wanting it."""

    column: int
    result: PrefilterResult
    lane: Lane = "live"


def hashed(name: str) -> int:
    """64 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def drawn(contents: NDArray[np.uint64], policies: NDArray[np.uint64]) -> NDArray[np.float64]:
    """[contents, policies]: a number from 0 to 1 that depends on nothing but the two ids, given as hashes."""
    mixed = contents[:, None] ^ policies[None, :]
    for factor in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93):
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


class _Shadow(NamedTuple):
    """The column of a shadow, and that of the version in force, if there is one."""

    column: int
    beside: int | None
    released: Released


def _usable(policies: PolicySet, former: PolicySet, classifier: Classifier) -> PolicySet:
    """The policies, but in the place of each whose gate cannot be made ready its former release, if there is one."""
    kept: list[dict[str, Released]] = []
    for group, before in ((policies.released, former.released), (policies.shadows, former.shadows)):
        kept.append({})
        for name, released in group.items():
            try:
                Gates([released.policy], classifier)
            except Exception as error:  # whatever is in a release, the process goes on
                log.error(  # noqa: TRY400  (no traceback: patterns and terms may quote content)
                    "policy %s revision %d is not taken, its gate cannot be made ready: %s",
                    name,
                    released.revision,
                    type(error).__name__,
                )
                if name in before:
                    kept[-1][name] = before[name]
            else:
                kept[-1][name] = released
    return PolicySet(*kept)


class _Rules:
    """The policies in force, made ready for batches. Columns are the policies, and after them the shadows."""

    def __init__(self, policies: PolicySet, classifier: Classifier) -> None:
        self.policies = policies
        self.version = policies.version
        in_force = list(policies.released)
        self.live = len(in_force)
        self.released = [*policies.released.values(), *policies.shadows.values()]
        self.shadows = [
            _Shadow(column, in_force.index(name) if name in policies.released else None, released)
            for column, (name, released) in enumerate(policies.shadows.items(), self.live)
        ]
        self.shadow_seeds = np.array([hashed(f"{name}{SHADOW}") for name in policies.shadows], dtype=np.uint64)
        self.gates = Gates([r.policy for r in self.released], classifier)
        gates = [r.policy.gate for r in self.released]
        self.everything = np.array([gate.everything for gate in gates], dtype=bool)
        self.shares = np.array([gate.sample for gate in gates], dtype=np.float64)
        self.seeds = np.array([hashed(r.policy.id) for r in self.released], dtype=np.uint64)

    def concerned(self, events: Sequence[ContentEvent]) -> Flags:
        """[events, policies]: whether this policy is to look at this event at all."""
        kinds = [(event.surface, event.language, event.policies) for event in events]
        rows = {
            (surface, language, wanted): [
                (not wanted or r.policy.id in wanted) and r.policy.applies(surface, language) for r in self.released
            ]
            for surface, language, wanted in set(kinds)
        }
        return np.array([rows[kind] for kind in kinds], dtype=bool)


class Prefilter:
    """Turns content events into escalations and cleared verdicts, a batch at a time."""

    def __init__(self, classifier: Classifier, feed: PolicyFeed, audit: AuditRates | None = None) -> None:
        self._feed = feed
        self._audit = audit or AuditRates()
        self._labels, self._model = classifier.labels, classifier.name
        self._rules = _Rules(PolicySet({}), classifier)
        self._made_of: PolicySet | None = None
        self.renew()

    @property
    def current(self) -> bool:
        """Whether the rules are those of the policies in force."""
        return self._made_of is self._feed.policies

    def renew(self) -> None:
        """Make the rules of the policies in force; meanwhile, in another thread, the former ones go on deciding.

        A release whose gate cannot be made ready is not taken, with a line in the log: what it follows stays in force.
        """
        policies, classifier = self._feed.policies, self._rules.gates.classifier
        try:
            self._rules = _Rules(policies, classifier)
        except Exception:  # some gate is at fault; which, is found by making each by itself
            self._rules = _Rules(_usable(policies, self._rules.policies, classifier), classifier)
        self._made_of = policies

    async def __call__(self, records: Sequence[Record]) -> list[Output]:
        return self.judge(records)

    def ask(self, events: Sequence[ContentEvent]) -> tuple[dict[int, list[EscalationReason]], list[Released]]:
        """Why events are judged, by their number; a column is the number of a policy in the list."""
        return self._ask(self._rules, events)[0], self._rules.released

    def judge(self, records: Sequence[Record]) -> list[Output]:
        """Outputs for these records, in their order: an event is escalated under some policies or cleared under all.

        What a policy's gates let pass may besides be drawn for the audit lane.
        """
        started = time.perf_counter()
        rules = self._rules  # the same for the whole batch, whatever is renewed meanwhile
        outputs: list[Output] = []
        read_well: list[tuple[Record, ContentEvent]] = []
        for record in records:
            try:
                event = decode(record.value, ContentEvent)
                for name in event.policies:
                    if name not in rules.policies.released:
                        raise RecordError("policies", f"no policy {name!r} is in force; see safeguard policy list")
            except RecordError as error:
                outputs.append(dead_letter(record, error, stage=STAGE, attempts=1))
            else:
                read_well.append((record, event))
        if read_well:
            judged, nearest = self._ask(rules, [event for _, event in read_well])
            moment = now()
            spent = round((time.perf_counter() - started) * 1000 / len(read_well), 3)
            for i, (record, event) in enumerate(read_well):
                reasons = judged.get(i, ())
                latency = {"queue": milliseconds_since(event.created_at, moment), STAGE: spent}
                trace = carried(record.headers) if record.headers else []
                outputs += [_escalated(record, event, rules, why, moment, latency, trace) for why in reasons]
                if all(why.lane != "live" for why in reasons):
                    outputs.append(self._cleared(record, event, rules, nearest[i], moment, latency, trace))
            _count(rules, judged, len(read_well))
        return outputs

    def _ask(
        self, rules: _Rules, events: Sequence[ContentEvent]
    ) -> tuple[dict[int, list[EscalationReason]], list[PrefilterResult | None]]:
        """Why events are judged, by their number; and for each the gate that came nearest, if it has a classifier's."""
        said = rules.gates.ask([event.text for event in events])
        found = np.zeros(said.scores.shape, dtype=bool)
        for cell in said.terms:
            found[cell] = True
        concerned = rules.concerned(events)
        sure = concerned & (said.over | found | rules.everything)
        passed = concerned & ~sure
        contents = np.array([hashed(e.content_id) for e in events], dtype=np.uint64)
        draws = drawn(contents, rules.seeds)
        sampled = passed & (draws < rules.shares)
        passed &= ~sampled
        near = said.scores >= NEAR * rules.gates.thresholds
        rates = np.where(near, self._audit.near, self._audit.far)
        audited = passed & (draws < rules.shares + (1 - rules.shares) * rates)

        judged: dict[int, list[EscalationReason]] = {}
        for i, column in np.argwhere((sure | sampled | audited)[:, : rules.live]).tolist():
            if sampled[i, column]:
                why = EscalationReason(
                    column, self._result("sample", rules, said, i, column, rate=float(rules.shares[column]))
                )
            elif audited[i, column]:
                stratum: Stratum = "near" if near[i, column] else "far"
                rate = float(rates[i, column] * (1 - rules.shares[column]))
                why = EscalationReason(
                    column, self._result("audit", rules, said, i, column, rate=rate, stratum=stratum), "audit"
                )
            else:
                why = EscalationReason(column, self._sure(rules, said, i, column))
            judged.setdefault(i, []).append(why)
        if rules.shadows:
            wanted = sure | (concerned & (draws < rules.shares))
            in_share = drawn(contents, rules.shadow_seeds)
            for number, shadow in enumerate(rules.shadows):
                live = np.zeros(len(events), dtype=bool)
                if shadow.beside is not None:
                    live = (sure | sampled)[:, shadow.beside]
                chosen = (wanted[:, shadow.column] | live) & (in_share[:, number] < shadow.released.share)
                for i in np.flatnonzero(chosen).tolist():
                    result = self._result("live", rules, said, i, shadow.column)
                    if sure[i, shadow.column]:
                        result = self._sure(rules, said, i, shadow.column)
                    elif wanted[i, shadow.column]:
                        result = self._result("sample", rules, said, i, shadow.column)
                    result = msgspec.structs.replace(result, live=bool(live[i]), rate=shadow.released.share)
                    judged.setdefault(i, []).append(EscalationReason(shadow.column, result, "shadow"))
        return judged, self._nearest(rules, said, passed)

    def _sure(self, rules: _Rules, said: Scored, i: int, column: int) -> PrefilterResult:
        if rules.everything[column]:
            return PrefilterResult("everything")
        if said.over[i, column]:
            return self._result("label", rules, said, i, column)
        return PrefilterResult("terms", said.terms[i, column])

    def _result(
        self,
        gate: str,
        rules: _Rules,
        said: Scored,
        i: int,
        column: int,
        rate: float | None = None,
        stratum: Stratum | None = None,
    ) -> PrefilterResult:
        if not rules.gates.scored[column]:
            return PrefilterResult(gate, rate=rate, stratum=stratum)
        label = self._labels[said.labels[i, column]]
        score, threshold = round(float(said.scores[i, column]), 4), float(rules.gates.thresholds[column])
        return PrefilterResult(gate, label, score, threshold, rate, stratum)

    def _nearest(self, rules: _Rules, said: Scored, passed: Flags) -> list[PrefilterResult | None]:
        if not rules.released:
            return [None] * len(passed)
        margins = np.where(passed, said.scores - rules.gates.thresholds, -9.0)[:, : max(rules.live, 1)]
        columns = margins.argmax(axis=1)
        rows = np.arange(len(columns))
        scores = said.scores[rows, columns].round(4).tolist()
        labels = said.labels[rows, columns].tolist()
        thresholds: list[float] = rules.gates.thresholds.tolist()
        names = self._labels
        # Below -1 there is a policy without labels, or none that let the content pass.
        return [
            PrefilterResult("label", names[label], score, thresholds[column]) if margin >= -1 else None
            for label, score, column, margin in zip(
                labels, scores, columns.tolist(), margins[rows, columns].tolist(), strict=True
            )
        ]

    def _cleared(
        self,
        record: Record,
        event: ContentEvent,
        rules: _Rules,
        nearest: PrefilterResult | None,
        moment: datetime,
        latency: dict[str, float],
        trace: list[tuple[str, bytes]],
    ) -> Output:
        digest = content_sha256(event.text)
        verdict = Verdict(
            verdict_id=verdict_id(event.content_id, digest, EVERY_POLICY, rules.version, self._model, "live"),
            content_id=event.content_id,
            content_sha256=digest,
            policy_id=EVERY_POLICY,
            policy_version=rules.version,
            decision="safe",
            stage="prefilter",
            lane="live",
            model=self._model,
            decided_at=moment,
            prefilter=nearest,
            latency=latency,
        )
        return Output(topics.CLEARED, record.key, encode(verdict), [_VERDICT, *trace])


def _count(rules: _Rules, judged: Mapping[int, Sequence[EscalationReason]], events: int) -> None:
    """What a batch came to, for those who watch."""
    reasons = [why for reasons in judged.values() for why in reasons]
    kinds = Counter((rules.released[why.column].policy.id, why.result.gate, why.lane) for why in reasons)
    for (policy, gate, lane), count in kinds.items():
        metrics.ESCALATED.add(count, {"policy": policy, "gate": gate, "lane": lane})
    through = sum(any(why.lane == "live" for why in reasons) for reasons in judged.values())
    metrics.CLEARED.add(events - through)


def _escalated(
    record: Record,
    event: ContentEvent,
    rules: _Rules,
    why: EscalationReason,
    moment: datetime,
    latency: dict[str, float],
    trace: list[tuple[str, bytes]],
) -> Output:
    released = rules.released[why.column]
    escalation = Escalation(
        event=event,
        policy_id=released.policy.id,
        policy_version=released.policy.version,
        policy_revision=released.revision,
        prefilter=why.result,
        lane=why.lane,
        escalated_at=moment,
        latency=latency,
    )
    return Output(topics.LANES[why.lane], record.key, encode(escalation), [_ESCALATION, *trace])
