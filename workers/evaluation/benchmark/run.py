"""Judges the rows of a benchmark that its journal does not have yet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.workers.evaluation.benchmark.data import Format, Row
from safeguard_streams.workers.evaluation.benchmark.journal import Journal, judged, of_run
from safeguard_streams.workers.evaluation.interface import OnProgress
from safeguard_streams.workers.evaluation.offline import OfflineJudge
from safeguard_streams.workers.judging.instructions import Instructions, instructions_for


class _Task(NamedTuple):
    """A text to be judged under a policy or a bundle."""

    instructions: Instructions
    row: Row


def load_policies(folder: Path, layout: Format) -> list[Policy]:
    """The policies of a folder. Raises ConfigurationError for one that the format has no label for."""
    policies = load_library(folder)
    for policy in policies if layout.labels else ():
        if policy not in layout.labels:
            known = ", ".join(layout.labels)
            near = choices(policy, list(layout.labels))
            raise ConfigurationError(
                f"{folder}: --format {layout.name} has no label for the policy {policy}{near}; it has {known}"
            )
    return list(policies.values())


async def run(
    judge: OfflineJudge,
    policies: Sequence[Policy],
    rows: Sequence[Row],
    runs: int,
    journal: Journal,
    on_progress: OnProgress,
) -> None:
    """Judge each text under each policy that it has a label for, `runs` times, and write it to the journal.

    Runs after the first have another order, as for golden sets. Policies of a bundle are judged together.
    """
    groups = {i.key: i for i in (instructions_for(policy, policies) for policy in policies)}
    for number in range(runs):
        tasks = list(_tasks(list(groups.values()), rows, number))
        done = of_run(journal.judged, number)
        missing = [t for t in tasks if any(p.id not in done.get(t.row.sha256, {}) for p in t.instructions.policies)]
        await _judge(judge, missing, number, journal, _Progress(on_progress, f"run {number + 1} of {runs}", len(tasks)))


def _tasks(groups: Sequence[Instructions], rows: Sequence[Row], number: int) -> list[_Task]:
    """The tasks of one run: policy by policy, because the prefix cache has the policy's text."""
    tasks = []
    for instructions in groups:
        ids = {policy.id for policy in instructions.policies}
        texts = list({row.sha256: row for row in rows if ids & set(row.labels)}.values())
        if number:
            random.Random(number).shuffle(texts)
        tasks += [_Task(instructions, row) for row in texts]
    return tasks


class _Progress(NamedTuple):
    """Where progress goes, the name of the work, and its size with what was done before."""

    on_progress: OnProgress
    title: str
    total: int


async def _judge(
    judge: OfflineJudge, tasks: Sequence[_Task], number: int, journal: Journal, progress: _Progress
) -> None:
    count = progress.total - len(tasks)
    progress.on_progress(progress.title, count, progress.total)

    async def judge_one(task: _Task) -> None:
        nonlocal count
        judgement = await judge.judge_text(task.instructions, task.row.text)
        journal.add(judged(number, task.row.sha256, judgement))
        count += 1
        progress.on_progress(progress.title, count, progress.total)

    await asyncio.gather(*map(judge_one, tasks))
