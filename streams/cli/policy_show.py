"""`safeguard policy show`: what a policy says to enforcement, rule by rule."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json, Library, load_policy
from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.parsing import parse
from safeguard_streams.policies.statements import RuleStatement, of_rule
from safeguard_streams.policies.vocabulary import Severity, Side
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings


class ShownRule(msgspec.Struct, frozen=True):
    """A rule. severity, statement: of a violation, by the rule itself, one above it, or the default; None for a safe
    rule.
    """

    id: str
    side: Side
    severity: Severity | None
    name: str
    note: str | None
    statement: RuleStatement | None


class ShownPolicy(msgspec.Struct, frozen=True):
    """A policy for readers and programs. revision: of a release."""

    id: str
    version: str
    revision: int | None
    title: str
    owner: str
    surfaces: tuple[str, ...]
    languages: tuple[str, ...]
    rules: list[ShownRule]


def show(
    policy: Annotated[
        str,
        typer.Argument(metavar="ID", help="Id of a policy in the library, or a policy.md file; with --released, id."),
    ],
    which: Annotated[
        str | None,
        typer.Option("--released", metavar="WHICH", help="Show a release: live, shadow, a revision or a version."),
    ] = None,
    library: Library = LIBRARY,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show the rules of a policy with their severities and notes, from the library or as released."""
    if which is None:
        shown = _shown(load_policy(policy, library).policy, None)
    else:
        released = asyncio.run(_release(settings.load(bootstrap=bootstrap), policy, which))
        origin = f"revision {released.revision} of {policy}"
        shown = _shown(parse(released.document, origin, released.distilled), released.revision)
    if as_json:
        print(msgspec.json.encode(shown).decode())
    else:
        _print(shown)


async def _release(current: settings.Settings, policy_id: str, which: str) -> PolicyRelease:
    await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
    return (await operator.history(current)).find(policy_id, which)


def _shown(policy: Policy, revision: int | None) -> ShownPolicy:
    rules = [
        *(
            ShownRule(
                *(rule, "violates", policy.severity_of(rule), policy.rules[rule], policy.notes.get(rule)),
                of_rule(policy.statements, rule),
            )
            for rule in policy.violating
        ),
        *(ShownRule(rule, "safe", None, policy.rules[rule], None, None) for rule in policy.safe),
    ]
    scope = policy.applies_to
    return ShownPolicy(
        policy.id, policy.version, revision, policy.title, policy.owner, scope.surfaces, scope.languages, rules
    )


def _print(policy: ShownPolicy) -> None:
    released = f", revision {policy.revision}" if policy.revision else ""
    say(f"{policy.id} {policy.version}{released}: {policy.title}, owned by {policy.owner}")
    for kind, names in (("surfaces", policy.surfaces), ("languages", policy.languages)):
        say(f"{kind}: {', '.join(names) or 'all'}")
    table = Table("rule", "side", "severity", "name", box=None)
    for rule in policy.rules:
        table.add_row(rule.id, rule.side, rule.severity or "", rule.name)
    console().print(table)
    for rule in policy.rules:
        if rule.note:
            say(f"note of {rule.id}: {rule.note}")
        if rule.statement:
            say(f"category of {rule.id}: {rule.statement.category} {rule.statement.keyword or ''}".rstrip())
