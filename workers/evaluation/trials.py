"""Policies tried with a model, for their authors: on their golden set, and on single texts.

The commands call this, and the console by the entry points of the group `safeguard.trials`: it runs without the
libraries of the model's side, and nothing under streams/ imports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden import Golden
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.evaluation import golden_eval, offline
from safeguard_streams.workers.evaluation.interface import OnProgress

RUNS = 2  # of a golden set: the fewest that show how many decisions differ by chance


async def evaluate(
    settings: Settings, policy: Policy, golden: Sequence[Golden], runs: int, on_progress: OnProgress
) -> golden_eval.GoldenReport:
    """The figures of a policy on its golden set."""
    async with offline.offline_judge(settings, on_progress, [policy]) as judge:
        outcomes = await golden_eval.run(judge, policy, golden, runs)
    return golden_eval.report(policy, judge.model, golden, outcomes)


async def on_golden_set(
    settings: Settings, policy: Policy, golden: Sequence[Golden], on_progress: OnProgress
) -> dict[str, Any]:
    """The report of a golden set as `safeguard policy test --json` prints it."""
    report = await evaluate(settings, policy, golden, RUNS, on_progress)
    shown: dict[str, Any] = msgspec.to_builtins(report)
    return shown


async def on_text(settings: Settings, policy: Policy, text: str) -> dict[str, Any]:
    """What the model says of one text: an outcome as in a report's disagreements, and the model's name."""
    async with offline.offline_judge(settings, _untold, [policy]) as judge:
        (judgement,) = await judge.judge(policy, [text])
    outcome: dict[str, Any] = msgspec.to_builtins(golden_eval.outcome_of(judgement, policy))
    return {**outcome, "model": judge.model}


def _untold(*_: object, **__: object) -> None:
    """Tell nobody of the progress."""
