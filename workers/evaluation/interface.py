"""The protocols of an evaluation: what judges its texts, and who is told of its progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from safeguard_streams.policies.document import Policy
from safeguard_streams.workers.judging.judgement import Judgement


class OnProgress(Protocol):
    """Called as work proceeds, for a progress display."""

    def __call__(self, title: str, count: int, total: int, detail: str = "") -> None:
        """`count` of `total` units are done of the work named by `title`."""


class TextJudge(Protocol):
    """Judges texts under a policy; OfflineJudge does it with a model."""

    async def judge(self, policy: Policy, texts: Sequence[str], title: str) -> list[Judgement]:
        """A judgement of each text, in the order of the texts. `title` names the work for a progress display."""
