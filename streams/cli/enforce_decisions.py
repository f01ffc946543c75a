"""`safeguard enforce decide`, `undecide` and `release`: what moderators write, about one content item or many."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from safeguard_streams.cli.id_files import IdFile, check_answerable, ids_in
from safeguard_streams.cli.options import Bootstrap, By, Json, Why, changed_by, check_content_id
from safeguard_streams.cli.output import console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import EVERY_POLICY, Enforced
from safeguard_streams.enforcement import bulk, decisions, moderators
from safeguard_streams.enforcement.moderators import HeldAction
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.settings import Settings

_LEFT_SHOWN = 10  # ids that cannot be worked on that are shown
Content = Annotated[str | None, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")]
Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")]


def decide(
    content: Content = None,
    action: Annotated[
        str | None, typer.Argument(metavar="ACTION", help="allow, review, label, limit or remove.")
    ] = None,
    file: IdFile = None,
    any_text: Annotated[
        bool, typer.Option("--any-text", help="Let the decision hold for every text that the item gets.")
    ] = False,
    why: Why = "",
    by: By = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Decide about a content item, or about many, as a moderator.

    The decision overrides all current and future verdicts on the item's text. It ends with an edit of the text, unless
    --any-text is given. `safeguard enforce undecide` takes it back.

    With --file, give the action alone: safeguard enforce decide remove --file ids.txt. The numbers are shown before
    anything is written. To continue after an interruption, repeat the command. Exit with status 1 if an id is unknown.
    """
    if file is not None and action is None:
        content, action = None, content
    _check_target(content, file, yes=yes, dry_run=dry_run)
    if action is None:
        raise typer.BadParameter("name the action: allow, review, label, limit or remove")
    chosen, moderator = _action(action), changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    if file is not None:
        ids = ids_in(file)
        plan = _planned(bulk.plan_decisions(current, ids, chosen, moderator, any_text=any_text))
        _say_plan(plan, f"decide {chosen}", "with this decision already", "unknown")
        _carry_out(current, plan, f"decide {chosen}", yes=yes, dry_run=dry_run, as_json=as_json)
        return
    assert content is not None
    with shown_reading():
        decision = asyncio.run(decisions.decide(current, content, chosen, moderator, any_text=any_text))
    if as_json:
        print(msgspec.json.encode(decision).decode())
    else:
        covered = "whatever its text" if any_text or decision.content_sha256 is None else "on its present text"
        say(f"{content}: {action}, decided by {decision.by}; this overrides all verdicts {covered}")


def undecide(
    content: Content = None,
    file: IdFile = None,
    why: Why = "",
    by: By = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Take moderators' decisions back: what the verdicts say stands again.

    With --file, for many items. The numbers are shown before anything is written. To continue after an interruption,
    repeat the command. Exit with status 1 if no decision about an id is in force or was taken back within a day.
    """
    _check_target(content, file, yes=yes, dry_run=dry_run)
    moderator = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    if file is not None:
        plan = _planned(bulk.plan_withdrawals(current, ids_in(file), moderator))
        _say_plan(plan, "undecide", "taken back already", "without a decision in force")
        _carry_out(current, plan, "undecide", yes=yes, dry_run=dry_run, as_json=as_json)
        return
    assert content is not None
    with shown_reading():
        withdrawal = asyncio.run(decisions.undecide(current, content, moderator))
    if as_json:
        print(msgspec.json.encode(withdrawal).decode())
    else:
        say(f"{content}: the decision is withdrawn by {withdrawal.by}; by the verdicts, {withdrawal.action} stands")


def _check_target(content: str | None, file: str | None, *, yes: bool, dry_run: bool) -> None:
    """Raise ConfigurationError unless one item or a file is named, and what goes with a file alone goes with one."""
    if (content is None) == (file is None):
        raise ConfigurationError("name one content item by CONTENT_ID, or many by --file")
    if file is None and (yes or dry_run):
        raise ConfigurationError("--yes and --dry-run go with --file")
    check_content_id(content)
    if file is not None:
        check_answerable(file, yes=yes, dry_run=dry_run)


def _action(name: str) -> Enforced:
    try:
        chosen: Enforced = msgspec.convert(name, Enforced)
    except msgspec.ValidationError:
        raise ConfigurationError(f"{name!r} is not an action; choose allow, review, label, limit or remove") from None
    return chosen


def _planned(planning: Coroutine[Any, Any, bulk.Plan]) -> bulk.Plan:
    with shown_reading():
        return asyncio.run(planning)


def _say_plan(plan: bulk.Plan, verb: str, done: str, left: str) -> None:
    """Say on standard error how many items a plan writes about, and why it leaves others out."""
    say(f"{verb}: {counted(len(plan.records), 'item')} to write", error=True)
    for count, what in ((plan.done, done), (len(plan.left), left)):
        if count:
            say(f"{what}: {count:,}", error=True)


def _carry_out(current: Settings, plan: bulk.Plan, verb: str, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Confirm and write the records of a plan. Ends the command with status 1 where it leaves ids out."""
    count = len(plan.records)
    if count and not (yes or dry_run) and not typer.confirm(f"{verb} {counted(count, 'item')}?", err=True):
        raise typer.Exit(1)
    written = 0 if dry_run else count
    if written:
        with _shown_writing(count) as on_written:
            asyncio.run(bulk.carry_out(current, plan, on_written))
    if as_json:
        found = {"planned": count, "written": written, "already": plan.done, "left": plan.left}
        print(orjson.dumps(found).decode())
    else:
        say("nothing was written: this was a dry run" if dry_run else f"written: {counted(written, 'record')}")
        _say_left(plan.left)
    if plan.left:
        raise typer.Exit(1)


def _say_left(left: Sequence[str]) -> None:
    """Name on standard error some ids that a command leaves out, and how many more there are."""
    for content_id in left[:_LEFT_SHOWN]:
        say(f"left out: {content_id}", error=True)
    if (more := len(left) - _LEFT_SHOWN) > 0:
        say(f"left out: {more:,} more; see --json", error=True)


@contextlib.contextmanager
def _shown_writing(total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how many records are written, as the caller tells."""
    with Progress(TextColumn("writing"), BarColumn(), TaskProgressColumn(), console=console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def release(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Id of a policy.")],
    file: IdFile = None,
    any_text: Annotated[
        bool, typer.Option("--any-text", help="Also release actions on earlier texts of items that were edited since.")
    ] = False,
    why: Why = "",
    by: By = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Release the actions held under a policy or, with --file, those of them that are on these items.

    Only the actions that the confirmation counts are released. Later ones stay held. An action that a later verdict or
    decision replaced is not released. Nor is one on an earlier text while the verdict on the new text is pending,
    unless --any-text is given. Exit with status 1 if no action is held on an id of the file, or was released in a day.
    """
    if file is not None:
        check_answerable(file, yes=yes, dry_run=dry_run)
    moderator = changed_by(why, by)
    current = settings.load(bootstrap=bootstrap)
    ids = ids_in(file) if file is not None else None
    with shown_reading():
        shown, left = asyncio.run(_held(current, policy, ids))
    chosen = [one for one in shown if any_text or not one.edited]
    edited, followed = len(shown) - len(chosen), 0
    _say_kept(edited, left)
    if chosen:
        counts = Counter(one.action.action for one in chosen)
        summary = ", ".join(f"{action} {count:,}" for action, count in sorted(counts.items()))
        if dry_run:
            say(f"release under {policy}: {summary}", error=True)
        elif not yes and not typer.confirm(f"release under {policy}: {summary}?", err=as_json):
            raise typer.Exit(1)
        else:
            followed = asyncio.run(moderators.release(current, chosen, moderator, any_text=any_text))
    if as_json:
        done = {"policy": policy, "released": followed, "pending": len(chosen) - followed, "edited": edited}
        print(orjson.dumps(done if ids is None else {**done, "left": left}).decode())
    elif dry_run:
        say("nothing was written: this was a dry run")
    else:
        _say_released(policy, shown, len(chosen), followed)
    if left:
        raise typer.Exit(1)


async def _held(
    current: Settings, policy: str, ids: Sequence[str] | None
) -> tuple[Sequence[HeldAction], Sequence[str]]:
    """The actions held under a policy, on these items if they are given, and the ids on which none is or lately was."""
    shown: Sequence[HeldAction] = await moderators.held(current, policy)
    if not shown:
        await check_policy(current, policy)
    return (shown, ()) if ids is None else await bulk.of_items(current, policy, shown, ids)


def _say_kept(edited: int, left: Sequence[str]) -> None:
    """Say on standard error which actions stay held, and on which ids none is."""
    if edited:
        kept = counted(edited, "item stay held: this was edited", "items stay held: these were edited")
        say(f"the actions on {kept}, and new verdicts are pending", error=True)
        say("to release them, too, give --any-text", error=True)
    _say_left(left)


def _say_released(policy: str, shown: Sequence[HeldAction], chosen: int, followed: int) -> None:
    if not shown:
        say(f"no actions are held under {policy}")
    elif chosen:
        say(counted(followed, "action was released", "actions were released"))
        if followed < chosen:
            not_yet = counted(chosen - followed, "more is not", "more are not")
            say(f"{not_yet} released yet: the enforcement agent is not running, or newer")
            say("texts or verdicts came meanwhile; see: safeguard enforce held")


async def check_policy(current: Settings, policy_id: str) -> None:
    """Raise ConfigurationError for a policy that was never released."""
    if policy_id != EVERY_POLICY:
        (await operator.history(current)).require_known(policy_id)
