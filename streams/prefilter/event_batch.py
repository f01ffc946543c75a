"""What the gates of all policies decide about a batch of events: which are escalated, why, and how near others came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from safeguard_streams.contract.records import ContentEvent, GoldenScore, Lane, PrefilterResult, Stratum
from safeguard_streams.prefilter.classifier import Floats
from safeguard_streams.prefilter.compiled import CompiledPolicies, CompiledShadow
from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.tokens import undisguised
from safeguard_streams.prefilter.gates import GateResults
from safeguard_streams.prefilter.long_texts import evaluate
from safeguard_streams.prefilter.normalise import Flags
from safeguard_streams.prefilter.sampling import drawn, hashed

SCORE_DIGITS = 4
NEAR = 0.5  # share of the threshold from which a cleared item counts as near it
NO_VECTORS = PassageVectors.one_each(np.zeros((0, Encoder.width), dtype=np.float32))
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


class _Decided(NamedTuple):
    """For each event and policy that covers it: whether it is triggered, sampled or passed. Some passed are audited.

    in_sample: whether the sample draws it, triggered or not. rates: the share of such items that sample and audit draw.
    """

    triggered: Flags
    in_sample: Flags
    sampled: Flags
    passed: Flags
    near: Flags
    rates: Floats
    audited: Flags

    @property
    def judged(self) -> Flags:
        return self.triggered | self.sampled | self.audited


class EventBatch:
    """The decisions for one batch of events, once it is settled. Arrays are [events, columns of the policies].

    texts: what the encoder reads of the events that need a vector.
    """

    def __init__(
        self, compiled: CompiledPolicies, events: Sequence[ContentEvent], audit: AuditRates, classes: Sequence[str]
    ) -> None:
        self.compiled = compiled
        self.encoder = compiled.encoder
        self._audit = audit
        self._classes = classes
        self._results, self._truncated = evaluate(compiled.gates, [event.text for event in events])
        self._ids = np.array([hashed(event.content_id) for event in events], dtype=np.uint64)
        self._covered = compiled.covers(events)
        self._matched = np.zeros(self._results.scores.shape, dtype=bool)
        for cell in self._results.matches:
            self._matched[cell] = True
        self._shadow_draws = drawn(self._ids, compiled.shadow_seeds)
        self._golden = self._drawn_for_golden()
        has_golden = self._golden.any(axis=1)
        self._golden_events = np.flatnonzero(has_golden)
        self._golden_results = compiled.golden.begin([events[i].text for i in self._golden_events.tolist()])
        self._encoded = compiled.gates.undecided(self._results, self._settled()) | has_golden
        self.texts = undisguised(self._results.views, np.flatnonzero(self._encoded).tolist())

    def _settled(self) -> Flags:
        """Whether a policy decides about an event whatever its score, or not at all.

        A drawn event is not settled: whether the gate also escalates it says what it stands for.
        """
        settled: Flags = ~self._covered | self._matched | self.compiled.everything
        for number, shadow in enumerate(self.compiled.shadows):
            settled[:, shadow.column] |= self._shadow_draws[:, number] >= shadow.released.share
        return settled

    def _drawn_for_golden(self) -> Flags:
        """Which events golden gates score [events, golden gates]. They stand beside gates that need no vectors."""
        if not self.compiled.golden.gates:
            return np.zeros((len(self._ids), 0), dtype=bool)
        decided = self._decided()
        return self.compiled.golden.drawn(self._ids, decided.judged, decided.triggered)

    def _decided(self) -> _Decided:
        """What the gates decide, by the present scores."""
        compiled, audit, covered, results = self.compiled, self._audit, self._covered, self._results
        draws = drawn(self._ids, compiled.seeds)
        triggered = covered & (results.reached | self._matched | compiled.everything)
        in_sample = covered & (draws < compiled.samples)
        passed = covered & ~triggered & ~in_sample
        near = results.scores >= NEAR * compiled.gates.thresholds
        # A sample and an audit draw apart. An item that either would draw stands for 1/rate items, whichever drew it.
        rates = compiled.samples + (1 - compiled.samples) * np.where(near, audit.near, audit.far)
        return _Decided(triggered, in_sample, in_sample & ~triggered, passed, near, rates, passed & (draws < rates))

    def vectors(self) -> PassageVectors:
        """The vectors of the texts."""
        return self.encoder.encode_passages(self.texts) if self.encoder and self.texts else NO_VECTORS

    def settle(self, vectors: PassageVectors) -> None:
        """Decide, given the vectors of the texts."""
        compiled = self.compiled
        self._results = compiled.gates.with_vectors(self._results, vectors, self._encoded)
        self._decisions = self._decided()
        self._golden_scores = self._scored_by_golden(vectors)
        self._cells = _Cells.of(compiled, self._results, self._truncated, self._decisions.triggered)

    def _scored_by_golden(self, vectors: PassageVectors) -> dict[tuple[int, int], GoldenScore]:
        """What golden gates say, by event and column. A term or pattern that matches counts as a score of 1."""
        golden, decided = self.compiled.golden, self._decisions
        of_golden = vectors.of(np.isin(np.flatnonzero(self._encoded), self._golden_events))
        scores = golden.scores(self._golden_results, of_golden)
        found: dict[tuple[int, int], GoldenScore] = {}
        for row, i in enumerate(self._golden_events.tolist()):
            for number in np.flatnonzero(self._golden[i]).tolist():
                column = int(golden.columns[number])
                score = 1.0 if self._matched[i, column] else float(scores[row, number])
                found[i, column] = golden.record(number, score, triggered=bool(decided.triggered[i, column]))
        return found

    def reasons(self) -> dict[int, list[EscalationReason]]:
        """The reasons by event number: for each event those of the policies in force, then those of the shadows."""
        by_event: dict[int, list[EscalationReason]] = {}
        for i, column in np.argwhere(self._decisions.judged[:, : self.compiled.live]).tolist():
            by_event.setdefault(i, []).append(self._with_golden(i, self._live_reason(i, column)))
        for i, reason in self._shadow_reasons():
            by_event.setdefault(i, []).append(reason)
        return by_event

    def _with_golden(self, i: int, reason: EscalationReason) -> EscalationReason:
        golden = self._golden_scores.get((i, reason.column))
        if golden is None:
            return reason
        return reason._replace(result=msgspec.structs.replace(reason.result, golden=golden))

    def _live_reason(self, i: int, column: int) -> EscalationReason:
        if self._cells.triggered[i][column]:
            return EscalationReason(column, self._trigger(i, column))
        decided = self._decisions
        stratum: Stratum = "near" if decided.near[i, column] else "far"
        gate, lane = _SAMPLED if decided.sampled[i, column] else _AUDITED
        result = self._result(gate, i, column, rate=float(decided.rates[i, column]), stratum=stratum)
        return EscalationReason(column, result, lane)

    def _shadow_reasons(self) -> Iterator[tuple[int, EscalationReason]]:
        """Each event that either version escalates, within the shadow's share of content."""
        decided = self._decisions
        for number, shadow in enumerate(self.compiled.shadows):
            live = np.zeros(len(self._ids), dtype=bool)
            if shadow.live_column is not None:
                live = (decided.triggered | decided.sampled)[:, shadow.live_column]
            own = (decided.triggered | decided.in_sample)[:, shadow.column]
            for i in np.flatnonzero((own | live) & (self._shadow_draws[:, number] < shadow.released.share)).tolist():
                yield i, self._shadow_reason(i, shadow, live=bool(live[i]))

    def _shadow_reason(self, i: int, shadow: CompiledShadow, *, live: bool) -> EscalationReason:
        if self._cells.triggered[i][shadow.column]:
            result = self._trigger(i, shadow.column)
        else:
            gate = "sample" if self._decisions.in_sample[i, shadow.column] else "live"
            result = self._result(gate, i, shadow.column)
        result = msgspec.structs.replace(result, live=live, rate=shadow.released.share)
        return EscalationReason(shadow.column, result, "shadow")

    def _trigger(self, i: int, column: int) -> PrefilterResult:
        """The gate that escalates a triggered event."""
        if self._cells.everything[column]:
            return self._result("everything", i, column)
        if self._cells.reached[i][column]:
            return self._result(self.compiled.scored_by[column], i, column)
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
            fingerprint=self.compiled.fingerprints[column],
            truncated=cells.truncated[i],
        )

    def nearest(self) -> list[PrefilterResult | None]:
        """For each event, the gate that it passed by the least margin, or None if it passed no gate with a score."""
        if not self.compiled.released:
            return [None] * len(self._ids)
        scores, thresholds = self._results.scores, self.compiled.gates.thresholds
        margins = np.where(self._decisions.passed, scores - thresholds, _NO_MARGIN)[:, : max(self.compiled.live, 1)]
        columns = margins.argmax(axis=1)
        rows = np.arange(len(columns))
        best = zip(
            margins[rows, columns].tolist(),
            columns.tolist(),
            scores[rows, columns].round(SCORE_DIGITS).tolist(),
            self._results.likeliest[rows, columns].tolist(),
            strict=True,
        )
        threshold_of, classes, scored_by = self._cells.thresholds, self._classes, self.compiled.scored_by
        # A margin below -1 means that the gate has no score, or that the event did not pass it.
        return [
            PrefilterResult(scored_by[column], classes[harm], score, threshold_of[column], truncated=truncated)
            if margin >= -1
            else None
            for truncated, (margin, column, score, harm) in zip(self._cells.truncated, best, strict=True)
        ]
