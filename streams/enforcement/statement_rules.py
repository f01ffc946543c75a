"""[statements] of the enforcement rules: what statements of reasons say about the service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from safeguard_streams.enforcement.statement_texts import languages

# A country by its ISO 3166 code, all of the EU (EU), or of the European Economic Area (EEA).
Territory = Annotated[str, Meta(pattern=r"^([A-Z]{2}|EEA)\Z")]


class StatementRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What statements of reasons say beside the words of policies.

    language: of statements about items in a language that has no sentences. territory: where restrictions hold; empty
    for everywhere that the service is offered. appeal: how to contest a decision, as a URL or in a sentence. terms: the
    URL of the terms of the service.
    """

    language: str = "en"
    territory: tuple[Territory, ...] = ()
    appeal: Annotated[str, Meta(max_length=500)] = ""
    terms: Annotated[str, Meta(pattern=r"^(https?://\S+)?\Z", max_length=500)] = ""

    def __post_init__(self) -> None:
        if self.language not in languages():
            raise ValueError(f"language: there are sentences in {', '.join(languages())}")
        for name, text in (("appeal", self.appeal), ("terms", self.terms)):
            if not text.isprintable():
                raise ValueError(f"{name}: write one line of plain text")
