"""safeguard status."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.contract import topics
from safeguard_streams.enforcement import moderators
from safeguard_streams.operations import status as reading
from safeguard_streams.operations.cluster import Brokers, Group, Lag
from safeguard_streams.operations.status import InForce, Letters, TopicSummary, Webhook
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

_NAMES = 3  # that a line lists at most
_STAGES = ("prefilter", "reasoner", "enforcement", "authors")  # the last only where it runs


def status(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Show on one screen what runs, what waits, what is in force, and what needs a person.

    Each part is read within seconds; one that cannot be read says why.
    """
    current = settings.load(bootstrap=bootstrap)
    with kafka.watched(kafka.Reading()):
        found = asyncio.run(reading.read(current, _count_held))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    for name, (field, shown) in _PARTS.items():
        part = getattr(found, field)
        say(f"{name:<13} {f'not read: {found.unread[field]}' if part is None else shown(part)}")
    if found.lag is None:
        say(f"{'waiting':<13} not read: {found.unread['lag']}")
    elif waiting := _relevant(found.lag):
        say()
        console().print(_lag(waiting))


def _relevant(lag: Sequence[Lag]) -> list[Lag]:
    """The queues that something is to read: not a webhook's, or the authors', where none has ever been used."""
    optional = {"webhook", "author actions", "events for rates"}
    return [
        one for one in lag if one.started or (one.queue not in optional and (one.stage != "authors" or one.records))
    ]


async def _count_held(current: Settings) -> dict[str, int]:
    return dict(Counter(one.action.policy_id or "" for one in await moderators.held(current)))


def _brokers(brokers: Brokers) -> str:
    return f"{len(brokers.addresses)}: {_listed(brokers.addresses)}"


def _topics(found: TopicSummary) -> str:
    present = found.expected - len(found.missing) - len(found.forbidden)
    problems = [
        f"missing {_listed(found.missing)}" if found.missing else "",
        f"{len(found.forbidden)} not visible to this user" if found.forbidden else "",
        f"other settings on {_listed(found.differing)}" if found.differing else "",
        f"{found.offline_partitions} partitions offline" if found.offline_partitions else "",
        f"{found.under_replicated_partitions} under-replicated" if found.under_replicated_partitions else "",
        "" if found.settings_read else "settings not readable here",
    ]
    problem = "; ".join(filter(None, problems))
    return f"{present} of {found.expected}" + (f": {problem}" if problem else ", as the contract says")


def _processes(groups: Mapping[str, Group]) -> str:
    stages = [stage for stage in _STAGES if stage != "authors" or groups[stage].hosts]
    return ", ".join([*(_process(stage, groups[stage]) for stage in stages), *_pools(groups)])


def _pools(groups: Mapping[str, Group]) -> list[str]:
    """The reasoners of each lane that has another number of them than live content has."""
    lanes = {lane: len(groups[group].hosts) for lane, group in topics.LANE_GROUPS.items()}
    return [f"{count or 'none'} for {lane}" for lane, count in lanes.items() if count != lanes["live"]]


def _process(stage: str, group: Group) -> str:
    if not group.hosts:
        return f"no {stage}"
    settled = "" if group.state == "Stable" else f" ({group.state})"
    return f"{len(group.hosts)} {stage}{settled}"


def _policies(policies: Collection[InForce]) -> str:
    live = sorted(one.policy_id for one in policies if one.shadow is None)
    shadows = len(policies) - len(live)
    count = f"{len(live)} in force" + (f", {shadows} in shadow" if shadows else "")
    return f"{count}: {_listed(live)}" if live else f"{count}; run: safeguard policy release --all-new"


def _held(held: Mapping[str, int]) -> str:
    return _counted(held) + ("; see: safeguard enforce held" if held else "")


def _letters(letters: Letters) -> str:
    return _counted(letters.by_stage) + ("; see: safeguard dead-letters list" if letters.waiting else "")


def _webhook(webhook: Webhook) -> str:
    if not webhook.configured:
        return "never used"
    waiting = f"{webhook.waiting:,} wait" + (f", refused {webhook.refused:,}" if webhook.refused else "")
    return f"{waiting}; the receiver {webhook.problem}" if webhook.problem else waiting


def _counted(counts: Mapping[str, int]) -> str:
    if not counts:
        return "none"
    return f"{sum(counts.values()):,}: " + _listed([f"{name} {count:,}" for name, count in sorted(counts.items())])


def _listed(names: Collection[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _NAMES} more" if len(shown) > _NAMES else ""
    return ", ".join(shown[:_NAMES]) + more


_PARTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "brokers": ("brokers", _brokers),
    "topics": ("topics", _topics),
    "processes": ("processes", _processes),
    "policies": ("policies", _policies),
    "verdicts": ("verdicts_per_minute", lambda rate: f"{rate:,.1f} a minute, over {reading.MINUTES} minutes"),
    "held actions": ("held", _held),
    "dead letters": ("dead_letters", _letters),
    "webhook": ("webhook", _webhook),
}


def _lag(lags: Collection[Lag]) -> Table:
    table = Table(box=None)
    table.add_column("stage", no_wrap=True)
    table.add_column("reads", no_wrap=True)
    table.add_column("waiting", justify="right", no_wrap=True)
    table.add_column("oldest", justify="right", no_wrap=True)
    for lag in lags:
        table.add_row(lag.stage, lag.queue, f"{lag.records:,}", _age(lag))
    return table


def _age(lag: Lag) -> str:
    if not lag.records:
        return ""
    if lag.seconds is None:
        return "?"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if lag.seconds < limit:
            return f"{lag.seconds / size:.0f} {unit}"
    return f"{lag.seconds / 86_400:.0f} d"
