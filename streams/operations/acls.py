"""Access control: the rights of each role on the topics of the catalogue, and the access lists that grant them.

A role has only the rights that its processes and commands need. The role `referrals` alone reads what rules referred to
authorities. Only auditors, and the console for them, can read
rationales, the model's reasoning about content. Operators can write to the topic of the rationales, to erase them, but
cannot read it.
"""

from __future__ import annotations

import shlex
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

ADMIN_PROPERTIES = "admin.properties"  # of Kafka's own tool: security.protocol and the administrator's credentials
Resource = Literal["topic", "group", "transactional-id"]
Operation = Literal["read", "write", "create", "delete", "describe", "describe-configs", "alter-configs"]


class Role(msgspec.Struct, frozen=True):
    """The topics that a role reads and writes, and the prefixes of its consumer groups and transactional ids.

    ends_groups: the consumer groups that it deletes when it uses them no longer.
    """

    about: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()
    ends_groups: tuple[str, ...] = ()
    creates_topics: bool = False


_FOR_EVERY_STAGE = (topics.POSITIONS, topics.ERASURES)

ROLES: dict[str, Role] = {
    "producer": Role("publish content", writes=(topics.EVENTS,)),
    "reporter": Role("report content", writes=(topics.REPORTS,)),
    "appeals": Role("publish appeals", writes=(topics.APPEALS,)),
    "prefilter": Role(
        "safeguard prefilter run",
        reads=(topics.EVENTS, topics.REPORTS, topics.REPORTED, topics.POLICIES, *_FOR_EVERY_STAGE),
        writes=(
            *(topics.ESCALATIONS, topics.ESCALATIONS_AUDIT, topics.ESCALATIONS_SHADOW, topics.CLEARED),
            *(topics.REPORTED, topics.DEAD_LETTERS, topics.POSITIONS),
        ),
        groups=("prefilter",),
        transactions=("prefilter",),
    ),
    "reasoner": Role(
        "safeguard reason run",
        reads=(*topics.LANES.values(), topics.POLICIES, topics.REPLAY_JOBS, *_FOR_EVERY_STAGE),
        writes=(topics.VERDICTS, topics.RATIONALES, topics.REPLAYS, topics.DEAD_LETTERS, topics.POSITIONS),
        groups=("reasoner",),
        transactions=("reasoner",),
    ),
    "canary": Role(
        "safeguard reason canary",
        reads=(topics.ESCALATIONS, topics.POLICIES, *_FOR_EVERY_STAGE),
        writes=(topics.RATIONALES, topics.REPLAYS, topics.DEAD_LETTERS, topics.POSITIONS),
        groups=(topics.CANARY_GROUP,),
        transactions=(topics.CANARY_GROUP,),
    ),
    "enforcement": Role(
        "safeguard enforce run",
        reads=(
            *(topics.VERDICTS, topics.CLEARED, topics.ENFORCEMENT, topics.ACTIONS, topics.STANDING, topics.APPEALS),
            *(topics.POLICIES, topics.POLICIES_HISTORY, topics.AUTHOR_STANDING, *_FOR_EVERY_STAGE),
            topics.EVENTS,  # the texts that rules refer
        ),
        writes=(
            *(topics.ENFORCEMENT, topics.ACTIONS, topics.STANDING, topics.STATEMENTS, topics.REFERRALS, topics.STRIKES),
            *(topics.DEAD_LETTERS, topics.POSITIONS),
        ),
        groups=("enforcement",),
        transactions=("enforcement",),
    ),
    "authors": Role(
        "safeguard authors run",
        reads=(
            *(topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING, topics.AUTHOR_POSTS),
            *(topics.POLICIES, topics.POLICIES_HISTORY, *_FOR_EVERY_STAGE),
            topics.EVENTS,  # which rates count
        ),
        writes=(
            *(topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING, topics.AUTHOR_POSTS, topics.STATEMENTS),
            *(topics.DEAD_LETTERS, topics.POSITIONS),
        ),
        groups=("authors",),
        transactions=("authors",),
        ends_groups=("authors-posts",),  # once the rules have no rates any more
    ),
    "consumer": Role(
        "read verdicts and statements of reasons, in a group of its own (--group): a service of yours, or safeguard "
        "verdicts tail",
        reads=(topics.VERDICTS, topics.CLEARED, topics.STATEMENTS),
        groups=("consumer",),
    ),
    "auditor": Role(
        "read what was judged, why, and which actions followed",
        reads=(
            *(topics.EVENTS, topics.CLEARED, topics.VERDICTS, topics.RATIONALES, topics.REPLAYS, topics.REPLAY_JOBS),
            *(topics.ESCALATIONS_REPLAY, topics.ACTIONS, topics.STANDING, topics.POLICIES, topics.POLICIES_HISTORY),
            *(topics.REPLAY_PROGRESS, topics.ERASURES, topics.REPORTS, topics.STATEMENTS, topics.APPEALS),
            *(topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING),
        ),
    ),
    "referrals": Role(
        "safeguard referrals: read what rules referred, set and release legal holds; your integration with authorities",
        reads=(topics.REFERRALS,),
        writes=(topics.REFERRALS,),
        groups=("referrals",),
        transactions=("referrals",),
    ),
    "projector": Role(
        "safeguard console project",
        reads=tuple(
            topic.name
            for topic in topics.CATALOGUE
            if topic.name
            not in (
                *(topics.EVENTS, topics.ENFORCEMENT, topics.POSITIONS, topics.REPORTED),
                *(topics.STATEMENTS, topics.REFERRALS),
                topics.AUTHOR_POSTS,
            )
        ),
    ),
    "console": Role(
        "safeguard console: follow what was judged, decided and replayed; write decisions, releases and replays",
        reads=(
            *(topics.VERDICTS, topics.CLEARED, topics.RATIONALES, *topics.LANES.values(), topics.ACTIONS),
            *(topics.STANDING, topics.POLICIES, topics.POLICIES_HISTORY, topics.REPLAYS, topics.REPLAY_JOBS),
            *(topics.REPLAY_PROGRESS, topics.DEAD_LETTERS, topics.DEAD_LETTERS_HANDLED, *_FOR_EVERY_STAGE),
            *(topics.REPORTS, topics.STRIKES, topics.AUTHOR_ACTIONS, topics.AUTHOR_STANDING),
            topics.EVENTS,  # of which it estimates and escalates a replay
        ),
        writes=(
            *(topics.ACTIONS, topics.POLICIES, topics.POLICIES_HISTORY, topics.REPLAY_JOBS, topics.REPLAY_PROGRESS),
            *(topics.ESCALATIONS_REPLAY, topics.VERDICTS, topics.DEAD_LETTERS, topics.POSITIONS, topics.STRIKES),
        ),
        groups=("replay-",),
        transactions=("policy-releases", "replay-", "promote-"),
    ),
    "operator": Role(
        "create topics, release policies, replay, promote, decide, requeue dead letters, erase",
        reads=tuple(
            topic.name for topic in topics.CATALOGUE if topic.name not in (topics.RATIONALES, topics.REFERRALS)
        ),
        writes=tuple(topic.name for topic in topics.CATALOGUE if topic.name != topics.REFERRALS),
        groups=("replay-", "enforcement"),  # repartition reads what agents have not followed
        transactions=("policy-releases", "replay-", "promote-", "dead-letters", "enforcement-people", "authors-people"),
        creates_topics=True,
    ),
}


class AclBinding(msgspec.Struct, frozen=True):
    """One entry of an access list: a principal may perform an operation on a resource. prefixed: the entry covers all
    resources whose names start with `name`.
    """

    principal: str
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False

    def command(self, settings: Settings) -> str:
        """The command of Kafka's own tool. Where brokers ask who connects, it reads that from ADMIN_PROPERTIES."""
        option = {"topic": "--topic", "group": "--group", "transactional-id": "--transactional-id"}[self.resource]
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        operation = "".join(word.capitalize() for word in self.operation.split("-"))
        config = "" if settings.security_protocol == "PLAINTEXT" else f" --command-config {ADMIN_PROPERTIES}"
        return (
            f"kafka-acls.sh --bootstrap-server {shlex.quote(settings.bootstrap)}{config} --add "
            f"--allow-principal {shlex.quote(self.principal)} --operation {operation} "
            f"{option} {shlex.quote(self.name)}{pattern}"
        )


def bindings(role: str, principal: str, prefix: str = "", group: str | None = None) -> Iterator[AclBinding]:
    """The access list of a role for a principal, as in User:prefilter. prefix is the deployment's prefix of names.

    group: the one consumer group that the principal uses, instead of those of the role.
    """
    rights = ROLES[role]
    for name in rights.reads:
        yield AclBinding(principal, "read", "topic", prefix + name)
    for name in rights.writes:
        yield AclBinding(principal, "write", "topic", prefix + name)
    if group is not None:
        yield AclBinding(principal, "read", "group", group)
    for name in rights.groups if group is None else ():
        yield AclBinding(principal, "read", "group", prefix + name, prefixed=True)
    for name in rights.ends_groups:
        yield AclBinding(principal, "delete", "group", prefix + name)
    for name in rights.transactions:
        yield AclBinding(principal, "write", "transactional-id", prefix + name, prefixed=True)
    if rights.creates_topics:
        for topic in topics.CATALOGUE:
            for operation in _CREATING:
                yield AclBinding(principal, operation, "topic", prefix + topic.name)


# It also raises the record size, and looks at topics that it may neither read nor write.
_CREATING: tuple[Operation, ...] = ("create", "describe", "describe-configs", "alter-configs")
_TYPES = {"topic": 2, "group": 3, "transactional-id": 5}
_OPERATIONS: dict[Operation, int] = {
    "read": 3,
    "write": 4,
    "create": 5,
    "delete": 6,
    "describe": 8,
    "describe-configs": 10,
    "alter-configs": 11,
}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


async def allow(settings: Settings, requested: Sequence[AclBinding]) -> None:
    """Add entries to the broker's access lists; existing entries stay. Raises BusError when the broker has no
    authorizer or refuses.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    async with started(settings, admin, admin.close):
        for binding in requested:
            request = CreateAclsRequest(
                _TYPES[binding.resource],
                binding.name,
                _PREFIXED if binding.prefixed else _LITERAL,
                binding.principal,
                "*",
                _OPERATIONS[binding.operation],
                _ALLOW,
            )
            # aiokafka has this request, but no public method that sends it.
            for code, message in (await admin._send_to_controller(request)).creation_responses:
                if code:
                    raise BusError(f"{binding.resource} {binding.name}: {message or for_code(code).__name__}")
