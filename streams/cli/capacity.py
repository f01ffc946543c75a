"""safeguard capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from safeguard_streams.cli.options import Json, show_rows
from safeguard_streams.cli.output import plain
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations import capacity as planning

_Slots = Annotated[int, msgspec.Meta(ge=1)]
_LONGEST = 1_000_000  # tokens of an answer


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
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="MEAN|P10,P50,P90,P99",
            help="Completion tokens per judgement: four percentiles, or a mean of lengths that spread as gpt-oss's do. "
            "Default: those of --bench-reason, or 72,171,749,1641, of 6,571 logged outputs of gpt-oss-safeguard-20b.",
        ),
    ] = None,
    slo: Annotated[
        float, typer.Option(min=0.01, help="Seconds from escalation to verdict, for 99% of judgements.")
    ] = 30.0,
    bench_prefilter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Output of safeguard bench prefilter --json on a similar host.")
    ] = None,
    bench_reason: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Output of safeguard bench reason --sweep --json on a similar GPU."),
    ] = None,
    prefilter_rate: Annotated[
        float | None, typer.Option(min=1, help="Events per second of one prefilter, instead of --bench-prefilter.")
    ] = None,
    gpu_tokens: Annotated[
        float | None, typer.Option(min=1, help="Completion tokens per second of one GPU, instead of --bench-reason.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Concurrent judgements on one GPU, with --gpu-tokens.")] = 64,
    as_json: Json = False,
) -> None:
    """Plan partitions, prefilter processes and GPUs for a load, from benchmarks on your hosts.

    Run safeguard bench prefilter and safeguard bench reason --sweep first. The formula is in the guide to capacity
    planning, docs/guides/capacity.md.
    """
    reasoner = _figures(bench_reason, ReasonFigures) if bench_reason else ReasonFigures({})
    lengths = _lengths(tokens) if tokens else reasoner.completion_tokens or planning.LOGGED
    host = planning.MeasuredHost(
        prefilter_rate or _prefilter_rate(bench_prefilter),
        [planning.GpuSpeed(slots, gpu_tokens)] if gpu_tokens else _gpu_speeds(reasoner, bench_reason),
    )
    rows: list[dict[str, Any]] = [
        {
            "events_per_s": each,
            "judgements_per_s": round(each * share_escalated, 3),
            **msgspec.structs.asdict(planning.plan(planning.Load(each, share_escalated, lengths, slo), host)),
        }
        for each in rate
    ]
    if not as_json:
        rows = [{name: f"{value:,}" for name, value in row.items()} for row in rows]
    show_rows(rows, "no rate", as_json=as_json)


class _PrefilterRow(msgspec.Struct, frozen=True):
    events_per_s: float


class PrefilterFigures(msgspec.Struct, frozen=True):
    """The part of the output of safeguard bench prefilter that a plan needs."""

    variants: dict[str, _PrefilterRow]


class _ReasonRow(msgspec.Struct, frozen=True):
    tokens_per_s: float = 0.0
    in_flight: _Slots | None = None


class ReasonFigures(msgspec.Struct, frozen=True):
    """The part of the output of safeguard bench reason that a plan needs, with --sweep or without."""

    variants: dict[str, _ReasonRow]
    in_flight: _Slots = 64
    completion_tokens: planning.AnswerLengths | None = None


Figures = TypeVar("Figures", PrefilterFigures, ReasonFigures)


def _figures(path: Path, kind: type[Figures]) -> Figures:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise _not_a_benchmark(path, type(error).__name__) from None


def _not_a_benchmark(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: not the output of a benchmark ({why}): give the output of safeguard bench --json"
    )


def _prefilter_rate(path: Path | None) -> float:
    if path is None:
        raise _needs("--bench-prefilter or --prefilter-rate")
    found = _figures(path, PrefilterFigures).variants.get("safeguard")
    if found is None or found.events_per_s <= 0:
        raise _not_a_benchmark(path, "no events per second")
    return found.events_per_s


def _gpu_speeds(figures: ReasonFigures, path: Path | None) -> list[planning.GpuSpeed]:
    """Each step of a sweep, or else what the worker did at its number of requests at once."""
    if path is None:
        raise _needs("--bench-reason or --gpu-tokens")
    steps = [(row.in_flight, row.tokens_per_s) for row in figures.variants.values() if row.in_flight]
    if not steps and (worker := figures.variants.get("safeguard")):
        steps = [(figures.in_flight, worker.tokens_per_s)]
    if not steps or any(speed <= 0 for _, speed in steps):
        raise _not_a_benchmark(path, "no tokens per second")
    return [planning.GpuSpeed(slots, speed) for slots, speed in steps]


def _needs(options: str) -> ConfigurationError:
    return ConfigurationError(f"give {options}: a plan needs the measured speed of your hosts")


def _lengths(given: str) -> planning.AnswerLengths:
    """Four percentiles, or the logged outputs scaled to a mean."""
    try:
        numbers = [float(number) for number in given.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 4) or not 1 <= numbers[0] <= numbers[-1] <= _LONGEST or numbers != sorted(numbers):
        raise ConfigurationError(
            f"--tokens {plain(given)}: give a mean, as in 300, or four rising percentiles, as in 72,171,749,1641"
        )
    return planning.LOGGED.scaled(numbers[0]) if len(numbers) == 1 else planning.AnswerLengths(*numbers)
