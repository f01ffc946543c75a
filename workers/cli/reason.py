"""safeguard reason."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from safeguard_streams.cli.benchmark import run_benchmark
from safeguard_streams.cli.options import Bootstrap, Data, Json, Library, console, load_policy, needs_extra
from safeguard_streams.policies.files import LIBRARY, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.quality import verdict_labels
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import configure_logging
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The second stage: a reasoning model under written policies.")

Model = Annotated[
    str | None,
    typer.Option(help="A folder, a hub name, or 'small' (the model in the package); of a server, what it serves."),
]
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server", help="Ask this inference server instead, as in http://gpu-1:8000/v1; may be given several times."
    ),
]


def settings_for(model: str | None, server: list[str] | None, **more: Any) -> Settings:
    return settings.load(model=model, servers=",".join(server) if server else None, **more)


@app.command("run")
def run(
    bootstrap: Bootstrap = None,
    model: Model = None,
    server: Servers = None,
    port: Annotated[int | None, typer.Option(help="Port of the health endpoint.")] = None,
) -> None:
    """Judge what was escalated, with the model in this process or on inference servers. Ends on SIGTERM with its work
    committed.
    """
    try:
        from safeguard_streams.workers import app as worker
    except ImportError as error:
        raise needs_extra(error, "reasoner-gpu") from error
    current = settings_for(model, server, bootstrap=bootstrap, reasoner_port=port)
    configure_logging(form=current.log_format)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(worker.run(current))


@app.command("calibrate")
def calibrate(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="Id of a policy in the library, or a policy.md file.")
    ],
    labels: Annotated[Path, typer.Option(help="JSON lines {text, violates}, labelled by people.")],
    library: Library = LIBRARY,
    model: Model = None,
    server: Servers = None,
    write: Annotated[bool, typer.Option("--write", help="Set the map in the policy's file.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the reliability: a .svg or .png file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure what a policy's scores are worth on labelled texts (reliability, expected calibration error), and fit the
    map that makes probabilities of them. Verdicts name the map once the policy is released with it.
    """
    try:
        from safeguard_streams.workers.evaluation import offline, score_calibration
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    document, path = load_policy(policy, library)
    rows = verdict_labels.from_file(labels).rows
    plain = parse(with_changes(document.document, "judging", score_map=None), str(path), document.distilled_file)

    async def work() -> list[float | None]:
        async with offline.measurement(settings_for(model, server)) as measured:
            judged = await measured.judge(plain, [row.text or "" for row in rows])
        return [judgement.findings[0].score for judgement in judged]

    found = asyncio.run(work())
    scored = [(score, row.violates) for score, row in zip(found, rows, strict=True) if score is not None]
    fitted = score_calibration.fit([score for score, _ in scored], [violates for _, violates in scored])
    if plot:
        score_calibration.plot(fitted, plot, f"{document.id}, version {document.version}")
    if write:
        score_map = msgspec.to_builtins(fitted.score_map)
        path.write_text(with_changes(document.document, "judging", score_map=score_map), encoding="utf-8")
    if as_json:
        print(msgspec.json.encode({"name": fitted.score_map.name, **msgspec.to_builtins(fitted)}).decode())
        return
    table = Table("score", "contents", "mean score", "violating", box=None)
    for b in fitted.before.bins:
        table.add_row(f"{int(b.score * 10) / 10:.1f}", f"{b.count:,}", f"{b.score:.3f}", f"{b.violating:.3f}")
    console().print(table)
    print(f"{fitted.rows:,} of {len(rows):,} contents have a score, {fitted.violating:,} of them violate")
    print(f"expected calibration error {fitted.before.error:.3f}, Brier score {fitted.before.brier:.3f}")
    print(
        f"mapped (by folds, on contents that the map did not see): {fitted.after.error:.3f}, {fitted.after.brier:.3f}; "
        f"map {fitted.score_map.name}"
    )
    print(f"written to {path}" if write else "nothing was changed; --write sets the map in the policy's file")


@app.command("train-small")
def train_small(
    data: Data,
    out: Annotated[Path, typer.Option(help="The compacted model to write; its card goes beside it as card.md.")] = Path(
        "model.safetensors"
    ),
    validation: Annotated[Path | None, typer.Option(help="Folder of sources that are only measured on.")] = None,
    steps: Annotated[int, typer.Option(help="Batches of 32; 12,000 take about 45 minutes on two cores.")] = 12_000,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Train the small model for machines without a GPU, and measure it through vLLM. It is for trying the pipeline only."""
    try:
        from safeguard_streams.workers.small import report
    except ImportError as error:
        raise needs_extra(error, "reasoner-gpu") from error
    report.train_and_measure(data, validation, out, steps, seed)


def bench_reason(
    count: Annotated[int, typer.Option(min=20, help="Contents to judge.")] = 300,
    model: Annotated[str, typer.Option(help="A folder, a hub name, or 'small' (the model in the package).")] = "small",
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Judgements from Kafka to Kafka, exactly once, beside the engine alone and a plain loop of chat calls; with 30 %
    duplicates; and the latency of live content beside a replay. SAFEGUARD_MAX_IN_FLIGHT sets how many at once.
    """
    try:
        from safeguard_streams.workers.bench import run
    except ImportError as error:
        raise needs_extra(error, "all-cpu") from error
    run_benchmark(lambda address, folder, say: run.reason(address, count, model, folder, say), bootstrap, as_json)
