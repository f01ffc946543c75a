"""safeguard enforce."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer

from safeguard_streams.cli import enforce_decisions, enforce_review
from safeguard_streams.cli.options import (
    Bootstrap,
    Json,
    Library,
    Port,
    check_content_id,
    extra,
    show_rows,
)
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Labelled, Texts, item_text, reason_of, show_item
from safeguard_streams.contract.records import EVERY_POLICY, Action, Standing
from safeguard_streams.enforcement import moderators, rejections
from safeguard_streams.enforcement import repartition as partitioning
from safeguard_streams.enforcement import rules as rules_of
from safeguard_streams.enforcement.moderators import HeldAction, PlacedStanding
from safeguard_streams.enforcement.rejections import Rejection
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.releases.texts import TextPlace
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(
    no_args_is_help=True, help="Act on verdicts: run the agent, review, decide as a moderator, release held actions."
)

RulesFile = Annotated[
    Path,
    typer.Argument(metavar="[RULES]", show_default="the rules in the package", help="Enforcement rules, a TOML file."),
]
AnyContent = Annotated[
    str | None, typer.Argument(metavar="[CONTENT_ID]", help="Id of a content item.", show_default="all items")
]
_HELD_SHOWN = 10  # actions of each policy and kind that are shown


@app.command("run")
def run(
    rules: RulesFile = rules_of.SHIPPED,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write the actions marked dry_run, without delivering them or changing what stands.",
        ),
    ] = False,
    from_now: Annotated[
        bool,
        typer.Option("--from-now", help="On the first run, begin with the next verdict instead of the oldest."),
    ] = False,
    port: Port = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Run the enforcement agent until SIGTERM or Ctrl-C.

    It writes one action for each verdict to moderation.actions. It posts the actions that change anything to the
    webhook of the rules, signed with SAFEGUARD_WEBHOOK_SECRET. A superseding verdict reverses the action of the verdict
    before it. Above a policy's cap, the agent holds actions and raises an alert.
    """
    with extra("enforcement"):
        from safeguard_streams.enforcement import app as agent
    current = settings.load(bootstrap=bootstrap, enforcement_port=port)
    check_port(current.host, current.enforcement_port)
    loaded = rules_of.load(rules)
    configure_logging(form=current.log_format)
    settings.log_misspelled()
    asyncio.run(agent.run(current, loaded, from_now=from_now, dry_run=dry_run))


@app.command("check")
def check(
    rules: RulesFile = rules_of.SHIPPED,
    library: Library = LIBRARY,
    as_json: Json = False,
) -> None:
    """Check enforcement rules.

    The file must be valid, and the policies and rules that it names must exist.
    """
    loaded = rules_of.load(rules)
    problems, cap, count = loaded.problems(load_library(library)), loaded.cap, len(loaded.rule)
    if as_json:
        found = {"rules": count, "max_actions": cap.max_actions, "window": cap.window, "problems": problems}
        print(orjson.dumps({"file": str(rules), **found}).decode())
    for problem in () if as_json else problems:
        say(f"{rules}: {problem}", error=True)
    if problems:
        raise typer.Exit(1)
    if not as_json:
        say(f"{rules}: {counted(count, 'rule')}, a cap of {cap.max_actions} in {cap.window}: no problems found")


@app.command("held")
def held(texts: Texts = True, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List held actions by policy and action, with the oldest of each and the texts that they are about.

    The agent holds actions above a policy's cap until a moderator releases them.
    """
    current = settings.load(bootstrap=bootstrap)
    groups: dict[tuple[str, str], list[HeldAction]] = {}
    with shown_reading():
        found = asyncio.run(moderators.held(current))
        for one in found:
            groups.setdefault((one.action.policy_id or "", one.action.action), []).append(one)
        shown = [one for waiting in groups.values() for one in waiting[:_HELD_SHOWN]]
        places = [TextPlace.of(one.action) for one in shown if texts]
        text_of = asyncio.run(moderators.texts_of(current, places)) if places else {}
    rows: list[dict[str, Any]] = [
        {
            "policy": policy,
            "action": action,
            "items": len(waiting),
            "oldest": waiting[0].action.acted_at.isoformat(timespec="seconds"),
        }
        for (policy, action), waiting in sorted(groups.items())
    ]
    if as_json:
        for row, (_, waiting) in zip(rows, sorted(groups.items()), strict=True):
            row["examples"] = [_held_example(one, text_of) for one in waiting[:_HELD_SHOWN]]
    show_rows(rows, "no actions are held", as_json=as_json)
    if not as_json:
        for one in shown:
            _show_held(one, text_of, texts=texts)


def _held_example(one: HeldAction, text_of: Mapping[TextPlace, str]) -> dict[str, Any]:
    return {**msgspec.to_builtins(one.action), "text": text_of.get(TextPlace.of(one.action)), "edited": one.edited}


def _show_held(one: HeldAction, text_of: Mapping[TextPlace, str], *, texts: bool) -> None:
    action = one.action
    verdict = reason_of(action.decision or "", action.rule_ids, action.reason)
    lines = [Labelled("held", f"{action.action}, by the rule {action.rule!r}"), Labelled("verdict", verdict)]
    if one.edited:
        lines.append(enforce_review.edited_line(action.policy_id or ""))
    show_item(action.content_id, [item_text(text_of.get(TextPlace.of(action)), asked=texts), *lines])


app.command("release")(enforce_decisions.release)


@app.command("standing")
def standing(
    content: AnyContent = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List what stands on content items: the action in effect, and why.

    An item that is not listed is allowed, and nothing is held or decided about it.
    """
    check_content_id(content)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(moderators.all_standing(current) if content is None else _standing_on(current, content))
    chosen = [one.standing for one in found]
    if as_json:
        print(orjson.dumps([msgspec.to_builtins(one) for one in chosen]).decode())
        return
    rows = [
        {
            "item": one.content_id,
            "in_effect": one.effective,
            "decided_by": _decided_by(one),
            "verdicts": ", ".join(
                f"{policy.policy_id} {policy.action}" for policy in one.policies if policy.action != "allow"
            ),
            "held": ", ".join(f"{policy.policy_id} {policy.held.action}" for policy in one.policies if policy.held),
        }
        for one in chosen
    ]
    show_rows(rows, "nothing stands", as_json=False)


async def _standing_on(current: settings.Settings, content_id: str) -> list[PlacedStanding]:
    found = await moderators.standing_of(current, content_id)
    return [] if found is None else [found]


def _decided_by(one: Standing) -> str:
    if one.decision is None:
        return ""
    by = one.decision.by or "a moderator"
    return by if one.in_force else f"{by}, about another text"


app.command("review")(enforce_review.review)


@app.command("repartition")
def repartition(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Move what stands on content items after the topics got more partitions.

    Let the agents follow all verdicts before you raise the number, and stop them. Producers must choose partitions as
    Kafka's own clients do, by the key.
    """
    current = settings.load(bootstrap=bootstrap)
    left = asyncio.run(partitioning.unfollowed(current))
    moved = asyncio.run(partitioning.repartition(current))
    if as_json:
        print(orjson.dumps({"moved": moved, "unfollowed": left}).decode())
        return
    say(counted(moved, "item was moved", "items were moved"))
    if left:
        came = "came before the new partitions and"
        unfollowed = counted(left, f"input {came} was not", f"inputs {came} were not")
        say(f"{unfollowed} followed: judge their items again")


app.command("decide")(enforce_decisions.decide)
app.command("undecide")(enforce_decisions.undecide)


@app.command("show")
def show(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    since: Annotated[
        str | None,
        typer.Option(help="Read only actions written since then: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List all actions on a content item, oldest first.

    Each row names the action that stood afterwards, and why: the verdict or the moderator, the rule, what the webhook's
    receiver rejected.
    """
    check_content_id(content)
    first = moment(since, "--since") if since is not None else None
    current = settings.load(bootstrap=bootstrap)

    with shown_reading():
        recorded = asyncio.run(moderators.history(current, content, first))
    if as_json:
        print(orjson.dumps([msgspec.to_builtins(action) for action in recorded]).decode())
        return
    with shown_reading():
        rejected = {one.action_id: one for one in asyncio.run(rejections.rejections(current, content))}
    rows = [
        {
            "at": action.acted_at.isoformat(timespec="seconds"),
            "action": "undecide" if action.withdraws else action.action,
            "state": f"{action.state}, dry run" if action.dry_run else action.state,
            "stands": action.effective or action.action,
            "because": "; ".join(_because(action, rejected.get(action.action_id))),
        }
        for action in recorded
    ]
    show_rows(rows, f"no actions on {content}", as_json=False)


def _because(action: Action, rejection: Rejection | None) -> Iterator[str]:
    """Why an action was taken, and that the webhook's receiver rejected it."""
    if action.policy_id is None or action.by:
        yield f"by {action.by or 'a moderator'}"
    if action.policy_id is not None:
        verdict = [action.decision or "", *action.rule_ids]
        yield " ".join(
            filter(None, ["all policies" if action.policy_id == EVERY_POLICY else action.policy_id, *verdict])
        )
    if action.cited_policy:
        yield " ".join(["cites", action.cited_policy, *action.rule_ids])
    if action.rule:
        yield f"rule: {action.rule}"
    if action.outcome:
        yield f"appeal {action.appeal_id}: {action.outcome}"
    if action.why:
        yield action.why
    if rejection is not None:
        yield f"webhook, {rejection.state}: {rejection.problem}"


@app.command("deliveries")
def deliveries(
    content: AnyContent = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List the messages that the webhook's receiver rejected or did not accept, oldest first.

    Such a message is a dead letter. After you have repaired the receiver, `safeguard dead-letters retry` sends it again
    unless a later action has replaced it.
    """
    check_content_id(content)
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(rejections.rejections(current, content))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    rows = [
        {
            "failed_at": one.failed_at.isoformat(timespec="seconds"),
            "item": one.content_id,
            "action": one.action,
            "state": one.state,
            "problem": one.problem,
        }
        for one in found
    ]
    show_rows(rows, "the receiver rejected no message", as_json=False)
