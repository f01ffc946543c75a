"""Every metric of the pipeline, each declared once: name, unit, what it says, its attributes.

Names follow OpenTelemetry's conventions for messaging and generative AI where those have one, and begin with `safeguard`
where they have none. Prometheus sees them with underscores, the unit, and `_total` for what only grows. No attribute holds
content, nor ids of content: their number is bounded by topics, policies and rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import msgspec
from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, Observation

Attributes = Mapping[str, str]
Ask = Callable[[], Iterable[tuple[float, Attributes]]]
SCOPE = "safeguard"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
TOKENS = (1.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)


class Metric(msgspec.Struct, frozen=True, eq=False):
    """One instrument. buckets, of a histogram, are in its unit."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    about: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def add(self, amount: float, attributes: Attributes | None = None) -> None:
        """Of a counter."""
        _instrument(self).add(amount, attributes)

    def record(self, value: float, attributes: Attributes | None = None) -> None:
        """Of a histogram."""
        _instrument(self).record(value, attributes)

    @property
    def prometheus(self) -> str:
        """Its name where Prometheus reads it."""
        unit = {"s": "_seconds", "1": "_ratio"}.get(self.unit, "")
        name = self.name.replace(".", "_")
        if self.kind == "counter":
            return f"{name}{unit}_total"
        return name + (unit if not name.endswith(unit) else "")


_instruments: dict[str, Any] = {}
_asked: dict[str, list[Ask]] = {}


@contextlib.contextmanager
def observed(gauges: Mapping[Metric, Ask]) -> Iterator[None]:
    """For so long, ask for the values of gauges, with their attributes, whenever they are read. Several may be asked for one."""
    for metric, ask in gauges.items():
        asked = _asked.setdefault(metric.name, [])
        if metric.name not in _instruments:
            callback = partial(_observations, asked)
            _instruments[metric.name] = api.get_meter(SCOPE).create_observable_gauge(
                metric.name, [callback], metric.unit, metric.about
            )
        asked.append(ask)
    try:
        yield
    finally:
        for metric, ask in gauges.items():
            _asked[metric.name].remove(ask)


def _observations(asked: list[Ask], _: CallbackOptions) -> Iterable[Observation]:
    return [Observation(value, attributes) for ask in list(asked) for value, attributes in ask()]


def _instrument(metric: Metric) -> Any:
    """Made on first use: until a process is set up for telemetry, it does nothing."""
    found = _instruments.get(metric.name)
    if found is None:
        meter = api.get_meter(SCOPE)
        if metric.kind == "counter":
            found = meter.create_counter(metric.name, metric.unit, metric.about)
        else:
            found = meter.create_histogram(
                metric.name, metric.unit, metric.about, explicit_bucket_boundaries_advisory=metric.buckets
            )
        _instruments[metric.name] = found
    return found


TOPIC, GROUP, PARTITION = (
    "messaging.destination.name",
    "messaging.consumer.group.name",
    "messaging.destination.partition.id",
)

CONSUMED = Metric(
    "messaging.client.consumed.messages", "counter", "{message}", "Records read and finished, by topic.", (TOPIC, GROUP)
)
SENT = Metric(
    "messaging.client.sent.messages", "counter", "{message}", "Records written and committed, by topic.", (TOPIC,)
)
PROCESSED = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "Time of one call of a stage: of a batch, or of one content.",
    ("stage",),
    SECONDS,
)
DELAY = Metric(
    "safeguard.delay", "histogram", "s",
    "From the moment a record was written to the moment what follows from it is committed; of a batch that of its oldest.",
    ("stage", TOPIC), SECONDS,
)  # fmt: skip
LAG_RECORDS = Metric(
    "safeguard.lag.records", "gauge", "{message}", "Records that wait in a partition.", (TOPIC, PARTITION, GROUP)
)
LAG_SECONDS = Metric(
    "safeguard.lag.time", "gauge", "s", "Age of the oldest record of a partition that was read and is not finished.",
    (TOPIC, PARTITION, GROUP),
)  # fmt: skip
IN_FLIGHT = Metric("safeguard.in_flight", "gauge", "{call}", "Calls of a stage under way.", ("stage",))
COMMITS = Metric(
    "safeguard.commits",
    "counter",
    "{commit}",
    "Transactions, by their end: done, failed or fenced.",
    ("stage", "outcome"),
)
DEAD_LETTERS = Metric(
    "safeguard.dead_letters",
    "counter",
    "{message}",
    "Records that could not be handled, by kind of error.",
    ("stage", "error"),
)

CLEARED = Metric("safeguard.cleared", "counter", "{event}", "Events that no gate wanted judged.")
ESCALATED = Metric(
    "safeguard.escalated",
    "counter",
    "{escalation}",
    "Contents to be judged, by policy, gate and lane.",
    ("policy", "gate", "lane"),
)

VERDICTS = Metric(
    "safeguard.verdicts",
    "counter",
    "{verdict}",
    "Verdicts, by policy, decision and lane.",
    ("policy", "decision", "lane"),
)
RULES = Metric(
    "safeguard.verdicts.rules",
    "counter",
    "{verdict}",
    "Verdicts that cite a rule.",
    ("policy", "rule", "decision", "lane"),
)
VIOLATIONS = Metric(
    "safeguard.violations", "counter", "{content}",
    "Violating contents, by what found them: a gate, or an audit, each of which stands for 1/rate others. Recall of the gates is "
    "the gates' share of both.",
    ("policy", "found_by"),
)  # fmt: skip
REUSED = Metric(
    "safeguard.judgements.reused",
    "counter",
    "{verdict}",
    "Verdicts that took the judgement of equal content.",
    ("policy",),
)
MALFORMED = Metric(
    "safeguard.malformed", "counter", "{output}", "Model outputs that the parser rejected, by reason.", ("reason",)
)
CACHED_TOKENS = Metric(
    "safeguard.tokens.cached",
    "counter",
    "{token}",
    "Prompt tokens that came from the prefix cache.",
    ("gen_ai.request.model",),
)
TOKEN_USAGE = Metric(
    "gen_ai.client.token.usage", "histogram", "{token}", "Tokens of a request to the model: input, output.",
    ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.token.type"), TOKENS,
)  # fmt: skip
ASKED = Metric(
    "gen_ai.client.operation.duration", "histogram", "s", "Duration of a request to the model.",
    ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "error.type"), SECONDS,
)  # fmt: skip
INFERENCE_RUNNING = Metric(
    "safeguard.inference.running",
    "gauge",
    "{request}",
    "Requests that the inference backend is running.",
    ("gen_ai.request.model",),
)
INFERENCE_WAITING = Metric(
    "safeguard.inference.waiting",
    "gauge",
    "{request}",
    "Requests that wait for the inference backend.",
    ("gen_ai.request.model",),
)
INFERENCE_CACHE = Metric(
    "safeguard.inference.cache",
    "gauge",
    "1",
    "Share of the inference backend's KV cache in use.",
    ("gen_ai.request.model",),
)

ACTIONS = Metric(
    "safeguard.actions",
    "counter",
    "{action}",
    "Actions of enforcement, by policy and what became of them.",
    ("policy", "action", "state"),
)
HELD = Metric(
    "safeguard.actions.held", "gauge", "{content}", "Actions above a cap that wait for a person.", ("policy",)
)
DELIVERIES = Metric(
    "safeguard.webhook.deliveries",
    "counter",
    "{message}",
    "Tries to deliver: delivered, failed (tried again) or refused.",
    ("outcome",),
)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
