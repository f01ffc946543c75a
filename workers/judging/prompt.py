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
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
)

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.harmony import encoding

# Pinned: a prompt that names today's date changes at midnight, with its prefix cache and its verdicts.
PROMPT_DATE = "2025-10-29"
_EFFORTS = {"low": ReasoningEffort.LOW, "medium": ReasoningEffort.MEDIUM, "high": ReasoningEffort.HIGH}


class ContextMessage(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


def before_content(context: Sequence[ContextMessage]) -> str:
    """What stands before the content: its context, every line of it quoted, so that it cannot pose as the content."""
    if not context:
        return ""
    quoted = "\n".join(f"> {line}" for m in context for line in f"{m.role}: {m.text}".splitlines())
    return f"Conversation so far, for context only:\n{quoted}\n\nContent to judge:\n"


def user_message(text: str, context: Sequence[ContextMessage] = ()) -> str:
    """What the model judges, after its context."""
    return before_content(context) + text


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
    return (*tokens, *markup("<|start|>user<|message|>"))


def check_vocabulary() -> None:
    """Raises ConfigurationError when the encoding cannot be had."""
    try:
        encoding()
    except Exception as error:
        raise ConfigurationError(
            f"the vocabulary of gpt-oss cannot be loaded ({type(error).__name__}): install oss-harmony, which has it inside, "
            "in place of openai-harmony, which downloads it"
        ) from error


def markup(text: str) -> list[int]:
    """Tokens of our own markup, special ones among them."""
    return list(encoding().encode(text, allowed_special="all"))


@cache
def stop_tokens() -> list[int]:
    """What ends a completion."""
    return list(encoding().stop_tokens_for_assistant_actions())


@cache
def _suffix() -> tuple[int, ...]:
    return tuple(markup("<|end|><|start|>assistant"))


def render(policy_text: str, effort: str, user: str) -> list[int]:
    """The whole prompt. Markup of special tokens inside `user` is encoded as ordinary text."""
    return render_tokens(policy_text, effort, encode(user))


def render_tokens(policy_text: str, effort: str, user: Sequence[int]) -> list[int]:
    """The whole prompt around a user message that is tokens already."""
    return [*prefix(policy_text, effort), *user, *_suffix()]


def encode(user: str) -> list[int]:
    """Tokens of a user's text, none of them special."""
    return list(encoding().encode(user, disallowed_special=()))


def decode(tokens: Sequence[int]) -> str:
    """The text of tokens; bytes that are no UTF-8 become U+FFFD."""
    text: str = encoding().decode(list(tokens)) if tokens else ""
    return text


def windows(head: Sequence[int], content: Sequence[int], room: int, most: int) -> tuple[list[list[int]], bool]:
    """User messages of at most `room` tokens that cover the content with an overlap of an eighth, each after `head`;
    and whether some of the content is left out, because that would take more than `most` of them.
    """
    if len(head) + len(content) <= room:
        return [[*head, *content]], False
    if len(head) > room // 2:
        head = ()  # a context this long leaves no room for what is to be judged
    width = room - len(head)
    stride = width - width // 8
    count = 1 + max(0, -(-(len(content) - width) // stride))
    last = max(0, len(content) - width)
    starts = [min(n * stride, last) for n in range(count)]
    if count > most:
        # Spread over the whole, so that neither its beginning nor its end is a place to hide.
        starts = [round(n * last / (most - 1)) for n in range(most)]
    return [[*head, *content[start : start + width]] for start in starts], count > most
