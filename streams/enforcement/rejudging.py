"""A second judgement of an appealed text, with what the appellant adds: advice to the person who decides the appeal.

The model gets the appellant's words as one more message of the item's context, which the prompt quotes line by line and
never takes for instructions. The verdict goes to moderation.replays, names the appeal, and acts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Output
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Escalation,
    Message,
    PolicyRelease,
    PrefilterResult,
    Verdict,
    encode,
    now,
    schema_header,
)
from safeguard_streams.enforcement.appeal_outcomes import find, shown
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases import operator
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.texts import PlacedEvent, TextPlace, events_at, newest_event
from safeguard_streams.runtime.settings import Settings

ROLE = "appellant, whose claim nobody has checked"
_WRITER = "enforcement-people"
_ESCALATION = schema_header(Escalation)


async def rejudge(settings: Settings, appeal_id: str, policies: Sequence[str] = ()) -> list[str]:
    """Let the model judge an appealed text again, under these policies or else those whose action stands.

    Returns the policies. Raises ConfigurationError where the appeal adds nothing, the text is not there to be read, or
    a policy is not in force.
    """
    said = (await shown(settings, appeal_id)).new_context
    if not said:
        raise ConfigurationError(
            f"appeal {appeal_id} adds no new context, or its words were erased: the model would judge what it judged"
        )
    found = await find(settings, appeal_id)
    standing = found.standing
    restricting = [one.policy_id for one in standing.policies if one.action != "allow"]
    wanted = list(dict.fromkeys(policies or restricting))
    if not wanted:
        raise ConfigurationError(f"no policy's action stands on {standing.content_id!r}: name one by --policy")
    in_force = (await operator.history(settings)).in_force
    if missing := [name for name in wanted if name not in in_force]:
        raise ConfigurationError(f"not in force: {', '.join(missing)}; name another by --policy")
    place = TextPlace(standing.content_id, standing.content_sha256, standing.origin)
    placed = await _event(settings, place)
    outputs = [_output(placed, in_force[name], appeal_id, said) for name in wanted]
    async with kafka.exclusive_writer(settings, _WRITER) as write:
        await write(outputs, [found.partition] * len(outputs))
    return wanted


async def advice(settings: Settings, content_id: str, appeal_id: str) -> list[Verdict]:
    """What the model said with the words of an appeal before it, the newest verdict under each policy."""
    mention, newest = kafka.Mention(content_id), dict[str, Verdict]()
    async for record in kafka.read_all(settings, [topics.REPLAYS]):
        if mention.possible(record.key, record.value):
            verdict = kafka.decoded_or_left_out(settings, record, Verdict)
            if verdict is not None and (verdict.content_id, verdict.appeal_id) == (content_id, appeal_id):
                newest[verdict.policy_id] = verdict
    return list(newest.values())


async def _event(settings: Settings, place: TextPlace) -> PlacedEvent:
    """The event that what stands is about, or else the newest one of the item."""
    erasures = ErasureList()
    await erasures.read(settings)
    event = (await events_at(settings, [place], erasures.erased)).get(place)
    if event is not None and place.origin is not None:
        return PlacedEvent(event, place.origin)
    return await newest_event(settings, place.content_id)


def _output(placed: PlacedEvent, release: PolicyRelease, appeal_id: str, said: str) -> Output:
    event = msgspec.structs.replace(placed.event, context=(*placed.event.context, Message(ROLE, said)))
    escalation = Escalation(
        event,
        release.policy_id,
        release.version,
        release.revision,
        PrefilterResult("appeal"),
        "replay",
        now(),
        origin=placed.origin,
        appeal_id=appeal_id,
    )
    return Output(topics.ESCALATIONS_REPLAY, event.content_id.encode(), encode(escalation), [_ESCALATION])
