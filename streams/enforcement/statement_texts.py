"""The sentences of statements of reasons, one TOML file for each language in the folder `sentences`.

Another language is another file: `Sentences` names its keys, and a test compares the words in braces.
"""

from __future__ import annotations

import tomllib
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta

from safeguard_streams.contract.records import AuthorEnforced, Automation, Enforced, Reporter, in_utc
from safeguard_streams.policies.document import primary_language


class AccountSentences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sentences about accounts in one language. found: as in `Sentences`, of content that led to a restriction."""

    contents: str
    ground: str
    illegal: str
    lifted: str
    replaced: str
    uncited: str
    until: str
    violation: str
    violations: str
    action: dict[AuthorEnforced, str]
    decided: dict[Automation, str]
    found: dict[str, str]


class Sentences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sentences in one language.

    found: by who gave notice, or, without notice, by automated means or otherwise, on the platform's own initiative.
    date, first_day, months: how dates are written.
    """

    language: str
    appeal: str
    appeal_unset: str
    date: str
    duration: str
    everywhere: str
    first_day: str
    ground: str
    illegal: str
    lifted: str
    months: Annotated[tuple[str, ...], Meta(min_length=12, max_length=12)]
    redress: str
    replaced: str
    territory: str
    uncited: str
    undetermined: str
    action: dict[Enforced, str]
    decided: dict[Automation, str]
    found: dict[str, str]
    account: AccountSentences

    def facts(self, reporter: Reporter | None, *, automated: bool, decided: Automation) -> str:
        """How an item was found, and who decided."""
        return f"{self.found[reporter or ('automated' if automated else 'initiative')]} {self.decided[decided]}"

    def day(self, moment: datetime) -> str:
        """The day of a moment in UTC."""
        at = in_utc(moment)
        day = self.first_day if at.day == 1 else str(at.day)
        return self.date.format(day=day, month=self.months[at.month - 1], year=at.year)


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
