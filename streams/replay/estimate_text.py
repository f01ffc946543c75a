"""What people read of an estimate, in the terminal and in the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeguard_streams.runtime.counts import counted

if TYPE_CHECKING:
    from safeguard_streams.replay.estimate import Estimate, JudgementCost, Source

_UNITS = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))
_CONCURRENCY: dict[Source, str] = {
    "settings": "SAFEGUARD_MAX_IN_FLIGHT here",
    "measured": "the most at one moment on all busy workers",
    "default": "assumed: the default of one worker",
}


def rows(estimate: Estimate, background_share: float) -> list[tuple[str, str]]:
    """What an estimate says and what it was computed from, as names and texts. background_share: of the workers."""
    lines = [
        ("events", f"{estimate.events:,} between the bounds"),
        ("judgements", f"about {estimate.judgements:,}, {_per_event(estimate)}"),
    ]
    cost = estimate.cost
    if cost is None:
        lines.append(("cost", "unknown: moderation.verdicts holds no judgement to measure"))
    else:
        alone = estimate.gpu_seconds or 0.0
        beside = f", {_span(alone / background_share)} beside live content" if background_share else ""
        lines += [
            (
                "tokens",
                f"about {estimate.prompt_tokens or 0:,} in prompts and {estimate.completion_tokens or 0:,} written",
            ),
            ("GPU time", f"about {_span(alone)} of {_workers(cost)}{beside}"),
        ]
    return [*lines, ("from", _basis(estimate))]


def _per_event(estimate: Estimate) -> str:
    return f"{estimate.escalated:.3g} per event, both versions together"


def _workers(cost: JudgementCost) -> str:
    return "all reasoning workers" if cost.source == "measured" else "one reasoning worker"


def _basis(estimate: Estimate) -> str:
    parts = [f"the gates on {estimate.looked_at:,} of the events"]
    cost = estimate.cost
    if cost is not None:
        parts += [
            f"the newest {counted(cost.measured, 'judgement')} under {', '.join(cost.policies)}",
            f"{cost.prompt_tokens:,.0f} + {cost.completion_tokens:,.0f} tokens and {cost.seconds:.2f} s for each",
            f"{counted(cost.concurrency, 'judgement')} at a time ({_CONCURRENCY[cost.source]})",
        ]
    return "; ".join(parts)


def _span(seconds: float) -> str:
    """A duration in its largest unit that it fills twice."""
    unit, name = next((one for one in _UNITS if seconds >= 2 * one[0]), _UNITS[-1])
    return f"{seconds / unit:,.0f} {name}"
