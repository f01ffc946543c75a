"""safeguard-streams: streaming content moderation on Apache Kafka.

What a producer of content or a consumer of verdicts needs is here:

    from safeguard_streams import ContentEvent, Publisher, Verdicts

The names load on first use. They need aiokafka, cramjam, msgspec and orjson; every other part of the pipeline is an
extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeguard_streams.client.item_verdicts import ItemVerdicts, PolicyVerdict
    from safeguard_streams.client.publisher import Publisher
    from safeguard_streams.client.verdicts import FollowedVerdict, Resolver, StandingVerdict, Verdicts
    from safeguard_streams.contract.records import (
        Action,
        Appeal,
        Attempt,
        AuthorStatement,
        Canary,
        ContentEvent,
        ContentReport,
        DeadLetter,
        GoldenScore,
        Message,
        Origin,
        PrefilterResult,
        Rationale,
        StatementOfReasons,
        Tokens,
        Verdict,
        decode,
        encode,
    )
    from safeguard_streams.errors import (
        BusError,
        ConfigurationError,
        ForbiddenError,
        RecordError,
        SafeguardError,
    )
    from safeguard_streams.runtime.memory_broker import MemoryBroker

__all__ = [
    "Action",
    "Appeal",
    "Attempt",
    "AuthorStatement",
    "BusError",
    "Canary",
    "ConfigurationError",
    "ContentEvent",
    "ContentReport",
    "DeadLetter",
    "FollowedVerdict",
    "ForbiddenError",
    "GoldenScore",
    "ItemVerdicts",
    "MemoryBroker",
    "Message",
    "Origin",
    "PolicyVerdict",
    "PrefilterResult",
    "Publisher",
    "Rationale",
    "RecordError",
    "Resolver",
    "SafeguardError",
    "StandingVerdict",
    "StatementOfReasons",
    "Tokens",
    "Verdict",
    "Verdicts",
    "decode",
    "encode",
]

_MODULES = {
    "client.item_verdicts": ["ItemVerdicts", "PolicyVerdict"],
    "client.publisher": ["Publisher"],
    "client.verdicts": ["FollowedVerdict", "Resolver", "StandingVerdict", "Verdicts"],
    "errors": ["BusError", "ConfigurationError", "ForbiddenError", "RecordError", "SafeguardError"],
    "runtime.memory_broker": ["MemoryBroker"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'contract.records')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
