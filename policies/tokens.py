"""The vocabulary that the model reads in: o200k in the harmony format, from the package, without a network."""

from __future__ import annotations

from functools import cache

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding


@cache
def encoding() -> HarmonyEncoding:
    """The harmony encoding of gpt-oss."""
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def count(text: str) -> int:
    """How many tokens a text has; markup of special tokens in it counts as ordinary text."""
    return len(encoding().encode(text, disallowed_special=()))
