"""What the commands of `safeguard prefilter` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.policies.document import Policy
from safeguard_streams.runtime.counts import counted

if TYPE_CHECKING:  # these need the extra `quality`
    from safeguard_streams.quality.distillation import Proposal
    from safeguard_streams.quality.evaluation import Evaluation
    from safeguard_streams.quality.gate_recall import GateRecall, ReportedItems
    from safeguard_streams.quality.threshold import Calibration, ScoredLabels


def show_evaluation(evaluation: Evaluation, plot: Path | None) -> None:
    """Figures by set and by harm, in Markdown."""
    from safeguard_streams.quality.evaluation import markdown

    print("\n".join(markdown(evaluation.sets)))
    if evaluation.harms:
        print("\nBy harm, against all texts that do not violate:\n")
        print("\n".join(markdown(evaluation.harms)))
    if plot:
        print(f"\nplot: {plot}")


def show_calibration(
    policy: Policy, field: str, calibration: Calibration, labels: ScoredLabels, written: Path | None
) -> None:
    """The threshold of this name and its expected effect."""
    now = getattr(policy.gate, field)
    say(
        f"{policy.id}: {field} {calibration.threshold:g} for recall {calibration.target_recall:.2f} "
        f"(now {'not set' if now is None else format(now, 'g')})"
    )
    say(f"from {calibration.rows:,} {labels.source}, {calibration.violating:,} of them violating")
    if labels.left_out:
        say(f"left out: {labels.left_out}")
    say(f"expected on similar content: recall {calibration.recall}, escalated {calibration.escalated}")
    if calibration.escalated.value >= 1:
        say("this gate sends everything to the model: lower --target-recall, or add terms to the gate")
    say(
        f"at the threshold {calibration.probability:.1%} violate, by the {calibration.map} map "
        f"(Brier scores {calibration.brier})"
    )
    say(f"wrote {written}" if written else "changed nothing; --write sets the threshold in the policy's file")


def show_recall(results: Mapping[str, GateRecall]) -> None:
    """Recall, strata and costs of each policy."""
    if not results:
        print("no verdicts yet")
    for name, result in results.items():
        value = "-" if result.recall is None else f"{result.recall:.3f}"
        say(f"{name}: recall {value}, 95% interval {result.low:.3f} to {result.high:.3f}")
        say(f"  violating: {result.caught:,.0f} caught, about {result.missed:,.0f} missed")
        say(f"  escalated: {result.escalated:.2%} of content")
        if result.reported.judged:
            say(f"  {_reported(result.reported)}")
        if result.left_out:
            say(f"  left out: {result.left_out}")
        if result.why:
            say(f"  {result.why}")
        if result.strata:
            console().print(_strata(result))
        for cost in result.costs:
            change = "reached now" if cost.threshold is None else f"threshold {cost.threshold:g}"
            say(f"  recall {cost.recall:.2f}: {change}, {cost.escalated:.2%} escalated")


def show_recall_by_language(results: Mapping[str, Mapping[str, GateRecall]]) -> None:
    """The recall of each policy's gates in each language."""
    if not results:
        print("no verdicts yet")
    for name, languages in results.items():
        say(f"{name}:")
        table = Table("language", "recall", "95% interval", "caught", "missed", "escalated", box=None)
        for language, result in languages.items():
            table.add_row(
                language,
                "-" if result.recall is None else f"{result.recall:.3f}",
                f"{result.low:.3f} to {result.high:.3f}",
                f"{result.caught:,.0f}",
                f"{result.missed:,.0f}",
                f"{result.escalated:.2%}",
            )
        console().print(table)
    if any("und" in languages for languages in results.values()):
        say("und: no language was told or detected, or the text is not at hand")


def _reported(items: ReportedItems) -> str:
    texts = counted(items.judged, "text was", "texts were")
    return (
        f"reports, in none of these figures: {texts} judged, {items.violating:,} violating, of which the gates missed "
        f"{items.missed:,}"
    )


def _strata(result: GateRecall) -> Table:
    table = Table("stratum", "rate", "drawn", "violating", "items", "missed", "95% interval", box=None)
    for stratum in result.strata:
        table.add_row(
            stratum.name,
            f"{stratum.rate:.2%}",
            f"{stratum.audited:,}",
            f"{stratum.violating:,}",
            f"{stratum.items:,.0f}",
            f"{stratum.missed:,.0f}",
            f"{stratum.low:,.0f} to {stratum.high:,.0f}",
        )
    return table


def show_proposal(proposal: Proposal, target_recall: float, threshold: float, files: Sequence[Path]) -> None:
    """The gate in force and the distilled classifier side by side, and how to switch."""
    from safeguard_streams.quality.evaluation import table_lines

    print("\n".join(table_lines(proposal.figures)))
    choices = proposal.choices(target_recall)
    for choice in choices:
        say(choice)
    if any(choice.more_labels for choice in choices):
        say("which assumes that the difference stays, and its interval narrows with the square root of the labels")
    aimed = proposal.aimed_recall(target_recall)
    say(
        f"threshold for recall {target_recall:.2f}: {threshold:g}, set for {aimed:.3f} on these rows: a standard error "
        f"above, because {counted(proposal.after.violating, 'violating row')} may flatter it"
    )
    if files:
        say(f"wrote {', '.join(map(str, files))}")
        print("to switch, put both files into the library and release the policy")
    else:
        print("wrote nothing; --out FOLDER writes the policy with its new gate")
