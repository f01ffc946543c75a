"""Labelled texts judged through an engine, without Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from policies.document import Policy
from streams.cli.options import console
from streams.settings import Settings
from workers import brief
from workers.app import start_engine
from workers.judgement import Finding
from workers.reasoner import Economy, Reasoner


async def findings(current: Settings, policy: Policy, texts: Sequence[str]) -> list[Finding]:
    """What the model says of each text under a policy, many at once, with a bar of progress on standard error."""
    engine = await start_engine(current)
    try:
        reasoner = Reasoner(engine, Economy(longest_answer=current.max_tokens))
        wanted = brief.of(policy, [policy])
        slots = asyncio.Semaphore(engine.slots)
        columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(stderr=True)) as progress:
            task = progress.add_task("", total=len(texts))

            async def judge(text: str) -> Finding:
                async with slots:
                    judgement = await reasoner.judge(wanted, wanted.effort, text)
                progress.advance(task)
                return judgement.findings[0]

            return list(await asyncio.gather(*map(judge, texts)))
    finally:
        await engine.close()
