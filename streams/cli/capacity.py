"""safeguard capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer

from safeguard_streams.cli.options import Json, show_rows
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations import capacity as planning


def capacity(
    rate: Annotated[
        list[float], typer.Option(min=0.001, help="Events per second; repeat the option to compare rates.")
    ],
    share_escalated: Annotated[
        float,
        typer.Option(
            min=0.0, help="Judgements per event: share of events escalated, times policies per escalated event."
        ),
    ] = 0.05,
    tokens: Annotated[float, typer.Option(min=1, help="Completion tokens per judgement.")] = 300.0,
    slo: Annotated[
        float, typer.Option(min=0.01, help="Seconds from escalation to verdict, for 99% of judgements.")
    ] = 30.0,
    bench_prefilter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Output of safeguard bench prefilter --json on a similar host.")
    ] = None,
    bench_reason: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Output of safeguard bench reason --json on a similar GPU.")
    ] = None,
    prefilter_rate: Annotated[
        float | None, typer.Option(min=1, help="Events per second of one prefilter, instead of --bench-prefilter.")
    ] = None,
    gpu_tokens: Annotated[
        float | None, typer.Option(min=1, help="Completion tokens per second of one GPU, instead of --bench-reason.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Concurrent judgements on one GPU.")] = 64,
    as_json: Json = False,
) -> None:
    """Plan partitions, prefilter processes and GPUs for a load, from benchmarks on your hosts.

    Run safeguard bench prefilter and safeguard bench reason first. The formula is in streams/operations/capacity.py.
    """
    host = planning.MeasuredHost(
        prefilter_rate or _benchmark_result(bench_prefilter, "events_per_s", "--bench-prefilter or --prefilter-rate"),
        gpu_tokens or _benchmark_result(bench_reason, "tokens_per_s", "--bench-reason or --gpu-tokens"),
        slots,
    )
    rows: list[dict[str, Any]] = [
        {
            "events_per_s": each,
            "judgements_per_s": round(each * share_escalated, 3),
            **msgspec.structs.asdict(planning.plan(planning.Load(each, share_escalated, tokens, slo), host)),
        }
        for each in rate
    ]
    if not as_json:
        rows = [{name: f"{value:,}" for name, value in row.items()} for row in rows]
    show_rows(rows, "no rate", as_json=as_json)


def _benchmark_result(path: Path | None, name: str, options: str) -> float:
    """A result of this pipeline from a benchmark's JSON."""
    if path is None:
        raise ConfigurationError(f"give {options}: a plan needs the measured speed of your hosts")
    try:
        return float(orjson.loads(path.read_bytes())["variants"]["safeguard"][name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: not the output of a benchmark ({type(error).__name__}): give the output of safeguard bench --json"
        ) from None
