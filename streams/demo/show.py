"""The demo's tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Column, Table

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict
from safeguard_streams.demo.tally import Tally, percentile

MAX_ROWS = 24


def _percentage(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"


def _ms(values: Sequence[float]) -> str:
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return "-" if p50 is None else f"p50 {p50:,.0f} ms  p99 {p99:,.0f} ms"


def counts(tally: Tally, total: int) -> Group:
    """Records by topic, escalated share, latency, and decisions by policy; shown live and at the end."""
    flow = Table("topic", "records", "", box=None, title="Flow", title_justify="left")
    flow.add_row(topics.EVENTS, str(tally.published), f"of {total}")
    answered = tally.published - tally.unanswered()
    share = _percentage(tally.escalated_events, answered)
    notes = {
        topics.CLEARED: _ms(tally.latency["cleared"]),
        topics.ESCALATIONS: f"{tally.escalated_events} events, {share} of the answered",
        topics.ESCALATIONS_AUDIT: "sampled from cleared events",
        topics.VERDICTS: _ms(tally.latency["judged"]),
        topics.RATIONALES: "",
        topics.DEAD_LETTERS: "",
    }
    for name, note in notes.items():
        flow.add_row(name, str(tally.topics[name]), note)
    decisions = Table("policy", "violates", "safe", "undetermined", box=None, title="Verdicts", title_justify="left")
    for policy, count in tally.by_policy().items():
        decisions.add_row(policy, *(str(count[d]) for d in ("violates", "safe", "undetermined")))
    return Group(flow, "", decisions)


def line(tally: Tally, total: int) -> str:
    """One line of progress, for output that is not a terminal."""
    return (
        f"published {tally.published}/{total}  cleared {tally.topics[topics.CLEARED]}  "
        f"escalations {tally.topics[topics.ESCALATIONS]}  verdicts {tally.topics[topics.VERDICTS]}  "
        f"dead letters {tally.topics[topics.DEAD_LETTERS]}  unanswered {tally.unanswered()}"
    )


def shortened(text: str, max_length: int = 46) -> str:
    flat = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return flat if len(flat) <= max_length else flat[: max_length - 1] + "…"


def verdicts(tally: Tally, texts: Mapping[str, str], max_rows: int = MAX_ROWS) -> Table:
    """Some verdicts of each policy and decision, with shortened texts."""
    table = Table(
        Column("text", no_wrap=True, ratio=2),
        Column("policy", no_wrap=True, min_width=16),
        Column("decision", no_wrap=True, min_width=8),
        Column("rules", no_wrap=True, min_width=5),
        Column("score", no_wrap=True, min_width=5),
        Column("reason", no_wrap=True, ratio=3),
        box=None,
        expand=True,
        title="Some verdicts",
        title_justify="left",
    )
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in tally.verdicts:
        groups.setdefault((verdict.policy_id, verdict.decision), []).append(verdict)
    rows_per_group = max(1, max_rows // max(1, len(groups)))
    for (policy, decision), group in sorted(groups.items()):
        for verdict in group[:rows_per_group]:
            score = "" if verdict.score is None else f"{verdict.score:.2f}"
            text = shortened(texts.get(verdict.content_id, ""))
            table.add_row(text, policy, decision, " ".join(verdict.rule_ids), score, verdict.reason or "")
    return table


def dead_letters(tally: Tally) -> Table:
    table = Table("record", "reason", box=None, title="Dead letters", title_justify="left")
    for letter in tally.dead_letters[:MAX_ROWS]:
        table.add_row(f"{letter.origin.topic}[{letter.origin.partition}]@{letter.origin.offset}", letter.reason)
    return table
