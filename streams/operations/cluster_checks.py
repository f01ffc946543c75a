"""Checks of the Kafka cluster, and of what waits and runs on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.topics import Topic
from safeguard_streams.errors import BusError, ConfigurationError, ForbiddenError, SafeguardError
from safeguard_streams.operations import acls, cluster
from safeguard_streams.operations.checks import Check, failed, ok, skipped, some, warning
from safeguard_streams.operations.cluster import Group, Lag, TopicState
from safeguard_streams.operations.log_dirs import LogDir, log_dirs
from safeguard_streams.operations.status import PART_SECONDS, Letters, waiting_letters
from safeguard_streams.releases import operator
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

SKEW_SECONDS = 60.0
WAITING_SECONDS = 300.0
LOW_SHARE, FULL_SHARE = 0.15, 0.05  # of a broker's disk
_CREATE = "run: safeguard topics create"
_NO_TOPICS = "their topics do not exist, or this user may not see them"
# Topics whose partitions must be as many as those of the events: every stage keeps a record's partition number.
_ALIGNED = (
    topics.EVENTS,
    topics.REPORTS,
    topics.REPORTED,
    *topics.LANES.values(),
    topics.VERDICTS,
    topics.CLEARED,
    topics.ENFORCEMENT,
    topics.ACTIONS,
    topics.APPEALS,
    topics.REFERRALS,
    topics.STANDING,
)


async def broker(settings: Settings) -> Check:
    """Whether a broker answers with these credentials."""
    try:
        await kafka.wait_for_broker(settings, timeout=kafka.COMMAND_SECONDS)
    except SafeguardError as error:
        return failed("broker", str(error), "start it, or correct SAFEGUARD_BOOTSTRAP and the settings of its security")
    async with cluster.admin(settings) as client:
        found = await cluster.brokers(client)
    return ok("broker", f"{len(found.addresses)} up, cluster {found.cluster_id or 'without an id'}")


def topic_settings(states: Mapping[str, TopicState], catalogue: Sequence[Topic] = topics.CATALOGUE) -> Check:
    """Whether each topic is there and has the settings of the contract."""
    name = "topics"
    contracts = {topic.name: topic for topic in catalogue}
    if missing := [state.name for state in states.values() if state.missing]:
        return failed(name, f"{len(missing)} missing: {some(missing)}", _CREATE)
    if offline := [state.name for state in states.values() if state.offline]:
        return failed(name, f"partitions without a leader: {some(offline)}", "start the brokers that hold them")
    differing = [
        (state.name, setting, present, wanted)
        for topic, state in states.items()
        for setting, (present, wanted) in state.differences(contracts[topic]).items()
    ]
    for topic, setting, present, wanted in differing:
        if setting in {"cleanup.policy", "max.message.bytes"}:
            return failed(name, f"{topic} has {setting}={present}, not {wanted}", _change(topic, setting, wanted))
    for topic, setting, present, wanted in differing:
        return warning(name, f"{topic} has {setting}={present}, not {wanted}", _change(topic, setting, wanted))
    if any(state.partitions and state.config is None for state in states.values()):
        return skipped(name, "they exist; this user may not read their settings, or the broker does not tell them")
    return ok(name, f"{len(states)}, as the contract says")


def _change(topic: str, setting: str, wanted: str) -> str:
    if setting == "max.message.bytes":
        return _CREATE
    if setting == "retention.ms" and topic.endswith(topics.ACTIONS):
        return "set SAFEGUARD_ACTIONS_RETENTION_DAYS to the days that you want, then run: safeguard topics create"
    return f"run: kafka-configs.sh --alter --topic {topic} --add-config {setting}=[{wanted}]"


def partitions(states: Mapping[str, TopicState]) -> Check:
    """Whether the topics that records pass through have equally many partitions."""
    counts = {states[name].name: states[name].partitions for name in _ALIGNED if states[name].partitions}
    if len(set(counts.values())) > 1:
        most = max(counts.values())
        low = [f"{topic} {count}" for topic, count in counts.items() if count < most]
        return failed(
            "partitions",
            f"{most} in some topics, fewer in others: {some(low)}",
            f"raise them to {most} with kafka-topics.sh --alter --partitions, then run: safeguard enforce repartition",
        )
    if not counts:
        return skipped("partitions", _NO_TOPICS)
    return ok("partitions", f"{next(iter(counts.values()))} in each topic that records pass through")


def replication(states: Mapping[str, TopicState]) -> Check:
    """Whether a broker can be lost without records."""
    if not any(state.partitions for state in states.values()):
        return skipped("replication", _NO_TOPICS)
    behind = [state.name for state in states.values() if state.under_replicated]
    if behind:
        return warning("replication", f"replicas not in sync: {some(behind)}", "check the brokers' health")
    single = [state.name for state in states.values() if state.replicas == 1]
    if single:
        return warning(
            "replication",
            f"one replica: {some(single)}",
            "for production, give every topic three replicas and min.insync.replicas=2",
        )
    return ok("replication", "two replicas or more, all in sync")


def rights(states: Mapping[str, TopicState], role: str | None) -> Check:
    """Whether this user has the rights of a role on topics; without a role, whose rights it has."""
    if all(state.rights is None and not state.forbidden for state in states.values()):
        return skipped("rights", "the broker does not tell what a user may do")
    names = [role] if role else list(acls.ROLES)
    lacking = {name: _lacking(states, name) for name in names}
    if role and lacking[role]:
        first = lacking[role][0]
        return failed(
            "rights",
            f"role {role} lacks {len(lacking[role])} rights, such as {first.operation} on {first.name}",
            f"run as an administrator: safeguard topics acls {role} --principal User:NAME --apply",
        )
    held = [name for name in names if not lacking[name]]
    if not held:
        return failed("rights", "this user has the rights of no role", "see: safeguard topics acls")
    return ok("rights", f"on topics, those of {some(held, len(acls.ROLES))}")


def _lacking(states: Mapping[str, TopicState], role: str) -> list[acls.AclBinding]:
    rights = {state.name: set() if state.forbidden else state.rights for state in states.values()}
    some = next(iter(states))
    wanted = acls.bindings(role, "User:NAME", states[some].name.removesuffix(some))
    return [one for one in wanted if one.resource == "topic" and _lacks(rights[one.name], one.operation)]


def _lacks(rights: set[str] | None, operation: str) -> bool:
    return rights is not None and operation not in rights


async def read_broker_disks(client: AIOKafkaAdminClient) -> Check:
    """As `broker_disks`, from the brokers."""
    try:
        return broker_disks(await log_dirs(client))
    except BusError as error:
        return skipped("brokers' disks", str(error))


def broker_disks(folders: Iterable[LogDir]) -> Check:
    """Whether the brokers have room for what they retain."""
    name = "brokers' disks"
    fullest = min(folders, key=lambda one: one.usable / max(1, one.total), default=None)
    if fullest is None:
        return skipped(name, "the brokers do not tell")
    share = fullest.usable / max(1, fullest.total)
    found = f"{share:.0%} free ({fullest.usable / 2**30:,.1f} GiB) on broker {fullest.broker} in {fullest.folder}"
    remedy = "add disks or brokers, or shorten the retention of content.events and the verdicts"
    if share < FULL_SHARE:
        return failed(name, found, remedy)
    return warning(name, found, remedy) if share < LOW_SHARE else ok(name, found)


async def transactions(settings: Settings) -> Check:
    """Whether outputs are exactly once."""
    name = "transactions"
    try:
        if await kafka.has_transactions(settings, f"{settings.prefix}policy-releases"):
            return ok(name, "the broker has them: exactly once")
    except ConfigurationError as error:
        if isinstance(error, ForbiddenError):
            raise
        return failed(name, str(error), "use Apache Kafka, or set SAFEGUARD_DELIVERY=auto")
    return warning(name, "the broker has none: at least once, with equal ids", "for exactly once, use Apache Kafka")


async def clocks(settings: Settings, states: Mapping[str, TopicState]) -> Check:
    """Whether the newest records are from the future: a host's clock is then wrong."""
    names = [name for name in (topics.EVENTS, topics.CLEARED, topics.VERDICTS) if states[name].partitions]
    parts = [TopicPartition(states[name].name, n) for name in names for n in range(states[name].partitions)]
    if not parts:
        return skipped("clocks", _NO_TOPICS)
    newest: dict[TopicPartition, int] = {}
    consumer = StrictConsumer(**client_options(settings), group_id=None, enable_auto_commit=False)
    consumer.assign(parts)
    async with kafka.started(settings, consumer):
        firsts, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        asked = {tp for tp in parts if firsts[tp] < ends[tp]}
        for tp in asked:
            consumer.seek(tp, max(firsts[tp], ends[tp] - 2))  # the last offset may be a marker of a transaction
        while asked:
            for tp, records in (await consumer.getmany(*asked, timeout_ms=200)).items():
                newest[tp] = max(record.timestamp for record in records)
            asked = {tp for tp in asked if await consumer.position(tp) < ends[tp]}
    ahead = {tp: moment / 1000 - time.time() for tp, moment in newest.items()}
    tp, most = max(ahead.items(), key=lambda one: one[1], default=(None, 0.0))
    if tp is not None and most > SKEW_SECONDS:
        return failed(
            "clocks",
            f"the newest record of {tp.topic}[{tp.partition}] is {most:,.0f} s in the future",
            "set the clocks of this host and of those who write there by NTP",
        )
    return ok("clocks", f"no record of {len(newest)} partitions is from the future")


async def policies(settings: Settings, states: Mapping[str, TopicState]) -> Check:
    """Whether any policy is in force: without one, everything waits."""
    name = "policies in force"
    if not (states[topics.POLICIES].partitions and states[topics.POLICIES_HISTORY].partitions):
        return skipped(name, _NO_TOPICS)
    history = await operator.history(settings)
    if not history.in_force:
        return failed(name, "none, and all content waits for one", "run: safeguard policy release POLICY")
    return ok(name, f"{len(history.in_force)}: {some(sorted(history.in_force))}")


async def read_processes(settings: Settings, states: Mapping[str, TopicState], client: AIOKafkaAdminClient) -> Check:
    """As `processes`, from the brokers."""
    return processes(await cluster.groups(settings, client), states[topics.EVENTS].partitions)


def processes(groups: Mapping[str, Group], partitions: int) -> Check:
    """Whether each stage has a process in its group, and none more than there are partitions."""
    commands = {"prefilter": "safeguard prefilter run", "reasoner": "safeguard reason run"}
    idle = [stage for stage in commands if not groups[stage].hosts]
    if idle:
        remedy = "; ".join(f"run: {commands[stage]}" for stage in idle)
        return failed("processes", f"no {' and no '.join(idle)} is running: its content waits", remedy)
    counts = {stage: len(groups[stage].hosts) for stage in (*commands, "enforcement")}
    found = ", ".join(f"{count} {stage}" for stage, count in counts.items())
    unserved = [lane for lane, group in topics.LANE_GROUPS.items() if not groups[group].hosts]
    if unserved:
        remedy = f"run: SAFEGUARD_LANES={','.join(unserved)} safeguard reason run"
        return warning("processes", f"{found}; none judges {', '.join(unserved)}", remedy)
    if partitions and max(counts.values()) > partitions:
        return warning("processes", f"{found}; more than {partitions} partitions", "end those that own no partition")
    if not counts["enforcement"]:
        return warning("processes", found, "run: safeguard enforce run, unless a consumer of your own acts on verdicts")
    return ok("processes", found)


async def read_waiting(settings: Settings, states: Mapping[str, TopicState], client: AIOKafkaAdminClient) -> Check:
    """As `waiting`, from the brokers."""
    return waiting(await cluster.lags(settings, states, client))


def waiting(lags: Sequence[Lag]) -> Check:
    """Whether live content, and what follows from it, has waited for long. Audits, shadows and replays may wait."""
    if not lags:
        return skipped("waiting", _NO_TOPICS)
    late = [
        f"{lag.queue} {lag.records:,} for {lag.seconds:,.0f} s"
        for lag in lags
        if lag.records and lag.seconds is not None and lag.seconds > WAITING_SECONDS and _is_urgent(lag)
    ]
    if late:
        return warning("waiting", some(late), "see: safeguard status, and PrefilterLag in the runbook")
    return ok("waiting", f"no live content for more than {WAITING_SECONDS / 60:.0f} minutes")


def _is_urgent(lag: Lag) -> bool:
    return lag.queue not in {"audit", "shadow", "replay"} and (
        lag.started or lag.stage not in {"enforcement", "authors"}
    )


async def read_dead_letters(settings: Settings, states: Mapping[str, TopicState]) -> Check:
    """As `dead_letters`, from the brokers."""
    name = "dead letters"
    if not all(states[topic].partitions for topic in (topics.DEAD_LETTERS, topics.DEAD_LETTERS_HANDLED)):
        return skipped(name, _NO_TOPICS)
    try:
        async with asyncio.timeout(PART_SECONDS / 2):
            return dead_letters(await waiting_letters(settings))
    except TimeoutError:
        return skipped(name, f"more than can be counted in {PART_SECONDS / 2:.0f} s")


def dead_letters(letters: Letters) -> Check:
    """Whether records wait that could not be processed, such as actions that the webhook's receiver refused."""
    if not letters.waiting:
        return ok("dead letters", "none wait")
    counts = [f"{stage} {count:,}" for stage, count in sorted(letters.by_stage.items())]
    return warning("dead letters", f"{letters.waiting:,} wait: {', '.join(counts)}", "see: safeguard dead-letters list")
