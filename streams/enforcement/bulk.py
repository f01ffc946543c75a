"""Decisions about many content items at once: what a list of ids leads to, and the records to write.

A plan reads each topic once, whatever the number of ids. It leaves out what is done already, so a command that was
killed is repeated as it was. The ids of its records come from the request and from the last decision about each item:
a record of the killed command that was still on its way is followed once, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from safeguard_streams.contract.records import Action, Enforced, ModeratorDecision, Standing, now, verdict_id
from safeguard_streams.enforcement.decisions import in_order, withdrawal_of, written_lately
from safeguard_streams.enforcement.moderators import HeldAction, all_standing, write
from safeguard_streams.enforcement.places import KnownItem, with_actions, with_texts
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.releases.people import checked
from safeguard_streams.runtime.settings import Settings

CHUNK = 2000  # records that are sent before their acknowledgements are waited for


class Plan(msgspec.Struct, frozen=True):
    """The records to write, with their partitions, the number of items that need none, and what cannot be done.

    left: ids of items that nobody ever published, or about which there is nothing to take back or to release.
    """

    records: Sequence[tuple[int, Action]]
    done: int
    left: Sequence[str]


class _Item(NamedTuple):
    """What is known about an item: its place and text, what stands, and what moderators wrote within a day."""

    known: KnownItem
    standing: Standing
    written: Sequence[Action] = ()

    @property
    def decisions(self) -> list[ModeratorDecision]:
        return in_order(self.standing, self.written)

    @property
    def last_word(self) -> str:
        """The id of the last decision or withdrawal that is known; empty if there is none."""
        decided = self.standing.decision
        return self.written[-1].action_id if self.written else decided.action_id if decided else ""


async def plan_decisions(
    settings: Settings, ids: Sequence[str], action: Enforced, moderator: ChangedBy, *, any_text: bool = False
) -> Plan:
    """The decisions that have still to be written for these items to have this one, by this person and reason."""
    moderator = checked(moderator)
    items = await _with_texts(settings, await _standing_items(settings, ids), ids)
    wanted = {name: _decision(items[name], action, moderator, any_text=any_text) for name in ids if name in items}
    records = [(items[name].known.partition, one) for name, one in wanted.items() if not _holds(items[name], one)]
    return Plan(records, len(wanted) - len(records), [one for one in ids if one not in items])


async def plan_withdrawals(settings: Settings, ids: Sequence[str], moderator: ChangedBy) -> Plan:
    """The withdrawals that have still to be written for no decision to be in force on these items."""
    moderator = checked(moderator)
    items = await _standing_items(settings, ids)
    records, done, left = [], 0, []
    for content_id in ids:
        item = items.get(content_id)
        decisions = item.decisions if item else []
        if item and decisions:
            withdrawal = withdrawal_of(item.standing, decisions, moderator, reinstates=False)
            records.append((item.known.partition, withdrawal))
        elif item and item.written:
            done += 1  # somebody took the last decision back
        else:
            left.append(content_id)
    return Plan(records, done, left)


async def of_items(
    settings: Settings, policy_id: str, held: Sequence[HeldAction], ids: Sequence[str]
) -> tuple[list[HeldAction], list[str]]:
    """Those of the actions held under a policy that are on these items.

    Also returns the ids on which none is held, and none was released within a day.
    """
    wanted = set(ids)
    found = [one for one in held if one.action.content_id in wanted]
    others = wanted - {one.action.content_id for one in found}
    done = await written_lately(
        settings, others, wanted=lambda one: one.releases is not None and one.policy_id == policy_id
    )
    return found, [one for one in ids if one in others and one not in done]


async def carry_out(settings: Settings, plan: Plan, on_written: Callable[[int], None]) -> None:
    """Write the records of a plan. on_written: called with the number written, after each part."""
    for start in range(0, len(plan.records), CHUNK):
        part = plan.records[start : start + CHUNK]
        await write(settings, part)
        on_written(start + len(part))


async def _standing_items(settings: Settings, ids: Collection[str]) -> dict[str, _Item]:
    """The items on which something stands, or about which moderators wrote within a day, by id."""
    wanted = set(ids)
    written = await written_lately(settings, wanted)  # first: what is followed meanwhile stands
    items = {
        name: _Item(KnownItem(name, one.partition), Standing(name, "allow", 0), one.actions)
        for name, one in written.items()
    }
    for partition, standing in await all_standing(settings, lambda one: one.content_id in wanted):
        name, about = standing.content_id, (standing.content_sha256, standing.origin)
        items[name] = _Item(KnownItem(name, partition, *about), standing, items[name].written if name in items else ())
    return items


async def _with_texts(settings: Settings, items: Mapping[str, _Item], ids: Collection[str]) -> dict[str, _Item]:
    """The items with their texts, and those of the ids on which nothing stands, by id."""
    unknown = [one for one in ids if one not in items or items[one].known.content_sha256 is None]
    found = await with_texts(settings, unknown)
    found |= await with_actions(settings, {one for one in unknown if one not in found and one not in items})
    placed = dict(items)
    for name, known in found.items():
        item = items.get(name, _Item(known, Standing(name, "allow", 0)))
        placed[name] = item._replace(known=known._replace(partition=item.known.partition))
    return placed


def _decision(item: _Item, action: Enforced, moderator: ChangedBy, *, any_text: bool) -> Action:
    """A decision whose id is that of the same request on the same day, after the same last decision."""
    moment, known = now(), item.known
    chosen = (known.content_id, action, moderator.by, moderator.why, str(any_text))
    return Action(
        verdict_id("many", str(moment.date()), item.last_word, *chosen),
        known.content_id,
        action,
        moment,
        moderator.by,
        moderator.why,
        effective=action,
        content_sha256=known.content_sha256,
        origin=known.origin,
        any_text=any_text,
    )


def _holds(item: _Item, wanted: Action) -> bool:
    """Whether the last decision about an item is this one, and covers its newest text."""
    if not (decisions := item.decisions):
        return False
    last = decisions[-1]
    same = (last.action, last.by, last.why) == (wanted.action, wanted.by, wanted.why)
    covered = None in (last.content_sha256, wanted.content_sha256) or last.content_sha256 == wanted.content_sha256
    return same and last.any_text == wanted.any_text and (wanted.any_text or covered)
