"""Referrals to authorities: what rules referred, and the legal holds that keep it.

A referral is under a legal hold until somebody releases it, with a name and a reason. Nothing removes one under hold:
no erasure, no retention, no purge. Released ones go with the item's erasure, or with a purge once they are old enough.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Referral, aware, encode, now, schema_header
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.settings import Settings

_WRITER = "referrals"  # the transactional id: two people never change the same referral at once


class PlacedReferral(NamedTuple):
    """A referral and the partition of its record."""

    partition: int
    referral: Referral


async def referrals(
    settings: Settings, content_id: str | None = None, partition: int | None = None
) -> list[PlacedReferral]:
    """All referrals, or those of one item, oldest first. Raises ForbiddenError for who may not read them."""
    found: dict[tuple[int, bytes], PlacedReferral] = {}
    async for record in kafka.read_all(settings, [topics.REFERRALS], partition):
        place = (record.partition, record.key or b"")
        found.pop(place, None)
        referral = kafka.decoded_or_left_out(settings, record, Referral) if record.value is not None else None
        if referral is not None and content_id in (None, referral.content_id):
            found[place] = PlacedReferral(record.partition, referral)
    return sorted(found.values(), key=lambda one: (aware(one.referral.referred_at), one.referral.referral_id))


async def set_hold(settings: Settings, referral_id: str, moderator: ChangedBy, *, hold: bool) -> Referral:
    """Put a referral under a legal hold, or release it. Returns the referral as it is now.

    Raises ConfigurationError for an id that there is not, or when the name or the reason is no plain text.
    """
    moderator = checked(moderator)
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        found = [one for one in await referrals(settings) if one.referral.referral_id == referral_id]
        if not found:
            raise ConfigurationError(f"there is no referral {referral_id!r}; see: safeguard referrals list")
        changed = [
            PlacedReferral(
                one.partition,
                msgspec.structs.replace(
                    one.referral, hold=hold, held_by=moderator.by, held_at=now(), why=moderator.why
                ),
            )
            for one in found
        ]
        await write([_output(one.referral) for one in changed], [one.partition for one in changed])
    return changed[0].referral


async def purge(settings: Settings, moment: datetime, *, dry_run: bool) -> list[Referral]:
    """Remove the released referrals that are older than SAFEGUARD_REFERRALS_RETENTION_DAYS. Returns them."""
    oldest = moment - timedelta(days=settings.referrals_retention_days)
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        gone = [
            one
            for one in await referrals(settings)
            if not one.referral.hold and aware(one.referral.referred_at) <= oldest
        ]
        if gone and not dry_run:
            await write(_tombstones(gone), [one.partition for one in gone])
    return [one.referral for one in gone]


async def erase_released(
    settings: Settings, content_id: str, partition: int | None = None
) -> tuple[list[Referral], list[Referral]]:
    """Remove the released referrals of an item. Returns them, and those that a legal hold keeps.

    Raises ForbiddenError for who may not read or write referrals, and BusError where somebody else changes one now.
    """
    found = await referrals(settings, content_id, partition)
    if not all(one.referral.hold for one in found):
        async with kafka.exclusive_writer(settings, _WRITER) as write:
            found = await referrals(settings, content_id, partition)  # a hold may have been set until now
            if gone := [one for one in found if not one.referral.hold]:
                await write(_tombstones(gone), [one.partition for one in gone])
    every = [one.referral for one in found]
    return [one for one in every if not one.hold], [one for one in every if one.hold]


def _tombstones(gone: list[PlacedReferral]) -> list[Output]:
    """The records that remove referrals."""
    return [Output(topics.REFERRALS, one.referral.referral_id.encode(), None) for one in gone]


def _output(referral: Referral) -> Output:
    return Output(topics.REFERRALS, referral.referral_id.encode(), encode(referral), [schema_header(Referral)])
