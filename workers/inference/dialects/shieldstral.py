"""Shieldstral of Mistral AI: answers a yes-or-no question about a document, in one token.

Source: the model card of mistralai/Shieldstral-1.0-3B ("How It Works" and "Helper"), and Mistral's cookbook on policy
moderation. The system message is fixed. Context and rules belong in <Instruct>; <Query> must be one yes-or-no question,
and a whole policy is none. Therefore the policy is the instruction, and the question asks about it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from safeguard_streams.workers.inference.dialects.interface import (
    ChatPrompt,
    Label,
    MalformedLabel,
    Prompt,
    Token,
    first_written,
    is_logprob,
    without_control_tokens,
)

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruction provided. "
    'Note that the answer can only be "yes" or "no".'
)
QUERY = "Does this content violate the policy in the instruction?"
# The spellings that the model card counts, and the logarithm that it takes for a side which is not among the likeliest.
_YES, _NO = ("yes", "yes.", '"yes"', "'yes'"), ("no", "no.", '"no"', "'no'")
_FLOOR = -10.0


class Shieldstral:
    """The policy in the instruction, the content as the document."""

    name = "shieldstral"
    models = re.compile(r"shieldstral", re.IGNORECASE)
    classes: tuple[str, ...] = ()
    max_tokens = 1
    imitation = re.compile(r"<\s*(?:instruct|query|document)\s*>", re.IGNORECASE)

    def render(self, policy: str, content: str, classes: Collection[str] = ()) -> Sequence[Prompt]:  # noqa: ARG002
        document = without_control_tokens(content)
        user = f"<Instruct>: {policy}\n\n<Query>: {QUERY}\n\n<Document>: {document}"
        return [ChatPrompt((("system", SYSTEM), ("user", user)))]

    def parse(self, text: str) -> Label:
        answer = _plain(text)
        if answer not in (*_YES, *_NO):
            raise MalformedLabel
        return Label(answer in _YES)

    def score(self, tokens: Sequence[Token]) -> float | None:
        token = first_written(tokens)
        valid = [(_plain(text), value) for text, value in token.likeliest.items() if is_logprob(value)] if token else []
        yes = max((value for text, value in valid if text in _YES), default=None)
        no = max((value for text, value in valid if text in _NO), default=None)
        if yes is None and no is None:
            return None
        yes, no = (_FLOOR if value is None else max(_FLOOR, value) for value in (yes, no))
        return round(math.exp(yes) / (math.exp(yes) + math.exp(no)), 4)


def _plain(text: str) -> str:
    return text.strip().lower()
