"""One trace along the path of a content item: from its producer through every stage, over Kafka, to enforcement.

A record whose traceparent (W3C Trace Context) is sampled gets a span in each stage, and the outputs that follow from
it carry that span's traceparent. All others cost a look at their headers. Of the records whose producer gave no
traceparent, a small share begins a trace at the first stage.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from safeguard_streams.bus.interface import Record
from safeguard_streams.contract.records import Headers, carried

log = logging.getLogger(__name__)

SCOPE = "safeguard"
_PROPAGATOR = TraceContextTextMapPropagator()
_SAMPLED = frozenset(b"13579bdf")  # last digits of the flags with the lowest bit set
_LONGEST_KEY = 256  # bytes of a record's key in a span


class TracedRecord(msgspec.Struct, frozen=True):
    """A record whose headers name the span of this stage; `original` are the headers that it was read with."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    original: Headers


def original_headers(record: Record) -> Headers:
    """The headers that a record was read with."""
    return record.original if isinstance(record, TracedRecord) else record.headers


def sampled(headers: Headers) -> bool:
    """Whether the headers hold the context of a sampled trace."""
    for name, value in headers:
        if name == "traceparent":
            return value is not None and len(value) == 55 and value[-1] in _SAMPLED
    return False


class Tracing:
    """Spans of one stage. sample_rate, 0 to 1: share of the records without a context that begin a trace."""

    def __init__(self, stage: str, group: str, sample_rate: float = 0.0) -> None:
        self._stage = stage
        self._group = group
        self._sample_rate = sample_rate
        self._tracer = trace.get_tracer(SCOPE)

    @contextlib.contextmanager
    def processing(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """The records for the transform, with open spans for the block."""
        spans, batch, handed = self._opened(records) if recording() else ({}, None, records)
        if not spans:
            yield records
            return
        # Requests to other services on behalf of a single content item belong to its trace.
        current: Any = contextlib.nullcontext()
        if len(records) == 1:
            current = trace.use_span(spans[0], record_exception=False, set_status_on_exception=False)
        try:
            with current:
                yield handed
        except BaseException as error:
            for span in spans.values():
                # The text of an exception may quote content, its type does not.
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            for span in [*spans.values(), *([batch] if batch else [])]:
                span.end()

    def _opened(self, records: Sequence[Record]) -> tuple[dict[int, Span], Span | None, Sequence[Record]]:
        """Spans by the number of the record, the span of the batch, and the records with the headers for outputs.

        A trace that cannot be made is left out: no record fails for its headers.
        """
        try:
            spans = {number: self._span(records[number]) for number in self._chosen(records)}
            handed = list(records)
            for number, span in spans.items():
                handed[number] = _traced(records[number], span)
            return spans, self._batch(records, spans) if spans and len(records) > 1 else None, handed
        except Exception as error:
            log.warning("trace not made topic=%s error=%s", records[0].topic, type(error).__name__)
            return {}, None, records

    def _chosen(self, records: Sequence[Record]) -> list[int]:
        chosen = [number for number, record in enumerate(records) if record.headers and sampled(record.headers)]
        if not chosen and self._sample_rate and random.random() < self._sample_rate * len(records):
            number = random.randrange(len(records))
            if not any(name == "traceparent" for name, _ in records[number].headers):
                return [number]
        return chosen

    def _span(self, record: Record) -> Span:
        carrier = {name: value.decode("ascii", "replace") for name, value in carried(record.headers)}
        attributes: dict[str, Any] = {
            **self._attributes(record.topic),
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.kafka.message.key": (record.key or b"")[:_LONGEST_KEY].decode("utf-8", "replace"),
        }
        context = _PROPAGATOR.extract(carrier, context=Context())
        return self._tracer.start_span(f"process {record.topic}", context, SpanKind.CONSUMER, attributes)

    def _batch(self, records: Sequence[Record], spans: dict[int, Span]) -> Span:
        """A span of the whole call, linked with those of its content items."""
        links = [Link(span.get_span_context()) for span in spans.values()]
        attributes = {**self._attributes(records[0].topic), "messaging.batch.message_count": len(records)}
        return self._tracer.start_span(
            f"process batch {records[0].topic}", Context(), SpanKind.CONSUMER, attributes, links
        )

    def _attributes(self, topic: str) -> dict[str, Any]:
        return {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": self._group,
            "safeguard.stage": self._stage,
        }


def recording() -> bool:
    """Whether this process exports traces."""
    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))


def _traced(record: Record, span: Span) -> Record:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    kept = [(name, value) for name, value in record.headers if name not in ("traceparent", "tracestate")]
    headers = [*kept, *((name, value.encode()) for name, value in carrier.items())]
    place = (record.topic, record.partition, record.offset, record.timestamp)
    return TracedRecord(*place, record.key, record.value, headers, record.headers)


@contextlib.contextmanager
def asking(name: str, attributes: dict[str, Any]) -> Iterator[Span]:
    """A span of a request to another service for the current content item, if that item is traced."""
    if not trace.get_current_span().get_span_context().is_valid:
        yield trace.INVALID_SPAN
        return
    tracer = trace.get_tracer(SCOPE)
    with tracer.start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def current_headers() -> dict[str, str]:
    """traceparent and tracestate of the current span, for a request to a service; empty where nothing is traced."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, contexts.get_current())
    return carrier
