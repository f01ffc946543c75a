"""safeguard referrals."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import orjson
import typer

from safeguard_streams.cli.options import Bootstrap, By, Json, changed_by, check_content_id, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import now
from safeguard_streams.operations import referrals
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted

app = typer.Typer(
    no_args_is_help=True, help="Look at what rules referred to authorities, and set or release legal holds."
)
ReferralId = Annotated[str, typer.Argument(metavar="REFERRAL_ID", help="Id of a referral.")]
RequiredWhy = Annotated[str, typer.Option("--why", help="Reason, which the referral keeps.")]


@app.command("list")
def show(
    content: Annotated[
        str | None, typer.Argument(metavar="[CONTENT_ID]", help="Id of a content item.", show_default="all items")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List referrals, oldest first, without their texts; --json prints the records whole.

    Only the role `referrals` may read them.
    """
    check_content_id(content)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = [one.referral for one in asyncio.run(referrals.referrals(current, content))]
    if as_json:
        print(orjson.dumps([msgspec.to_builtins(one) for one in found]).decode())
        return
    rows = [
        {
            "referral": one.referral_id,
            "item": one.content_id,
            "referred_at": one.referred_at.isoformat(timespec="seconds"),
            "rule": one.rule,
            "action": one.action,
            "text": "" if one.text is None else counted(len(one.text), "character"),
            "hold": f"{'held' if one.hold else 'released'}{f', by {one.held_by}' if one.held_by else ''}",
        }
        for one in found
    ]
    show_rows(
        rows, "no rule has referred anything" if content is None else f"no referral is about {content}", as_json=False
    )


@app.command("hold")
def hold(
    referral_id: ReferralId, why: RequiredWhy, by: By = None, bootstrap: Bootstrap = None, as_json: Json = False
) -> None:
    """Put a released referral under a legal hold again: nothing erases it until the hold is released."""
    _set(referral_id, why, by, bootstrap, hold=True, as_json=as_json)


@app.command("release")
def release(
    referral_id: ReferralId, why: RequiredWhy, by: By = None, bootstrap: Bootstrap = None, as_json: Json = False
) -> None:
    """Release the legal hold of a referral: the item's erasure, or a purge, may remove it then."""
    _set(referral_id, why, by, bootstrap, hold=False, as_json=as_json)


def _set(referral_id: str, why: str, by: str | None, bootstrap: str | None, *, hold: bool, as_json: bool) -> None:
    moderator = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        changed = asyncio.run(referrals.set_hold(current, referral_id, moderator, hold=hold))
    if as_json:
        done = {"referral_id": changed.referral_id, "content_id": changed.content_id, "hold": changed.hold}
        print(orjson.dumps(done).decode())
    elif hold:
        say(f"{referral_id}: under a legal hold, set by {changed.held_by}")
    else:
        say(f"{referral_id}: the legal hold is released by {changed.held_by}")


@app.command("purge")
def purge(
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Remove the released referrals that are older than SAFEGUARD_REFERRALS_RETENTION_DAYS.

    A referral under a legal hold stays, however old it is.
    """
    current, moment = settings.load(bootstrap=bootstrap), now()
    with shown_reading():
        found = asyncio.run(referrals.purge(current, moment, dry_run=True))
    count = counted(len(found), "released referral")
    if found and not dry_run:
        if not yes and not typer.confirm(f"remove {count}?", err=True):
            raise typer.Exit(1)
        with shown_reading():
            found = asyncio.run(referrals.purge(current, moment, dry_run=False))
    if as_json:
        ids = [one.referral_id for one in found]
        print(orjson.dumps({"found": ids, "removed": 0 if dry_run else len(found)}).decode())
    else:
        say(f"would remove {count}" if dry_run else f"removed {counted(len(found), 'referral')}")
