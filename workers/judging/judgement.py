"""What the model's answers come to: several windows of one content, several samples of one question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from safeguard_streams.contract.records import Attempt
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.inference.interface import Completion
from safeguard_streams.workers.judging.parse import ONE, ZERO, Answer


class Finding(msgspec.Struct, frozen=True):
    """Under one policy: the answer and its score, or why there is none, in a sentence for the verdict."""

    effort: Effort
    answer: Answer | None = None
    score: float | None = None
    why: str = ""

    @property
    def badness(self) -> tuple[int, float]:
        """Violating above undetermined above safe; then by score."""
        if self.answer is None:
            return 1, 0.0
        return (2 if self.answer.violates else 0), self.score or 0.0


class Judgement(msgspec.Struct, frozen=True):
    """A finding for each policy of the brief, and what it cost. Counts are tokens."""

    findings: tuple[Finding, ...]
    attempts: tuple[Attempt, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    truncated: bool = False

    @property
    def decided(self) -> bool:
        return all(finding.answer is not None for finding in self.findings)

    @property
    def violates_all(self) -> bool:
        return all(finding.answer is not None and finding.answer.violates for finding in self.findings)


def score_of(completion: Completion, answer: Answer) -> float | None:
    """The probability of violating, 0 to 1, from the label token's logarithms; None where the engine gave none.

    Where one label is not among the likeliest tokens that the engine gave, its probability is what the other leaves.
    """
    at = answer.label_at
    if at is None or at >= len(completion.logprobs):
        return None
    said = completion.logprobs[at]
    if ONE in said and ZERO in said:
        one, zero = math.exp(said[ONE]), math.exp(said[ZERO])
        return round(one / (one + zero), 4) if one + zero > 0 else None
    if ONE in said:
        return round(math.exp(said[ONE]), 4)
    return round(1 - math.exp(said[ZERO]), 4) if ZERO in said else None


def total(judgements: Sequence[Judgement], findings: Sequence[Finding]) -> Judgement:
    """These findings, at the cost of all these judgements."""
    return Judgement(
        tuple(findings),
        tuple(attempt for j in judgements for attempt in j.attempts),
        sum(j.prompt_tokens for j in judgements),
        sum(j.cached_tokens for j in judgements),
        sum(j.completion_tokens for j in judgements),
    )


def worst(windows: Sequence[Judgement]) -> Judgement:
    """Of the windows of one content: for each policy the worst finding."""
    columns = zip(*(judgement.findings for judgement in windows), strict=True)
    return total(windows, [max(column, key=lambda finding: finding.badness) for column in columns])


def vote(samples: Sequence[Judgement], agreement: Sequence[float]) -> Judgement:
    """Of several samples of one question: for each policy what most of them say, with their mean score.

    Undetermined where fewer than `agreement` of the samples (a share, one for each policy) say the same.
    """
    columns = zip(*(judgement.findings for judgement in samples), strict=True)
    return total(samples, [_vote(column, least) for column, least in zip(columns, agreement, strict=True)])


def _vote(findings: Sequence[Finding], least: float) -> Finding:
    votes = Counter(finding.answer.violates for finding in findings if finding.answer is not None)
    effort = findings[0].effort
    if not votes:
        return Finding(effort, why=findings[0].why)
    decision, count = votes.most_common(1)[0]
    scores = [finding.score for finding in findings if finding.score is not None]
    score = round(sum(scores) / len(scores), 4) if scores else None
    if count / len(findings) < least or votes[True] == votes[False]:
        return Finding(
            effort, None, score, f"{len(findings)} judgements disagree: {votes[True]} violates, {votes[False]} safe"
        )
    agreeing = [f for f in findings if f.answer is not None and f.answer.violates is decision]
    rules = Counter(f.answer.rule_ids for f in agreeing if f.answer is not None).most_common(1)[0][0]
    chosen = next(f for f in agreeing if f.answer is not None and f.answer.rule_ids == rules)
    return Finding(chosen.effort, chosen.answer, score)
