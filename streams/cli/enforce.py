"""safeguard enforce."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer

from safeguard_streams.cli.options import Bootstrap, By, Json, Library, Port, Why, changed_by, needs_extra, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import Enforced
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement import repartition as partitioning
from safeguard_streams.enforcement import rules as rules_of
from safeguard_streams.enforcement.moderators import HeldAction
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.ports import check_port
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(
    no_args_is_help=True, help="Act on verdicts: run the agent, decide as a moderator, release held actions."
)

RulesFile = Annotated[
    Path,
    typer.Argument(metavar="[RULES]", show_default="the rules in the package", help="Enforcement rules, a TOML file."),
]


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
    try:
        from safeguard_streams.enforcement import app as agent
    except ImportError as error:
        raise needs_extra(error, "enforcement") from error
    current = settings.load(bootstrap=bootstrap, enforcement_port=port)
    check_port(current.host, current.enforcement_port)
    loaded = rules_of.load(rules)
    configure_logging(form=current.log_format)
    asyncio.run(agent.run(current, loaded, from_now=from_now, dry_run=dry_run))


@app.command("check")
def check(
    rules: RulesFile = rules_of.SHIPPED,
    library: Library = LIBRARY,
) -> None:
    """Check enforcement rules.

    The file must be valid, and the policies and rules that it names must exist.
    """
    loaded = rules_of.load(rules)
    known_policies = load_library(library)
    unknown_policies = sorted(loaded.policies - set(known_policies))
    if unknown_policies:
        raise ConfigurationError(
            f"{rules}: no policy {unknown_policies[0]!r} in {library}; it has: {', '.join(known_policies)}"
        )
    for rule in loaded.rule:
        policies = [known_policies[policy_id] for policy_id in rule.policies] or list(known_policies.values())
        unknown_rules = sorted(set(rule.rules) - {rule_id for policy in policies for rule_id in policy.rules})
        if unknown_rules:
            ids = ", ".join(policy.id for policy in policies)
            raise ConfigurationError(f"{rules}: rule {rule.name!r}: {unknown_rules[0]!r} is not a rule of {ids}")
    cap = loaded.cap
    say(f"{rules}: {len(loaded.rule)} rules, a cap of {cap.max_actions} in {cap.window}: no problems found")


@app.command("held")
def held(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List held actions, by policy and action.

    The agent holds actions above a policy's cap until a moderator releases them.
    """
    current = settings.load(bootstrap=bootstrap)
    groups: dict[tuple[str, str], list[HeldAction]] = {}
    with shown_reading():
        found = asyncio.run(moderators.held(current))
    for one in found:
        groups.setdefault((one.action.policy_id or "", one.action.action), []).append(one)
    rows: list[dict[str, Any]] = [
        {
            "policy": policy,
            "action": action,
            "items": len(waiting),
            "oldest": waiting[0].action.acted_at.isoformat(timespec="seconds"),
        }
        for (policy, action), waiting in sorted(groups.items())
    ]
    show_rows(rows, "no actions are held", as_json=as_json)


@app.command("release")
def release(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Id of a policy.")],
    why: Why = "",
    by: By = None,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Release the actions held under a policy.

    Only the actions that the confirmation counts are released. Later ones stay held. An action that a later verdict or
    decision replaced is not released.
    """
    current = settings.load(bootstrap=bootstrap)
    moderator = changed_by(why, by)
    with shown_reading():
        shown = asyncio.run(moderators.held(current, policy))
    counts = Counter(one.action.action for one in shown)
    if not shown:
        say(f"no actions are held under {policy}")
        return
    summary = ", ".join(f"{action} {count:,}" for action, count in sorted(counts.items()))
    if not yes and not typer.confirm(f"release under {policy}: {summary}?"):
        raise typer.Exit(1)
    followed = asyncio.run(moderators.release(current, shown, moderator))
    say(f"{followed:,} actions were released")
    if followed < len(shown):
        say(f"{len(shown) - followed:,} more will be released when the enforcement agent follows; is it running?")


@app.command("standing")
def standing(
    content: Annotated[
        str | None, typer.Argument(metavar="[CONTENT_ID]", help="Id of a content item.", show_default="all items")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List what stands on content items: the action in effect, and why.

    An item that is not listed is allowed, and nothing is held or decided about it.
    """
    current = settings.load(bootstrap=bootstrap)
    with shown_reading():
        found = asyncio.run(moderators.all_standing(current, lambda one: content in (None, one.content_id)))
    chosen = [one.standing for one in found]
    if as_json:
        print(orjson.dumps([msgspec.to_builtins(one) for one in chosen]).decode())
        return
    rows = [
        {
            "item": one.content_id,
            "in effect": one.effective,
            "decided by": one.decision.by or "a moderator" if one.decision else "",
            "policies": ", ".join(f"{policy.policy_id} {policy.action}" for policy in one.policies if not policy.empty),
            "held": ", ".join(f"{policy.policy_id} {policy.held.action}" for policy in one.policies if policy.held),
        }
        for one in chosen
    ]
    show_rows(rows, "nothing stands", as_json=False)


@app.command("repartition")
def repartition(bootstrap: Bootstrap = None) -> None:
    """Move what stands on content items after the topics got more partitions.

    Let the agents follow all verdicts before you raise the number, and stop them. Producers must choose partitions as
    Kafka's own clients do, by the key.
    """
    current = settings.load(bootstrap=bootstrap)
    left = asyncio.run(partitioning.unfollowed(current))
    say(f"{asyncio.run(partitioning.repartition(current)):,} items were moved")
    if left:
        say(f"{left:,} inputs came before the new partitions and were not followed: judge their items again")


@app.command("decide")
def decide(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="allow, review, label, limit or remove.")],
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Decide about a content item as a moderator.

    The decision overrides all current and future verdicts on the item.
    """
    current = settings.load(bootstrap=bootstrap)
    try:
        chosen = msgspec.convert(action, Enforced)
    except msgspec.ValidationError:
        raise ConfigurationError(f"{action!r} is not an action; choose allow, review, label, limit or remove") from None
    moderator = changed_by(why, by)
    with shown_reading():
        decision = asyncio.run(moderators.decide(current, content, chosen, moderator))
    if as_json:
        print(msgspec.json.encode(decision).decode())
    else:
        say(f"{content}: {action}, decided by {decision.by}; this overrides all verdicts")


@app.command("show")
def show(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List all actions on a content item, oldest first.

    Each row names the verdict or the moderator, the rule, and the action that stood afterwards.
    """
    current = settings.load(bootstrap=bootstrap)

    with shown_reading():
        recorded = asyncio.run(moderators.history(current, content))
    if as_json:
        print(orjson.dumps([msgspec.to_builtins(action) for action in recorded]).decode())
        return
    rows = [
        {
            "at": action.acted_at.isoformat(timespec="seconds"),
            "action": action.action,
            "state": f"{action.state}, dry run" if action.dry_run else action.state,
            "stands": action.effective or action.action,
            "policy": action.policy_id or "all, by a moderator",
            "verdict": f"{action.decision} {' '.join(action.rule_ids)}" if action.decision else "",
            "rule": action.rule or "",
            "by": action.by or "",
            "why": action.why,
        }
        for action in recorded
    ]
    show_rows(rows, f"no actions on {content}", as_json=False)
