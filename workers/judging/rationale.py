"""Rationales: the model's outputs behind a verdict, for auditors, within the bounds of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from safeguard_streams.contract.records import Attempt, Rationale, Verdict, encode
from safeguard_streams.workers.judging.judgement import Judgement

MAX_BYTES = 2**20  # of all outputs of a record together, as JSON
MAX_ANALYSIS, MAX_FINAL = 65_536, 16_384  # characters


class _Short(NamedTuple):
    """An output within the bounds, and the number of characters that were cut."""

    attempt: Attempt
    cut: int


def build_rationale(verdict: Verdict, judgement: Judgement) -> Rationale:
    """The rationale of a verdict. Of too many outputs it keeps the one that decides, then the earliest."""
    finding = judgement.findings.get(verdict.policy_id)
    kept = _kept(judgement.attempts, finding.attempt if finding else None)
    return Rationale(
        verdict_id=verdict.verdict_id,
        content_id=verdict.content_id,
        policy_id=verdict.policy_id,
        policy_version=verdict.policy_version,
        model=verdict.model,
        attempts=tuple(short.attempt for short in kept),
        created_at=verdict.decided_at,
        omitted=len(judgement.attempts) - len(kept),
        cut=sum(short.cut for short in kept),
        model_revision=verdict.model_revision,
    )


def _kept(attempts: Sequence[Attempt], deciding: Attempt | None) -> list[_Short]:
    """The outputs to keep, in their order."""
    kept: dict[int, _Short] = {}
    room = MAX_BYTES
    for index in sorted(range(len(attempts)), key=lambda index: attempts[index] is not deciding):
        short = _shortened(attempts[index])
        room -= len(encode(short.attempt))
        if room < 0:
            break
        kept[index] = short
    return [short for _, short in sorted(kept.items())]


def _shortened(attempt: Attempt) -> _Short:
    analysis, final = _middle_cut(attempt.analysis, MAX_ANALYSIS), _middle_cut(attempt.final, MAX_FINAL)
    cut = len(attempt.analysis) - len(analysis) + len(attempt.final) - len(final)
    return _Short(Attempt(analysis, final, attempt.refused), cut)


def _middle_cut(text: str, longest: int) -> str:
    """A text without its middle if it is too long: reasoning begins with the question and ends with the decision."""
    return text if len(text) <= longest else text[: longest // 2] + text[-(longest // 2) :]
