"""The metrics have the names in Prometheus that dashboards, alerts and the list of metrics use."""

import prometheus_client
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider

from safeguard_streams.runtime import metrics

ALL = [value for value in vars(metrics).values() if isinstance(value, metrics.Metric)]


def test_every_metric_has_its_name_when_prometheus_reads_it():
    """The share of the KV cache once had the suffix _ratio here, which the exporter does not write."""
    provider = MeterProvider([PrometheusMetricReader()])
    try:
        meter = provider.get_meter("test")
        for metric in ALL:
            if metric.kind == "counter":
                meter.create_counter(metric.name, metric.unit).add(1)
            elif metric.kind == "histogram":
                meter.create_histogram(metric.name, metric.unit).record(1)
            else:
                meter.create_observable_gauge(metric.name, [lambda _: [Observation(1)]], metric.unit)
        samples = prometheus_client.generate_latest().decode().splitlines()
    finally:
        provider.shutdown()
    read = {line.partition("{")[0].removesuffix("_bucket") for line in samples if not line.startswith("#")}
    assert len(ALL) > 30
    assert [metric.name for metric in ALL if metric.prometheus not in read] == []
