"""The harmony format in token ids: prompts for the model, and the tokens that structure its completions.

A prompt has three messages: system (reasoning effort), developer (policy text) and user (content). It ends with the
opened analysis of the answer, and thus every completion begins with the model's reasoning.
Source of the format: OpenAI's harmony response format and the gpt-oss-safeguard user guide.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
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
VOCABULARY = 201_088  # ids from 0; some of the last ones are not in use
ZERO, ONE = 15, 16  # the decision tokens: "0" is safe, "1" violates

# Pinned: today's date would change every prompt at midnight, and with it the prefix cache and the verdicts.
PROMPT_DATE = "2025-10-29"
_EFFORTS = {"low": ReasoningEffort.LOW, "medium": ReasoningEffort.MEDIUM, "high": ReasoningEffort.HIGH}
_BEFORE_DECISION = re.compile(rb'"violation"\s*:\s*\Z')

# The tokeniser is quadratic in a run without breaks and holds the interpreter's lock: it gets texts in pieces.
PIECE = 512  # characters
# Where the tokeniser itself always begins a new run, which makes a cut here invisible in the tokens.
_BREAK = re.compile(r"(?<=[^\W_])[ ，、。！？；：](?=[^\W_])|(?<=\n)(?=[^\W_])")
_CONTROL_EDGES = re.compile(r"([<＜﹤])(?=[|｜])|([|｜])(?=[>＞﹥])")


def check_vocabulary() -> None:
    """Load the vocabulary of gpt-oss. Raises ConfigurationError when that fails."""
    try:
        encoding()
    except Exception as error:
        raise ConfigurationError(
            f"the vocabulary of gpt-oss cannot be loaded ({type(error).__name__}): install oss-harmony, which "
            "includes it, instead of openai-harmony, which downloads it"
        ) from error


def pieces(text: str) -> Iterator[str]:
    """Cut text into pieces of at most PIECE characters, at breaks of the tokeniser where there are any.

    A run without a break is cut in front of a character that does not combine with the one before it.
    """
    start = 0
    while len(text) - start > PIECE:
        end = start + PIECE
        cut = max((found.start() for found in _BREAK.finditer(text, start + 1, end + 1)), default=start)
        if cut == start:
            cut = next((at for at in range(end, end - PIECE // 8, -1) if not _joins(text, at)), end)
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def _joins(text: str, at: int) -> bool:
    """Whether the character at an index belongs to the one before it: a mark, a joiner or a variation selector."""
    return unicodedata.category(text[at]) in {"Mn", "Mc", "Me", "Cf"} or text[at - 1] == "\u200d"


def encode_text(text: str) -> list[int]:
    """Tokens of ordinary text. Markup of special tokens inside it is encoded as ordinary text."""
    return [token for piece in pieces(text) for token in encode_piece(piece)]


def encode_piece(piece: str) -> list[int]:
    """Tokens of one of the `pieces` of a text."""
    return list(encoding().encode(piece, disallowed_special=()))


def without_control_tokens(text: str) -> str:
    """Text in which nothing has the form of a control token, `<|NAME|>`: a space parts its angles from its bars.

    For servers that encode text themselves, some of which take such text for the tokens.
    """
    return _CONTROL_EDGES.sub(lambda edge: f"{edge[0]} ", text)


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
def opened_analysis() -> tuple[int, ...]:
    """The last tokens of each prompt, which open the answer's analysis."""
    return tuple(encode_markup("<|channel|>analysis<|message|>"))


@cache
def opened_final() -> tuple[int, ...]:
    """The tokens that end a completion's analysis and open its final message."""
    return tuple(encode_markup("<|end|><|start|>assistant<|channel|>final<|message|>"))


@cache
def _suffix() -> tuple[int, ...]:
    return (*encode_markup("<|end|><|start|>assistant"), *opened_analysis())


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
