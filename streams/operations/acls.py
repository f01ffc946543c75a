"""Who may do what: each role's rights, by topics of the catalogue, and the access lists that give them.

Rights are the least that a role's processes and commands need. Rationales, the model's thoughts about content, are for auditors
alone; who erases them may write there, not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest

from safeguard_streams.bus.kafka import started
from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

Resource = Literal["topic", "group", "transactional-id"]
Operation = Literal["read", "write", "create"]


class Role(msgspec.Struct, frozen=True):
    """Topics that are read and written, and the beginnings of names of groups and of transactional ids."""

    about: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()
    creates_topics: bool = False


ROLES: dict[str, Role] = {
    "producer": Role("publishes content", writes=(topics.EVENTS,)),
    "prefilter": Role(
        "safeguard prefilter run",
        reads=(topics.EVENTS, topics.POLICIES),
        writes=(
            *(topics.ESCALATIONS, topics.ESCALATIONS_AUDIT, topics.ESCALATIONS_SHADOW, topics.CLEARED),
            topics.DEAD_LETTERS,
        ),
        groups=("prefilter",),
        transactions=("prefilter",),
    ),
    "reasoner": Role(
        "safeguard reason run",
        reads=(*topics.LANES.values(), topics.POLICIES),
        writes=(topics.VERDICTS, topics.RATIONALES, topics.REPLAYS, topics.DEAD_LETTERS),
        groups=("reasoner",),
        transactions=("reasoner",),
    ),
    "enforcement": Role(
        "safeguard enforce run, and what acts on verdicts in its place",
        reads=(topics.VERDICTS, topics.ACTIONS),
        writes=(topics.ACTIONS, topics.DEAD_LETTERS),
        groups=("enforcement",),
        transactions=("enforcement",),
    ),
    "auditor": Role(
        "looks at what was judged, why, and what was done",
        reads=(
            *(topics.EVENTS, topics.CLEARED, topics.VERDICTS, topics.RATIONALES, topics.REPLAYS, topics.REPLAY_JOBS),
            *(topics.ESCALATIONS_REPLAY, topics.ACTIONS, topics.POLICIES, topics.POLICIES_HISTORY),
        ),
    ),
    "operator": Role(
        "creates topics, releases policies, replays, promotes, decides, puts dead letters back, erases",
        reads=tuple(topic.name for topic in topics.CATALOGUE if topic.name != topics.RATIONALES),
        writes=tuple(topic.name for topic in topics.CATALOGUE),
        groups=("replay-", "dead-letters"),
        transactions=("policy-releases", "replay-", "promote-", "dead-letters", "enforcement-people"),
        creates_topics=True,
    ),
}


class Binding(msgspec.Struct, frozen=True):
    """One line of an access list: a principal may do an operation on a resource; prefixed: on all whose names begin so."""

    principal: str
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False

    @property
    def command(self) -> str:
        """As Kafka's own tool takes it, after the address of the broker."""
        option = {"topic": "--topic", "group": "--group", "transactional-id": "--transactional-id"}[self.resource]
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        return f"kafka-acls.sh --add --allow-principal {self.principal} --operation {self.operation} {option} {self.name!r}{pattern}"


def bindings(role: str, principal: str, prefix: str = "") -> Iterator[Binding]:
    """The access list of a role for a principal, as in User:prefilter; prefix is the deployment's."""
    rights = ROLES[role]
    for name in rights.reads:
        yield Binding(principal, "read", "topic", prefix + name)
    for name in rights.writes:
        yield Binding(principal, "write", "topic", prefix + name)
    for name in rights.groups:
        yield Binding(principal, "read", "group", prefix + name, prefixed=True)
    for name in rights.transactions:
        yield Binding(principal, "write", "transactional-id", prefix + name, prefixed=True)
    if rights.creates_topics:
        for topic in topics.CATALOGUE:
            yield Binding(principal, "create", "topic", prefix + topic.name)


_TYPES = {"topic": 2, "group": 3, "transactional-id": 5}
_OPERATIONS = {"read": 3, "write": 4, "create": 5}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


async def allow(settings: Settings, wanted: Sequence[Binding]) -> None:
    """Write access lists; what is there already stays as it is. Raises BusError when the broker has no authorizer, or refuses."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    async with started(settings, admin, admin.close):
        for binding in wanted:
            request = CreateAclsRequest(
                _TYPES[binding.resource],
                binding.name,
                _PREFIXED if binding.prefixed else _LITERAL,
                binding.principal,
                "*",
                _OPERATIONS[binding.operation],
                _ALLOW,
            )
            # The library has the request, and no method for it yet.
            for code, message in (await admin._send_to_controller(request)).creation_responses:
                if code:
                    raise BusError(f"{binding.resource} {binding.name}: {message or for_code(code).__name__}")
