"""The texts that held actions are about.

An action names the place on moderation.enforcement where its verdict stands, and the verdict that of its event. Both
are read there without a search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import EnforcementInput, Verdict, decode
from safeguard_streams.enforcement.moderators import HeldAction
from safeguard_streams.errors import ForbiddenError, RecordError
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.texts import TextPlace, texts_at
from safeguard_streams.runtime.settings import Settings


async def texts_of(settings: Settings, held: Sequence[HeldAction]) -> dict[str, str]:
    """The texts that held actions are about, by action_id, without those past retention or erased.

    A user who may not read moderation.enforcement or content.events gets none; the `Reading` that observes this counts
    them as left out.
    """
    erasures = ErasureList()
    await erasures.read(settings)
    places = {
        one.action.action_id: (one.partition, one.action.sequence) for one in held if one.action.sequence is not None
    }
    try:
        inputs = await kafka.records_at(settings, topics.ENFORCEMENT, places.values())
    except ForbiddenError:
        for _ in held:
            kafka.watching().leave_out(topics.ENFORCEMENT, "not readable by this user")
        return {}
    verdicts: dict[str, Verdict] = {}
    for one in held:
        record = inputs.get(places.get(one.action.action_id, (-1, -1)))
        with contextlib.suppress(RecordError):
            verdict = decode(record.value, EnforcementInput).verdict if record else None
            if verdict is not None and verdict.verdict_id == one.action.verdict_id:
                verdicts[one.action.action_id] = verdict
    texts = await texts_at(settings, map(TextPlace.of, verdicts.values()), erasures.erased)
    found = {action_id: texts.get(TextPlace.of(verdict)) for action_id, verdict in verdicts.items()}
    return {action_id: text for action_id, text in found.items() if text is not None}
