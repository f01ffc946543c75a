"""Grafana's dashboards and the list of metrics, made from the catalogue, so that none asks for what nobody shows.

infra/telemetry has them as Grafana and people read them; a test says when they are stale, and
`python -m safeguard_streams.operations.dashboards infra/telemetry` renews them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from safeguard_streams.runtime import metrics
from safeguard_streams.runtime.metrics import Metric

WINDOW = "$__rate_interval"


class Panel(msgspec.Struct, frozen=True):
    """One chart: queries with the names of their lines, the unit as Grafana calls it, and what it says."""

    title: str
    about: str
    unit: str
    lines: tuple[tuple[str, str], ...]


def rate(metric: Metric, by: Sequence[str] = (), where: str = "") -> str:
    """A counter's growth per second."""
    return f"sum{_by(by)} (rate({metric.prometheus}{{{where}}}[{WINDOW}]))"


def quantile(metric: Metric, share: float, by: Sequence[str] = (), where: str = "") -> str:
    """A histogram's value below which a share of its observations lie."""
    inner = f"sum{_by(['le', *by])} (rate({metric.prometheus}_bucket{{{where}}}[{WINDOW}]))"
    return f"histogram_quantile({share}, {inner})"


def gauge(metric: Metric, by: Sequence[str] = (), how: str = "sum") -> str:
    return f"{how}{_by(by)} ({metric.prometheus})"


def _by(names: Sequence[str]) -> str:
    return f" by ({', '.join(name.replace('.', '_') for name in names)})" if names else ""


def _legend(*names: str) -> str:
    return " ".join(f"{{{{{name.replace('.', '_')}}}}}" for name in names)


M = metrics
MODEL = "gen_ai.request.model"
LIVE = 'lane="live"'
VIOLATING = f'decision="violates", {LIVE}'
UNDETERMINED = f'decision="undetermined", {LIVE}'
EVENTS = f'{M.TOPIC.replace(".", "_")}=~".*content[.]events"'
DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "pipeline": (
        "Safeguard: pipeline",
        (
            Panel("Read", "Records read and finished, by topic.", "cps", ((rate(M.CONSUMED, [M.TOPIC]), _legend(M.TOPIC)),)),
            Panel("Written", "Records written and committed, by topic.", "cps", ((rate(M.SENT, [M.TOPIC]), _legend(M.TOPIC)),)),
            Panel("Lag", "Records that wait, by topic and group.", "short", ((gauge(M.LAG_RECORDS, [M.TOPIC, M.GROUP]), _legend(M.TOPIC, M.GROUP)),)),
            Panel("Age", "Age of the oldest record that is read and not finished.", "s", ((gauge(M.LAG_SECONDS, [M.TOPIC], "max"), _legend(M.TOPIC)),)),
            Panel("Delay", "From the moment a record was written to the commit of what follows from it.", "s",
                  tuple((quantile(M.DELAY, share, ["stage"]), f"p{100 * share:g} {_legend('stage')}") for share in (0.5, 0.99))),
            Panel("Share escalated", "Live escalations of all events, by policy and gate.", "percentunit",
                  ((f"{rate(M.ESCALATED, ['policy', 'gate'], LIVE)} / scalar({rate(M.CONSUMED, where=EVENTS)})",
                    _legend("policy", "gate")),)),
            Panel("Commits", "Transactions by their end: done, failed, fenced.", "cps", ((rate(M.COMMITS, ["stage", "outcome"]), _legend("stage", "outcome")),)),
            Panel("Dead letters", "What could not be handled, by stage and kind of error.", "cps", ((rate(M.DEAD_LETTERS, ["stage", "error"]), _legend("stage", "error")),)),
            Panel("Actions", "Enforcement, by policy, action and what became of it.", "cps", ((rate(M.ACTIONS, ["policy", "action", "state"]), _legend("policy", "action", "state")),)),
            Panel("Held", "Actions above a cap that wait for a person.", "short", ((gauge(M.HELD, ["policy"]), _legend("policy")),)),
            Panel("Webhook", "Tries to deliver.", "cps", ((rate(M.DELIVERIES, ["outcome"]), _legend("outcome")),)),
        ),
    ),
    "reasoner": (
        "Safeguard: reasoner",
        (
            Panel("Verdicts", "By lane.", "cps", ((rate(M.VERDICTS, ["lane"]), _legend("lane")),)),
            Panel("Request duration", "Of requests to the model.", "s",
                  tuple((quantile(M.ASKED, share), f"p{100 * share:g}") for share in (0.5, 0.9, 0.99))),
            Panel("Tokens", "Of requests to the model, per second.", "cps",
                  ((f"sum by (gen_ai_token_type) (rate({M.TOKEN_USAGE.prometheus}_sum[{WINDOW}]))", _legend("gen_ai.token.type")), (rate(M.CACHED_TOKENS), "input, cached"))),
            Panel("Inference backend", "Requests that run and wait, of the model in the worker's process.", "short",
                  ((gauge(M.INFERENCE_RUNNING, [MODEL]), "running " + _legend(MODEL)), (gauge(M.INFERENCE_WAITING, [MODEL]), "waiting " + _legend(MODEL)))),
            Panel("KV cache", "Share in use.", "percentunit", ((gauge(M.INFERENCE_CACHE, [MODEL], "max"), _legend(MODEL)),)),
            Panel("Malformed", "Model outputs that the parser rejected, by reason.", "cps", ((rate(M.MALFORMED, ["reason"]), _legend("reason")),)),
            Panel("Reused", "Share of verdicts that took the judgement of equal content.", "percentunit",
                  ((f"{rate(M.REUSED)} / {rate(M.VERDICTS)}", "reused"),)),
            Panel("Calls under way", "Of each stage.", "short", ((gauge(M.IN_FLIGHT, ["stage"]), _legend("stage")),)),
            Panel("Time of a call", "Of each stage, without waiting.", "s", ((quantile(M.PROCESSED, 0.99, ["stage"]), "p99 " + _legend("stage")),)),
        ),
    ),
    "policies": (
        "Safeguard: policy quality",
        (
            Panel("Violating", "Live verdicts that violate, by policy.", "cps", ((rate(M.VERDICTS, ["policy"], VIOLATING), _legend("policy")),)),
            Panel("Share violating", "Of live verdicts, by policy. A jump without a release is worth a look.", "percentunit",
                  ((f"{rate(M.VERDICTS, ['policy'], VIOLATING)} / {rate(M.VERDICTS, ['policy'], LIVE)}", _legend("policy")),)),
            Panel("Rules", "Rules that verdicts cite.", "cps", ((rate(M.RULES, ["policy", "rule", "decision"], LIVE), _legend("policy", "rule", "decision")),)),
            Panel("Undetermined", "Share of live verdicts that decide nothing.", "percentunit",
                  ((f"{rate(M.VERDICTS, ['policy'], UNDETERMINED)} / {rate(M.VERDICTS, ['policy'], LIVE)}", _legend("policy")),)),
            Panel("Recall of the gates", "Estimated from audits, over a day; `safeguard prefilter recall` has it with its interval.", "percentunit",
                  ((f'sum by (policy) (increase({M.VIOLATIONS.prometheus}{{found_by="gate"}}[1d])) / sum by (policy) (increase({M.VIOLATIONS.prometheus}[1d]))', _legend("policy")),)),
            Panel("Escalated", "By policy, gate and lane.", "cps", ((rate(M.ESCALATED, ["policy", "gate", "lane"]), _legend("policy", "gate", "lane")),)),
            Panel("Cleared", "Events that no gate wanted judged.", "cps", ((rate(M.CLEARED), "cleared"),)),
        ),
    ),
}  # fmt: skip


def documents() -> dict[str, bytes]:
    """Files of infra/telemetry and what is in them."""
    boards = {
        f"dashboards/{name}.json": orjson.dumps(_dashboard(name, title, panels), option=orjson.OPT_INDENT_2) + b"\n"
        for name, (title, panels) in DASHBOARDS.items()
    }
    return {"METRICS.md": _listed().encode(), **boards}


def _listed() -> str:
    rows = [
        f"| `{metric.name}` | `{metric.prometheus}` | {metric.kind} | {metric.unit.strip('{}')} | "
        f"{' '.join(f'`{name}`' for name in metric.attributes)} | {metric.about} |"
        for metric in metrics.CATALOGUE
    ]
    head = (
        "# Metrics\n\nWhat the processes show of themselves: for Prometheus at /metrics of the health ports, and by OTLP.\n\n"
        "| name | in Prometheus | kind | unit | attributes | what it says |\n| --- | --- | --- | --- | --- | --- |\n"
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
