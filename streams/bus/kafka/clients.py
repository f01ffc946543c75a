"""Kafka clients with bounded ends and translated errors, and the options that they share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, ForbiddenError
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

STOP_SECONDS = 3.0
PRODUCER_OPTIONS: dict[str, Any] = {
    "acks": "all",
    "max_batch_size": 2**19,
    "max_request_size": topics.LARGEST_RECORD,
    # Kafka 4 answers the first produce after a commit with a retriable error until the commit's markers are written.
    "retry_backoff_ms": 5,
    "request_timeout_ms": 20_000,
}
# What no further try will change, unless somebody changes the access lists.
FORBIDDEN_ERRORS = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
# A producer that was fenced says so once; after that it only says that it is in no transaction.
FENCED_ERRORS = (ProducerFenced, InvalidProducerEpoch, IllegalOperation)


def forbidden(error: KafkaError) -> ForbiddenError:
    what = type(error).__name__.partition("Authorization")[0].lower()
    named = error.args[0] if error.args else ""
    names = named if isinstance(named, str) else ", ".join(sorted(map(str, named)))
    return ForbiddenError(f"the broker refuses this user: {what} {names}".rstrip() + "; see: safeguard topics acls")


async def bounded_stop(stop: Callable[[], Awaitable[None]]) -> None:
    """Clients may wait forever for a broker that is gone."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stop()
    except asyncio.CancelledError:
        # A client that is stopped before it did anything says that it was cancelled; only if this task was, it is so.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except (TimeoutError, KafkaError) as error:
        log.debug("a client did not stop in time: %r", error)


@contextlib.asynccontextmanager
async def started(
    settings: Settings, client: Any, stop: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Any]:
    """A client for as long as it is needed; what the broker refuses is a BusError, and it stops in bounded time."""
    try:
        await client.start()
        yield client
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaError as error:
        raise BusError(f"{settings.bootstrap}: {error!r}") from error
    finally:
        await bounded_stop(stop or client.stop)


@contextlib.asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer for commands; all acknowledgements, stopped in bounded time."""
    async with started(settings, AIOKafkaProducer(**client_options(settings), **PRODUCER_OPTIONS)) as client:
        yield client
