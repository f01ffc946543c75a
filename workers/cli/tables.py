"""Tables of a policy's trial, for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from safeguard_streams.cli.options import console
from safeguard_streams.workers.evaluation.golden_eval import Difference, Report

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def report(found: Report) -> None:
    """A golden set's figures and disagreements."""
    out = console()
    print(f"{found.policy_id} {found.version}, {found.texts} golden texts, model {found.model}")
    table = Table("labelled", "judged violates", "safe", "undetermined", box=None)
    for side, counts in found.confusion.items():
        table.add_row(side, *(f"{counts.get(name, 0):,}" for name in ("violates", "safe", "undetermined")))
    out.print(table)
    print(f"F1 {', '.join(f'{value:.3f}' for value in found.f1)}  precision {found.precision}  recall {found.recall}")
    rules = Table("rule", "texts", "recall", "cited", "precision", box=None)
    for rule, figures in found.rules.items():
        recall, precision = figures.recall, figures.precision
        rules.add_row(rule, str(recall.of), str(recall), str(precision.of), str(precision))
    out.print(rules)
    kinds = Table("kind", "texts", "judged as labelled", box=None)
    for kind, figures_of_kind in found.kinds.items():
        kinds.add_row(kind, str(figures_of_kind.of), str(figures_of_kind))
    out.print(kinds)
    if found.disagreements:
        print(f"{len(found.disagreements)} disagreements; either the policy's text is unclear, or the label is wrong:")
    for one in found.disagreements:
        said, text = one.said, one.golden
        score = "" if said.score is None else f", score {said.score:.2f}"
        out.print(f"  [bold]{escape(_short(text.text))}[/bold]", highlight=False)
        out.print(f"    labelled {text.decision} {text.rule} ({text.kind}, {text.language})", highlight=False)
        out.print(
            f"    judged {said.decision} {' '.join(said.rules)}{score}, otherwise than labelled in {one.runs} of {len(found.f1)} runs",
            highlight=False,
        )
        out.print(f"    rationale: {escape(_short(said.rationale or said.reason, 300))}", highlight=False)
    if found.noise is not None:
        print(
            f"noise floor, texts whose decision differs between runs: {found.noise.count} of {found.noise.of}, {found.noise}"
        )
    spent, judged = found.tokens, found.texts * len(found.f1)
    print(
        f"tokens: {spent.prompt:,} prompt ({spent.cached:,} cached), {spent.completion:,} completion; "
        f"{(spent.prompt + spent.completion) / judged:.0f} for each judgement"
    )


def _short(text: str, most: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def difference(found: Difference) -> None:
    """What changed in the text, and what flips."""
    out = console()
    for line in found.text:
        out.print(escape(line), style=_COLOURS.get(line[:1]), highlight=False, soft_wrap=True)
    if not found.text:
        print("the documents are the same")
    for what, rules in (("gone", found.rules_gone), ("new", found.rules_new)):
        if rules:
            print(f"rules {what}: {', '.join(rules)}")
    if found.f1 is None:
        return
    table = Table("golden text", "labelled", found.before, found.after, "every run", "reason", box=None)
    for flip in found.flips:
        table.add_row(
            escape(_short(flip.golden.text, 50)),
            f"{flip.golden.decision} {flip.golden.rule}",
            f"{flip.before.decision} {' '.join(flip.before.rules)}",
            f"{flip.after.decision} {' '.join(flip.after.rules)}",
            "yes" if flip.steady else "no",
            escape(_short(flip.after.reason, 50)),
        )
    out.print(table)
    print(
        f"{len(found.flips)} of {found.texts} golden verdicts flip; F1 {found.f1[0]:.3f} before, {found.f1[1]:.3f} after"
    )
    if found.noise is not None:
        print(
            f"noise floor, decisions that differ between runs of {found.before}: {found.noise.count} of {found.noise.of}"
        )
