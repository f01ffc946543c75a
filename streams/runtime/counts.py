"""Counts with their nouns, as people read them."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 item`, `1,204 items`. plural: where that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
