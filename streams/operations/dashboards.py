"""Grafana's dashboards and the list of metrics, generated from the metrics that the code declares.

The generated files are in infra/telemetry. A test fails when they are out of date;
`python -m safeguard_streams.operations.dashboards infra/telemetry` writes them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

import safeguard_streams
from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.metrics import Metric

WINDOW = "$__rate_interval"


class ChartLine(NamedTuple):
    """One line of a chart: a PromQL query and its legend."""

    query: str
    legend: str


class Panel(msgspec.Struct, frozen=True):
    """One chart. unit: Grafana's name of the unit. lines: a query and a legend for each."""

    title: str
    about: str
    unit: str
    lines: tuple[ChartLine, ...]


def rate(metric: Metric, by: Sequence[str] = (), where: str = "") -> str:
    """The increase of a counter per second."""
    return f"sum{_by(by)} (rate({metric.prometheus}{{{where}}}[{WINDOW}]))"


def quantile(metric: Metric, share: float, by: Sequence[str] = (), where: str = "") -> str:
    """The value below which a share of a histogram's observations lie, 0 to 1."""
    inner = f"sum{_by(['le', *by])} (rate({metric.prometheus}_bucket{{{where}}}[{WINDOW}]))"
    return f"histogram_quantile({share}, {inner})"


def gauge(metric: Metric, by: Sequence[str] = (), aggregation: str = "sum") -> str:
    return f"{aggregation}{_by(by)} ({metric.prometheus})"


def _by(names: Sequence[str]) -> str:
    return f" by ({', '.join(name.replace('.', '_') for name in names)})" if names else ""


def _legend(*names: str) -> str:
    return " ".join(f"{{{{{name.replace('.', '_')}}}}}" for name in names)


M = metrics
MODEL = "gen_ai.request.model"
SERVER = ("server.address", "server.port")
LIVE = 'lane="live"'
VIOLATING = f'decision="violates", {LIVE}'
UNDETERMINED = f'decision="undetermined", {LIVE}'
NOT_ENCODED = 'encoded="no"'
FAILED = 'http_response_status_code=~"5.."'
EVENTS = f'{M.TOPIC.replace(".", "_")}=~".*content[.]events"'


def _rates(metric: Metric, *by: str, where: str = "") -> tuple[ChartLine, ...]:
    """A counter's increase per second, one line for each combination of attributes."""
    return (ChartLine(rate(metric, by, where), _legend(*by)),)


def _quantiles(metric: Metric, shares: Sequence[float], *by: str) -> tuple[ChartLine, ...]:
    """One line for each share, as in p99."""
    return tuple(ChartLine(quantile(metric, share, by), f"p{100 * share:g} {_legend(*by)}".strip()) for share in shares)


def _ratio(part: str, whole: str, legend: str) -> tuple[ChartLine, ...]:
    return (ChartLine(f"{part} / {whole}", legend),)


PIPELINE = (
    Panel("Read", "Records that were read and are done, by topic.", "cps", _rates(M.CONSUMED, M.TOPIC)),
    Panel("Written", "Records that were written and committed, by topic.", "cps", _rates(M.SENT, M.TOPIC)),
    Panel(
        "Lag",
        "Records that are not completed yet, by topic and consumer group.",
        "short",
        (ChartLine(gauge(M.LAG_RECORDS, [M.TOPIC, M.GROUP]), _legend(M.TOPIC, M.GROUP)),),
    ),
    Panel(
        "Age",
        "Age of the oldest record that was read and is not committed, by topic and consumer group.",
        "s",
        (ChartLine(gauge(M.LAG_SECONDS, [M.TOPIC, M.GROUP], "max"), _legend(M.TOPIC, M.GROUP)),),
    ),
    Panel(
        "Delay",
        "Time from when a record was written to when its outputs are committed, by stage.",
        "s",
        _quantiles(M.DELAY, (0.5, 0.99), "stage"),
    ),
    Panel(
        "Share escalated",
        "Live escalations as a share of all events, by policy and gate.",
        "percentunit",
        _ratio(
            rate(M.ESCALATED, ["policy", "gate"], LIVE),
            f"scalar({rate(M.CONSUMED, where=EVENTS)})",
            _legend("policy", "gate"),
        ),
    ),
    Panel(
        "Share encoded",
        "Texts whose vector the prefilter computed, as a share of all texts that it decided about.",
        "percentunit",
        (ChartLine(f"1 - {rate(M.TEXTS, where=NOT_ENCODED)} / {rate(M.TEXTS)}", "encoded"),),
    ),
    Panel(
        "Commits",
        "Commits, by outcome: done, failed, fenced or refused for an output.",
        "cps",
        _rates(M.COMMITS, "stage", "outcome"),
    ),
    Panel("Resets", "Logs that ended before a position, by topic.", "cps", _rates(M.RESETS, M.TOPIC)),
    Panel(
        "Lost positions",
        "Partitions whose position could not be used, by topic and kind.",
        "cps",
        _rates(M.POSITION_LOST, M.TOPIC, "kind"),
    ),
    Panel(
        "Event loop pauses",
        "Longest time in which a process's own work kept its event loop from running, by stage.",
        "s",
        (ChartLine(gauge(M.PAUSE, ["stage"], "max"), _legend("stage")),),
    ),
    Panel(
        "Dead letters",
        "Records that could not be processed, by stage and type of error.",
        "cps",
        _rates(M.DEAD_LETTERS, "stage", "error"),
    ),
    Panel(
        "Actions",
        "Enforcement actions, by policy, action and state.",
        "cps",
        _rates(M.ACTIONS, "policy", "action", "state"),
    ),
    Panel(
        "Held",
        "Actions above a cap that wait for a moderator, by policy.",
        "short",
        (ChartLine(gauge(M.HELD, ["policy"]), _legend("policy")),),
    ),
    Panel(
        "Appeals and referrals",
        "Appeals, by appellant and what became of them, and items that rules refer, by rule.",
        "cps",
        (*_rates(M.APPEALS, "appellant", "outcome"), *_rates(M.REFERRALS, "rule")),
    ),
    Panel(
        "Open appeals",
        "Appeals that wait for a person, by whether their deadline has passed.",
        "short",
        (ChartLine(gauge(M.APPEALS_OPEN, ["overdue"]), _legend("overdue")),),
    ),
    Panel(
        "Strikes",
        "Records about strikes against authors, by state and rule.",
        "cps",
        _rates(M.STRIKES, "state", "rule"),
    ),
    Panel(
        "Author actions",
        "Actions about authors, by action and threshold.",
        "cps",
        _rates(M.AUTHOR_ACTIONS, "action", "rule"),
    ),
    Panel("Webhook", "Delivery attempts, by outcome.", "cps", _rates(M.DELIVERIES, "outcome")),
    Panel(
        "Oldest undelivered action",
        "Age of the oldest action that the webhook's receiver has not accepted.",
        "s",
        (ChartLine(gauge(M.UNDELIVERED, aggregation="max"), "age"),),
    ),
    Panel("Console", "Time until the console answers a request.", "s", _quantiles(M.ANSWERED, (0.5, 0.95))),
    Panel(
        "Console problems",
        "Requests that the console did not serve, by page; failures of its database, by process.",
        "cps",
        (
            ChartLine(
                f"sum{_by(['http.route'])} (rate({M.ANSWERED.prometheus}_count{{{FAILED}}}[{WINDOW}]))",
                _legend("http.route"),
            ),
            ChartLine(rate(M.DATABASE_FAILURES, ["stage"]), "database, " + _legend("stage")),
        ),
    ),
)
REASONER = (
    Panel("Verdicts", "Verdicts, by lane.", "cps", _rates(M.VERDICTS, "lane")),
    Panel(
        "Request duration",
        "Duration of requests to the model: chat for a whole answer, text_completion for the rest or the score of one.",
        "s",
        _quantiles(M.ASKED, (0.5, 0.9, 0.99), "gen_ai.operation.name"),
    ),
    Panel(
        "Tokens",
        "Tokens of requests to the model and of its responses, per second.",
        "cps",
        (
            ChartLine(
                f"sum by (gen_ai_token_type) (rate({M.TOKEN_USAGE.prometheus}_sum[{WINDOW}]))",
                _legend("gen_ai.token.type"),
            ),
            ChartLine(rate(M.CACHED_TOKENS), "input, cached"),
        ),
    ),
    Panel(
        "Inference backend",
        "Requests that run and wait, of the model in the worker's process.",
        "short",
        (
            ChartLine(gauge(M.INFERENCE_RUNNING, [MODEL]), "running " + _legend(MODEL)),
            ChartLine(gauge(M.INFERENCE_WAITING, [MODEL]), "waiting " + _legend(MODEL)),
        ),
    ),
    Panel(
        "KV cache",
        "Share of the KV cache in use.",
        "percentunit",
        (ChartLine(gauge(M.INFERENCE_CACHE, [MODEL], "max"), _legend(MODEL)),),
    ),
    Panel(
        "Inference servers",
        "Requests that each inference server gets at once at most, and has in progress.",
        "short",
        (
            ChartLine(gauge(M.SERVER_LIMIT, SERVER), "limit " + _legend(*SERVER)),
            ChartLine(gauge(M.SERVER_IN_FLIGHT, SERVER), "in flight " + _legend(*SERVER)),
        ),
    ),
    Panel(
        "Refused by servers",
        "Responses 429 and 503 of inference servers, which lower the limit.",
        "cps",
        _rates(M.SERVER_REFUSED, *SERVER, "http.response.status_code"),
    ),
    Panel("Malformed", "Model outputs that the parser rejected, by reason.", "cps", _rates(M.MALFORMED, "reason")),
    Panel("Variants", "Model outputs accepted with a harmless variant, by kind.", "cps", _rates(M.VARIANTS, "kind")),
    Panel(
        "First judge",
        "Items that the first judge decided, or that went on, and how its checked decisions compare.",
        "cps",
        _rates(M.FIRST_JUDGEMENTS, "outcome"),
    ),
    Panel("Second tries", "Requests made because an output was rejected.", "cps", _rates(M.SECOND_TRIES, "kind")),
    Panel(
        "Tokens of second tries",
        "Tokens/s that the model writes in second tries, by kind.",
        "short",
        _rates(M.SECOND_TRY_TOKENS, "kind"),
    ),
    Panel(
        "Reused",
        "Share of verdicts that reused the judgement of identical content.",
        "percentunit",
        _ratio(rate(M.REUSED), rate(M.VERDICTS), "reused"),
    ),
    Panel(
        "Late releases",
        "Escalations that wait for a release of their policy.",
        "cps",
        (ChartLine(rate(M.RELEASES_LATE), "escalations"),),
    ),
    Panel(
        "Calls in flight",
        "Calls in flight, by stage.",
        "short",
        (ChartLine(gauge(M.IN_FLIGHT, ["stage"]), _legend("stage")),),
    ),
    Panel(
        "Oldest call",
        "Time that the oldest call has been in progress, by topic.",
        "s",
        (ChartLine(gauge(M.CALL_AGE, [M.TOPIC], "max"), _legend(M.TOPIC)),),
    ),
    Panel(
        "Buffered",
        "Bytes of records and outputs that are not committed, by topic.",
        "bytes",
        (ChartLine(gauge(M.BUFFERED_BYTES, [M.TOPIC]), _legend(M.TOPIC)),),
    ),
    Panel(
        "Call duration",
        "Duration of calls without waiting, by stage.",
        "s",
        _quantiles(M.PROCESSED, (0.99,), "stage"),
    ),
)
POLICIES = (
    Panel("Violating", "Live verdicts that violate, by policy.", "cps", _rates(M.VERDICTS, "policy", where=VIOLATING)),
    Panel(
        "Severity", "Live verdicts that violate, by severity.", "cps", _rates(M.VERDICTS, "severity", where=VIOLATING)
    ),
    Panel("Reports", "Reports of content items, by kind of reporter.", "cps", _rates(M.REPORTS, "reporter")),
    Panel(
        "Share violating",
        "Share of live verdicts that violate, by policy. Look into a jump without a release.",
        "percentunit",
        _ratio(rate(M.VERDICTS, ["policy"], VIOLATING), rate(M.VERDICTS, ["policy"], LIVE), _legend("policy")),
    ),
    Panel(
        "Rules",
        "Rules that live verdicts cite.",
        "cps",
        _rates(M.RULES, "policy", "rule", "decision", where=LIVE),
    ),
    Panel(
        "Undetermined",
        "Share of live verdicts that are undetermined, by policy.",
        "percentunit",
        _ratio(rate(M.VERDICTS, ["policy"], UNDETERMINED), rate(M.VERDICTS, ["policy"], LIVE), _legend("policy")),
    ),
    Panel(
        "Recall of the gates",
        "Estimate from the audits and samples of one day. `safeguard prefilter recall` adds its confidence interval.",
        "percentunit",
        _ratio(
            f'sum by (policy) (increase({M.VIOLATIONS.prometheus}{{found_by="gate"}}[1d]))',
            f'sum by (policy) (increase({M.VIOLATIONS.prometheus}{{found_by!="report"}}[1d]))',
            _legend("policy"),
        ),
    ),
    Panel(
        "Variance of the violations found",
        "Variance of the estimated number of violations by the audits and samples of one day; its root is the error.",
        "short",
        (ChartLine(f"sum by (policy) (increase({M.VIOLATIONS_VARIANCE.prometheus}[1d]))", _legend("policy")),),
    ),
    Panel(
        "Escalated",
        "Escalations, by policy, gate and lane.",
        "cps",
        _rates(M.ESCALATED, "policy", "gate", "lane"),
    ),
    Panel("Cleared", "Events that the prefilter cleared.", "cps", (ChartLine(rate(M.CLEARED), "cleared"),)),
    Panel(
        "Unknown surfaces and languages",
        "Events whose surface or language is in no policy's scope.",
        "cps",
        _rates(M.UNKNOWN_SCOPE, "field", "value"),
    ),
)
DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "pipeline": ("Safeguard: pipeline", PIPELINE),
    "reasoner": ("Safeguard: reasoner", REASONER),
    "policies": ("Safeguard: policy quality", POLICIES),
}


def documents() -> dict[str, bytes]:
    """The generated files of infra/telemetry: content by path."""
    boards = {
        f"dashboards/{name}.json": orjson.dumps(_dashboard(name, title, panels), option=orjson.OPT_INDENT_2) + b"\n"
        for name, (title, panels) in DASHBOARDS.items()
    }
    runbook = orjson.dumps(_runbook(), option=orjson.OPT_INDENT_2) + b"\n"
    return {"METRICS.md": _listed().encode(), "dashboards/runbook.json": runbook, **boards}


def _runbook() -> dict[str, Any]:
    """The runbook as a dashboard: alerts link to it, and it is where the dashboards are."""
    text = (Path(safeguard_streams.__file__).parent / "infra/telemetry/RUNBOOK.md").read_text(encoding="utf-8")
    title, *sections = re.split(r"^##? ", text, flags=re.MULTILINE)[1:]
    return {
        "uid": "safeguard-runbook",
        "title": "Safeguard: runbook",
        "tags": ["safeguard"],
        "schemaVersion": 39,
        "panels": [
            _text(number, *section.split("\n", 1)) for number, section in enumerate([title, *sorted(sections)], 1)
        ],
    }


def _text(number: int, title: str, text: str) -> dict[str, Any]:
    height = 3 + len(text) // 200
    return {
        "id": number,
        "type": "text",
        "title": title,
        "gridPos": {"h": height, "w": 24, "x": 0, "y": 100 * number},
        "options": {"mode": "markdown", "content": text.strip()},
    }


def _listed() -> str:
    rows = [
        f"| `{metric.name}` | `{metric.prometheus}` | {metric.kind} | {metric.unit.strip('{}')} | "
        f"{' '.join(f'`{name}`' for name in metric.attributes)} | {metric.about} |"
        for metric in metrics.CATALOGUE
    ]
    head = (
        "# Metrics\n\nThe processes expose these metrics at `/metrics` on their health ports, for Prometheus, and "
        "export them by OTLP.\n\n| name | name in Prometheus | kind | unit | attributes | meaning |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "\n".join(rows) + "\n"


def _dashboard(name: str, title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "uid": f"safeguard-{name}",
        "title": title,
        "tags": ["safeguard"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "description": panel.about,
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                "targets": [
                    {"refId": chr(65 + line), "datasource": source, "expr": query, "legendFormat": legend}
                    for line, (query, legend) in enumerate(panel.lines)
                ],
            }
            for number, panel in enumerate(panels)
        ],
    }


if __name__ == "__main__":
    for file, content in documents().items():
        (Path(sys.argv[1]) / file).write_bytes(content)
