"""What `safeguard replay diff` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from safeguard_streams.cli.output import Table, console, plain, say
from safeguard_streams.cli.texts import Labelled, item_text, reason_of, show_item
from safeguard_streams.replay.diff import Diff, FlipCounts, ReplayFlip
from safeguard_streams.replay.headline import headline
from safeguard_streams.replay.page import DECISIONS
from safeguard_streams.replay.promotion import LEFT_OUT
from safeguard_streams.runtime.counts import counted


def show_diff(diff: Diff, *, texts: bool = True) -> None:
    """Flips and noise, decisions, rules, languages, examples and cost."""
    before = f"version {diff.before_version}" if diff.before_version else "not in force before"
    say(f"replay {diff.replay_id}: {diff.policy_id}, {before}, judged again by {diff.version}")
    say(
        f"{counted(diff.events, 'event')}, {diff.unreadable:,} more as dead letters, {diff.escalated:,} escalated by "
        f"either version, {diff.waiting:,} not judged yet, {diff.unknown:,} without an earlier verdict, "
        f"{diff.compared:,} compared"
    )
    for outcome, why in LEFT_OUT.items():
        if outcome != "unknown" and (number := getattr(diff, outcome)):
            say(f"a promotion leaves out {counted(number, 'item')} {why}")
    console().print(Text(plain(headline(diff))))  # wrapped between words
    console().print(_shares(diff))
    for line in _gated(diff):
        say(line)
    for table in (_decisions(diff.decisions), _groups("rule", diff.rules), _groups("language", diff.languages)):
        if table.row_count:
            console().print(table)
    for flip in diff.examples:
        show_item(flip.content_id, [item_text(flip.text, asked=texts), *_changed(flip)])
    say(
        f"cost: {counted(diff.tokens.prompt, 'prompt token')} ({diff.tokens.cached:,} cached), "
        f"{counted(diff.tokens.completion, 'completion token')}, {diff.seconds:,.1f} s of judgements"
    )


def _gated(diff: Diff) -> list[str]:
    """What the new gate lets pass although a model judges it."""
    lines = {
        "flips to safe": diff.to_safe_by_gate,
        "flips to violates": diff.to_violates_past_gate,
        "items that violate by both versions": diff.violating_past_gate,
    }
    return [f"the new gate lets {number:,} of the {name} pass" for name, number in lines.items() if number]


def _shares(diff: Diff) -> Table:
    table = Table("", "items", "of", "share (95% interval)", box=None)
    for name, share in (
        ("flip to violates", diff.to_violates),
        ("flip to safe", diff.to_safe),
        ("noise floor: flips of the same version", diff.noise),
        ("violating before, of all events", diff.violating_before),
        ("violating after, of all events", diff.violating_after),
    ):
        table.add_row(name, f"{share.count:,}", f"{share.of:,}", str(share))
    return table


def _decisions(decisions: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table("before \\ after", *DECISIONS, box=None)
    for before, row in decisions.items():
        table.add_row(before, *(f"{row.get(after, 0):,}" for after in DECISIONS))
    return table


def _groups(title: str, groups: Mapping[str, FlipCounts]) -> Table:
    table = Table(title, "to violates", "to safe", "compared", box=None)
    for name, counts in groups.items():
        table.add_row(name or "not specified", f"{counts.to_violates:,}", f"{counts.to_safe:,}", f"{counts.compared:,}")
    return table


def _changed(flip: ReplayFlip) -> list[Labelled]:
    return [
        Labelled("before", reason_of(flip.before, flip.rules_before, flip.reason_before)),
        Labelled("", flip.rationale_before or None),
        Labelled("after", reason_of(flip.after, flip.rules_after, flip.reason_after)),
        Labelled("", flip.rationale_after or None),
    ]
