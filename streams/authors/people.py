"""What people write about authors: decisions, their ends, strikes forgiven, authors forgotten. Each is followed once.

People write to moderation.strikes, in the partition of the author, where the ledger follows their records in one order
with the strikes. The id of a record comes from the request's key, or names what it is about. A second click and a
command that is repeated after an interruption therefore change nothing more.
"""

from __future__ import annotations

import uuid

from safeguard_streams.authors.ledger import undo_id
from safeguard_streams.authors.standings import known, partitions_of
from safeguard_streams.bus import kafka
from safeguard_streams.contract import limits, topics
from safeguard_streams.contract.records import (
    AuthorEnforced,
    Strike,
    StrikeState,
    encode,
    now,
    schema_header,
    verdict_id,
)
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.settings import Settings


def check_author_id(author_id: str) -> None:
    """Raise ConfigurationError for an id that no author can have."""
    try:
        author_id.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("AUTHOR_ID: is not UTF-8") from None
    if not 0 < len(author_id) <= limits.ID_CHARACTERS:
        raise ConfigurationError(
            f"AUTHOR_ID: has {counted(len(author_id), 'character')}, not 1 to {limits.ID_CHARACTERS}"
        )


async def decide(
    settings: Settings, author_id: str, action: AuthorEnforced, person: ChangedBy, *, key: str | None = None
) -> Strike:
    """Decide what stands on an author, whatever strikes come or go. An author without strikes may be decided about.

    key: names the request, as a form's hidden field does; the same request again is followed once.
    """
    return await _write(settings, author_id, _named(author_id, key, "decided"), "decided", person, action)


async def undecide(settings: Settings, author_id: str, person: ChangedBy, *, key: str | None = None) -> Strike:
    """Take a person's decision back: what the strikes say stands again. Raises ConfigurationError if there is none."""
    decision = (await known(settings, author_id)).standing.decision
    if decision is None:
        raise ConfigurationError(f"nobody decided about author {author_id!r}; see: safeguard authors show {author_id}")
    return await undo(settings, author_id, key or decision.decision_id, person)


async def undo(settings: Settings, author_id: str, decision_id: str, person: ChangedBy) -> Strike:
    """Take one decision back, of which the caller knows that it stands. The same undo again is followed once."""
    return await _write(settings, author_id, undo_id(author_id, decision_id), "undecided", person)


def id_of(author_id: str, key: str) -> str:
    """The id of the decision that a request with a key writes about an author."""
    return _named(author_id, key, "decided")


async def forgive(settings: Settings, author_id: str, strike_id: str, person: ChangedBy) -> Strike:
    """Forgive one strike for good, also where its verdict is confirmed later. To repeat it changes nothing.

    Raises ConfigurationError when the author has no such strike.
    """
    strikes = {one.strike_id for one in (await known(settings, author_id)).standing.strikes}
    if strike_id not in strikes:
        raise ConfigurationError(
            f"author {author_id!r} has no strike {strike_id!r}; see: safeguard authors show {author_id}"
        )
    return await _write(settings, author_id, strike_id, "forgiven", person)


async def forget(settings: Settings, author_id: str, person: ChangedBy) -> Strike:
    """End all that is known of an author: strikes, what stands, decisions. Later verdicts give new strikes."""
    await known(settings, author_id)
    return await _write(settings, author_id, _named(author_id, None, "forgotten"), "forgotten", person)


def _named(author_id: str, key: str | None, about: str) -> str:
    return verdict_id(author_id, key or uuid.uuid4().hex, about)


async def _write(
    settings: Settings,
    author_id: str,
    name: str,
    state: StrikeState,
    person: ChangedBy,
    action: AuthorEnforced | None = None,
) -> Strike:
    """Write a person's record to the author's partition; returns when the broker has it."""
    check_author_id(author_id)
    person = checked(person)
    entry = Strike(name, author_id, state, now(), action=action, by=person.by, why=person.why)
    partition = kafka.likely_partition(author_id, await partitions_of(settings))
    async with kafka.producer(settings) as client:
        await client.send_and_wait(
            settings.prefix + topics.STRIKES,
            value=encode(entry),
            key=author_id.encode(),
            partition=partition,
            headers=[schema_header(Strike)],
        )
    return entry
