"""What `safeguard policy gate` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.runtime.counts import counted

if TYPE_CHECKING:  # these need the extras `encoder` and `quality`
    from safeguard_streams.quality.golden_gate import Fitted, Side
    from safeguard_streams.quality.golden_live import LiveComparison

OPTIMISTIC = "by cross-validation, with 95% intervals, and optimistic: live labels decide"
_FIGURES: dict[str, Callable[[Side], object]] = {
    "violating golden texts escalated": lambda side: side.recall,
    "safe golden texts": lambda side: side.safe,
    "golden texts of other policies": lambda side: side.others,
    "benign texts": lambda side: side.benign,
    "benign texts for the target recall": lambda side: side.for_recall,
    "ROC-AUC against safe golden texts": lambda side: side.auc["safe"],
    "ROC-AUC against texts of others": lambda side: side.auc["others"],
    "ROC-AUC against benign texts": lambda side: side.auc["benign"],
}


def show_fitted(one: Fitted) -> None:
    """What to expect of one golden gate, beside the present gate."""
    say(f"{one.gate.policy_id}: golden gate {one.gate.name}")
    say(f"learned from {counted(one.gate.rows, 'golden text, example or rule', 'golden texts, examples and rules')}")
    say(f"threshold {one.gate.threshold:g}, for recall {one.target_recall:.2f}")
    table = Table("", "present gate", "golden gate", box=None)
    for name, figure in _FIGURES.items():
        table.add_row(name, figure(one.present), figure(one.golden))
    console().print(table)
    say(OPTIMISTIC)
    say("a release runs the gate in shadow, and then:")
    say(f"  safeguard policy gate {one.gate.policy_id} --live")


def show_several(fitted: Sequence[Fitted]) -> None:
    """What the gates of several policies escalate: of violating golden texts, and of benign texts."""
    table = Table("policy", "gate", "recall", "benign texts", box=None)
    for one in fitted:
        for name, side in (("present", one.present), ("golden", one.golden)):
            table.add_row(one.gate.policy_id, name, side.recall, side.benign)
    console().print(table)
    say(OPTIMISTIC)
    say("more figures of one policy: safeguard policy gate ID")


def show_live(comparison: LiveComparison, files: Sequence[Path]) -> None:
    """Both gates by live labels, and how to switch."""
    c = comparison
    say(f"{c.policy_id}: golden gate {c.name} beside the present gate, under version {c.version}")
    say(f"{counted(c.labels, 'label')}, {c.violating:,} violating; shares of all content, with 95% intervals")
    if c.left_out:
        say(f"left out: {c.left_out}")
    table = Table("", "present gate", "golden gate", box=None)
    table.add_row("recall", *(side.recall or "not known" for side in (c.present, c.golden)))
    table.add_row("content escalated", c.present.escalated, c.golden.escalated)
    console().print(table)
    if c.choice is None or c.proposed is None:
        say(c.why)
        return
    say(c.choice)
    proposed = c.proposed
    say(f"in force with threshold {proposed.threshold:g}: recall {proposed.recall}, escalated {proposed.escalated}")
    if files:
        say(f"wrote {', '.join(map(str, files))}")
        say("release the policy to put the golden gate into force: prefilters then encode most texts that it covers")
    elif c.better:
        say("--write puts it into the policy's files")
