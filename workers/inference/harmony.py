"""The harmony format in token ids: prompts for the model, and the tokens that structure its completions.

A prompt has three messages: system (reasoning effort), developer (policy text) and user (content).
Source of the format: OpenAI's harmony response format and the gpt-oss-safeguard user guide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache

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

START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN = 200006, 200007, 200008, 200005, 200003, 200002
FIRST_SPECIAL = 199998  # ids from here on are special tokens
ZERO, ONE = 15, 16  # the decision tokens: "0" is safe, "1" violates

# Pinned: today's date would change every prompt at midnight, and with it the prefix cache and the verdicts.
PROMPT_DATE = "2025-10-29"
_EFFORTS = {"low": ReasoningEffort.LOW, "medium": ReasoningEffort.MEDIUM, "high": ReasoningEffort.HIGH}
_BEFORE_DECISION = re.compile(rb'"violation"\s*:\s*\Z')


def check_vocabulary() -> None:
    """Load the vocabulary of gpt-oss. Raises ConfigurationError when that fails."""
    try:
        encoding()
    except Exception as error:
        raise ConfigurationError(
            f"the vocabulary of gpt-oss cannot be loaded ({type(error).__name__}): install oss-harmony, which "
            "includes it, instead of openai-harmony, which downloads it"
        ) from error


def encode_text(text: str) -> list[int]:
    """Tokens of ordinary text. Markup of special tokens inside it is encoded as ordinary text."""
    return list(encoding().encode(text, disallowed_special=()))


def encode_markup(text: str) -> list[int]:
    """Tokens of text written by this project, special tokens included. Never pass content."""
    return list(encoding().encode(text, allowed_special="all"))


def decode_tokens(tokens: Sequence[int]) -> str:
    """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
    text: str = encoding().decode(list(tokens)) if tokens else ""
    return text


@cache
def stop_tokens() -> list[int]:
    """Tokens that end a completion."""
    return list(encoding().stop_tokens_for_assistant_actions())


@lru_cache(maxsize=256)
def prefix(policy_text: str, effort: str) -> tuple[int, ...]:
    """Token ids up to the start of the user's text, equal for all content items judged under a policy at one effort."""
    system = SystemContent.new().with_reasoning_effort(_EFFORTS[effort]).with_conversation_start_date(PROMPT_DATE)
    developer = DeveloperContent.new().with_instructions(policy_text)
    conversation = Conversation.from_messages(
        [
            Message.from_role_and_content(Role.SYSTEM, system),
            Message.from_role_and_content(Role.DEVELOPER, developer),
        ]
    )
    tokens = encoding().render_conversation(conversation)
    return (*tokens, *encode_markup("<|start|>user<|message|>"))


@cache
def _suffix() -> tuple[int, ...]:
    return tuple(encode_markup("<|end|><|start|>assistant"))


def render(policy_text: str, effort: str, user: str) -> list[int]:
    """The whole prompt around a user message given as text."""
    return render_tokens(policy_text, effort, encode_text(user))


def render_tokens(policy_text: str, effort: str, user: Sequence[int]) -> list[int]:
    """The whole prompt around a user message given as tokens."""
    return [*prefix(policy_text, effort), *user, *_suffix()]


def decision_positions(final: Sequence[int]) -> list[int]:
    """Indexes of the decision tokens in a final message: a token 0 or 1 that follows `"violation": `."""
    positions = []
    before = b""
    for index, token in enumerate(final):
        if token in {ZERO, ONE} and _BEFORE_DECISION.search(before):
            positions.append(index)
        before = (before + encoding().decode([token]).encode())[-100:]
    return positions
