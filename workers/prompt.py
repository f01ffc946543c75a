"""Prompts as token ids in the harmony format: system = effort, developer = policy, user = content.

Source of the format: OpenAI's harmony response format and the gpt-oss-safeguard user guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Protocol

from openai_harmony import (
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    HarmonyEncodingName,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    load_harmony_encoding,
)

# Pinned: a prompt that names today's date changes at midnight, with its prefix cache and its verdicts.
PROMPT_DATE = "2025-10-29"
_EFFORTS = {"low": ReasoningEffort.LOW, "medium": ReasoningEffort.MEDIUM, "high": ReasoningEffort.HIGH}


class ContextMessage(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


@cache
def encoding() -> HarmonyEncoding:
    """The harmony encoding of gpt-oss (o200k vocabulary, read from the package, no network)."""
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def user_message(text: str, context: Sequence[ContextMessage] = ()) -> str:
    """What the model judges. Context comes first, every line of it quoted, so that it cannot pose as the content."""
    if not context:
        return text
    quoted = "\n".join(f"> {line}" for m in context for line in f"{m.role}: {m.text}".splitlines())
    return f"Conversation so far, for context only:\n{quoted}\n\nContent to judge:\n{text}"


@lru_cache(maxsize=256)
def prefix(policy_text: str, effort: str) -> tuple[int, ...]:
    """Token ids up to the start of the user's text; the same for every content judged under a policy."""
    system = SystemContent.new().with_reasoning_effort(_EFFORTS[effort]).with_conversation_start_date(PROMPT_DATE)
    developer = DeveloperContent.new().with_instructions(policy_text)
    head = Conversation.from_messages(
        [
            Message.from_role_and_content(Role.SYSTEM, system),
            Message.from_role_and_content(Role.DEVELOPER, developer),
        ]
    )
    tokens = encoding().render_conversation(head)
    return (*tokens, *encoding().encode("<|start|>user<|message|>", allowed_special="all"))


@cache
def _suffix() -> tuple[int, ...]:
    return tuple(encoding().encode("<|end|><|start|>assistant", allowed_special="all"))


def render(policy_text: str, effort: str, user: str) -> list[int]:
    """The whole prompt. Markup of special tokens inside `user` is encoded as ordinary text."""
    return [*prefix(policy_text, effort), *encoding().encode(user, disallowed_special=()), *_suffix()]
