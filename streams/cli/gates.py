"""safeguard gates."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from safeguard_streams.cli import gate_advice_tables
from safeguard_streams.cli.options import Bootstrap, By, Json, Library, Why, changed_by, extra, output_file
from safeguard_streams.cli.output import console, say
from safeguard_streams.cli.policy_tables import print_plan, print_released
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment

if TYPE_CHECKING:  # these need the extra `quality`
    from safeguard_streams.quality.gate_advice import Advised
    from safeguard_streams.quality.gate_evidence import Evidence

app = typer.Typer(no_args_is_help=True, help="See which gate each policy should have next, and take it.")
TargetRecall = Annotated[float, typer.Option(min=0.5, max=0.999, help="Share of violating content to escalate.")]
Since = Annotated[
    str | None,
    typer.Option(help="Read verdicts written from this time on: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
]
GpuTokens = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Completion tokens per second of one GPU, from safeguard bench reason; by default the GPU time is "
        "estimated from the latency of judgements.",
    ),
]


class _Request(msgspec.Struct, frozen=True):
    """What advice is asked for."""

    current: settings.Settings
    target_recall: float
    since: datetime | None
    gpu_tokens: float | None


class _Answer(msgspec.Struct, frozen=True):
    """Advice by policy, and what it rests on. unread: why a policy in force is left out, by its id."""

    advised: dict[str, Advised]
    evidence: dict[str, Evidence]
    unread: dict[str, str]


@app.command("advise")
def advise(
    policies: Annotated[
        list[str] | None, typer.Argument(metavar="[POLICY]...", help="Ids of policies in force; default: all.")
    ] = None,
    target_recall: TargetRecall = 0.95,
    since: Since = None,
    gpu_tokens: GpuTokens = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=output_file, metavar="FILE", help="Plot the curves of all gates to this .svg or .png file."
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Propose the next gate of each policy in force, or name what is missing before one can be proposed.

    Shows live recall, the share of content escalated, its GPU hours, the labels at hand, and the curves of the gate in
    force and of the proposed one, on verdicts that neither saw. Changes nothing; safeguard gates take does.
    """
    request = _request(target_recall, since, gpu_tokens, bootstrap)
    answer = _advice(request, policies or [])
    if plot:
        _plot(answer, plot)
    if as_json:
        advice = {name: one.advice for name, one in answer.advised.items()}
        print(msgspec.json.encode({"policies": advice, "unread": answer.unread}).decode())
        return
    gate_advice_tables.show([one.advice for one in answer.advised.values()], answer.unread, plot)


@app.command("take")
def take(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Id of a policy in force.")],
    library: Library = LIBRARY,
    shadow: Annotated[
        float | None,
        typer.Option(
            min=0.0001, max=1.0, help="Share of content to judge under it first, as a shadow, for comparison."
        ),
    ] = None,
    target_recall: TargetRecall = 0.95,
    since: Since = None,
    gpu_tokens: GpuTokens = None,
    why: Why = "",
    by: By = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Take it even if it may lower recall below the target, without asking.")
    ] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Take the gate that advise proposes: fit it, write it into the policy's folder in the library, and release it.

    A folder that has no such policy gets the files. Asks first if the lower bound of live recall may fall below the
    target.
    """
    request = _request(target_recall, since, gpu_tokens, bootstrap)
    who = changed_by(why, by)
    with extra("all-cpu"):
        from safeguard_streams.quality import gate_taking
    gate_taking.require_own(library)
    answer = _advice(request, [policy])
    if policy not in answer.evidence:
        raise ConfigurationError(f"{policy}: {answer.unread[policy]}")
    (advice, gate, _), state = answer.advised[policy], answer.evidence[policy].state
    if gate is None or gate.files is None:
        raise ConfigurationError(f"{policy} has no gate to take: {gate_advice_tables.reason(advice)}")
    folder = gate_taking.policy_folder(library, state)
    if advice.lowers and shadow is None:
        say(f"{policy}: {advice.lowers}", error=True)
        if not yes and not typer.confirm("take it all the same?", err=True):
            raise typer.Exit(1)
    if not who.why:
        who = msgspec.structs.replace(who, why=advice.why)
    planned, released = asyncio.run(gate_taking.take(request.current, state, gate.files, folder, who, shadow=shadow))
    if as_json:
        done = {"version": released[0].version, "revision": released[0].revision, "shadow": shadow}
        print(msgspec.json.encode({"policy": policy, **done, "folder": str(folder), "advice": advice}).decode())
        return
    print_plan(planned, shadow=shadow is not None)
    print_released(released, shadow)
    gate_advice_tables.show_taken(advice, folder, shadow)


def _request(target_recall: float, since: str | None, gpu_tokens: float | None, bootstrap: str | None) -> _Request:
    start = moment(since, "--since") if since else None
    return _Request(settings.load(bootstrap=bootstrap), target_recall, start, gpu_tokens)


def _advice(request: _Request, policies: list[str]) -> _Answer:
    """Read the evidence and advise. Raises ConfigurationError for a policy that is not in force."""
    with extra("all-cpu"):
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.quality import gate_advice, gate_evidence
        from safeguard_streams.quality.gate_candidates import Scorers, encoder_at_hand
        from safeguard_streams.quality.gate_cost import cost_of
    current = request.current
    with shown_reading():
        read = asyncio.run(gate_evidence.read(current, policies, request.since))
    scorers = Scorers(Classifier(current.prefilter_model or SHIPPED), encoder_at_hand())
    advised = {}
    with console(stderr=True).status("comparing gates") as status:
        for name, evidence in read.policies.items():
            status.update(f"comparing gates of {name}")
            cost = cost_of(evidence, current, request.gpu_tokens)
            advised[name] = gate_advice.advise(evidence, scorers, cost, request.target_recall)
    return _Answer(advised, read.policies, read.unread)


def _plot(answer: _Answer, path: Path) -> None:
    from safeguard_streams.quality.evaluation import plot

    scored = [one for advised in answer.advised.values() for one in advised.scored]
    if not scored:
        raise ConfigurationError("--plot: no policy has a gate with a score and enough labels: there are no curves yet")
    plot(scored, path, "Gates, on verdicts that they did not see")
