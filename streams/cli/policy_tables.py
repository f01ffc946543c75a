"""Rows and tables of `safeguard policy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.cli.texts import Labelled, item_text, reason_of, show_item
from safeguard_streams.contract.records import PolicyChange, PolicyRelease
from safeguard_streams.policies.check import Checked
from safeguard_streams.policies.document import Policy
from safeguard_streams.quality.shadow_comparison import Comparison

Row = dict[str, Any]


def policy_row(policy: Policy) -> Row:
    """A policy of the library."""
    return {
        "id": policy.id,
        "version": policy.version,
        "title": policy.title,
        "owner": policy.owner,
        "rules": ", ".join(policy.rules),
    }


def release_row(release: PolicyRelease) -> Row:
    """A policy in force or in shadow."""
    return {
        "id": release.policy_id,
        "version": release.version,
        "revision": release.revision,
        "shadow": _share(release),
        "by": release.released_by,
        "why": release.why,
    }


def change_row(change: PolicyChange) -> Row:
    """An entry of the history."""
    release = change.release
    return {
        "at": change.changed_at.isoformat(timespec="seconds"),
        "id": change.policy_id,
        "action": change.action,
        "revision": release.revision if release else "",
        "version": release.version if release else "",
        "shadow": _share(release),
        "by": change.changed_by,
        "why": change.why,
    }


def _share(release: PolicyRelease | None) -> str:
    return "" if release is None or release.shadow is None else f"{release.shadow:g}"


def print_checks(results: Sequence[Checked]) -> None:
    """Print each problem, and one line for each policy without errors."""
    for result in results:
        for problem in result.problems:
            say(problem)
        if result.policy and not result.errors:
            policy = f"{result.policy.id} {result.policy.version}"
            say(f"{result.path}: {policy}, {result.tokens} tokens, {result.golden} golden texts")


def print_comparison(comparison: Comparison, *, texts: bool = True) -> None:
    """Print the shares, the counts by rule, and examples of items that the versions judge differently."""
    live_versions = ", ".join(comparison.live_versions) or "in force"
    say(f"{comparison.policy_id}: version {live_versions} beside shadow {comparison.shadow_version}")
    print("shares with their 95% intervals, of the content drawn for the shadow")
    for table in (_shares(comparison), _rules(comparison)):
        console().print(table)
    for flip in comparison.examples:
        live, shadow = (flip.live, flip.live_rules), (flip.shadow, flip.shadow_rules)
        lines = [
            Labelled("in force", reason_of(*live, flip.live_reason)),
            Labelled("shadow", reason_of(*shadow, flip.shadow_reason)),
        ]
        show_item(flip.content_id, [item_text(flip.text, asked=texts), *lines])
    say(f"{comparison.waiting:,} items wait for the version in force; the shadow used {comparison.tokens:,} tokens")


def _shares(comparison: Comparison) -> Table:
    table = Table("", "items", "of", "share", box=None)
    for name, share in (
        ("judged by both, with the same decision", comparison.agree),
        ("safe in force, violates in the shadow", comparison.to_violates),
        ("violates in force, safe in the shadow", comparison.to_safe),
        ("undetermined in one of them", comparison.undetermined),
        ("violates, of what only the shadow's gates escalate", comparison.only_shadow),
        ("violates in force, of what the shadow's gates let pass", comparison.only_live),
        ("violates, of all drawn: in force", comparison.violating[0]),
        ("violates, of all drawn: in the shadow", comparison.violating[1]),
    ):
        table.add_row(name, f"{share.count:,}", f"{share.of:,}", str(share))
    return table


def _rules(comparison: Comparison) -> Table:
    table = Table("rule", "violating in force", "in the shadow", box=None)
    for rule, (live, shadow) in comparison.rules.items():
        table.add_row(rule, f"{live:,}", f"{shadow:,}")
    return table
