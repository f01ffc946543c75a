"""What commonly goes wrong in a deployment: each check says what it found and, if it failed, what to do.

Checks only read. They are bounded in time, and one that cannot run is skipped with the reason. A check fails when
content is not moderated as it should be, or a process would not start; it warns about what will hurt later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import TypeVar

from aiokafka.errors import KafkaError

from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, forbidden
from safeguard_streams.errors import ForbiddenError, SafeguardError
from safeguard_streams.operations import cluster, cluster_checks, host_checks
from safeguard_streams.operations.checks import Check, failed, skipped
from safeguard_streams.operations.status import PART_SECONDS, quiet_clients, with_admin
from safeguard_streams.runtime.server_urls import urls_of
from safeguard_streams.runtime.settings import Settings

T = TypeVar("T")


async def diagnose(settings: Settings, environment: Mapping[str, str], role: str | None) -> list[Check]:
    """All checks, in the order in which problems should be solved. role: whose rights this user must have, if any."""
    checks = [
        host_checks.versions(),
        host_checks.variables(environment),
        *host_checks.models(settings),
        host_checks.disk(settings),
    ]
    checks += await asyncio.gather(
        *(host_checks.port(settings, name, number) for name, number in _ports(settings).items())
    )
    checks += await asyncio.gather(*(host_checks.inference_server(url) for url in urls_of(settings.servers)))
    first = (host_checks.inference_server(url, "SAFEGUARD_FIRST_SERVERS") for url in urls_of(settings.first_servers))
    checks += await asyncio.gather(*first)
    reached = await cluster_checks.broker(settings)
    checks.append(reached)
    if reached.result != "ok":
        return [*checks, skipped("cluster", "topics, rights, policies and processes need a broker that answers")]
    with quiet_clients():
        return checks + await _of_cluster(settings, role)


def _ports(settings: Settings) -> dict[str, int]:
    return {
        "prefilter": settings.prefilter_port,
        "reasoner": settings.reasoner_port,
        "enforcement": settings.enforcement_port,
        "authors": settings.authors_port,
    }


async def _of_cluster(settings: Settings, role: str | None) -> list[Check]:
    states = await _bounded("topics", with_admin(settings, partial(cluster.topic_states, settings)))
    if isinstance(states, Check):
        return [states]
    checks = [
        cluster_checks.topic_settings(states, settings.catalogue),
        cluster_checks.partitions(states),
        cluster_checks.replication(states),
        cluster_checks.rights(states, role),
    ]
    found = await asyncio.gather(
        _bounded("transactions", cluster_checks.transactions(settings)),
        _bounded("brokers' disks", with_admin(settings, cluster_checks.read_broker_disks)),
        _bounded("clocks", cluster_checks.clocks(settings, states)),
        _bounded("policies in force", cluster_checks.policies(settings, states)),
        _bounded("processes", with_admin(settings, partial(cluster_checks.read_processes, settings, states))),
        _bounded("waiting", with_admin(settings, partial(cluster_checks.read_waiting, settings, states))),
        _bounded("dead letters", cluster_checks.read_dead_letters(settings, states)),
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
