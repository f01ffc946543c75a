"""Kafka clients with bounded stops and translated errors, and the options that they share."""

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
    KafkaConnectionError,
    KafkaError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from safeguard_streams.contract import topics
from safeguard_streams.errors import BusError, ForbiddenError
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.runtime.stopping import stopped

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
# Retries change none of these: only new access lists do.
FORBIDDEN_ERRORS = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
# A fenced producer raises ProducerFenced once; after that it only reports that it is in no transaction.
FENCED_ERRORS = (ProducerFenced, InvalidProducerEpoch, IllegalOperation)


def forbidden(error: KafkaError) -> ForbiddenError:
    """The error for a refusal by the broker's access lists, with the names that it refused."""
    kind = type(error).__name__.partition("Authorization")[0].lower()
    refused = error.args[0] if error.args else ""
    names = refused if isinstance(refused, str) else ", ".join(sorted(map(str, refused)))
    return ForbiddenError(f"the broker refuses this user: {kind} {names}".rstrip() + "; see: safeguard topics acls")


def no_broker(settings: Settings, reason: str = "") -> BusError:
    """The error for a command that reaches no broker."""
    return BusError(
        f"no Kafka broker answers at {settings.bootstrap}{reason}; check --bootstrap or SAFEGUARD_BOOTSTRAP, or start "
        "one to try things on: safeguard broker"
    )


def failed(settings: Settings, error: KafkaError) -> BusError:
    """The error for a request that failed."""
    if isinstance(error, KafkaConnectionError):
        return no_broker(settings)
    return BusError(f"{settings.bootstrap}: {error!r}")


async def bounded_stop(stop: Callable[[], Awaitable[None]]) -> None:
    """Stop a client within STOP_SECONDS; it may wait without end for a broker that is gone."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stopped(stop)
    except (TimeoutError, KafkaError) as error:
        log.debug("client not stopped in time error=%r", error)


@contextlib.asynccontextmanager
async def started(
    settings: Settings, client: Any, stop: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Any]:
    """Run a client for the block, and stop it in bounded time. Raises BusError, or ForbiddenError for a refusal."""
    try:
        await client.start()
        yield client
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaError as error:
        raise failed(settings, error) from error
    finally:
        await bounded_stop(stop or client.stop)


@contextlib.asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A producer without transactions for commands, which waits for all acknowledgements."""
    async with started(settings, AIOKafkaProducer(**client_options(settings), **PRODUCER_OPTIONS)) as client:
        yield client
