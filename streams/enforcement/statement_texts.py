"""The sentences of statements of reasons, one TOML file for each language in the folder `sentences`.

Another language is another file: `Sentences` names its keys, and a test compares the words in braces.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from safeguard_streams.contract.records import Automation, Enforced, Reporter
from safeguard_streams.policies.document import primary_language


class Sentences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sentences in one language.

    found: by who gave notice, or, without notice, by automated means or otherwise, on the platform's own initiative.
    """

    language: str
    appeal: str
    appeal_unset: str
    duration: str
    everywhere: str
    ground: str
    illegal: str
    lifted: str
    redress: str
    replaced: str
    territory: str
    uncited: str
    undetermined: str
    action: dict[Enforced, str]
    decided: dict[Automation, str]
    found: dict[str, str]

    def facts(self, reporter: Reporter | None, *, automated: bool, decided: Automation) -> str:
        """How an item was found, and who decided."""
        return f"{self.found[reporter or ('automated' if automated else 'initiative')]} {self.decided[decided]}"


@cache
def languages() -> tuple[str, ...]:
    """The languages that have sentences, as ISO 639 codes."""
    folder = files("safeguard_streams.enforcement") / "sentences"
    return tuple(sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml")))


@cache
def sentences(language: str) -> Sentences:
    """The sentences in one of `languages`."""
    file = files("safeguard_streams.enforcement") / "sentences" / f"{language}.toml"
    return msgspec.convert(tomllib.loads(file.read_text("utf-8")), Sentences)


def language_for(tag: str | None, fallback: str) -> str:
    """The language of statements about an item in a language, which a BCP 47 tag names."""
    language = primary_language(tag)
    return language if language in languages() else fallback
