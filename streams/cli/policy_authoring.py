"""`safeguard policy new` and `safeguard policy golden add`: the commands that write the files of a policy."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from safeguard_streams.cli.options import Bootstrap, Json, Library, load_policy
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.policies import golden as golden_sets
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY, create
from safeguard_streams.policies.golden import Golden, Kind
from safeguard_streams.policies.parsing import POLICY_ID
from safeguard_streams.policies.skeleton import Outline, blanks, skeleton
from safeguard_streams.quality.judged_text import JudgedText, judged_text
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment

golden_app = typer.Typer(no_args_is_help=True, help="Labelled texts that show what a policy's rules mean.")
Label = Literal["violates", "safe"]
SHOWN = 2000  # characters of a text that is to be labelled

_NEXT = """\
next:
  1. fill in every [FILL IN: ...]; this lists what is left:
     safeguard policy check {path}
  2. label sixty texts or more in {golden},
     by hand or from verdicts: safeguard policy golden add {path} CONTENT_ID
  3. let the model judge them: safeguard policy test {path}
  4. try it on live content: safeguard policy release {path} --shadow 0.05 --why "..."
  5. put it in force: safeguard policy release {path} --why "..."
"""


def new(
    policy_id: Annotated[str, typer.Argument(metavar="ID", help="Lower-case words joined by hyphens.")],
    library: Annotated[
        Path, typer.Option("--library", show_default="this folder", help="Folder to write ID/policy.md in.")
    ] = Path(),
    title: Annotated[str | None, typer.Option(help="The subject, in a few words.")] = None,
    owner: Annotated[str | None, typer.Option(help="The team that answers for the policy.")] = None,
    violates: Annotated[
        list[str] | None, typer.Option(help="A rule: one thing that nobody may do, in a sentence; repeatable.")
    ] = None,
    safe: Annotated[
        list[str] | None, typer.Option(help="A rule: what is close to it and stays, in a sentence; repeatable.")
    ] = None,
    term: Annotated[
        list[str] | None, typer.Option(help="A word of the subject, which sends content to the model; repeatable.")
    ] = None,
    surface: Annotated[list[str] | None, typer.Option(help="A surface to cover; repeatable; default: all.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="A language to cover; repeatable; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Write the skeleton of a new policy. On a terminal, asks for what the options leave open.

    Every question may stay open: the skeleton then has a blank, which `safeguard policy check` lists.
    """
    if not POLICY_ID.match(policy_id):
        raise ConfigurationError(f"{policy_id!r} is no id: use lower-case words with hyphens, as in ticket-touting")
    path = library / policy_id / "policy.md"
    if path.exists():
        raise ConfigurationError(f"{path} exists already; choose another id, or edit this file")
    ask = _Questions(asks=_interactive() and not as_json)
    document = skeleton(
        Outline(
            id=policy_id,
            title=ask.one("What is it about, in a few words?", title),
            owner=ask.one("Which team answers for it?", owner),
            violates=ask.several("What may nobody do? One sentence for each rule", violates),
            safe=ask.several("What is close to it and stays? One sentence for each rule", safe),
            terms=ask.several("Which words does such content use? They send it to the model", term),
            surfaces=ask.several("Which surfaces does it cover? None: all", surface),
            languages=ask.several("Which languages does it cover, as in en or pt-BR? None: all", language),
        )
    )
    create(path, document)
    if as_json:
        print(msgspec.json.encode({"file": str(path), "id": policy_id, "fill_in": blanks(document)}).decode())
        return
    say(f"wrote {path}")
    if policy_id in {file.parent.name for file in LIBRARY.glob("*/policy.md")}:
        say(f"the package has a policy {policy_id}, too: a release of one replaces the other")
    for line in _NEXT.format(path=path, golden=path.with_name(golden_sets.NAME)).splitlines():
        say(line)


def _interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


class _Questions(msgspec.Struct, frozen=True):
    """Questions on a terminal, each unless an option answers it."""

    asks: bool

    def one(self, question: str, given: str | None) -> str:
        if given is not None or not self.asks:
            return (given or "").strip()
        return str(typer.prompt(question, default="", show_default=False, prompt_suffix=" ")).strip()

    def several(self, question: str, given: Iterable[str] | None) -> tuple[str, ...]:
        if given or not self.asks:
            return tuple(answer.strip() for answer in given or () if answer.strip())
        say(f"{question}; an empty line ends.")
        answers: list[str] = []
        while answer := self.one(f"  {len(answers) + 1}:", None):
            answers.append(answer)
        return tuple(answers)


@golden_app.command("add")
def add(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="Id of a policy in the library, or a policy.md file.")
    ],
    content_id: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    label: Annotated[
        Label | None, typer.Option(help="What the policy says of the text; default: that of --rule, or else ask.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="The rule that decides; default: the verdict's, if it agrees, or else ask.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="What the text tests.")] = "boundary",
    language: Annotated[str | None, typer.Option(help="Language tag; default: the event's, or else en.")] = None,
    library: Library = LIBRARY,
    since: Annotated[
        str | None, typer.Option(help="Read records from this time on: 2026-01-31T12:00:00Z, or 7d for seven days ago.")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Add the text of a judged content item to a policy's golden set, with a label of your own.

    Takes the text that the last verdict is about from content.events. A text that is there already is refused.
    """
    document, path = load_policy(policy, library)
    if rule is not None:
        label = _side(document, label, rule)
    start = moment(since, "--since") if since else None
    with shown_reading():
        found = asyncio.run(judged_text(settings.load(bootstrap=bootstrap), document.id, content_id, start))
    if _interactive() and (label is None or rule is None):
        _show(found)
    decision = label or _asked_label(found)
    row = golden_sets.add(
        path.with_name(golden_sets.NAME),
        Golden(
            text=found.event.text,
            decision=decision,
            rule=rule or _deciding_rule(document, found, decision),
            kind=kind,
            language=language or found.event.language or "en",
        ),
    )
    added = {"file": str(path.with_name(golden_sets.NAME)), "line": row.line, "policy": document.id}
    if as_json:
        print(msgspec.json.encode({**added, "content_id": content_id, **msgspec.to_builtins(row.golden)}).decode())
        return
    say(f"{added['file']}:{row.line}: added {content_id} as {decision}, {row.golden.rule}, {kind}")


def _show(found: JudgedText) -> None:
    verdict = found.verdict
    say(found.event.text[:SHOWN])
    judged = f"{verdict.decision} {' '.join(verdict.rule_ids)}: {verdict.reason or ''}" if verdict else "not judged"
    say(f"verdict: {judged}")


def _asked_label(found: JudgedText) -> Label:
    if not _interactive():
        raise ConfigurationError("give the label of this text: --label violates, or --label safe")
    judged = found.verdict.decision if found.verdict else None
    default = judged if judged in ("violates", "safe") else None
    while True:
        answer = typer.prompt("violates or safe?", default=default)
        if answer in ("violates", "safe"):
            return "violates" if answer == "violates" else "safe"


def _deciding_rule(policy: Policy, found: JudgedText, label: Label) -> str:
    """The rule of the verdict, where it agrees with the label and the policy still has the rule; else the answer."""
    side = policy.violating if label == "violates" else policy.safe
    cited = found.verdict.rule_ids if found.verdict and found.verdict.decision == label else ()
    default = next((rule for rule in cited if rule in side), None)
    if not _interactive():
        if default is None:
            raise ConfigurationError(f"name the rule that decides, with --rule; {label}: {', '.join(side)}")
        return default
    for rule in side:
        say(f"  {rule}  {policy.rules[rule]}")
    while (answer := str(typer.prompt("Which rule decides?", default=default))) not in side:
        pass
    return answer


def _side(policy: Policy, label: Label | None, rule: str) -> Label:
    """The label that a rule stands for. Raises ConfigurationError when it is unknown, or stands for another one."""
    sides: dict[Label, tuple[str, ...]] = {"violates": policy.violating, "safe": policy.safe}
    for side, rules in sides.items():
        if rule in rules and label in (None, side):
            return side
    of_label = f" of {label}" if label else ""
    fitting = sides[label] if label else [*policy.violating, *policy.safe]
    raise ConfigurationError(f"{policy.id} has no rule {rule!r}{of_label}{choices(rule, fitting)}")
