"""Rows and tables of `safeguard policy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.cli.texts import Labelled, item_text, reason_of, show_item
from safeguard_streams.contract.records import PolicyChange, PolicyRelease
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import golden_gates
from safeguard_streams.policies.check import Checked
from safeguard_streams.policies.difference import Difference, difference
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.encoder.files import NAME
from safeguard_streams.quality.shadow_comparison import Comparison
from safeguard_streams.releases.operator import PlannedRelease
from safeguard_streams.runtime.counts import counted

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


def change_line(row: Row) -> str:
    """An entry of the history as a line: its time and ids stay whole, however narrow the terminal is."""
    version = f" revision {row['revision']}, version {row['version']}" if row["version"] else ""
    share = f", on {float(row['shadow']):.2%} of content" if row["shadow"] else ""
    return (
        f"{row['at']}  {row['id']}  {row['action']}{version}{share}, by {row['by']}: {row['why'] or 'no reason given'}"
    )


def _share(release: PolicyRelease | None) -> str:
    return "" if release is None or release.shadow is None else f"{release.shadow:g}"


def print_plan(planned: Sequence[PlannedRelease], *, shadow: bool) -> None:
    """Print how each policy, or each shadow, differs from the version in force."""
    place, becomes = ("in shadow", "beside shadow") if shadow else ("in force", "->")
    for one in planned:
        policy, in_force = one.policy, one.in_force
        if one.unchanged:
            say(f"{policy.id}: unchanged, version {policy.version} is {place} already")
        elif in_force is None:
            say(f"{policy.id}: new, version {policy.version}, rules {', '.join(policy.rules)}")
        elif (differs := _difference(one)) is None:
            say(f"{policy.id}: version {policy.version} for {in_force.version}, whose document no longer parses")
        else:
            say(f"{policy.id}: version {in_force.version} in force {becomes} {policy.version}")
            _print_difference(differs)
            if differs.rescores:
                say("  its gate gives other scores than before: calibrate and recall begin with verdicts from now on")
        _print_vectors(policy)
        if not one.unchanged and (gate := golden_gates.intact(one.golden)):
            _print_golden(gate)


def _print_golden(gate: golden_gates.GoldenGate) -> None:
    """Tell what to expect of the golden gate that runs in shadow."""
    recall, escalated = (
        f"{value:.3f} ({low:.3f}-{high:.3f})" for value, low, high in (gate.expected.recall, gate.expected.escalated)
    )
    say(f"  golden gate {gate.name} in shadow, optimistic: recall {recall},")
    say(f"    escalates {escalated} of benign texts")


def _print_vectors(policy: Policy) -> None:
    """Tell which prefilters use which weights or thresholds of a gate that has two sets."""
    if policy.gate.threshold_with_encoder is not None and policy.distilled is None:
        say("  the encoder's harm heads add to its score; prefilters without the extra encoder use gate.threshold")
    encoder = policy.distilled.encoder if policy.distilled else None
    if encoder == NAME:
        say("  its distilled classifier uses vectors; prefilters without the extra encoder use its other weights")
    elif encoder:
        say(f"  its distilled classifier has weights for another encoder, {encoder}, which no prefilter here uses")


def _print_difference(differs: Difference) -> None:
    for line in [*map(str, differs.decides), *differs.text]:
        say(f"  {line}")
    if not differs.decides and not differs.text:
        print("  decides as before: the version stays")
    for changed in differs.enforces:
        say(f"  {changed} (for enforcement)")
    for changed in differs.describes:
        say(f"  {changed} (for readers only)")


def _difference(planned: PlannedRelease) -> Difference | None:
    """How a policy differs from its version in force; None where there is none, or none that parses."""
    release = planned.in_force
    if release is None:
        return None
    try:
        return difference(parse(release.document, "version in force", release.distilled), planned.policy)
    except PolicyError:
        return None


def print_released(released: Sequence[PolicyRelease], shadow: float | None) -> None:
    """Print what was released; shadow: the share of content of each shadow."""
    how = "" if shadow is None else f" as a shadow on {shadow:.2%} of content"
    for record in released:
        say(f"released {record.policy_id} version {record.version} revision {record.revision}{how}")


def release_rows(planned: Sequence[PlannedRelease], released: Sequence[PolicyRelease]) -> list[Row]:
    """What a release did or, as a dry run, would do."""
    revisions = {release.policy_id: release.revision for release in released}
    return [
        {
            "id": one.policy.id,
            "version": one.policy.version,
            "in_force": one.in_force.version if one.in_force else None,
            "unchanged": one.unchanged,
            "revision": revisions.get(one.policy.id),
            "encoder": one.policy.distilled.encoder if one.policy.distilled else None,
            "golden": gate.name if (gate := golden_gates.intact(one.golden)) else None,
            "difference": msgspec.to_builtins(_difference(one)),
        }
        for one in planned
    ]


def print_checks(results: Sequence[Checked]) -> None:
    """Print each problem, and one line for each policy without errors."""
    for result in results:
        for problem in result.problems:
            say(problem)
        if result.policy and not result.errors:
            policy = f"{result.policy.id} {result.policy.version}"
            say(f"{result.path}: {policy}, {counted(result.tokens, 'token')}, {counted(result.golden, 'golden text')}")
            _print_vectors(result.policy)


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
    say(
        f"{counted(comparison.waiting, 'item waits', 'items wait')} for the version in force; "
        f"the shadow used {counted(comparison.tokens, 'token')}"
    )


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
