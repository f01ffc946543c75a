"""safeguard appeals."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, get_args

import msgspec
import orjson
import typer

from safeguard_streams.cli import appeals_intake
from safeguard_streams.cli.options import (
    Bootstrap,
    By,
    Json,
    changed_by,
    one_of,
    show_rows,
)
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Labelled, Texts, reason_of, show_item
from safeguard_streams.contract.records import Appellant, Enforced, Verdict
from safeguard_streams.enforcement import appeal_figures, appeal_outcomes, rejudging
from safeguard_streams.enforcement.appeal_outcomes import ListedAppeal, Outcome
from safeguard_streams.enforcement.decisions import Cited
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Take appeals in, look at them, and decide them as a second person.")
AppealId = Annotated[str, typer.Argument(metavar="APPEAL_ID", help="Id of an appeal.")]
_SHOWN = 10  # lines that messages explain at most


app.command("publish")(appeals_intake.publish)
app.command("add")(appeals_intake.add)


@app.command("list")
def show_all(
    every: Annotated[bool, typer.Option("--all/--open", help="List all appeals, or those that are open.")] = False,
    texts: Texts = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List appeals, the first due first, with what the appellants say; --json prints a line for each.

    Of an item, all open appeals are known, and the last that ended.
    """
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(appeal_outcomes.listed(current, only_open=not every, words=texts))
    if as_json:
        for one in found:
            print(msgspec.json.encode(one).decode())
        return
    if not found:
        say("no appeals" if every else "no appeals are open")
    elif texts:
        for one in found:
            _show(one)
    else:
        show_rows([_row(one) for one in found], "", as_json=False)
    if found and not every:
        say()
        say("decide: safeguard appeals decide APPEAL_ID --uphold|--overturn --reason REASON")


@app.command("show")
def show(appeal_id: AppealId, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Show one appeal: what the appellant says, its deadline, and who decided before and may not decide it."""
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found, advice = asyncio.run(_shown(current, appeal_id))
    if as_json:
        advised = [msgspec.to_builtins(one) for one in advice]
        print(orjson.dumps({**msgspec.to_builtins(found), "advice": advised}).decode())
        return
    _show(found)
    for one in advice:
        said = reason_of(one.decision, one.rule_ids, one.reason)
        show_item(
            f"advice of the model, which had the new context before it: {one.policy_id}", [Labelled("verdict", said)]
        )
    say()
    say(f"read the item: safeguard content show {found.content_id}")


async def _shown(current: Settings, appeal_id: str) -> tuple[ListedAppeal, list[Verdict]]:
    found = await appeal_outcomes.shown(current, appeal_id)
    return found, await rejudging.advice(current, found.content_id, appeal_id)


@app.command("rejudge")
def rejudge(
    appeal_id: AppealId,
    policy: Annotated[
        list[str] | None, typer.Option(help="Judge under this policy; repeatable; default: those whose action stands.")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Let the model judge the text again with the appeal's new context, as advice to the person who decides.

    The model reads the context as a quoted message of somebody whose claim nobody has checked. The verdict goes to
    moderation.replays, and nothing follows from it. `safeguard appeals show` shows it.
    """
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        policies = asyncio.run(rejudging.rejudge(current, appeal_id, policy or ()))
    if as_json:
        print(orjson.dumps({"appeal_id": appeal_id, "policies": policies}).decode())
    else:
        say(f"{appeal_id}: to be judged again under {', '.join(policies)}; see: safeguard appeals show {appeal_id}")


def _row(one: ListedAppeal) -> dict[str, Any]:
    state = "overdue" if one.overdue else one.state
    return {
        "appeal": one.appeal_id,
        "item": one.content_id,
        "by_the": one.appellant,
        "state": f"{state}, by {one.by}" if one.by else state,
        "in_effect": one.in_effect,
        "due": one.due_at.isoformat(timespec="seconds"),
    }


def _show(one: ListedAppeal) -> None:
    row = _row(one)
    lines = [Labelled(key.replace("_", " "), str(row[key])) for key in ("item", "by_the", "state", "in_effect", "due")]
    said = (("says", one.reason), ("adds", one.new_context), ("not by", ", ".join(one.not_by)))
    show_item(one.appeal_id, [*lines, *(Labelled(label, text) for label, text in said if text)])


@app.command("decide")
def decide(
    appeal_id: AppealId,
    uphold: Annotated[
        bool | None,
        typer.Option("--uphold/--overturn", help="Leave what stands as it is, or reverse it.", show_default=False),
    ] = None,
    action: Annotated[
        str | None,
        typer.Option(
            parser=one_of("action", get_args(Enforced)),
            metavar="|".join(get_args(Enforced)),
            help="What is to stand after --overturn; default: allow, for an author's appeal.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, for the history.")] = "",
    policy: Annotated[str | None, typer.Option(help="Policy that the decision cites.")] = None,
    rule: Annotated[str | None, typer.Option(help="Rule of that policy.")] = None,
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Decide an appeal, as somebody who has not decided about the item before.

    The agent refuses the outcome of anybody else, however it is written. It tells people apart by the name of --by.
    Exit with status 1 if somebody else decided the appeal at the same moment.
    """
    if uphold is None:
        raise ConfigurationError("say --uphold or --overturn")
    if uphold and action is not None:
        raise ConfigurationError("--action goes with --overturn")
    if not reason.strip():
        raise ConfigurationError("--reason: give one; the appellant has a right to it")
    moderator, outcome = changed_by(reason, by), _outcome(uphold=uphold)
    chosen: Enforced | None = next((one for one in get_args(Enforced) if one == action), None)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        done = asyncio.run(
            appeal_outcomes.decide(current, appeal_id, outcome, moderator, action=chosen, cited=Cited(policy, rule))
        )
    if as_json:
        print(msgspec.json.encode(done).decode())
    elif done.state == "open":
        say(f"{appeal_id}: {outcome}, written; the enforcement agent has not followed it yet")
    else:
        say(f"{appeal_id}: {done.state} by {done.by or 'the agent'}")
    if done.state not in ("open", outcome) or (done.by is not None and done.by != moderator.by):
        raise typer.Exit(1)


def _outcome(*, uphold: bool) -> Outcome:
    return "upheld" if uphold else "overturned"


@app.command("summary")
def summary(
    appellant: Annotated[
        str | None,
        typer.Option(
            parser=one_of("appellant", get_args(Appellant)),
            metavar="|".join(get_args(Appellant)),
            help="Count only appeals of authors, or of notifiers.",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Count appeals: open, overdue, decided; the share overturned with its 95% interval; the median time."""
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(appeal_outcomes.listed(current, only_open=False, words=False))
    counts = appeal_figures.summed([one for one in found if appellant in (None, one.appellant)])
    if as_json:
        print(msgspec.json.encode(counts).decode())
        return
    say(f"open: {counts.open:,}, of which overdue: {counts.overdue:,}")
    say(f"decided: {counts.decided:,}; moot: {counts.moot:,}; refused: {counts.refused:,}")
    say(f"overturned: {counts.reversed}")
    say("median time to a decision: " + ("-" if counts.hours is None else f"{counts.hours:.1f} hours"))
