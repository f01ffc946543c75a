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
    rate: Annotated[list[float], typer.Option(min=0.001, help="Events per second; may be given several times.")],
    share_escalated: Annotated[
        float,
        typer.Option(min=0.0, help="Judgements for each event: share escalated, times the policies that want it."),
    ] = 0.05,
    tokens: Annotated[float, typer.Option(min=1, help="Tokens of completion for each judgement.")] = 300.0,
    slo: Annotated[
        float, typer.Option(min=0.01, help="Seconds from an escalation to its verdict, for 99 of 100.")
    ] = 30.0,
    bench_prefilter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What safeguard bench prefilter --json said on such a host.")
    ] = None,
    bench_reason: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What safeguard bench reason --json said on such a GPU.")
    ] = None,
    prefilter_rate: Annotated[
        float | None, typer.Option(min=1, help="Events per second of one prefilter, in place of a file.")
    ] = None,
    gpu_tokens: Annotated[
        float | None, typer.Option(min=1, help="Tokens of completion per second of one GPU, in place of a file.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Judgements at once on one GPU.")] = 64,
    as_json: Json = False,
) -> None:
    """Partitions, prefilter processes and GPUs for a load, from what was measured on your hosts: safeguard bench prefilter and
    reason. The formula is in streams/capacity.py.
    """
    one = prefilter_rate or _figure(bench_prefilter, "events_per_s", "--bench-prefilter or --prefilter-rate")
    gpu = gpu_tokens or _figure(bench_reason, "tokens_per_s", "--bench-reason or --gpu-tokens")
    host = planning.Host(one, gpu, slots)
    rows: list[dict[str, Any]] = [
        {
            "events per s": each,
            "judgements per s": round(each * share_escalated, 3),
            **msgspec.structs.asdict(planning.plan(planning.Load(each, share_escalated, tokens, slo), host)),
        }
        for each in rate
    ]
    if not as_json:
        rows = [{name: f"{value:,}" for name, value in row.items()} for row in rows]
    show_rows(rows, "no rate", as_json=as_json)


def _figure(path: Path | None, name: str, options: str) -> float:
    """A figure of this pipeline from a benchmark's JSON."""
    if path is None:
        raise ConfigurationError(f"give {options}: how fast a host is has to be measured")
    try:
        return float(orjson.loads(path.read_bytes())["variants"]["safeguard"][name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: no figures of a benchmark with --json ({type(error).__name__})") from None
