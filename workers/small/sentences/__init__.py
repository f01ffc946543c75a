"""The project's own sentences, for what data sets do not cover: frames with slots that are filled at random.

One file for each language. They teach a small model the form of a rule. No golden set contains any of them.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from safeguard_streams.policies.labelled import held_out

LANGUAGES = ("en", "de", "es", "fr")
_SLOT = re.compile(r"\{(\w+)\}")


class Sentence(NamedTuple):
    """A sentence. held_out: its frame is kept from training."""

    text: str
    held_out: bool


class _Language(NamedTuple):
    slots: dict[str, list[str]]
    frames: dict[str, list[str]]


@cache
def _read(language: str) -> _Language:
    raw = tomllib.loads((files(__name__) / f"{language}.toml").read_text(encoding="utf-8"))
    slots = {name: options.split("|") for name, options in raw["slots"].items()}
    return _Language(slots, {rule: lines.strip().splitlines() for rule, lines in raw["frames"].items()})


def rules(language: str) -> set[str]:
    """The rules that have frames in a language."""
    return set(_read(language).frames)


def sentences(rule: str, language: str, max_count: int, seed: int = 0) -> Iterator[Sentence]:
    """At most `max_count` distinct sentences for a rule, in an order fixed by the seed."""
    draw = random.Random(f"{rule} {language} {seed}")
    slots, frames = _read(language)
    seen: set[str] = set()
    for _ in range(max_count * 4):
        frame = draw.choice(frames[rule])
        text = _SLOT.sub(lambda slot: draw.choice(slots[slot[1]]), frame)
        text = _styled(text, draw)
        if text not in seen:
            seen.add(text)
            yield Sentence(text, held_out(frame))
        if len(seen) == max_count:
            return


def _styled(text: str, draw: random.Random) -> str:
    """As people write: in lower case, as a sentence, with an exclamation mark, or as it is."""
    style = draw.random()
    if style < 0.25:
        return text.lower()
    if style < 0.75:
        text = text[0].upper() + text[1:]
        return text if text[-1] in ".!?:>'" else f"{text}{'!' if style > 0.7 else '.'}"
    return text
