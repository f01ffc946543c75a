"""Whether a broker answers, and whether it has transactions."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from ssl import SSLCertVerificationError
from typing import Literal

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnknownError,
)

from safeguard_streams.bus.kafka.clients import FORBIDDEN_ERRORS, PRODUCER_OPTIONS, bounded_stop, forbidden, no_broker
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime.security import client_options
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

_ATTEMPT_SECONDS = 6.0  # to reach a broker
_PAUSES = 3  # of the machine, during which an attempt does not count
COMMAND_SECONDS = 4.0  # how long a command waits for a broker that refuses connections, as one that starts does
_PROBE_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds after each attempt
_ENDS_TRANSACTIONS = frozenset({27, 61, 65})  # WriteTxnMarkers, DescribeProducers, DescribeTransactions


_probing: ContextVar[bool] = ContextVar("probing", default=False)  # also in the tasks of the probe's client


def _not_of_a_probe(record: logging.LogRecord) -> bool:
    """Drops what the client logs when a broker refuses a probe's request, which is one of the two answers."""
    return not (_probing.get() and "InitProducerIdRequest" in record.getMessage())


logging.getLogger("aiokafka.producer.sender").addFilter(_not_of_a_probe)


class _ConnectionErrors(logging.Filter):
    """Collects why connections failed: the client reports it only in its log."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.errors += [value for value in record.args or () if isinstance(value, BaseException)]
        return True

    @property
    def last(self) -> str:
        """The reason why the last connection failed, for a message."""
        return f" ({self.errors[-1]})" if self.errors else ""

    def check(self, address: str) -> None:
        """Raise ConfigurationError for errors that no retry mends."""
        for error in self.errors:
            if isinstance(error, (AuthenticationFailedError, SaslAuthenticationFailed)):
                raise ConfigurationError(
                    f"{address}: the broker refused these credentials; see SAFEGUARD_USERNAME and SAFEGUARD_PASSWORD"
                )
            if isinstance(error, SSLCertVerificationError):
                raise ConfigurationError(
                    f"{address}: the broker's certificate is not trusted ({error.verify_message}); "
                    "see SAFEGUARD_CA_FILE"
                )


async def wait_for_broker(settings: Settings, timeout: float | None = None) -> None:
    """Return when the broker answers.

    Raises BusError after `timeout` seconds, and ConfigurationError when the broker refuses the credentials or its
    certificate is not trusted.
    """
    reasons, client_log = _ConnectionErrors(), logging.getLogger("aiokafka")
    client_log.addFilter(reasons)
    try:
        await _wait_for_broker(settings, timeout, reasons)
    finally:
        client_log.removeFilter(reasons)


async def _wait_for_broker(settings: Settings, timeout: float | None, reasons: _ConnectionErrors) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    logged, pauses = False, 0
    while True:
        producer = AIOKafkaProducer(**client_options(settings), request_timeout_ms=5000)
        began = loop.time()
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                await producer.start()
            return
        except (KafkaError, TimeoutError, OSError) as error:
            reasons.check(settings.bootstrap)
            # What took far longer was no attempt: the machine stood still, and an answer may be there unread.
            stood_still = loop.time() - began >= 2 * _ATTEMPT_SECONDS
            pauses += stood_still
            counts = not stood_still or pauses > _PAUSES
            if timeout is not None and counts and loop.time() - start > timeout:
                raise no_broker(settings, reasons.last) from error
            if not logged:
                log.warning("no broker answered, waiting bootstrap=%s", settings.bootstrap)
                logged = True
            await asyncio.sleep(0.5)
        finally:
            await bounded_stop(producer.stop)


async def has_transactions(settings: Settings, group: str) -> bool:
    """Ask the broker, more than once if its answer is an unknown error, which may be a passing one.

    That answer means no only from a broker without the requests by which brokers end each other's transactions. Raises
    ConfigurationError if the settings require transactions and there are none, ForbiddenError, or BusError for all
    other failures.
    """
    for delay in _PROBE_DELAYS:
        answer = await _answer_to_transactional_id(settings, f"{group}-probe")
        if answer != "unknown error":
            break
        await asyncio.sleep(delay)
    if answer == "unknown error":
        raise BusError(f"{settings.bootstrap}: the broker keeps answering a transactional id with an unknown error")
    if answer == "no" and settings.delivery == "exactly-once":
        raise ConfigurationError(
            f"{settings.bootstrap}: the broker has no transactions; use Apache Kafka, or set SAFEGUARD_DELIVERY=auto "
            "for at-least-once"
        )
    return answer == "yes"


async def _answer_to_transactional_id(settings: Settings, name: str) -> Literal["yes", "no", "unknown error"]:
    producer = AIOKafkaProducer(**client_options(settings), transactional_id=name, **PRODUCER_OPTIONS)
    token = _probing.set(True)
    try:
        async with asyncio.timeout(30):
            await producer.start()
        return "yes"
    except UnknownError:
        return "unknown error" if await _serves(producer, _ENDS_TRANSACTIONS) else "no"
    except FORBIDDEN_ERRORS as error:
        raise forbidden(error) from error
    except KafkaConnectionError as error:
        raise no_broker(settings) from error
    except (KafkaError, TimeoutError) as error:
        raise BusError(f"cannot determine whether the broker has transactions: {error!r}") from error
    finally:
        _probing.reset(token)
        await bounded_stop(producer.stop)


async def _serves(producer: AIOKafkaProducer, requests: frozenset[int]) -> bool:
    """Whether a broker lists one of these requests among those that it answers."""
    client = producer.client
    connection = await client._get_conn(client.get_random_node())
    return connection is not None and not requests.isdisjoint(connection._versions)
