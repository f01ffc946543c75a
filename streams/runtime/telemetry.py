"""Exports telemetry of a process: metrics for Prometheus, metrics and traces over OTLP.

Prometheus reads /metrics on the port of the health pages. OTLP is on when the environment names an endpoint:
OTEL_EXPORTER_OTLP_ENDPOINT, and the other variables that OpenTelemetry defines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import prometheus_client
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

FLUSH_SECONDS = 1.5
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


@contextlib.contextmanager
def exported(stage: str) -> Iterator[None]:
    """Export metrics and traces of this process for the block; what is not sent FLUSH_SECONDS after it is lost."""
    resource = Resource.create(
        {"service.name": f"safeguard-{stage}", "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    )
    readers: list[MetricReader] = [PrometheusMetricReader()]
    if _exports("METRICS"):
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    flushes: list[Callable[[int], bool]] = [meters.force_flush]
    if _exports("TRACES"):
        # The first stage decides which content items are traced; here all of those are recorded.
        tracers = TracerProvider(ParentBased(ALWAYS_ON), resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracers)
        flushes.append(tracers.force_flush)
    try:
        yield
    finally:
        threads = [threading.Thread(target=flush, args=(int(FLUSH_SECONDS * 1000),), daemon=True) for flush in flushes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(FLUSH_SECONDS)


def _exports(signal: str) -> bool:
    """Whether the environment names an OTLP endpoint for METRICS or TRACES."""
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", f"{signal}_ENDPOINT"))


def page() -> bytes:
    """The metrics page that Prometheus reads."""
    return prometheus_client.generate_latest()
