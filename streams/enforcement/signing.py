"""Signatures of the agent's records on moderation.actions, which tell them from records that others write there.

Moderators' tools write to moderation.actions, too. A `sequence` in a record says that the agent wrote it, and anybody
can write one. The agent therefore signs its records with a key that is made of the webhook's secret, which only agents
and the receiver have. It delivers, counts and sends again no record without its signature.

A signature covers the topic, the partition and the value. A copy of a signed record has the same `action_id`, so a
receiver drops it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Headers
from safeguard_streams.errors import RecordError

HEADER = "signature"
NOT_THE_AGENTS = (
    "says that the agent followed the record, and no agent with this webhook secret wrote it; leave sequence out of "
    "what you write. If the secret was set or changed meanwhile: retry, and the agent sends what stands"
)
_VERSION = b"v1,"


class Signer:
    """Signs records of moderation.actions and checks their signatures. secret: the webhook's, as bytes.

    prefix: the deployment's. A record of one deployment is none of another, even where both have one secret.
    """

    def __init__(self, secret: bytes, prefix: str) -> None:
        topic = prefix + topics.ACTIONS
        self._key = hmac.digest(secret, f"records of {topic}".encode(), hashlib.sha256)

    def header(self, partition: int, value: bytes) -> tuple[str, bytes]:
        """The header that signs a record."""
        digest = hmac.digest(self._key, b"%d." % partition + value, hashlib.sha256)
        return (HEADER, _VERSION + base64.b64encode(digest))

    def signed(self, partition: int, value: bytes | None, headers: Headers) -> bool:
        """Whether an agent with this secret wrote a record to this partition."""
        if value is None:
            return False
        _, expected = self.header(partition, value)
        return any(hmac.compare_digest(expected, one) for name, one in headers if name == HEADER and one is not None)

    def check(self, record: Record) -> None:
        """Raise RecordError for a record with a sequence that no agent with this secret wrote."""
        if not self.signed(record.partition, record.value, record.headers):
            raise RecordError("sequence", NOT_THE_AGENTS)


def kept(headers: Headers) -> list[tuple[str, bytes]]:
    """The signature among headers, to pass it on with what it signs; the first, if there are several."""
    return [(name, one) for name, one in headers if name == HEADER and one is not None][:1]
