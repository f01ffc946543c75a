"""What the commands of `safeguard gates` print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safeguard_streams.cli.output import plain, say
from safeguard_streams.cli.texts import Labelled, show_item

if TYPE_CHECKING:  # these need the extra `quality`
    from safeguard_streams.quality.gate_advice import Advice
    from safeguard_streams.quality.gate_curve import CurvePoint

_BAR = 32  # characters of a curve's axis


def show(advice: Sequence[Advice], unread: Mapping[str, str], plot: Path | None) -> None:
    """The advice for each policy."""
    from safeguard_streams.quality.gate_rungs import WORDS

    if not advice and not unread:
        print("no policy is in force; release some with: safeguard policy release --all-new")
    for one in advice:
        heading = f"{one.policy_id}: {WORDS[one.rung]}, version {one.version}, revision {one.revision}"
        show_item(heading, [*_now(one), *_next(one)])
        for line in curves(one):
            say(line)
    for name, why in unread.items():
        say(f"{name}: left out, {why}")
    if plot:
        say(f"plot: {plot}")


def reason(advice: Advice) -> str:
    """What to do, and why."""
    if advice.action in ("take", "compare"):
        return advice.why
    said = {"collect": "collect labels", "keep": "keep this gate"}[advice.action]
    if advice.more_labels:
        said += f", about {advice.more_labels:,} more"
        said += f" ({_days(advice.days)} at the rate of now)" if advice.days is not None else ""
    return f"{said}: {advice.why}"


def _days(days: float) -> str:
    hours = days * 24
    return f"{days:,.0f} days" if days >= 2 else f"{hours:,.0f} hours" if hours >= 2 else "2 hours"


def _now(advice: Advice) -> Iterator[Labelled]:
    """How the gate in force does, and what there is to compare it with others."""
    live, labels, cost = advice.live, advice.labels, advice.cost
    if advice.rung == "everything":
        yield Labelled("live recall", "1: everything is escalated")
    elif live is None:
        yield Labelled("live recall", "nothing was judged under this version yet")
    elif live.recall is None:
        yield Labelled("live recall", f"not known: {live.why}")
    else:
        yield Labelled("live recall", f"{live.recall:.3f} ({live.low:.3f}-{live.high:.3f}) {live.why}")
        yield Labelled("escalated", f"{live.escalated:.2%} of content")
    if cost is None:
        yield Labelled("cost", "not known: its verdicts span less than 10 minutes")
    else:
        by = f"{cost.completion_tokens:,.0f} tokens" if cost.basis == "tokens" else f"{cost.concurrency} at once"
        each = f"{cost.gpu_seconds:.2f} GPU seconds each, by {'' if cost.basis == 'tokens' else 'latency, '}{by}"
        yield Labelled("cost", f"{_hours(cost.gpu_hours_a_day)} a day: {cost.judgements_a_day:,.0f} judgements, {each}")
    sides = f"{labels.violating:,} violating, {labels.safe:,} safe, {labels.undetermined:,} undetermined"
    usable = f"{labels.usable:,} to compare gates on"
    yield Labelled("labels", f"{sides}; text known of {labels.with_text:,}, of them {usable}")


def _hours(hours: float) -> str:
    return f"{hours:,.1f} GPU hours" if hours >= 1 else f"{hours:.2g} GPU hours"


def _next(advice: Advice) -> Iterator[Labelled]:
    """What to do, what it changes, and what is not known."""
    yield Labelled("next", reason(advice))
    for name, gate in (("in force", advice.present), ("proposed", advice.proposed)):
        if gate is not None:
            threshold = "" if gate.threshold is None else f" at threshold {gate.threshold:g}"
            yield Labelled(name, f"recall {gate.recall}, escalates {gate.escalated}{threshold}")
    if (saved := advice.saved_gpu_hours_a_day) is not None:
        yield Labelled("saves" if saved >= 0 else "costs", f"{_hours(abs(saved))} a day{'' if saved >= 0 else ' more'}")
    if advice.lowers:
        yield Labelled("beware", advice.lowers)
    for note in advice.notes:
        yield Labelled("note", note)
    if advice.action == "take":
        yield Labelled("take with", f"safeguard gates take {advice.policy_id} --library DIR")


def curves(advice: Advice) -> Iterator[str]:
    """Both curves: for each recall, the share escalated with its interval, drawn and in figures. At most 80 columns."""
    present = advice.present.curve if advice.present else []
    proposed = advice.proposed.curve if advice.proposed else []
    if not present and not proposed:
        return
    if advice.present is not None and not present:
        yield "  the gate in force has no score, and therefore no curve"
    top = _top([*present, *proposed])
    heads = ("recall", f"{f'share escalated, 0 to {top:g}':{_BAR}}", f"{'o in force' if present else '':19}")
    yield f"  {' '.join(heads)} {'* next' if proposed else ''}".rstrip()
    longer = present or proposed
    for number, point in enumerate(longer):
        drawn = [(mark, curve[number]) for mark, curve in (("o", present), ("*", proposed)) if curve]
        figures = " ".join(f"{_figures(curve[number]) if curve else '':19}" for curve in (present, proposed))
        yield f"  {point.recall:<6.2f} {_bar(drawn, top)} {figures}".rstrip()


def _figures(point: CurvePoint) -> str:
    return f"{point.escalated.value:.2f} ({point.escalated.low:.2f}-{point.escalated.high:.2f})"


def _top(points: Sequence[CurvePoint]) -> float:
    """The end of the axis: the first tenth that is above all intervals."""
    return min(1.0, math.ceil(max(point.escalated.high for point in points) * 10 + 1e-9) / 10)


def _bar(drawn: Sequence[tuple[str, CurvePoint]], top: float) -> str:
    """Intervals as lines, values as marks; where two meet, the later one is seen."""

    def place(share: float) -> int:
        return min(_BAR - 1, max(0, int(share / top * _BAR)))

    cells = ["."] * _BAR
    for _, point in drawn:
        for cell in range(place(point.escalated.low), place(point.escalated.high) + 1):
            cells[cell] = "-"
    for mark, point in drawn:
        cells[place(point.escalated.value)] = mark
    return "".join(cells)


def show_taken(advice: Advice, folder: Path, shadow: float | None) -> None:
    """What was written, and what comes next."""
    say(f"wrote {folder}")
    if shadow is not None:
        name = plain(advice.policy_id)
        say(f"compare with: safeguard policy compare {name}")
        say(f"then put it into force with: safeguard policy release {name} --library {folder.parent}")
