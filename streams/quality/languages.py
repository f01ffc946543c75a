"""The language of a text, for figures by language: what its event says, or else what a detector says.

No decision rests on a detected language. A policy's `languages` compare with what the event says alone.
"""

from __future__ import annotations

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from safeguard_streams.policies.document import primary_language

UNKNOWN = "und"  # undetermined, in BCP 47
MIN_PROBABILITY = 0.5  # of a language, below which it counts as unknown
MAX_CHARACTERS = 1000  # of a text that the detector reads
# Varieties that the detector tells apart and events seldom do.
_SAME = {"arz": "ar", "ary": "ar", "yue": "zh", "wuu": "zh"}


def language_of(text: str, tag: str | None = None) -> str:
    """The language of a text as a primary subtag of BCP 47, or und. A tag that names a language is believed."""
    return primary_language(tag) or detected(text)


def detected(text: str) -> str:
    """The language that the text seems to have; und where that is in doubt. Not for texts of a few words."""
    name, probability = _detector().classify(text[:MAX_CHARACTERS].encode("utf-8", "replace").decode())
    return UNKNOWN if probability < MIN_PROBABILITY or name == "zxx" else str(_SAME.get(name, name))


@cache
def _detector() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
