"""Setting a process up for telemetry: metrics for Prometheus, metrics and traces by OTLP, logs as lines or JSON.

Prometheus reads /metrics on the port of the health pages. OTLP is on when the environment says where to:
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
    """Export what this process measures, until it ends; what is left then is sent within FLUSH_SECONDS, or lost."""
    resource = Resource.create(
        {"service.name": f"safeguard-{stage}", "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    )
    readers: list[MetricReader] = [PrometheusMetricReader()]
    if _wanted("METRICS"):
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    flushes: list[Callable[[int], bool]] = [meters.force_flush]
    if _wanted("TRACES"):
        # Which contents are traced is decided where they come in; here all of them are recorded.
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


def _wanted(signal: str) -> bool:
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", f"{signal}_ENDPOINT"))


def page() -> bytes:
    """What Prometheus reads."""
    return prometheus_client.generate_latest()
