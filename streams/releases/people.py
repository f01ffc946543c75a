"""Who changes something and why: one form of names and reasons for commands, libraries and the console."""

from __future__ import annotations

import unicodedata

import msgspec

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.folding import normalized
from safeguard_streams.releases.operator import ChangedBy

LONGEST_NAME = 200  # characters
LONGEST_REASON = 2000
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def checked(person: ChangedBy) -> ChangedBy:
    """A name and a reason in the one form that records have: composed characters, without blanks around them.

    Raises ConfigurationError, which quotes neither, when one of them is no plain text, or the name is empty.
    """
    by, why = _plain("--by", person.by, LONGEST_NAME), _plain("--why", person.why, LONGEST_REASON)
    if not by:
        raise ConfigurationError("--by: give a name; it is empty")
    return msgspec.structs.replace(person, by=" ".join(by.split()), why=why)


def _plain(option: str, text: str, longest: int) -> str:
    if any(map(_controls, text)):
        raise ConfigurationError(f"{option}: remove line breaks, control characters and marks of direction")
    normal = normalized("NFC", text).strip()
    if len(normal) > longest:
        raise ConfigurationError(f"{option}: write at most {longest:,} characters")
    return normal


def made_plain(text: str) -> str:
    """A text that another tool wrote, with U+FFFD for what is no plain text, and cut to the longest length."""
    return "".join("\ufffd" if _controls(one) else one for one in text[:LONGEST_REASON])


def _controls(one: str) -> bool:
    return unicodedata.category(one) in _CONTROLS or unicodedata.bidirectional(one) in _DIRECTIONS
