"""The commands of `safeguard reason`, and `safeguard bench reason`."""

from __future__ import annotations

import asyncio
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from safeguard_streams.cli.benchmark import print_figures, run_benchmark
from safeguard_streams.cli.options import (
    Bootstrap,
    Data,
    Json,
    Library,
    Port,
    extra,
    load_policy,
    one_of,
    output_file,
)
from safeguard_streams.cli.output import say
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.quality import verdict_labels
from safeguard_streams.runtime import durations, settings
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import configure_logging
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.cli import tables
from safeguard_streams.workers.cli.progress import announce_start, progress_bars
from safeguard_streams.workers.inference.dialects import NAMES

if TYPE_CHECKING:
    from safeguard_streams.workers.evaluation.score_calibration import CalibrationFit

app = typer.Typer(no_args_is_help=True, help="The second stage: a reasoning model under written policies.")

Model = Annotated[
    str | None,
    typer.Option(
        help="Model folder, hub name, or 'small' (the model in the package). With --server: the name it serves."
    ),
]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", help="Inference server to use instead, as in http://gpu-1:8000/v1. Repeatable."),
]

Dialect = Annotated[
    str | None,
    typer.Option(
        parser=one_of("dialect", NAMES),
        metavar="NAME",
        help="Form of the served model's prompts, such as cope-a. Default: by its name.",
    ),
]
First = Annotated[
    list[str] | None,
    typer.Option("--first", metavar="URL", help="Inference server of a first judge, such as CoPE. Repeatable."),
]
FirstBand = Annotated[
    str | None,
    typer.Option(metavar="LOW:HIGH", help="Scores between which the first judge is unsure, as in 0.1:0.9."),
]


_CANARY_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")  # what Kafka allows in the name of a group


def settings_for(model: str | None, server: list[str] | None, **more: Any) -> Settings:
    return settings.load(model=model, servers=",".join(server) if server else None, **more)


@app.command("run")
def run(
    bootstrap: Bootstrap = None,
    model: Model = None,
    server: Servers = None,
    dialect: Dialect = None,
    first: First = None,
    first_band: FirstBand = None,
    port: Port = None,
) -> None:
    """Run the reasoning worker: judge escalations with the model in this process or on inference servers.

    With --first, a model that answers in one token judges before it and decides what it is sure of. SIGTERM stops the
    worker after its finished work is committed.
    """
    current = settings_for(
        model,
        server,
        bootstrap=bootstrap,
        dialect=dialect,
        first_servers=",".join(first) if first else None,
        first_band=first_band,
        reasoner_port=port,
    )
    check_port(current.host, current.reasoner_port)
    with extra("reasoner-gpu"):
        from safeguard_streams.workers import app as worker
    configure_logging(form=current.log_format)
    settings.log_misspelled()
    asyncio.run(worker.run(current))


@app.command("canary")
def canary(
    share: Annotated[
        float, typer.Option(min=0.0001, max=1.0, help="Share of live content items to judge, 0 to 1.")
    ] = 0.02,
    bootstrap: Bootstrap = None,
    model: Model = None,
    server: Servers = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name to resume under after a restart; default: that of the model and its revision."),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Time to judge, as in 2h or 1d; default: until stopped.")
    ] = None,
    port: Port = None,
) -> None:
    """Judge a share of live content with another model too, for comparison only.

    Begins with content that comes next. The verdicts go to moderation.replays, which enforcement never reads; see:
    safeguard policy compare --by model. SIGTERM or Ctrl-C stops it after its finished work is committed.
    """
    if not model and not server:
        raise typer.BadParameter("name the model to try by --server or --model", param_hint="--server")
    if name is not None and not _CANARY_NAME.match(name):
        raise typer.BadParameter("takes 1 to 100 letters, digits, '.', '_' and '-'", param_hint="--name")
    length = durations.span(time) if time else None
    if time is not None and not length:
        raise typer.BadParameter("takes a time span above 0, such as 30m, 2h or 1d", param_hint="--for")
    # The settings of the live workers, except for the model: that of the server, or else one in this process.
    current = settings.load(bootstrap=bootstrap, model=model or "", servers=",".join(server or ()), canary_port=port)
    check_port(current.host, current.canary_port)
    with extra("reasoner-gpu"):
        from safeguard_streams.workers import canary as worker
        from safeguard_streams.workers.app import serve
    configure_logging(form=current.log_format)
    plan = worker.CanaryPlan(share, name, length)
    asyncio.run(serve(worker.CanaryWorker(current, plan), current.canary_port))


@app.command("calibrate")
def calibrate(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="Id of a policy in the library, or a policy.md file.")
    ],
    labels: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Texts labelled by people: JSON lines {text, violates}.")
    ],
    library: Library = LIBRARY,
    model: Model = None,
    server: Servers = None,
    write: Annotated[bool, typer.Option("--write", help="Set the fitted map in the policy's file.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(parser=output_file, metavar="FILE", help="Draw a reliability diagram: a .svg or .png file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well calibrated a policy's scores are, and fit a map from scores to probabilities.

    Prints reliability by bin and the expected calibration error on labelled texts. Verdicts name the map once the
    policy is released with it.
    """
    document, path = load_policy(policy, library)
    rows = verdict_labels.from_file(labels).rows
    current = settings_for(model, server, first_servers="")  # the map is for the model's own scores
    with extra("all-cpu"):
        from safeguard_streams.workers.evaluation import offline, score_calibration

    async def judge_and_fit() -> CalibrationFit:
        with progress_bars() as on_progress:
            async with offline.offline_judge(current, on_progress, [document]) as judge:
                return await score_calibration.calibrate(judge, document, rows)

    announce_start(current)
    fitted = asyncio.run(judge_and_fit())
    if plot:
        score_calibration.plot(fitted, plot, f"{document.id}, version {document.version}")
    if write:
        score_calibration.write_score_map(document, path, fitted.score_map)
    if as_json:
        print(msgspec.json.encode({"name": fitted.score_map.name, **msgspec.to_builtins(fitted)}).decode())
        return
    tables.calibration(fitted, len(rows))
    say(f"wrote the map to {path}" if write else "changed nothing; --write sets the map in the policy's file")


@app.command("train-small")
def train_small(
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            parser=output_file,
            metavar="FILE",
            help="Compacted model to write; its model card goes beside it as card.md.",
        ),
    ] = Path("model.safetensors"),
    validation: Annotated[Path | None, typer.Option(help="Folder of sources to measure on, never to train on.")] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="Time of the training on one core; a repeated command continues it.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Train the small model for machines without a GPU, and measure it through vLLM.

    The small model is only for trying the pipeline.
    """
    with extra("reasoner-gpu"):
        from safeguard_streams.workers.small import report
    with progress_bars() as on_progress:
        card = report.train_and_measure(data, validation, out, minutes, seed, on_progress)
    print(card)


def bench_reason(
    count: Annotated[int, typer.Option(min=20, help="Content items to judge; at least 5 for each in flight.")] = 300,
    model: Annotated[
        str, typer.Option(help="Model folder, hub name, or 'small' (the model in the package).")
    ] = "small",
    in_flight: Annotated[
        int | None,
        typer.Option(
            min=1, help="Requests that each engine computes at once. Default: SAFEGUARD_MAX_IN_FLIGHT, or by device."
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Instead, measure vLLM alone at several numbers of requests at once, with answers as long as "
            "gpt-oss-safeguard-20b's, for safeguard capacity.",
        ),
    ] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Measure the reasoning worker from Kafka to Kafka, exactly once.

    Compares it with vLLM alone and with a plain loop of chat calls, also with 30% duplicates, and measures the latency
    of live content beside a replay. Counts answers by how they were had, and tokens of second tries.
    """
    with extra("all-cpu"):
        from safeguard_streams.workers.bench import run
    if sweep:
        with tempfile.TemporaryDirectory(prefix="safeguard-bench-") as folder:
            figures = asyncio.run(run.sweep(count, model, in_flight, Path(folder), partial(say, error=True)))
        print_figures(figures, as_json=as_json)
        return
    run_benchmark(
        lambda address, folder, say: run.reason(address, count, model, in_flight, folder, say), bootstrap, as_json
    )
