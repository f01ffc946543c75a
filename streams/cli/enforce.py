"""safeguard enforce."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer

from safeguard_streams.cli.options import Bootstrap, By, Json, Library, Why, changed_by, needs_extra, show_rows
from safeguard_streams.cli.output import say
from safeguard_streams.contract.records import Action, Enforced
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement import rules as rules_of
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(
    no_args_is_help=True, help="Act on verdicts: run the agent, decide as a moderator, release held actions."
)

RulesFile = Annotated[
    Path,
    typer.Argument(metavar="[RULES]", show_default="the rules in the package", help="Enforcement rules, a TOML file."),
]
Port = Annotated[int | None, typer.Option(help="Port of the health endpoint.")]


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
    waiting = asyncio.run(moderators.held(current))
    counts = Counter((one.action.policy_id or "", one.action.action) for one in waiting)
    rows: list[dict[str, Any]] = [
        {
            "policy": policy,
            "action": action,
            "items": count,
            "oldest": next(
                one.action.acted_at.isoformat(timespec="seconds")
                for one in waiting
                if (one.action.policy_id, one.action.action) == (policy, action)
            ),
        }
        for (policy, action), count in sorted(counts.items())
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

    Actions that a later verdict or decision replaced are not released.
    """
    current = settings.load(bootstrap=bootstrap)
    waiting = [one for one in asyncio.run(moderators.held(current)) if one.action.policy_id == policy]
    counts = Counter(one.action.action for one in waiting)
    if not waiting:
        say(f"no actions are held under {policy}")
        return
    summary = ", ".join(f"{action} {count:,}" for action, count in sorted(counts.items()))
    if not yes and not typer.confirm(f"release under {policy}: {summary}?"):
        raise typer.Exit(1)
    say(f"{asyncio.run(moderators.release(current, policy, changed_by(why, by))):,} actions were released")


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
    decision = asyncio.run(moderators.decide(current, content, chosen, changed_by(why, by)))
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

    async def history() -> list[Action]:
        return [action async for _, action in moderators.actions(current) if action.content_id == content]

    recorded = asyncio.run(history())
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
