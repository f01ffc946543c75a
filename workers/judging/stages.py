"""A first judge in front of the reasoner: a cheap model decides what it is sure of, and the rest goes on.

- A judge that follows policies decides where its score lies outside the band and its label agrees with it.
- A guard with fixed classes decides nothing but safe. Its classes are not the policy: what it calls unsafe goes on.
- Content that the first judge cannot read, does not answer in time, or has in part only goes on as well.

A share of what it decides is judged by the reasoner too, which then decides. The metric of first judgements counts how
often the two agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from safeguard_streams.contract.records import Message
from safeguard_streams.errors import DependencyError
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.judgement import Finding, Judgement, total_tokens
from safeguard_streams.workers.judging.label_judge import LabelJudge

PATIENCE = 10.0  # seconds for the first judge, whose answer takes less than one


class Judging(Protocol):
    """The reasoner, a judge by labels, or the two in a row."""

    async def judge(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message] = (), rank: int = 0
    ) -> Judgement:
        """Judge a text under the policies of the instructions."""


class Stages:
    """Asks the first judge, and the second one where the first is unsure.

    band: scores between which the first is unsure. check: share of its decisions that the second judges too.
    """

    def __init__(self, first: LabelJudge, second: Judging, band: tuple[float, float], check: float) -> None:
        self._first = first
        self.second = second
        self._low, self._high = band
        self._check = check

    async def judge(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message] = (), rank: int = 0
    ) -> Judgement:
        """Judge a text. The findings of the first judge name its model."""
        if not all(map(self._first.covers, instructions.policies)):
            return await self.second.judge(instructions, effort, text, context, rank)
        first = await self._ask_first(instructions, effort, text, context, rank)
        decides = first is not None and not first.truncated and all(map(self.is_sure, first.findings.values()))
        if first is None or not decides:
            _count("away" if first is None else "unsure")
        elif self._is_checked(text, context):
            second = await self.second.judge(instructions, effort, text, context, rank)
            _count(_outcome(first, second))
            return _with_cost_of(first, second)
        else:
            _count("decided")
            model = self._first.backend.model
            findings = {name: msgspec.structs.replace(one, model=model) for name, one in first.findings.items()}
            return msgspec.structs.replace(first, findings=findings)
        return _with_cost_of(first, await self.second.judge(instructions, effort, text, context, rank))

    def is_sure(self, finding: Finding) -> bool:
        """Whether a finding of the first judge stands."""
        if finding.answer is None or finding.score is None:
            return False
        if finding.answer.violates:
            return not self._first.dialect.classes and finding.score > self._high
        return finding.score < self._low

    async def _ask_first(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message], rank: int
    ) -> Judgement | None:
        """The first judgement; None where there is none in time."""
        if not self._first.backend.healthy:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._first.judge(instructions, effort, text, context, rank)
        except (TimeoutError, DependencyError):
            return None

    def _is_checked(self, text: str, context: Sequence[Message]) -> bool:
        """Equal for equal content: an item that is judged again has the same judge."""
        return int.from_bytes(prompt.key(text, context)[:8]) < self._check * 2**64


def _with_cost_of(first: Judgement | None, second: Judgement) -> Judgement:
    """The second judgement with the tokens of both."""
    if first is None:
        return second
    return msgspec.structs.replace(second, tokens=total_tokens([first.tokens, second.tokens]))


def _outcome(first: Judgement, second: Judgement) -> str:
    """How the second judge compares with the first."""
    decisions = {name: finding.decision for name, finding in second.findings.items()}
    if "undetermined" in decisions.values():
        return "undetermined"
    return "agreed" if all(decisions[name] == one.decision for name, one in first.findings.items()) else "differed"


def _count(outcome: str) -> None:
    metrics.FIRST_JUDGEMENTS.add(1, {"outcome": outcome})
