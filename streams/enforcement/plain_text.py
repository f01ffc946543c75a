"""Names and reasons of moderators as plain text, in every script: no control characters, no marks of direction."""

from __future__ import annotations

import unicodedata

LONGEST = 2000  # characters
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def problem(text: str) -> str | None:
    """What to change about a text that a moderator typed; None where it is plain text."""
    if any(map(_controls, text)):
        return "remove line breaks, control characters and marks of direction"
    return f"write at most {LONGEST:,} characters" if len(text) > LONGEST else None


def made_plain(text: str) -> str:
    """A text that another tool wrote, with U+FFFD for what is no plain text, and cut to the longest length."""
    return "".join("\ufffd" if _controls(one) else one for one in text[:LONGEST])


def _controls(one: str) -> bool:
    return unicodedata.category(one) in _CONTROLS or unicodedata.bidirectional(one) in _DIRECTIONS
