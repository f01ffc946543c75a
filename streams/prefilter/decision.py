"""The prefilter's decision: which policies escalate a content item, and what is cleared. Knows nothing of Kafka."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.bus.interface import Output, Record
from safeguard_streams.contract.intake import Received, read_event
from safeguard_streams.contract.records import ContentEvent, now
from safeguard_streams.errors import RecordError
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.compiled import CompiledPolicies, compile_policies, use_vectors
from safeguard_streams.prefilter.encoder.encoder import Encoder, at_hand
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.event_batch import NO_VECTORS, AuditRates, EscalationReason, EventBatch
from safeguard_streams.prefilter.outputs import Decided, cleared, escalated
from safeguard_streams.releases.feed import PolicyFeed, PolicySet, Released
from safeguard_streams.runtime import metrics

STAGE = "prefilter"


class EscalationReasons(NamedTuple):
    """Why the events of a batch are escalated.

    by_event: reasons by event number; absent for an event that no policy escalates.
    released: the release of each column.
    """

    by_event: dict[int, list[EscalationReason]]
    released: list[Released]


class Prefilter:
    """Turns batches of content events into escalations and cleared verdicts. Safe in several threads.

    load_encoder: gives the encoder, or None without one. Called once some policy has weights for its vectors.
    """

    def __init__(
        self,
        classifier: Classifier,
        feed: PolicyFeed,
        audit: AuditRates | None = None,
        load_encoder: Callable[[], Encoder | None] = at_hand,
    ) -> None:
        self._feed = feed
        self._load_encoder = load_encoder
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

    @property
    def encoder(self) -> str | None:
        """The name of the encoder that the compiled policies use; None where they use none, or it is not at hand."""
        return self._compiled.encoder.name if self._compiled.encoder else None

    def renew(self) -> None:
        """Compile the policies in force. The former ones decide until this is done, or for good after the last one has
        been retired: `in_force` tells.

        A release whose gate does not compile is rejected with a line in the log. Its former release stays in force.
        """
        policies = self._feed.policies
        if policies.released or not self._compiled.live:
            former, classifier = self._compiled.policies, self._compiled.gates.classifier
            encoder = self._load_encoder() if use_vectors(policies) or use_vectors(former) else None
            self._compiled = compile_policies(policies, former, classifier, encoder)
        self._compiled_from = policies

    def reasons(self, events: Sequence[ContentEvent]) -> EscalationReasons:
        """Why events are escalated."""
        compiled = self._compiled
        batch = self._batch(compiled, events)
        batch.settle(batch.vectors())
        return EscalationReasons(batch.reasons(), compiled.released)

    def caught(self, events: Sequence[ContentEvent]) -> list[set[str]]:
        """The policies in force whose gates escalate each event, whatever is drawn."""
        reasons, released = self.reasons(events)
        return [
            {released[r.column].policy.id for r in reasons.get(i, ()) if r.lane == "live" and r.result.gate != "sample"}
            for i in range(len(events))
        ]

    def decide(self, records: Sequence[Record]) -> list[Output]:
        """The outputs for these records, both stages at once."""
        begun = self.begin(records)
        return begun.outputs(begun.vectors())

    def begin(self, records: Sequence[Record]) -> Begun:
        """The gates' first stage for these records: a part of a batch, as `batches` cuts it."""
        compiled = self._compiled  # one set for the whole batch, even if another thread renews it meanwhile
        started = time.perf_counter()
        invalid: list[Output] = []
        valid: list[tuple[Record, Received]] = []
        for record in records:
            try:
                valid.append((record, _valid_event(record, compiled)))
            except RecordError as error:
                invalid.append(dead_letter(record, error, stage=STAGE, attempts=1))
        batch = self._batch(compiled, [received.event for _, received in valid]) if valid else None
        return Begun(invalid, valid, batch, self._model, started)

    def _batch(self, compiled: CompiledPolicies, events: Sequence[ContentEvent]) -> EventBatch:
        with self._evaluating:
            return EventBatch(compiled, events, self._audit, self._classes)


class Begun:
    """Records after the first stage of the gates. Their outputs wait for the vectors of some texts, usually none."""

    def __init__(
        self,
        invalid: list[Output],
        valid: list[tuple[Record, Received]],
        batch: EventBatch | None,
        model: str,
        started: float,
    ) -> None:
        self._invalid = invalid
        self._valid = valid
        self._batch = batch
        self._model = model
        self._started = started

    @property
    def encoder(self) -> Encoder | None:
        """What makes the vectors; None where no text needs one."""
        return self._batch.encoder if self._batch and self._batch.texts else None

    @property
    def texts(self) -> Sequence[str]:
        """The texts that need a vector, as the encoder reads them."""
        return self._batch.texts if self._batch else ()

    def vectors(self) -> PassageVectors:
        """The vectors of the texts, made here and now."""
        return self._batch.vectors() if self._batch else NO_VECTORS

    def outputs(self, vectors: PassageVectors) -> list[Output]:
        """The outputs for the records, given the vectors of the texts.

        An event is either escalated under some policies or cleared under all of them.

        An audited event is cleared, and escalated on the audit lane. An invalid record becomes a dead letter.
        The outputs of valid records are in the order of the records.
        """
        outputs, batch = list(self._invalid), self._batch
        if batch is None:
            return outputs
        batch.settle(vectors)
        by_event, nearest = batch.reasons(), batch.nearest()
        at = now()
        spent = round((time.perf_counter() - self._started) * 1000 / len(self._valid), 3)
        compiled = batch.compiled
        ids = [released.policy.id for released in compiled.released]
        count = 0
        for i, (record, received) in enumerate(self._valid):
            reasons = by_event.get(i, ())
            judged_under = tuple([ids[r.column] for r in reasons if r.lane != "shadow"]) if reasons else ()
            decided = Decided.of(record, received, at, spent, judged_under)
            outputs += [escalated(decided, compiled.released[r.column], r.result, r.lane) for r in reasons]
            if "live" not in [r.lane for r in reasons]:
                outputs.append(cleared(decided, compiled.version, self._model, nearest[i]))
                count += 1
        _count(ids, by_event, cleared=count)
        _count_texts(len(self._valid), encoded=len(batch.texts))
        return outputs


def _valid_event(record: Record, compiled: CompiledPolicies) -> Received:
    received = read_event(record.value)
    if received.event.policies and not compiled.policies.released.keys() >= set(received.event.policies):
        raise RecordError("policies", "names a policy that is not in force; see safeguard policy list")
    return received


def _count(ids: Sequence[str], by_event: Mapping[int, Sequence[EscalationReason]], *, cleared: int) -> None:
    """Add a batch to the metrics. ids: of the policies, by column."""
    kinds = Counter([(r.column, r.result.gate, r.lane) for reasons in by_event.values() for r in reasons])
    for (column, gate, lane), count in kinds.items():
        metrics.ESCALATED.add(count, {"policy": ids[column], "gate": gate, "lane": lane})
    metrics.CLEARED.add(cleared)


def _count_texts(texts: int, *, encoded: int) -> None:
    metrics.TEXTS.add(texts - encoded, {"encoded": "no"})
    if encoded:
        metrics.TEXTS.add(encoded, {"encoded": "yes"})
