"""CoPE of Zentropi: judges by any policy, and answers with the token 0 or 1.

Sources: the model cards of zentropi-ai/cope-a-9b ("Input Format") and zentropi-ai/cope-b-a4b, as quoted by
julietshen/vibecheck (GUIDE.md, eval/models/cope_b.py), and by services that run the models with vLLM. The first
generation is a base model, which completes the text. The second is a chat model: its template takes the place of the
first and last heading.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from safeguard_streams.workers.inference.dialects.interface import (
    ChatPrompt,
    OneWord,
    Prompt,
    TextPrompt,
    without_control_tokens,
)

_QUESTION = (
    "Examine the given POLICY and determine if the given CONTENT meets the criteria for ANY of the LABELS. "
    'Answer "1" if yes, and "0" if no.'
)
_BODY = "{question}\n\n\nPOLICY\n======\n\n{policy}\n\n\nCONTENT\n=======\n\n{content}"
# A heading on a line of its own, whatever separates the lines. No run is read twice: blank content takes linear time.
_BREAK = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_HEADING = re.compile(
    rf"(?:\A|[{_BREAK}])[^\w{_BREAK}]*+(?:INSTRUCTIONS|POLICY|CONTENT|ANSWER)[^\w={_BREAK}]*+[{_BREAK}][^\w=]*+={{3}}",
    re.IGNORECASE,
)


class _Cope(OneWord):
    classes: tuple[str, ...] = ()
    labels: Mapping[str, bool] = {"1": True, "0": False}
    imitation = _HEADING


class CopeA(_Cope):
    """CoPE-A: the raw text, up to the heading of the answer."""

    name = "cope-a"
    models = re.compile(r"\bcope-a\b", re.IGNORECASE)

    def render(self, policy: str, content: str, classes: Collection[str] = ()) -> Sequence[Prompt]:  # noqa: ARG002  (the protocol names it)
        body = _BODY.format(question=_QUESTION, policy=policy, content=without_control_tokens(content))
        return [TextPrompt(f"INSTRUCTIONS\n============\n\n{body}\n\n\nANSWER\n======\n\n")]


class CopeB(_Cope):
    """CoPE-B: one user message."""

    name = "cope-b"
    models = re.compile(r"\bcope-b\b", re.IGNORECASE)

    def render(self, policy: str, content: str, classes: Collection[str] = ()) -> Sequence[Prompt]:  # noqa: ARG002  (the protocol names it)
        body = _BODY.format(question=_QUESTION, policy=policy, content=without_control_tokens(content))
        return [ChatPrompt((("user", body),))]
