"""All results of a benchmark, computed from its journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from safeguard_streams.contract.records import Tokens
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.workers.evaluation.benchmark.data import UNION, Dataset, Format, identity
from safeguard_streams.workers.evaluation.benchmark.figures import Estimate, Figures, measure
from safeguard_streams.workers.evaluation.benchmark.journal import Conditions, Judged, of_run
from safeguard_streams.workers.judging.judgement import total_tokens


class Parsing(msgspec.Struct, frozen=True):
    """How many judgements had an answer in the required form: at the first try, and at the end.

    refused: rejected outputs by reason.
    """

    first_try: Proportion
    overall: Proportion
    refused: Mapping[str, int]


class Report(msgspec.Struct, frozen=True):
    """The results of a benchmark, as results.json has them.

    data: whether the file is a published one. unmeasured: labels of the file without a policy.
    union and exact_match: None for one policy. reference: F1 of the technical report by model, for the figure
    `reference_figure`; empty where the figures are not of the same labels.
    """

    conditions: Conditions
    runs: int
    data: str
    rows_in_file: int
    rows: int
    distinct_texts: int
    without_text: int
    without_label: int
    unmeasured: tuple[str, ...]
    policies: Mapping[str, Figures]
    union: Figures | None
    exact_match: Estimate | None
    parsing: Parsing
    judgements: int
    tokens: Tokens
    reference_figure: str | None
    reference: Mapping[str, float]

    @property
    def compared(self) -> Figures | None:
        """The figures that stand beside those of the technical report."""
        if self.reference_figure is None:
            return None
        return self.union if self.reference_figure == UNION else self.policies[self.reference_figure]


def report(layout: Format, dataset: Dataset, conditions: Conditions, lines: Sequence[Judged], runs: int) -> Report:
    """The report of a benchmark whose journal is complete for these rows, policies and runs."""
    texts = {row.sha256 for row in dataset.rows}
    lines = [line for line in lines if line.run < runs and line.row in texts]
    policies = sorted(conditions.policies)
    measured = measure(dataset.rows, policies, [of_run(lines, run) for run in range(runs)])
    figures = dict(measured.figures)
    union = figures.pop(UNION) if measured.exact_match is not None else None
    reference = layout.reference
    if reference and not ({reference.figure} <= set(policies) or set(policies) == set(layout.labels)):
        reference = None
    return Report(
        conditions=conditions,
        runs=runs,
        data=identity(dataset, layout),
        rows_in_file=dataset.rows_in_file,
        rows=len(dataset.rows),
        distinct_texts=len(texts),
        without_text=dataset.without_text,
        without_label=dataset.without_label,
        unmeasured=dataset.unmeasured,
        policies=figures,
        union=union,
        exact_match=measured.exact_match,
        parsing=_parsing(lines),
        judgements=len(lines),
        tokens=total_tokens(line.tokens for line in lines),
        reference_figure=reference.figure if reference else None,
        reference=reference.f1 if reference else {},
    )


def _parsing(lines: Sequence[Judged]) -> Parsing:
    decided = [all(result.decision != "undetermined" for result in line.results.values()) for line in lines]
    first = sum(answered and not line.refused for answered, line in zip(decided, lines, strict=True))
    refused = Counter(reason for line in lines for reason in line.refused)
    return Parsing(proportion(first, len(lines)), proportion(sum(decided), len(lines)), dict(refused.most_common()))


def write(results: Report, path: Path) -> None:
    """Write results.json."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
