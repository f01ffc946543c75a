"""The demo's text for the terminal, at most 80 columns wide."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, PrefilterResult
from safeguard_streams.demo import labels
from safeguard_streams.demo.broker import Broker
from safeguard_streams.demo.child_process import ChildProcess
from safeguard_streams.demo.examples import Example
from safeguard_streams.demo.faults import Killed
from safeguard_streams.demo.labels import LabelFigures
from safeguard_streams.demo.tally import Tally, percentile
from safeguard_streams.policies.document import Policy
from safeguard_streams.quality.proportions import Proportion

WIDTH = 80  # columns
MAX_LETTERS = 10  # dead letters shown
MAX_TEXT = 200  # characters of a text, and of a rationale
FIELD = 11  # columns of a field's name
INDENT = 3

SMALL_MODEL = (
    "The figures above are those of a model of some megabytes. It has the architecture of gpt-oss and shares its "
    "prompts, its output format and its parser, but it has only learned the policies of this package. It does not "
    "follow a policy of your own, and its rationales are a sentence. gpt-oss-safeguard reads any policy, reasons about "
    "each text, and takes seconds for each judgement. It needs a GPU with 16 GB, or a server that has one: "
    "safeguard demo --model openai/gpt-oss-safeguard-20b runs all of this on it."
)
EXAMPLES = "Examples of right answers, and of a mistake at the end. How often answers are right is what the table says."
NEXT = (
    ("safeguard demo --keep", "the same, and it keeps running, with the console's pages"),
    ("safeguard demo --replay", "a policy changes, and past content is judged again"),
    ("safeguard demo --events FILE", "your own texts, one JSON object a line"),
    ("safeguard model check", "whether the real model is ready, and what it lacks"),
    ("safeguard policy new ID", "the skeleton of a policy of your own"),
    ("docs/index.md", "the same step by step; `make docs` makes a site of it"),
    ("docs/guides/own-policy.md", "a policy of your own in an hour, without a GPU"),
    ("docs/guides/model.md", "three ways to a real model"),
    ("docs/guides/kafka.md", "the pipeline on your own Kafka"),
)
CONSOLE = "the console: what waits for a moderator, each text, policies; this machine alone"
LOOK_AROUND = (
    ("safeguard status", "what runs, what waits, what is in force"),
    ("safeguard verdicts tail --from-beginning --exit", "every verdict, with rule and reason"),
    ("safeguard content show {content_id}", "one text: gates, verdicts, rationales, actions, what stands"),
    ("safeguard enforce review", "what waits for a moderator"),
    ("safeguard enforce standing", "what stands now, on all texts"),
    ("safeguard policy history fraud-spam", "who released what, when and why"),
)


def rendered(part: RenderableType) -> str:
    """A part of the output as lines of at most WIDTH columns, without spaces at their ends."""
    file = io.StringIO()
    Console(file=file, width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False).print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def prose(text: str) -> Padding:
    """A paragraph."""
    return _indented(Text(text))


def fields(rows: Mapping[str, str]) -> Padding:
    """Names, and beside each its text; those without text are left out."""
    grid = Table.grid(Column(width=FIELD), Column())
    for name, text in rows.items():
        if text:
            grid.add_row(Text(name), Text(text))
    return _indented(grid)


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, INDENT))


def shortened(text: str, max_length: int = MAX_TEXT) -> str:
    """A text on one line, without characters that draw on a terminal."""
    flat = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return flat if len(flat) <= max_length else flat[: max_length - 1] + "…"


def line(tally: Tally, total: int) -> str:
    """One line of progress."""
    return (
        f"published {tally.published} of {total}, cleared {tally.topics[topics.CLEARED]}, "
        f"verdicts {tally.topics[topics.VERDICTS]}, unanswered {tally.unanswered()}"
    )


def counts(tally: Tally) -> Group:
    """What became of the events, and how long it took."""
    undetermined = sum(verdict.decision == "undetermined" for verdict in tally.verdicts)
    rows = [
        (tally.published, "events published", ""),
        (tally.topics[topics.CLEARED], "cleared by the prefilter", _seconds(tally.latency["cleared"])),
        (tally.escalated_events, "sent to the model", "under one policy or several"),
        (tally.topics[topics.ESCALATIONS_AUDIT], "audits", "of cleared texts, to measure the gates"),
        (tally.topics[topics.VERDICTS], "verdicts", _seconds(tally.latency["judged"])),
        (undetermined, "of them undetermined", "the output had a wrong form"),
    ]
    if tally.dead_letters:
        rows.append((len(tally.dead_letters), "dead letters", "no valid events"))
    table = Table(Column(justify="right"), Column(), Column(), box=None, show_header=False, padding=(0, 2, 0, 0))
    for number, what, more in rows:
        table.add_row(str(number), what, more)
    return Group(_indented(table), *(prose(shortened(letter.reason)) for letter in tally.dead_letters[:MAX_LETTERS]))


def _seconds(values: Sequence[float]) -> str:
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return "" if p50 is None or p99 is None else f"half within {p50 / 1000:.1f} s, 99% within {p99 / 1000:.1f} s"


def exactly_once(tally: Tally, broker: Broker, killed: Killed | None) -> Group:
    """The count of answers, and what it proves on this broker."""
    missing, twice = tally.unanswered(), tally.duplicates()
    rows = {
        "in": f"{tally.published} events",
        "out": f"{tally.published - missing} answered, {missing} unanswered, {twice} answered twice",
    }
    if killed is not None:
        rows["kill -9"] = (
            f"{' and '.join(killed.processes)}, with {killed.published - killed.answered} events on their way; both "
            f"ready again after {killed.seconds_away:.0f} s, for which verdicts had to wait"
        )
    if broker.transactional:
        proof = (
            f"{broker.name} has transactions. A process commits outputs and position together, and what a killed one "
            "left half done is never read: each event is answered exactly once."
        )
    else:
        proof = (
            f"{broker.name} has no transactions, so this shows only at least once: nothing is lost, but a killed "
            f"process repeats its last work. {tally.repeated} answers repeat the verdict_id of an earlier one, and the "
            "client library drops these. Exactly once needs Apache Kafka. With Java 17 and Maven, the demo starts one."
        )
    return Group(fields(rows), "", prose(proof))


def by_label(figures: Mapping[str, LabelFigures]) -> Group:
    """What was right, of all that people had labelled, then by policy; and how many errors there were."""
    every = labels.total(figures.values())
    table = Table(Column("policy", no_wrap=True), box=None, padding=(0, 1, 0, 0))
    for name in ("found", "right rule", "left alone"):
        table.add_column(name, justify="right")
        table.add_column("", justify="right")
        table.add_column("")
    for policy_id, one in {**figures, "all": every}.items():
        table.add_row(policy_id, *_share(one.found), *_share(one.right_rule), *_share(one.left_alone))
    flagged = every.left_alone.of - every.left_alone.count
    return Group(
        prose(
            f"Right: {_percent(every.found)} of the violating texts were found, {_percent(every.right_rule)} of these "
            f"under the rule that fits the label. {_percent(every.left_alone)} of the harmless ones were left alone."
        ),
        "",
        _indented(table),
        "",
        prose(
            f"Wrong: {every.missed_by_gate} violating texts were cleared by the prefilter, {every.missed_by_model} "
            f"were called safe by the model, and {flagged} verdicts flagged a harmless text."
        ),
        "",
        prose(
            "People labelled these texts, which come from public data sets, and no model was trained on them. Everyday "
            "texts count as harmless under each policy."
        ),
    )


def _share(share: Proportion) -> tuple[str, str, str]:
    return ("-", "", "") if share.value is None else (f"{share.count} of {share.of}", f"{share.value:.0%}", "")


def _percent(share: Proportion) -> str:
    return "none" if share.value is None else f"{share.value:.0%}"


def example(letter: str, shown: Example, policies: Mapping[str, Policy]) -> Group:
    """One worked example, from its text to the action."""
    verdict, rationale = shown.verdict, shown.rationale
    policy = policies.get(verdict.policy_id)
    titles = policy.rules if policy is not None else {}
    score = "" if verdict.score is None else f", score {verdict.score:.2f}"
    rows = {
        "text": f'"{shortened(shown.event.text)}"',
        "gate": _gate(verdict.policy_id, verdict.prefilter),
        "verdict": f"{verdict.decision}{score}",
        "rule": "; ".join(f"{rule}: {titles.get(rule, '')}" for rule in verdict.rule_ids),
        "rationale": shortened(rationale.attempts[-1].analysis) if rationale and rationale.attempts else "",
        "reason": shortened(verdict.reason or ""),
        "action": _action(shown.action),
    }
    return Group(prose(f"{letter}) {shown.title} ({verdict.content_id})"), fields(rows), "")


def _gate(policy_id: str, why: PrefilterResult | None) -> str:
    if why is None:
        return policy_id
    if why.gate == "label" and why.score is not None and why.threshold is not None:
        return f"{policy_id}: classifier says {why.label} {why.score:.2f}, threshold {why.threshold:.3g}"
    if why.gate == "terms":
        return f"{policy_id}: the term {why.label!r}"
    return f"{policy_id}: {why.gate}" + (f", 1 in {1 / why.rate:,.0f} such texts" if why.rate else "")


def _action(action: Action | None) -> str:
    if action is None:
        return "none, it stays"
    held = ", held above the cap" if action.state == "held" else ""
    return f"{action.action}{held}" + (f', by the rule "{action.rule}"' if action.rule else "")


def addresses(broker: Broker, children: Sequence[ChildProcess], content_id: str, console: str | None = None) -> Group:
    """What runs where, and what to open or type, while the demo keeps running. console: its address, if it runs."""
    pages = () if console is None else (_step(console, CONSOLE), "")
    return Group(
        prose("Everything still runs."),
        "",
        *pages,
        prose("In another terminal, with .venv/bin on the PATH:"),
        "",
        prose(f"export SAFEGUARD_BOOTSTRAP={broker.settings.bootstrap}"),
        *(_step(command.format(content_id=content_id), why) for command, why in LOOK_AROUND),
        "",
        *(_step(f"http://127.0.0.1:{child.port}/metrics", f"the {child.name}'s metrics") for child in children),
        "",
        prose("Ctrl-C stops all of it."),
    )


def next_steps() -> Group:
    """Where to go after the demo."""
    return Group(*(_step(command, why) for command, why in NEXT))


def _step(command: str, why: str) -> Padding:
    """What to type or to open, and below it what it shows; the command stays on one line."""
    return _indented(Group(Text(command, no_wrap=True, overflow="ignore"), Text(f"    {why}")))
