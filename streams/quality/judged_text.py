"""The text of a content item as the reasoner judged it, for a golden set."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.intake import read_event
from safeguard_streams.contract.records import ContentEvent, Verdict, content_sha256, place_of
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.quality.verdict_labels import decided
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime.settings import Settings


class JudgedText(msgspec.Struct, frozen=True):
    """An event, and the last verdict on its text under one policy; None where the prefilter cleared it."""

    event: ContentEvent
    verdict: Verdict | None


async def judged_text(settings: Settings, policy_id: str, content_id: str, since: datetime | None = None) -> JudgedText:
    """What the reasoner judged last of a content item under a policy; of an item that it never saw, the newest text.

    since: when the oldest record to read was written. Raises ConfigurationError when the text is not on content.events,
    or when the item was erased.
    """
    await kafka.wait_for_broker(settings, timeout=kafka.COMMAND_SECONDS)
    read = kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since)
    verdicts = [
        verdict
        async for _, verdict in read
        if verdict.content_id == content_id and verdict.policy_id == policy_id and verdict.stage == "reasoner"
    ]
    verdict = max(verdicts, key=decided, default=None)
    erasures = ErasureList()
    await erasures.read(settings)
    newest: ContentEvent | None = None
    async with contextlib.aclosing(_candidates(settings, verdict, since)) as records:
        async for record in records:
            event = _event(record)
            if event is None or event.content_id != content_id or erasures.erased(content_id, record.timestamp):
                continue
            if verdict is None:
                newest = event
            elif content_sha256(event.text) == verdict.content_sha256:
                return JudgedText(event, verdict)
    if newest is None:
        what = "no text" if verdict is None else "not the text that was judged"
        raise ConfigurationError(
            f"{topics.EVENTS} holds {what} of {content_id!r}: check the id; its events may be erased or past retention"
        )
    return JudgedText(newest, None)


async def _candidates(
    settings: Settings, verdict: Verdict | None, since: datetime | None
) -> AsyncGenerator[Record, None]:
    """The events that may hold the text: first the one that the verdict names, then all."""
    place = None if verdict is None else place_of(verdict.origin)
    if place is not None:
        for record in (await kafka.records_at(settings, topics.EVENTS, [place])).values():
            yield record
    async with contextlib.aclosing(kafka.read_all(settings, [topics.EVENTS], since=since)) as records:
        async for record in records:
            yield record


def _event(record: Record) -> ContentEvent | None:
    if record.value is None:
        return None
    try:
        return read_event(record.value).event
    except RecordError:
        return None
