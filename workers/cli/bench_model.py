"""`safeguard bench model`: a model on published, labelled data."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from safeguard_streams.cli.options import Json, extra, one_of
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.vocabulary import EFFORTS, Effort
from safeguard_streams.workers.cli.progress import announce_start, progress_bars
from safeguard_streams.workers.cli.reason import Dialect, Model, Servers, settings_for

if TYPE_CHECKING:
    from safeguard_streams.policies.document import Policy
    from safeguard_streams.runtime.settings import Settings
    from safeguard_streams.workers.evaluation.benchmark.data import Dataset, Format
    from safeguard_streams.workers.evaluation.benchmark.report import Report


def bench_model(
    layout: Annotated[
        Literal["openai-mod", "toxicchat", "jsonl"],
        typer.Option(
            "--format",
            help="openai-mod: OpenAI's moderation set of 2022. toxicchat: ToxicChat. jsonl: your own lines "
            '{"text": ..., "labels": {"POLICY-ID": true}}.',
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="The file, which you download: JSON lines or CSV, plain or with gzip."
        ),
    ],
    policies: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            show_default="those of the package for the format",
            help="Folder of policies, one ID/policy.md each. IDs are the names of the labels.",
        ),
    ] = None,
    effort: Annotated[
        str | None, typer.Option(parser=one_of("effort", EFFORTS), metavar="EFFORT", help="low, medium or high.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="Of every request; default: that of the policies, 0.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=20, help="Times to judge each text; figures are their means.")] = 1,
    model: Model = None,
    server: Servers = None,
    dialect: Dialect = None,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            show_default="bench-FORMAT",
            help="Folder for results.json and rows.jsonl, which has hashes of the texts and no text.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the benchmark in the folder, if there is one."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a model on labelled data: OpenAI's moderation set of 2022, ToxicChat, or your own.

    Shows F1, precision, recall and the area under the precision-recall curve for each policy and their union, with 95%
    intervals, beside the figures of the technical report of gpt-oss-safeguard. Also shows how many answers had the
    required form, and the tokens. Needs no Kafka.
    """
    with extra("all-cpu"):
        from safeguard_streams.workers.evaluation.benchmark import data as datasets
        from safeguard_streams.workers.evaluation.benchmark import report as reports
        from safeguard_streams.workers.evaluation.benchmark import run as benchmark
        from safeguard_streams.workers.evaluation.benchmark.journal import RESULTS
    chosen = datasets.FORMATS[layout]
    if policies is None and not chosen.labels:
        raise ConfigurationError("--format jsonl needs --policies, a folder with ID/policy.md for each label")
    documents = benchmark.load_policies(policies or datasets.POLICIES / layout, chosen)
    dataset = datasets.read(data, chosen, [policy.id for policy in documents])
    folder = _folder(out or Path(f"bench-{layout}"), resume=resume)
    if effort:
        documents = [msgspec.structs.replace(policy, effort=effort) for policy in documents]
    current = settings_for(model, server, dialect=dialect)
    for line in _about(dataset, chosen):
        say(line, error=True)
    announce_start(current)
    sampling = _Sampling(effort, temperature, runs)  # type: ignore[arg-type]  # the parser admits efforts only
    try:
        results = asyncio.run(_run(current, documents, dataset, chosen, sampling, folder))
    except KeyboardInterrupt:
        say(f"stopped; the same command with --resume goes on from {folder}", error=True)
        raise
    reports.write(results, folder / RESULTS)
    if as_json:
        print(msgspec.json.encode(results).decode())
        return
    _show(results)
    say(f"wrote {folder / RESULTS}")


class _Sampling(msgspec.Struct, frozen=True):
    effort: Effort | None
    temperature: float | None
    runs: int


def _folder(folder: Path, *, resume: bool) -> Path:
    """The folder of the results. Raises ConfigurationError where it holds a benchmark that is not to go on."""
    from safeguard_streams.workers.evaluation.benchmark.journal import ROWS

    if (folder / ROWS).exists() and not resume:
        raise ConfigurationError(f"{folder} holds a benchmark: go on with --resume, or name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _about(dataset: Dataset, layout: Format) -> list[str]:
    from safeguard_streams.workers.evaluation.benchmark.data import identity

    lines = [f"data: {identity(dataset, layout)}", f"sha256 of the file: {dataset.sha256}"]
    if dataset.without_text:
        lines.append(f"left out, without a text: {dataset.without_text:,}")
    if dataset.without_label:
        lines.append(f"left out, without a label of these policies: {dataset.without_label:,}")
    if dataset.unmeasured:
        lines.append(f"labels without a policy, not measured: {', '.join(dataset.unmeasured)}")
    return lines


async def _run(
    settings: Settings,
    policies: list[Policy],
    dataset: Dataset,
    layout: Format,
    sampling: _Sampling,
    folder: Path,
) -> Report:
    from safeguard_streams.workers.evaluation import offline
    from safeguard_streams.workers.evaluation.benchmark import journal, report, run

    with progress_bars() as on_progress:
        async with offline.offline_judge(settings, on_progress, policies, sampling.temperature) as judge:
            versions = {policy.id: policy.version for policy in policies}
            conditions = journal.Conditions(
                layout.name, dataset.sha256, judge.model, versions, sampling.effort, sampling.temperature
            )
            with journal.Journal(folder / journal.ROWS, conditions) as lines:
                await run.run(judge, policies, dataset.rows, sampling.runs, lines, on_progress)
    return report.report(layout, dataset, conditions, lines.judged, sampling.runs)


def _show(results: Report) -> None:
    conditions, runs = results.conditions, results.runs
    say(
        f"{conditions.format}, {results.rows:,} rows, model {conditions.model}, effort "
        f"{conditions.effort or 'of the policies'}, {runs} run{'s' * (runs > 1)}"
    )
    of_union = {"union": results.union} if results.union else {}
    figures = {**results.policies, **of_union}
    quality = Table("policy", "violating", "F1", "precision", "recall", box=None)
    scores = Table("policy", "AUPRC", "undetermined", "F1 with undetermined flagged", "noise", box=None)
    for name, one in figures.items():
        quality.add_row(name, f"{one.violating:,} of {one.rows:,}", one.f1, one.precision, one.recall)
        noise = "-" if one.noise is None else f"{one.noise.count:,} of {one.noise.of:,}"
        undetermined = f"{one.undetermined.count:,} of {one.undetermined.of:,}"
        scores.add_row(name, one.auprc, undetermined, one.f1_undetermined_flagged, noise)
    console().print(quality)
    console().print(scores)
    if results.exact_match is not None:
        say(f"exact match, rows whose decisions agree with all their labels: {results.exact_match}")
    _show_parsing(results)
    _show_reference(results)


def _show_parsing(results: Report) -> None:
    parsing, tokens = results.parsing, results.tokens
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in parsing.refused.items())
    say(f"answers in the required form: first try {parsing.first_try}, overall {parsing.overall}")
    if reasons:
        say(f"rejected outputs: {reasons}")
    mean = tokens.completion / max(results.judgements, 1)
    say(
        f"tokens: {tokens.prompt:,} prompt ({tokens.cached:,} cached), {tokens.completion:,} completion, "
        f"{mean:.0f} for each of {results.judgements:,} judgements"
    )


def _show_reference(results: Report) -> None:
    if results.compared is None:
        return
    table = Table(f"F1 of {results.reference_figure}", "", "source", box=None)
    table.add_row(results.conditions.model, results.compared.f1, "this benchmark")
    for name, f1 in results.reference.items():
        table.add_row(name, f"{f1:.3f}", "technical report of gpt-oss-safeguard")
    console().print(table)
    say("the report's policies were others: compare with care")
    say(f"data: {results.data}")
