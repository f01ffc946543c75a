"""safeguard authors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import typer

from safeguard_streams.authors import people, standings
from safeguard_streams.authors import recount as recounting
from safeguard_streams.cli.options import Bootstrap, By, Json, Port, Why, changed_by, extra, one_of, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import AuthorAction, AuthorEnforced, AuthorStanding, Referral, Strike, now
from safeguard_streams.enforcement import rules as rules_of
from safeguard_streams.enforcement.author_rules import AUTHOR_ACTIONS, counts
from safeguard_streams.errors import ConfigurationError, ForbiddenError
from safeguard_streams.operations.referrals import referrals
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import configure_logging
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Keep count of strikes against authors, and decide about authors.")
Author = Annotated[str, typer.Argument(metavar="AUTHOR_ID", help="The producer's id of an author.")]
AuthorVerb = Annotated[
    str,
    typer.Argument(
        metavar="ACTION", parser=one_of("action", AUTHOR_ACTIONS), help="none, warn, review, limit or suspend."
    ),
]


@app.command("run")
def run(
    rules: Annotated[
        Path,
        typer.Argument(
            metavar="[RULES]",
            show_default="the rules in the package",
            help="Enforcement rules, the file that `safeguard enforce run` has.",
        ),
    ] = rules_of.SHIPPED,
    port: Port = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Run the author ledger until SIGTERM or Ctrl-C.

    It adds up the strikes that enforcement writes. When an author's strikes pass a threshold of the rules, or no longer
    do, it writes an action to moderation.author-actions and posts it to the webhook of the rules.
    """
    loaded = rules_of.load(rules)
    if not (loaded.authors.threshold or loaded.authors.gives_strikes):
        raise ConfigurationError(
            f"{rules}: says nothing about authors: add [[authors.strike]] or [[authors.rate]], which give strikes, and "
            "[[authors.threshold]], which says what follows; or name the file that `safeguard enforce run` has"
        )
    with extra("enforcement"):
        from safeguard_streams.authors import app as ledger
    current = settings.load(bootstrap=bootstrap, authors_port=port)
    check_port(current.host, current.authors_port)
    configure_logging(form=current.log_format)
    settings.log_misspelled()
    if not loaded.authors.threshold:
        ledger.log.info("strikes are counted, and no action follows from them: the rules have no [[authors.threshold]]")
    asyncio.run(ledger.run(current, loaded, str(rules)))


@app.command("show")
def show(author: Author, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Show what stands on an author: the action, the strikes, what was done, and the statement of reasons."""
    people.check_author_id(author)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(standings.known(current, author))
    if as_json:
        print(msgspec.json.encode({"standing": found.standing, "actions": found.actions}).decode())
        return
    say(_line(found.standing))
    rows = [
        {
            "strike": one.strike_id,
            "given": one.at.isoformat(timespec="seconds"),
            "expires": one.expires_at.date().isoformat() if one.expires_at else "",
            "weighs": str(one.weight),
            "about": "; ".join(_about(one)),
        }
        for one in found.standing.strikes
    ]
    show_rows(rows, "no strikes", as_json=False)
    done = [
        {
            "at": one.acted_at.isoformat(timespec="seconds"),
            "action": one.action,
            "before": one.previous,
            "because": "; ".join(_because(one)),
        }
        for one in found.actions
    ]
    show_rows(done, "", as_json=False)
    if found.standing.statement is not None:
        name = found.standing.statement.statement_id
        say(f"statement of reasons {name}")
        for action in found.actions:
            if action.statement is not None and action.statement.statement_id == name:
                for line in action.statement.text.splitlines():
                    say(line)


def _line(standing: AuthorStanding) -> str:
    strikes = sum(counts(one, now()) for one in standing.strikes)
    why = f"by {standing.decision.by or 'a person'}" if standing.decision else standing.rule or "no threshold is passed"
    return (
        f"{standing.author_id}: {standing.action} ({why}); "
        f"{counted(strikes, 'strike counts', 'strikes count')}, together {standing.weight}"
    )


def _about(strike: Strike) -> Iterator[str]:
    """What a strike is about, and what became of it."""
    yield " ".join(filter(None, (strike.policy_id, *strike.rule_ids, strike.severity))) or strike.rule or "no policy"
    yield f"item {strike.content_id}"
    if strike.state != "given":
        yield strike.state.replace("-", " ") + (f" by {strike.by}" if strike.by else "")
    if strike.why:
        yield strike.why


def _because(action: AuthorAction) -> Iterator[str]:
    if action.by:
        yield f"by {action.by}"
    if action.rule:
        yield f"threshold: {action.rule}"
    if action.strike_id:
        yield f"strike {action.strike_id}"
    if action.why:
        yield action.why


@app.command("decide")
def decide(
    author: Author,
    action: AuthorVerb,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Decide what stands on an author, whatever the strikes say. `safeguard authors undecide` takes it back."""
    people.check_author_id(author)
    person = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    entry = asyncio.run(people.decide(current, author, msgspec.convert(action, AuthorEnforced), person))
    _say_written(entry, f"{author}: {action}, decided by {entry.by}; this overrides all strikes", as_json=as_json)


@app.command("undecide")
def undecide(author: Author, why: Why = "", by: By = None, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Take the decision about an author back: what the strikes say stands again."""
    people.check_author_id(author)
    person = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        entry = asyncio.run(people.undecide(current, author, person))
    _say_written(entry, f"{author}: the decision is taken back by {entry.by}", as_json=as_json)


@app.command("forgive")
def forgive(
    author: Author,
    strike: Annotated[str, typer.Argument(metavar="STRIKE_ID", help="Id of a strike, as `authors show` lists it.")],
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Forgive one strike for good. The item and what stands on it stay as they are."""
    people.check_author_id(author)
    person = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        entry = asyncio.run(people.forgive(current, author, strike, person))
    _say_written(entry, f"{author}: strike {strike} is forgiven by {entry.by}", as_json=as_json)


@app.command("forget")
def forget(
    author: Author,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """End all that is known of an author: strikes, what stands, decisions.

    Records on moderation.strikes, moderation.author-actions and moderation.statements stay until their retention ends.
    Records about the author's items name the author, too: `safeguard erase` erases an item. Referrals to authorities
    stay, and are named.
    """
    people.check_author_id(author)
    person = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    if not yes:
        with shown_reading():
            found = asyncio.run(standings.known(current, author))
        if not typer.confirm(f"{_line(found.standing)}. Forget the author?", err=True):
            raise typer.Exit(1)
    with shown_reading():
        entry, left = asyncio.run(_forget(current, author, person))
    if as_json:
        named = None if left is None else [{"referral_id": one.referral_id, "hold": one.hold} for one in left]
        print(orjson.dumps({**msgspec.to_builtins(entry), "referrals": named}).decode())
        return
    say(f"{author}: forgotten by {entry.by}")
    if left is None:
        say(
            "referrals to authorities were not searched, because this user may not read moderation.referrals; they may "
            "name the author"
        )
    for one in left or ():
        name = one.referral_id
        kept = (
            f"under a legal hold since {one.held_at or one.referred_at:%Y-%m-%d %H:%M} UTC" if one.hold else "released"
        )
        then = f"safeguard referrals release {name}" if one.hold else f"safeguard erase {one.content_id}"
        say(f"kept: referral {name}, {kept}, names the author; to remove it: {then}")


async def _forget(current: Settings, author: str, person: ChangedBy) -> tuple[Strike, list[Referral] | None]:
    """Forget an author. Returns the record, and the referrals that name the author; None for who may not read them."""
    try:
        left = [one.referral for one in await referrals(current) if one.referral.author_id == author]
    except ForbiddenError:
        left = None
    return await people.forget(current, author, person), left


def _say_written(entry: Strike, line: str, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(entry).decode())
    else:
        say(line)


@app.command("recount")
def recount(
    rules: Annotated[
        Path, typer.Argument(metavar="RULES", help="Enforcement rules, the file that the ledgers run with.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Count all strikes again after the thresholds have changed.

    Shows first on how many authors something else would stand. Start the ledgers with the changed file before: they
    count. Weights stay as they were when the strikes were given.
    """
    loaded = rules_of.load(rules).authors
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(recounting.outdated(current, loaded))
    changes = recounting.changes(found, loaded)
    if not as_json:
        say(f"{counted(len(found), 'author')} counted by other thresholds, {counted(changes.total(), 'change')} follow")
        rows = [{"stands": one.before, "will": one.after, "authors": str(n)} for one, n in sorted(changes.items())]
        show_rows(rows, "", as_json=False)
    if found and not yes and not typer.confirm("Count their strikes again?", err=True):
        raise typer.Exit(1)
    asyncio.run(recounting.recount(current, found, loaded))
    if as_json:
        listed = [{"before": one.before, "after": one.after, "authors": n} for one, n in sorted(changes.items())]
        print(orjson.dumps({"recounted": len(found), "changes": listed}).decode())


@app.command("repartition")
def repartition(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Move what stands on authors after the topics got more partitions.

    Let the ledgers follow all strikes before you raise the number, and stop them.
    """
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        moved = asyncio.run(standings.repartition(current))
    if as_json:
        print(orjson.dumps({"moved": moved}).decode())
    else:
        say(counted(moved, "author was moved", "authors were moved"))
