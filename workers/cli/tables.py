"""Tables of evaluations for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from safeguard_streams.cli.output import Table, console, plain, say
from safeguard_streams.workers.evaluation.golden_eval import Disagreement, GoldenReport, PolicyDifference

if TYPE_CHECKING:
    from safeguard_streams.workers.evaluation.score_calibration import CalibrationFit

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def golden_report(report: GoldenReport) -> None:
    """Print the figures and disagreements of a golden set."""
    out = console()
    say(f"{report.policy_id} {report.version}, {report.texts} golden texts, model {report.model}")
    table = Table("labelled", "judged violates", "safe", "undetermined", box=None)
    for side, counts in report.confusion.items():
        table.add_row(side, *(f"{counts.get(name, 0):,}" for name in ("violates", "safe", "undetermined")))
    out.print(table)
    say(f"F1 {', '.join(f'{value:.3f}' for value in report.f1)}  precision {report.precision}  recall {report.recall}")
    rules = Table("rule", "texts", "recall", "cited", "precision", box=None)
    for rule, figures in report.rules.items():
        recall, precision = figures.recall, figures.precision
        rules.add_row(rule, str(recall.of), str(recall), str(precision.of), str(precision))
    out.print(rules)
    kinds = Table("kind", "texts", "judged as labelled", box=None)
    for kind, accuracy in report.kinds.items():
        kinds.add_row(kind, str(accuracy.of), str(accuracy))
    out.print(kinds)
    if report.disagreements:
        count = len(report.disagreements)
        say(f"{count} disagreement{'s' * (count > 1)}; for each, the policy's text is unclear or the label is wrong:")
    for disagreement in report.disagreements:
        _disagreement(disagreement, len(report.f1))
    if report.noise is not None:
        noise = report.noise
        say(f"noise floor, texts whose decision differs between runs: {noise.count} of {noise.of}, {noise}")
    tokens, judgements = report.tokens, report.texts * len(report.f1)
    say(
        f"tokens: {tokens.prompt:,} prompt ({tokens.cached:,} cached), {tokens.completion:,} completion; "
        f"{(tokens.prompt + tokens.completion) / judgements:.0f} for each judgement"
    )


def _disagreement(disagreement: Disagreement, runs: int) -> None:
    outcome, text = disagreement.outcome, disagreement.golden
    score = "" if outcome.score is None else f", score {outcome.score:.2f}"
    judged = f"{outcome.decision} {' '.join(outcome.rules)}{score}"
    console().print(Text(plain(f"  {_short(text.text)}"), style="bold"))
    for line in (
        f"    labelled {text.decision} {text.rule} ({text.kind}, {text.language})",
        f"    judged {judged}; differs from the label in {disagreement.runs} of {runs} runs",
        f"    rationale: {_short(outcome.rationale or outcome.reason, 300)}",
    ):
        say(line)


def _short(text: str, max_length: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


def difference(policies: PolicyDifference) -> None:
    """Print the changes in the text, and the golden verdicts that flip."""
    out = console()
    for line in policies.text:
        out.print(Text(plain(line), style=_COLOURS.get(line[:1], "")), soft_wrap=True)
    if not policies.text:
        print("the documents are equal")
    for change, rules in (("removed", policies.rules_removed), ("added", policies.rules_added)):
        if rules:
            say(f"rules {change}: {', '.join(rules)}")
    if policies.f1 is None:
        return
    table = Table("golden text", "labelled", policies.before, policies.after, "every run", "reason", box=None)
    for flip in policies.flips:
        table.add_row(
            _short(flip.golden.text, 50),
            f"{flip.golden.decision} {flip.golden.rule}",
            f"{flip.before.decision} {' '.join(flip.before.rules)}",
            f"{flip.after.decision} {' '.join(flip.after.rules)}",
            "yes" if flip.steady else "no",
            _short(flip.after.reason, 50),
        )
    out.print(table)
    f1_before, f1_after = policies.f1
    flips = f"{len(policies.flips)} of {policies.texts} golden verdicts flip"
    say(f"{flips}; F1 {f1_before:.3f} before, {f1_after:.3f} after")
    if policies.noise is not None:
        noise = policies.noise
        say(f"noise floor, decisions that differ between runs of {policies.before}: {noise.count} of {noise.of}")


def calibration(fitted: CalibrationFit, rows: int) -> None:
    """Print the calibration of raw and mapped scores. rows: labelled texts, with and without a score."""
    table = Table("score", "texts", "mean score", "violating", box=None)
    for b in fitted.before.bins:
        table.add_row(f"{int(b.score * 10) / 10:.1f}", f"{b.count:,}", f"{b.score:.3f}", f"{b.violating:.3f}")
    console().print(table)
    say(f"{fitted.rows:,} of {rows:,} texts have a score; {fitted.violating:,} of them violate")
    say(f"expected calibration error {fitted.before.error:.3f}, Brier score {fitted.before.brier:.3f}")
    say(
        f"after the map {fitted.score_map.name} (cross-validated): expected calibration error "
        f"{fitted.after.error:.3f}, Brier score {fitted.after.brier:.3f}"
    )
