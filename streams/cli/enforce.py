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
from safeguard_streams.contract.records import Action, Enforced
from safeguard_streams.enforcement import moderators
from safeguard_streams.enforcement import rules as rules_of
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import configure_logging

app = typer.Typer(no_args_is_help=True, help="Actions that follow verdicts.")

RulesFile = Annotated[
    Path,
    typer.Argument(
        metavar="[RULES]", show_default="the rules in the package", help="Rules of enforcement, a TOML file."
    ),
]
Port = Annotated[int | None, typer.Option(help="Port of the health endpoint.")]


@app.command("run")
def run(
    rules: RulesFile = rules_of.SHIPPED,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only write what would be done, marked dry_run: nothing is delivered, and nothing that stands changes.",
        ),
    ] = False,
    from_now: Annotated[
        bool,
        typer.Option("--from-now", help="Where it has not run before, begin with the next verdict, not the oldest."),
    ] = False,
    port: Port = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Follow verdicts with actions, as rules say, until SIGTERM or Ctrl-C: each verdict once, on moderation.actions, and what
    changes anything to the webhook of the rules, signed with SAFEGUARD_WEBHOOK_SECRET.

    A verdict that supersedes another reverses its action. Above a policy's cap, actions are held and an alert is raised.
    """
    try:
        from safeguard_streams.enforcement import app as agent
    except ImportError as error:
        raise needs_extra(error, "enforcement") from error
    current = settings.load(bootstrap=bootstrap, enforcement_port=port)
    found = rules_of.load(rules)
    configure_logging(form=current.log_format)
    asyncio.run(agent.run(current, found, from_now=from_now, dry_run=dry_run))


@app.command("check")
def check(
    rules: RulesFile = rules_of.SHIPPED,
    library: Library = LIBRARY,
) -> None:
    """Read rules as run would, and see whether the policies and rules that they name exist."""
    found = rules_of.load(rules)
    known = load_library(library)
    unknown = sorted(found.policies - set(known))
    if unknown:
        raise ConfigurationError(f"{rules}: no policy {unknown[0]!r} in {library}; there are: {', '.join(known)}")
    for rule in found.rule:
        of = [known[name] for name in rule.policies] or list(known.values())
        strange = sorted(set(rule.rules) - {cited for policy in of for cited in policy.rules})
        if strange:
            names = ", ".join(policy.id for policy in of)
            raise ConfigurationError(f"{rules}: rule {rule.name!r}: {strange[0]!r} is no rule of {names}")
    print(f"{rules}: {len(found.rule)} rules, a cap of {found.cap.max_actions} in {found.cap.window}: no problem")


@app.command("held")
def held(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """What is held above a cap and waits for a person, by policy and action."""
    current = settings.load(bootstrap=bootstrap)
    waiting = asyncio.run(moderators.held(current))
    counts = Counter((one.action.policy_id or "", one.action.action) for one in waiting)
    rows: list[dict[str, Any]] = [
        {
            "policy": policy,
            "action": action,
            "contents": count,
            "oldest": next(
                one.action.acted_at.isoformat(timespec="seconds")
                for one in waiting
                if (one.action.policy_id, one.action.action) == (policy, action)
            ),
        }
        for (policy, action), count in sorted(counts.items())
    ]
    show_rows(rows, "nothing is held", as_json=as_json)


@app.command("release")
def release(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Id of a policy.")],
    why: Why = "",
    by: By = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Let through what is held under a policy. Content that was decided otherwise since is left alone."""
    current = settings.load(bootstrap=bootstrap)
    waiting = [one for one in asyncio.run(moderators.held(current)) if one.action.policy_id == policy]
    counts = Counter(one.action.action for one in waiting)
    if not waiting:
        print(f"nothing is held under {policy}")
        return
    words = ", ".join(f"{action} {count:,}" for action, count in sorted(counts.items()))
    if not yes and not typer.confirm(f"let through under {policy}: {words}?"):
        raise typer.Exit(1)
    print(f"{asyncio.run(moderators.release(current, policy, changed_by(why, by))):,} actions are let through")


@app.command("decide")
def decide(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="allow, review, label, limit or remove.")],
    why: Why = "",
    by: By = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Decide about a content as a person: it overrides all verdicts on it, those to come too."""
    current = settings.load(bootstrap=bootstrap)
    try:
        chosen = msgspec.convert(action, Enforced)
    except msgspec.ValidationError:
        raise ConfigurationError(f"{action!r} is no action: allow, review, label, limit or remove") from None
    decision = asyncio.run(moderators.decide(current, content, chosen, changed_by(why, by)))
    if as_json:
        print(msgspec.json.encode(decision).decode())
    else:
        print(f"{content}: {action}, decided by {decision.by}; it overrides all verdicts")


@app.command("show")
def show(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content.")],
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """All actions on a content, oldest first: which verdict or person, which rule, and what stood after each."""
    current = settings.load(bootstrap=bootstrap)

    async def work() -> list[Action]:
        return [action async for _, action in moderators.actions(current) if action.content_id == content]

    found = asyncio.run(work())
    if as_json:
        print(orjson.dumps([msgspec.to_builtins(action) for action in found]).decode())
        return
    rows = [
        {
            "at": action.acted_at.isoformat(timespec="seconds"),
            "action": action.action,
            "state": f"{action.state}, dry run" if action.dry_run else action.state,
            "stands": action.effective or action.action,
            "policy": action.policy_id or "all, by a person",
            "verdict": f"{action.decision} {' '.join(action.rule_ids)}" if action.decision else "",
            "rule": action.rule or "",
            "by": action.by or "",
            "why": action.why,
        }
        for action in found
    ]
    show_rows(rows, f"no action on {content}", as_json=False)
