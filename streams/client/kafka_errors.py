"""Kafka's errors as errors of this package."""

from __future__ import annotations

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from safeguard_streams.errors import BusError, ForbiddenError

_FORBIDDEN = (ClusterAuthorizationFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError)


def translated(error: KafkaError, doing: str) -> BusError | ForbiddenError:
    """The error to raise where `doing`, a noun phrase such as "reading moderation.verdicts", failed."""
    if isinstance(error, _FORBIDDEN):
        what = type(error).__name__.partition("Authorization")[0].lower()
        return ForbiddenError(
            f"{doing} is forbidden: this user has no access to the {what}; see: safeguard topics acls"
        )
    return BusError(f"{doing} failed: {error!r}; check the address and that the brokers are running, then try again")
