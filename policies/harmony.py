"""The harmony encoding that the model reads (o200k tokens), loaded from the package without a network."""

from __future__ import annotations

from functools import cache

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding


@cache
def encoding() -> HarmonyEncoding:
    """The harmony encoding of gpt-oss."""
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


def count(text: str) -> int:
    """Number of tokens in a text. Markup of special tokens counts as ordinary text."""
    return len(encoding().encode(text, disallowed_special=()))
