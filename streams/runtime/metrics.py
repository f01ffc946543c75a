"""Every metric of the pipeline, declared once: name, unit, description, attributes.

Names follow OpenTelemetry's conventions for messaging, HTTP and generative AI where these have one. All others begin
with `safeguard`. Prometheus sees them with underscores, the unit, and `_total` for counters. No attribute holds content
or ids of content. Topics, policies and rules bound the number of series.
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
Callback = Callable[[], Iterable[tuple[float, Attributes]]]
SCOPE = "safeguard"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
TOKENS = (1.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)


class Metric(msgspec.Struct, frozen=True, eq=False):
    """One instrument. buckets: bounds of a histogram, in its unit."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    about: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def add(self, amount: float, attributes: Attributes | None = None) -> None:
        """Add to a counter."""
        _instrument(self).add(amount, attributes)

    def record(self, value: float, attributes: Attributes | None = None) -> None:
        """Record a value in a histogram."""
        _instrument(self).record(value, attributes)

    @property
    def prometheus(self) -> str:
        """The name of the metric in Prometheus."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        name = self.name.replace(".", "_")
        if self.kind == "counter":
            return f"{name}{unit}_total"
        return name + (unit if not name.endswith(unit) else "")


_instruments: dict[str, Any] = {}
_callbacks: dict[str, list[Callback]] = {}


@contextlib.contextmanager
def observed(gauges: Mapping[Metric, Callback]) -> Iterator[None]:
    """Within the block, read each gauge by its callback, which returns values with their attributes.

    A gauge may have several callbacks at once.
    """
    for metric, callback in gauges.items():
        callbacks = _callbacks.setdefault(metric.name, [])
        if metric.name not in _instruments:
            _instruments[metric.name] = api.get_meter(SCOPE).create_observable_gauge(
                metric.name, [partial(_observations, callbacks)], metric.unit, metric.about
            )
        callbacks.append(callback)
    try:
        yield
    finally:
        for metric, callback in gauges.items():
            _callbacks[metric.name].remove(callback)


def _observations(callbacks: list[Callback], _: CallbackOptions) -> Iterable[Observation]:
    return [Observation(value, attributes) for callback in list(callbacks) for value, attributes in callback()]


def _instrument(metric: Metric) -> Any:
    """Created on first use; does nothing until the process exports telemetry."""
    instrument = _instruments.get(metric.name)
    if instrument is None:
        meter = api.get_meter(SCOPE)
        if metric.kind == "counter":
            instrument = meter.create_counter(metric.name, metric.unit, metric.about)
        else:
            instrument = meter.create_histogram(
                metric.name, metric.unit, metric.about, explicit_bucket_boundaries_advisory=metric.buckets
            )
        _instruments[metric.name] = instrument
    return instrument


TOPIC, GROUP, PARTITION = (
    "messaging.destination.name",
    "messaging.consumer.group.name",
    "messaging.destination.partition.id",
)

CONSUMED = Metric(
    "messaging.client.consumed.messages",
    "counter",
    "{message}",
    "Records read and completed, by topic.",
    (TOPIC, GROUP),
)
SENT = Metric(
    "messaging.client.sent.messages",
    "counter",
    "{message}",
    "Records written and committed, by topic.",
    (TOPIC,),
)
PROCESSED = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "Duration of one call of a stage, for a batch or for one content item.",
    ("stage",),
    SECONDS,
)
DELAY = Metric(
    "safeguard.delay", "histogram", "s",
    "Time from the write of a record to the commit of its outputs; for a batch, the time of its oldest record.",
    ("stage", TOPIC), SECONDS,
)  # fmt: skip
LAG_RECORDS = Metric(
    "safeguard.lag.records",
    "gauge",
    "{message}",
    "Records of a partition that are not completed yet.",
    (TOPIC, PARTITION, GROUP),
)
LAG_SECONDS = Metric(
    "safeguard.lag.time", "gauge", "s", "Age of the oldest record of a partition that was read but is not committed.",
    (TOPIC, PARTITION, GROUP),
)  # fmt: skip
IN_FLIGHT = Metric("safeguard.in_flight", "gauge", "{call}", "Calls of a stage in progress.", ("stage",))
PAUSE = Metric(
    "safeguard.event_loop.pause",
    "gauge",
    "s",
    "Longest time within the last minutes in which a process's own work kept its event loop from running.",
    ("stage",),
)
CALL_AGE = Metric(
    "safeguard.in_flight.time", "gauge", "s", "Time that the oldest call of a partition has been in progress.",
    (TOPIC, PARTITION, GROUP),
)  # fmt: skip
BUFFERED_BYTES = Metric(
    "safeguard.buffered", "gauge", "By", "Bytes of a partition's records and outputs that are not committed.",
    (TOPIC, PARTITION, GROUP),
)  # fmt: skip
RESETS = Metric(
    "safeguard.resets", "counter", "{reset}", "Logs that ended before the position, and were read again.",
    (TOPIC, GROUP),
)  # fmt: skip
COMMITS = Metric(
    "safeguard.commits",
    "counter",
    "{commit}",
    "Commits, by outcome: done, failed, fenced or refused for an output.",
    ("stage", "outcome"),
)
DEAD_LETTERS = Metric(
    "safeguard.dead_letters",
    "counter",
    "{message}",
    "Records that could not be processed, by type of error.",
    ("stage", "error"),
)

POSITION_LOST = Metric(
    "safeguard.positions.lost",
    "counter",
    "{partition}",
    "Partitions whose position could not be used, by kind: retention deleted records that were not read, Kafka had "
    "forgotten it, or the topic was created again.",
    (TOPIC, GROUP, "kind"),
)

TEXTS = Metric(
    "safeguard.texts", "counter", "{text}",
    "Texts that the prefilter decided about, by whether it computed their vector: encoded is yes or no.", ("encoded",),
)  # fmt: skip
CLEARED = Metric("safeguard.cleared", "counter", "{event}", "Events that the prefilter cleared.")
ESCALATED = Metric(
    "safeguard.escalated",
    "counter",
    "{escalation}",
    "Content items that the prefilter escalated, by policy, gate and lane.",
    ("policy", "gate", "lane"),
)

REPORTS = Metric(
    "safeguard.reports", "counter", "{report}",
    "Reports of content items, by kind of reporter and outcome: escalated, or known if the text was escalated before.",
    ("reporter", "outcome"),
)  # fmt: skip

UNKNOWN_SCOPE = Metric(
    "safeguard.scope.unknown",
    "counter",
    "{event}",
    "Events whose surface or language is in no policy's scope though some policy has one, by field and value.",
    ("field", "value"),
)

VERDICTS = Metric(
    "safeguard.verdicts",
    "counter",
    "{verdict}",
    "Verdicts, by policy, decision, lane and severity: that of a violation, or none.",
    ("policy", "decision", "lane", "severity"),
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
    "Violating content items, by what found them: a gate, or an audit or sample of what the gates let pass, where "
    "each stands for 1/rate items. The gates' recall is their share of both. Reports are no such draw.",
    ("policy", "found_by"),
)  # fmt: skip
VIOLATIONS_VARIANCE = Metric(
    "safeguard.violations.variance", "counter", "{content}",
    "Variance of the violating items that audits and samples stand for: its square root is their standard error.",
    ("policy",),
)  # fmt: skip
REUSED = Metric(
    "safeguard.judgements.reused",
    "counter",
    "{verdict}",
    "Verdicts that reused the judgement of identical content.",
    ("policy",),
)
MALFORMED = Metric(
    "safeguard.malformed",
    "counter",
    "{output}",
    "Model outputs that the parser rejected, by reason.",
    ("reason", "gen_ai.request.model"),
)
VARIANTS = Metric(
    "safeguard.variants", "counter", "{output}",
    "Model outputs accepted with a harmless variant around the answer, by kind: fence, label, constrain.", ("kind",),
)  # fmt: skip
SECOND_TRIES = Metric(
    "safeguard.second_tries", "counter", "{request}",
    "Requests made because an output was rejected, by kind: the final message alone, held to the format "
    "(constrained), or all of it (again); and whether they gave an answer.",
    ("kind", "accepted"),
)  # fmt: skip
SECOND_TRY_TOKENS = Metric(
    "safeguard.second_tries.tokens", "counter", "{token}", "Tokens that the model wrote in second tries, by kind.",
    ("kind",),
)  # fmt: skip
FIRST_JUDGEMENTS = Metric(
    "safeguard.first_judgements", "counter", "{item}",
    "Content items of the first judge: it decided, or it was unsure or away and the model decided, or the model judged "
    "the item too and agreed, differed or left it undetermined.",
    ("outcome",),
)  # fmt: skip
RELEASES_LATE = Metric(
    "safeguard.releases.late",
    "counter",
    "{escalation}",
    "Escalations whose policy release had not arrived after 10 s, so that they wait for it.",
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

_SERVER = ("server.address", "server.port")
SERVER_LIMIT = Metric(
    "safeguard.server.limit", "gauge", "{request}",
    "Requests that an inference server gets at once, learned from its answers, or as set.", _SERVER,
)  # fmt: skip
SERVER_IN_FLIGHT = Metric(
    "safeguard.server.in_flight", "gauge", "{request}", "Requests in progress at an inference server.", _SERVER
)
SERVER_REFUSED = Metric(
    "safeguard.server.refused", "counter", "{response}",
    "Responses of an inference server that has too many requests, by status: 429 or 503.",
    (*_SERVER, "http.response.status_code"),
)  # fmt: skip

APPEALS = Metric(
    "safeguard.appeals", "counter", "{appeal}",
    "Appeals, by kind of appellant and what became of them: opened, then upheld or overturned by a person, moot where "
    "what they name stands no more, or refused where the same was decided before.",
    ("appellant", "outcome"),
)  # fmt: skip
APPEALS_OPEN = Metric(
    "safeguard.appeals.open", "gauge", "{appeal}",
    "Appeals that wait for a person, by whether their deadline has passed: overdue is yes or no.", ("overdue",),
)  # fmt: skip
REFERRALS = Metric(
    "safeguard.referrals", "counter", "{referral}", "Content items that enforcement rules refer, by rule.", ("rule",)
)
ACTIONS = Metric(
    "safeguard.actions",
    "counter",
    "{action}",
    "Enforcement actions, by policy, action and state.",
    ("policy", "action", "state"),
)
HELD = Metric(
    "safeguard.actions.held", "gauge", "{content}", "Actions above a cap that wait for a moderator.", ("policy",)
)
DELIVERIES = Metric(
    "safeguard.webhook.deliveries",
    "counter",
    "{message}",
    "Webhook delivery attempts, by outcome: delivered, failed (and retried) or refused; and messages given up.",
    ("outcome",),
)
UNDELIVERED = Metric(
    "safeguard.webhook.oldest", "gauge", "s", "Age of the oldest action that the webhook's receiver has not accepted."
)
STRIKES = Metric(
    "safeguard.strikes",
    "counter",
    "{strike}",
    "Records about strikes that the ledger followed, by state and by the rule for strikes.",
    ("state", "rule"),
)
AUTHOR_ACTIONS = Metric(
    "safeguard.authors.actions", "counter", "{action}", "Actions about authors, by action and threshold.",
    ("action", "rule"),
)  # fmt: skip

ANSWERED = Metric(
    "http.server.request.duration", "histogram", "s", "Duration of a request to the console.",
    ("http.request.method", "http.route", "http.response.status_code"), SECONDS,
)  # fmt: skip
DATABASE_FAILURES = Metric(
    "safeguard.database.failures", "counter", "{failure}",
    "Requests and batches that the console's database did not serve because it was away, busy or took no writes.",
    ("stage",),
)  # fmt: skip

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
