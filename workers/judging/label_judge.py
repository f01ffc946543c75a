"""Judging by a model that answers with a label: one request for each policy and window, and no reasoning.

Content that could pose as a part of the prompt is not judged: a heading of the answer in it, for example, would be
followed by a label of its author's. The model's own vocabulary is unknown here. Windows are therefore cut by tokens of
gpt-oss, and are at most half as long as the room for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from safeguard_streams.contract.records import Attempt, Message, Tokens
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.dialects.interface import Dialect, Label, MalformedLabel
from safeguard_streams.workers.inference.interface import Completion
from safeguard_streams.workers.inference.labels import label_request
from safeguard_streams.workers.inference.remote import ServerBackend
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.asking import Allowance, UnansweredError, ask
from safeguard_streams.workers.judging.instructions import Instructions, without_output
from safeguard_streams.workers.judging.judgement import Finding, Judgement, total_tokens, undetermined, worst
from safeguard_streams.workers.judging.parse import Answer
from safeguard_streams.workers.judging.reasoner import MAX_WINDOWS, MIN_WINDOW_TOKENS

IMITATION = "the content has a part of the model's prompt"
NO_LABEL = "the model gave no label with a score"
_SHARE_OF_ROOM = 0.5


class _Read(NamedTuple):
    label: Label
    score: float


class LabelJudge:
    """Judges through servers whose model has a dialect.

    classes: by policy id, those that a guard with fixed classes looks for. It judges under no other policy. Empty: all
        of its classes count, under every policy.
    seconds: for one content item.
    """

    def __init__(
        self, backend: ServerBackend, dialect: Dialect, classes: Mapping[str, Sequence[str]], seconds: float
    ) -> None:
        self.backend = backend
        self.dialect = dialect
        self._classes = classes
        self._seconds = seconds

    def covers(self, policy: Policy) -> bool:
        """Whether it can judge under a policy."""
        return not self.dialect.classes or not self._classes or policy.id in self._classes

    async def judge(
        self, instructions: Instructions, effort: Effort, text: str, context: Sequence[Message] = (), rank: int = 0
    ) -> Judgement:
        """Judge a text, in several windows if it is long. The most severe window decides, as with the reasoner."""
        room = int(_SHARE_OF_ROOM * self.backend.max_model_tokens) - self._other_tokens(instructions)
        if room < MIN_WINDOW_TOKENS:
            return undetermined(instructions, effort, "the policy leaves the model no room for content")
        windows = await prompt.windows_of(text, context, room, MAX_WINDOWS)
        allowance = Allowance(self._seconds, self.dialect.max_tokens * MAX_WINDOWS * self._most_prompts(instructions))
        judged: list[Judgement] = []
        for message in windows.messages:
            judged.append(await self._judge_window(instructions, harmony.decode_tokens(message), allowance, rank))
            if judged[-1].violates_all:
                break
        return msgspec.structs.replace(worst(judged), truncated=windows.truncated)

    def _other_tokens(self, instructions: Instructions) -> int:
        """The tokens of the longest prompt without content."""
        rendered = [
            each.text for policy in instructions.policies for each in self.dialect.render(without_output(policy), "")
        ]
        return max(len(harmony.encode_text(text)) for text in rendered) + self.dialect.max_tokens

    def _most_prompts(self, instructions: Instructions) -> int:
        return len(instructions.policies) * max(1, len(self.dialect.classes))

    async def _judge_window(
        self, instructions: Instructions, content: str, allowance: Allowance, rank: int
    ) -> Judgement:
        if self.dialect.imitation.search(content):
            return Judgement({policy.id: Finding(None, problem=IMITATION) for policy in instructions.policies})
        judged = await asyncio.gather(
            *(self._judge_policy(policy, content, allowance, rank) for policy in instructions.policies)
        )
        return Judgement(
            {policy_id: finding for one in judged for policy_id, finding in one.findings.items()},
            tuple(attempt for one in judged for attempt in one.attempts),
            total_tokens(one.tokens for one in judged),
        )

    async def _judge_policy(self, policy: Policy, content: str, allowance: Allowance, rank: int) -> Judgement:
        if not self.covers(policy):
            return Judgement({policy.id: Finding(None, problem="the guard has no class for this policy")})
        prompts = self.dialect.render(without_output(policy), content, self._classes.get(policy.id, ()))
        try:
            completions = await asyncio.gather(
                *(ask(self.backend, label_request(self.dialect, each, rank), allowance) for each in prompts)
            )
        except UnansweredError as problem:
            return Judgement({policy.id: Finding(None, problem=str(problem))})
        tokens = total_tokens(Tokens(c.prompt_tokens, c.cached_tokens, len(c.tokens)) for c in completions)
        reads = [read for read in map(self._read, completions) if read is not None]
        if len(reads) < len(completions):
            refused = tuple(_refused(completion) for completion in completions if self._read(completion) is None)
            return Judgement({policy.id: Finding(None, problem=NO_LABEL)}, refused, tokens)
        violates = any(read.label.violates for read in reads)
        finding = Finding(None, Answer(violates), max(read.score for read in reads))
        return Judgement({policy.id: finding}, tokens=tokens)

    def _read(self, completion: Completion) -> _Read | None:
        """The label and its score; None for any other text, and for a label without a score."""
        try:
            label = self.dialect.parse(harmony.decode_tokens(completion.tokens))
        except MalformedLabel:
            return None
        score = self.dialect.score(completion.labels)
        return _Read(label, score) if score is not None else None


def _refused(completion: Completion) -> Attempt:
    """What the model wrote instead of a label with a score."""
    return Attempt("", harmony.decode_tokens(completion.tokens), "no_label")
