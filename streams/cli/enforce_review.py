"""`safeguard enforce review`: what waits for a moderator."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from safeguard_streams.cli.enforce_decisions import check_policy
from safeguard_streams.cli.options import Bootstrap, Json, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Labelled, Texts, item_text, show_item
from safeguard_streams.contract.records import EVERY_POLICY, now
from safeguard_streams.enforcement import reviews
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

_SHOWN = 20  # items of each policy, without --limit


def review(
    policy: Annotated[
        str | None, typer.Option(help="Only this policy; * for what moderators sent to review.", metavar="POLICY")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Only this language, as in en, or one that is unknown.", metavar="TAG")
    ] = None,
    surface: Annotated[str | None, typer.Option(help="Only this surface, or one that is unknown.")] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help=f"Items of each policy; default: {_SHOWN}, or all with --json."),
    ] = None,
    texts: Texts = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List what waits for a moderator, by policy and oldest first, with the texts; --json prints a line for each.

    An item waits if a rule or an undetermined verdict sent it to review, if a moderator did, if its action is held, or
    if an appeal about it is open.
    Its surface and its language are those of its event. An item whose event names none, or is past retention, is listed
    whatever --language and --surface say.
    """
    current = settings.load(bootstrap=bootstrap)
    wanted = reviews.Wanted(surface, language, texts)
    if as_json:
        with shown_reading():
            asyncio.run(_print(current, policy, wanted, limit))
        return
    with shown_reading():
        counts, shown = asyncio.run(_read(current, policy, wanted, limit or _SHOWN))
    if not counts:
        say("nothing waits for review")
        return
    for number, (policy_id, count) in enumerate(counts.items()):
        if number:
            say()
        group = [one for one in shown if one.policy_id == policy_id]
        _show_waiting(policy_id, group, count, filtered=bool(surface or language), texts=texts)
    say()
    say("read one: safeguard content show ITEM")
    say("decide:   safeguard enforce decide ITEM ACTION --why REASON")
    if any(one.cause == "appealed" for one in shown):
        say("appeals:  safeguard appeals decide APPEAL_ID --uphold|--overturn --reason REASON")


async def _waiting(current: Settings, policy: str | None) -> list[reviews.Waiting]:
    waiting = await reviews.waiting(current, policy)
    if policy and not waiting:
        await check_policy(current, policy)
    return waiting


async def _print(current: Settings, policy: str | None, wanted: reviews.Wanted, limit: int | None) -> None:
    async for one in reviews.looked_at(current, await _waiting(current, policy), wanted, limit):
        print(msgspec.json.encode(one).decode(), flush=True)


async def _read(
    current: Settings, policy: str | None, wanted: reviews.Wanted, limit: int
) -> tuple[Counter[str], list[reviews.Waiting]]:
    """The number of waiting items by policy, and those to show."""
    waiting = await _waiting(current, policy)
    shown = [one async for one in reviews.looked_at(current, waiting, wanted, limit)]
    return Counter(one.policy_id for one in waiting), shown


def _show_waiting(policy_id: str, shown: Sequence[reviews.Waiting], count: int, *, filtered: bool, texts: bool) -> None:
    say(f"{'all policies' if policy_id == EVERY_POLICY else policy_id}: {count:,} waiting")
    moment = now()
    rows = [_row(one, moment) for one in shown]
    if texts:
        for one, row in zip(shown, rows, strict=True):
            lines = [Labelled(key.replace("_", " "), row[key]) for key in ("since", "age", "waits_for", "rule")]
            edited = [edited_line(policy_id)] if one.edited else []
            show_item(one.content_id, [item_text(one.text, asked=True), *(x for x in lines if x.text), *edited])
    else:
        show_rows(rows, "", as_json=False)
    if filtered:
        say(f"shown: {len(shown):,}")
    elif count > len(shown):
        say(f"{count - len(shown):,} more; show them with --limit or --json")


def edited_line(policy_id: str) -> Labelled:
    """The line about an item with a newer text than its action."""
    return Labelled("edited", f"the item has a newer text; its verdict under {policy_id} is pending")


def _row(one: reviews.Waiting, moment: datetime) -> dict[str, Any]:
    cause = f"held: {one.action}" if one.cause == "held" else one.cause
    if one.due is not None:
        overdue = ", overdue" if one.due <= moment else ""
        cause = f"appealed: {one.appeal_id}, due {one.due.isoformat(timespec='seconds')}{overdue}"
    since = one.since.isoformat(timespec="seconds") if one.since else ""
    age = _age((moment - one.since).total_seconds()) if one.since else ""
    return {"item": one.content_id, "since": since, "age": age, "waits_for": cause, "rule": one.rule or ""}


def _age(seconds: float) -> str:
    """A time span in its largest unit, as in 3d."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds) // 1:.0f}s"
