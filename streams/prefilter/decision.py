"""The prefilter's decision: which policies escalate a content item, and what is cleared. Knows nothing of Kafka."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract.intake import Received, read_event
from safeguard_streams.contract.records import (
    ContentEvent,
    Lane,
    PrefilterResult,
    Stratum,
    now,
)
from safeguard_streams.errors import RecordError
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.compiled import CompiledPolicies, CompiledShadow, compile_policies
from safeguard_streams.prefilter.gates import GateResults
from safeguard_streams.prefilter.long_texts import evaluate
from safeguard_streams.prefilter.normalise import Flags
from safeguard_streams.prefilter.outputs import Decided, cleared, escalated
from safeguard_streams.prefilter.sampling import drawn, hashed
from safeguard_streams.releases.feed import PolicyFeed, PolicySet, Released
from safeguard_streams.runtime import metrics

STAGE = "prefilter"
SCORE_DIGITS = 4
NEAR = 0.5  # share of the threshold from which a cleared item counts as near it
_NO_MARGIN = -9.0  # below any difference of a score and a threshold
_SAMPLED: tuple[str, Lane] = ("sample", "live")
_AUDITED: tuple[str, Lane] = ("audit", "audit")


class AuditRates(msgspec.Struct, frozen=True):
    """Shares, 0 to 1, of the content that passes a policy's gates and is judged anyway, to measure what the gates miss.

    near: of content that scores at least half the threshold; far: of all other content.
    """

    near: float = 0.02
    far: float = 0.002


class EscalationReason(NamedTuple):
    """Why an event is escalated under the policy of a column, and on which lane."""

    column: int
    result: PrefilterResult
    lane: Lane = "live"


class EscalationReasons(NamedTuple):
    """Why the events of a batch are escalated.

    by_event: reasons by event number; absent for an event that no policy escalates.
    released: the release of each column.
    """

    by_event: dict[int, list[EscalationReason]]
    released: list[Released]


class Prefilter:
    """Turns batches of content events into escalations and cleared verdicts. Safe in several threads."""

    def __init__(self, classifier: Classifier, feed: PolicyFeed, audit: AuditRates | None = None) -> None:
        self._feed = feed
        self._audit = audit or AuditRates()
        self._classes, self._model = classifier.classes, classifier.name
        self._compiled = CompiledPolicies(PolicySet({}), classifier)
        self._compiled_from: PolicySet | None = None
        self._evaluating = threading.Lock()  # the classifier fills its table as it scores
        self.renew()

    @property
    def current(self) -> bool:
        """Whether the compiled policies are those in force."""
        return self._compiled_from is self._feed.policies

    @property
    def in_force(self) -> bool:
        """Whether policies are in force, and some were when the last ones were compiled.

        Without a policy, everything would be cleared.
        """
        former = self._compiled_from
        return former is not None and bool(former.released) and bool(self._feed.policies.released)

    def renew(self) -> None:
        """Compile the policies in force. The former ones decide until this is done, or for good after the last one has
        been retired: `in_force` tells.

        A release whose gate does not compile is rejected with a line in the log. Its former release stays in force.
        """
        policies = self._feed.policies
        if policies.released or not self._compiled.live:
            self._compiled = compile_policies(policies, self._compiled.policies, self._compiled.gates.classifier)
        self._compiled_from = policies

    def reasons(self, events: Sequence[ContentEvent]) -> EscalationReasons:
        """Why events are escalated."""
        compiled = self._compiled
        return EscalationReasons(self._batch(compiled, events).reasons(), compiled.released)

    def decide(self, records: Sequence[Record]) -> list[Output]:
        """The outputs for these records: a part of a batch, as `batches` cuts it.

        An event is either escalated under some policies or cleared under all of them.

        An audited event is cleared, and escalated on the audit lane. An invalid record becomes a dead letter.
        The outputs of valid records are in the order of the records.
        """
        compiled = self._compiled  # one set for the whole batch, even if another thread renews it meanwhile
        started = time.perf_counter()
        outputs: list[Output] = []
        valid: list[tuple[Record, Received]] = []
        for record in records:
            try:
                valid.append((record, _valid_event(record, compiled)))
            except RecordError as error:
                outputs.append(dead_letter(record, error, stage=STAGE, attempts=1))
        if valid:
            batch = self._batch(compiled, [received.event for _, received in valid])
            by_event, nearest = batch.reasons(), batch.nearest()
            at = now()
            spent = round((time.perf_counter() - started) * 1000 / len(valid), 3)
            ids = [released.policy.id for released in compiled.released]
            count = 0
            for i, (record, received) in enumerate(valid):
                reasons = by_event.get(i, ())
                judged_under = tuple([ids[r.column] for r in reasons if r.lane != "shadow"]) if reasons else ()
                decided = Decided.of(record, received, at, spent, judged_under)
                outputs += [escalated(decided, compiled.released[r.column], r.result, r.lane) for r in reasons]
                if "live" not in [r.lane for r in reasons]:
                    outputs.append(cleared(decided, compiled.version, self._model, nearest[i]))
                    count += 1
            _count(ids, by_event, cleared=count)
        return outputs

    def _batch(self, compiled: CompiledPolicies, events: Sequence[ContentEvent]) -> _Batch:
        with self._evaluating:
            return _Batch(compiled, events, self._audit, self._classes)


def _valid_event(record: Record, compiled: CompiledPolicies) -> Received:
    received = read_event(record.value)
    if received.event.policies and not compiled.policies.released.keys() >= set(received.event.policies):
        raise RecordError("policies", "names a policy that is not in force; see safeguard policy list")
    return received


class _Cells(NamedTuple):
    """What results name, as lists, whose items are read several times faster than those of arrays.

    triggered, reached, scores, likeliest [events][columns]; truncated [events]; the others [columns].
    """

    triggered: list[list[bool]]
    reached: list[list[bool]]
    scores: list[list[float]]
    likeliest: list[list[int]]
    truncated: list[bool]
    everything: list[bool]
    scored: list[bool]
    thresholds: list[float]

    @classmethod
    def of(cls, compiled: CompiledPolicies, results: GateResults, truncated: Flags, triggered: Flags) -> _Cells:
        return cls(
            triggered.tolist(),
            results.reached.tolist(),
            results.scores.round(SCORE_DIGITS).tolist(),
            results.likeliest.tolist(),
            truncated.tolist(),
            compiled.everything.tolist(),
            compiled.gates.scored.tolist(),
            compiled.gates.thresholds.tolist(),
        )


class _Batch:
    """The decisions for one batch of events. Arrays are [events, columns of the compiled policies]."""

    def __init__(
        self, compiled: CompiledPolicies, events: Sequence[ContentEvent], audit: AuditRates, classes: Sequence[str]
    ) -> None:
        self._compiled = compiled
        self._classes = classes
        results, truncated = evaluate(compiled.gates, [event.text for event in events])
        self._results = results
        self._ids = np.array([hashed(event.content_id) for event in events], dtype=np.uint64)
        covered = compiled.covers(events)
        draws = drawn(self._ids, compiled.seeds)
        matched = np.zeros(results.scores.shape, dtype=bool)
        for cell in results.matches:
            matched[cell] = True

        # For each policy that covers it, an event is triggered, sampled or passed. Some passed events are audited.
        self._triggered = covered & (results.reached | matched | compiled.everything)
        self._in_sample = covered & (draws < compiled.samples)
        self._sampled = self._in_sample & ~self._triggered
        self._passed = covered & ~self._triggered & ~self._in_sample
        self._near = results.scores >= NEAR * compiled.gates.thresholds
        # A sample and an audit draw apart. An item that either would draw stands for 1/rate items, whichever drew it.
        self._rates = compiled.samples + (1 - compiled.samples) * np.where(self._near, audit.near, audit.far)
        self._audited = self._passed & (draws < self._rates)
        self._cells = _Cells.of(compiled, results, truncated, self._triggered)

    def reasons(self) -> dict[int, list[EscalationReason]]:
        """The reasons by event number: for each event those of the policies in force, then those of the shadows."""
        by_event: dict[int, list[EscalationReason]] = {}
        escalated_pairs = (self._triggered | self._sampled | self._audited)[:, : self._compiled.live]
        for i, column in np.argwhere(escalated_pairs).tolist():
            by_event.setdefault(i, []).append(self._live_reason(i, column))
        for i, reason in self._shadow_reasons():
            by_event.setdefault(i, []).append(reason)
        return by_event

    def _live_reason(self, i: int, column: int) -> EscalationReason:
        if self._cells.triggered[i][column]:
            return EscalationReason(column, self._trigger(i, column))
        stratum: Stratum = "near" if self._near[i, column] else "far"
        gate, lane = _SAMPLED if self._sampled[i, column] else _AUDITED
        result = self._result(gate, i, column, rate=float(self._rates[i, column]), stratum=stratum)
        return EscalationReason(column, result, lane)

    def _shadow_reasons(self) -> Iterator[tuple[int, EscalationReason]]:
        """Each event that either version escalates, within the shadow's share of content."""
        if not self._compiled.shadows:
            return
        draws = drawn(self._ids, self._compiled.shadow_seeds)
        for number, shadow in enumerate(self._compiled.shadows):
            live = np.zeros(len(self._ids), dtype=bool)
            if shadow.live_column is not None:
                live = (self._triggered | self._sampled)[:, shadow.live_column]
            own = (self._triggered | self._in_sample)[:, shadow.column]
            for i in np.flatnonzero((own | live) & (draws[:, number] < shadow.released.share)).tolist():
                yield i, self._shadow_reason(i, shadow, live=bool(live[i]))

    def _shadow_reason(self, i: int, shadow: CompiledShadow, *, live: bool) -> EscalationReason:
        if self._cells.triggered[i][shadow.column]:
            result = self._trigger(i, shadow.column)
        else:
            gate = "sample" if self._in_sample[i, shadow.column] else "live"
            result = self._result(gate, i, shadow.column)
        result = msgspec.structs.replace(result, live=live, rate=shadow.released.share)
        return EscalationReason(shadow.column, result, "shadow")

    def _trigger(self, i: int, column: int) -> PrefilterResult:
        """The gate that escalates a triggered event."""
        if self._cells.everything[column]:
            return self._result("everything", i, column)
        if self._cells.reached[i][column]:
            return self._result("label", i, column)
        return self._result("terms", i, column, label=self._results.matches[i, column])

    def _result(
        self,
        gate: str,
        i: int,
        column: int,
        *,
        label: str | None = None,
        rate: float | None = None,
        stratum: Stratum | None = None,
    ) -> PrefilterResult:
        """A result with the score, if the policy's gate has one."""
        cells = self._cells
        score = threshold = None
        if cells.scored[column]:
            label = label or self._classes[cells.likeliest[i][column]]
            score, threshold = cells.scores[i][column], cells.thresholds[column]
        return PrefilterResult(
            gate,
            label,
            score,
            threshold,
            rate,
            stratum,
            fingerprint=self._compiled.fingerprints[column],
            truncated=cells.truncated[i],
        )

    def nearest(self) -> list[PrefilterResult | None]:
        """For each event, the gate that it passed by the least margin, or None if it passed no gate with a score."""
        if not self._compiled.released:
            return [None] * len(self._ids)
        scores, thresholds = self._results.scores, self._compiled.gates.thresholds
        margins = np.where(self._passed, scores - thresholds, _NO_MARGIN)[:, : max(self._compiled.live, 1)]
        columns = margins.argmax(axis=1)
        rows = np.arange(len(columns))
        best = zip(
            margins[rows, columns].tolist(),
            columns.tolist(),
            scores[rows, columns].round(SCORE_DIGITS).tolist(),
            self._results.likeliest[rows, columns].tolist(),
            strict=True,
        )
        threshold_of, classes = self._cells.thresholds, self._classes
        # A margin below -1 means that the gate has no score, or that the event did not pass it.
        return [
            PrefilterResult("label", classes[harm], score, threshold_of[column], truncated=truncated)
            if margin >= -1
            else None
            for truncated, (margin, column, score, harm) in zip(self._cells.truncated, best, strict=True)
        ]


def _count(ids: Sequence[str], by_event: Mapping[int, Sequence[EscalationReason]], *, cleared: int) -> None:
    """Add a batch to the metrics. ids: of the policies, by column."""
    kinds = Counter([(r.column, r.result.gate, r.lane) for reasons in by_event.values() for r in reasons])
    for (column, gate, lane), count in kinds.items():
        metrics.ESCALATED.add(count, {"policy": ids[column], "gate": gate, "lane": lane})
    metrics.CLEARED.add(cleared)
