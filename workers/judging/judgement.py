"""Judgements: how a score is read from a completion, and how windows and samples of one content item are combined."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from safeguard_streams.contract.records import AnswerBy, Attempt, Decision, Tokens
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.inference.dialects.interface import MAX_LOGPROB
from safeguard_streams.workers.inference.harmony import ONE, ZERO
from safeguard_streams.workers.inference.interface import Completion
from safeguard_streams.workers.judging.instructions import Instructions
from safeguard_streams.workers.judging.parse import Answer


class Finding(msgspec.Struct, frozen=True):
    """The result under one policy: an answer with its score, or the problem that left the content undetermined.

    score: the probability of violating, 0 to 1; None where the backend returned no log-probabilities.
    problem: a sentence for the verdict's reason. Empty if there is an answer.
    attempt: the output that the answer stands in.
    by: how the model came to write it.
    effort: None for a model that does not reason.
    model: that of the first judge, if it decided; its scores have a scale of their own.
    """

    effort: Effort | None
    answer: Answer | None = None
    score: float | None = None
    problem: str = ""
    attempt: Attempt | None = None
    by: AnswerBy | None = None
    model: str | None = None

    @property
    def decision(self) -> Decision:
        if self.answer is None:
            return "undetermined"
        return "violates" if self.answer.violates else "safe"

    @property
    def severity(self) -> tuple[int, float]:
        """Sorts violating above undetermined above safe, then by score."""
        if self.answer is None:
            return 1, 0.0
        return (2 if self.answer.violates else 0), self.score or 0.0


class Judgement(msgspec.Struct, frozen=True):
    """The findings for one content item by policy id, and what they cost.

    attempts: every output of the model, in order.
    tokens: spent on all attempts together.
    truncated: a part of the content was not judged.
    """

    findings: Mapping[str, Finding]
    attempts: tuple[Attempt, ...] = ()
    tokens: Tokens = Tokens()
    truncated: bool = False

    @property
    def decided(self) -> bool:
        """Whether every policy has an answer."""
        return all(finding.answer is not None for finding in self.findings.values())

    @property
    def violates_all(self) -> bool:
        """Whether the content violates every policy."""
        return all(finding.decision == "violates" for finding in self.findings.values())


def undetermined(instructions: Instructions, effort: Effort, problem: str) -> Judgement:
    """A judgement that decides under none of the policies."""
    return Judgement({policy.id: Finding(effort, problem=problem) for policy in instructions.policies})


def score_of(completion: Completion, answer: Answer) -> float | None:
    """The probability of violating, 0 to 1, from the log-probabilities at the answer's decision token.

    None if the backend returned none there.
    """
    position = answer.decision_at
    if position is None or position >= len(completion.logprobs):
        return None
    return decision_score(completion.logprobs[position])


def decision_score(logprobs: Mapping[int, float]) -> float | None:
    """The probability of violating, 0 to 1, from the log-probabilities at a decision token.

    If only one of the two decision tokens is there, the other has the remaining probability. None if neither is.
    """
    one, zero = (_probability(logprobs.get(token)) for token in (ONE, ZERO))
    if one is None:
        return None if zero is None else round(1 - zero, 4)
    if zero is None:
        return round(one, 4)
    return round(one / (one + zero), 4) if one + zero > 0 else None


def _probability(logprob: float | None) -> float | None:
    """The probability, 0 to 1; None for no log-probability and for one that is not a number or above 0."""
    if logprob is None or not logprob <= MAX_LOGPROB:
        return None
    return math.exp(min(0.0, logprob))


def total_tokens(tokens: Iterable[Tokens]) -> Tokens:
    """The sum of several counts."""
    counts = list(tokens)
    return Tokens(sum(t.prompt for t in counts), sum(t.cached for t in counts), sum(t.completion for t in counts))


def combine(judgements: Sequence[Judgement], findings: Mapping[str, Finding]) -> Judgement:
    """One judgement with these findings and the attempts and cost of all the judgements."""
    return Judgement(
        findings,
        tuple(attempt for judgement in judgements for attempt in judgement.attempts),
        total_tokens(judgement.tokens for judgement in judgements),
    )


def worst(windows: Sequence[Judgement]) -> Judgement:
    """Combine the windows of one content item: the most severe finding counts, for each policy separately."""
    return combine(
        windows,
        {
            policy_id: max((window.findings[policy_id] for window in windows), key=lambda finding: finding.severity)
            for policy_id in windows[0].findings
        },
    )


def vote(samples: Sequence[Judgement], agreement: Mapping[str, float]) -> Judgement:
    """Combine several samples of one request: the majority decides under each policy, and the score is the mean.

    agreement: by policy id, the share of samples (0 to 1) that must agree; fewer leave the content undetermined.
    """
    return combine(
        samples,
        {
            policy_id: _majority([sample.findings[policy_id] for sample in samples], min_share)
            for policy_id, min_share in agreement.items()
        },
    )


def _majority(findings: Sequence[Finding], min_share: float) -> Finding:
    answers = [finding.answer for finding in findings if finding.answer is not None]
    if not answers:
        return findings[0]
    scores = [finding.score for finding in findings if finding.score is not None]
    score = round(sum(scores) / len(scores), 4) if scores else None
    votes = Counter(answer.violates for answer in answers)
    violates, count = votes.most_common(1)[0]
    if count / len(findings) < min_share or votes[True] == votes[False]:
        problem = f"{len(findings)} judgements disagree: {votes[True]} violates, {votes[False]} safe"
        return Finding(findings[0].effort, None, score, problem)
    rule_ids, _ = Counter(answer.rule_ids for answer in answers if answer.violates is violates).most_common(1)[0]
    chosen = next(f for f in findings if f.answer and (f.answer.violates, f.answer.rule_ids) == (violates, rule_ids))
    return msgspec.structs.replace(chosen, score=score)
