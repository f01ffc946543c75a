"""Trains the small model, measures it through vLLM, and writes its model card."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from safeguard_streams.policies import golden, labelled
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.small_model import Learned, digest
from safeguard_streams.runtime import settings
from safeguard_streams.workers.evaluation.interface import OnProgress
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import InferenceBackend, InferenceRequest
from safeguard_streams.workers.inference.vllm import VllmBackend
from safeguard_streams.workers.judging.parse import Malformed, parse
from safeguard_streams.workers.small.examples import (
    LENIENT,
    LESSONS,
    SENTENCES,
    Example,
    by_lesson,
    collect,
    taught_policies,
)
from safeguard_streams.workers.small.network import HIDDEN, LAYERS
from safeguard_streams.workers.small.sentences import LANGUAGES
from safeguard_streams.workers.small.train import Trained, train
from safeguard_streams.workers.small.weights import expand

MAX_MEASURED = 200  # texts of each side of a policy
MAX_ANSWER_TOKENS = 256
_OTHER_SOURCES = {
    "hate-harassment": ("hatecheck", "bias_madlibs", "mhc_german", "mhc_spanish", "mhc_french", "mhc_mandarin"),
    "prompt-injection": ("deepset_inj_test",),
}


class ExampleOutcome(msgspec.Struct, frozen=True):
    """The model's result for an example; violates is None for a malformed output."""

    example: Example
    violates: bool | None
    rules: tuple[str, ...] = ()
    malformed: str | None = None


async def judge_all(
    backend: InferenceBackend, policies: dict[str, Policy], examples: Sequence[Example], on_progress: OnProgress
) -> list[ExampleOutcome]:
    """One attempt for each example, without a retry."""
    slots = asyncio.Semaphore(64)
    judged = 0

    async def judge(example: Example) -> ExampleOutcome:
        nonlocal judged
        policy = policies[example.lesson]
        async with slots:
            request = InferenceRequest(policy.text, policy.effort, harmony.encode_text(example.text), MAX_ANSWER_TOKENS)
            completion = await backend.generate(request)
        judged += 1
        on_progress("measuring through vLLM", judged, len(examples))
        try:
            answer = parse(completion.tokens, [policy]).answers[policy.id]
        except Malformed as malformed:
            return ExampleOutcome(example, None, malformed=malformed.reason)
        return ExampleOutcome(example, answer.violates, answer.rule_ids)

    return list(await asyncio.gather(*map(judge, examples)))


def balanced_accuracy(outcomes: Sequence[ExampleOutcome]) -> float | None:
    """Mean of the shares judged correctly on either side; None if a side has no texts.

    Malformed output counts as wrong.
    """
    shares = []
    for side in (True, False):
        of_side = [o for o in outcomes if o.example.violates is side]
        if not of_side:
            return None
        shares.append(sum(o.violates is side for o in of_side) / len(of_side))
    return sum(shares) / 2


def _sample(examples: Sequence[Example], seed: int = 1) -> list[Example]:
    draw = random.Random(seed)
    chosen = []
    for side in (True, False):
        of_side = [e for e in examples if e.violates is side]
        chosen += draw.sample(of_side, min(MAX_MEASURED, len(of_side)))
    return chosen


def _unseen(validation: Path) -> list[Example]:
    """Texts of sources that no training used, for the policies that they are about."""
    examples = []
    for policy, sources in _OTHER_SOURCES.items():
        for source in sources:
            path = validation / f"{source}.jsonl.gz"
            if path.is_file():
                examples += [Example(policy, source, r.text, r.violates, "", "") for r in labelled.read(path)]
    return examples


def golden_examples() -> list[Example]:
    """The golden sets of the library, which no training uses. The source of an example names its language."""
    return [
        Example(name, row.golden.language, row.golden.text, row.golden.decision == "violates", row.golden.rule, "")
        for name in LESSONS
        if name != LENIENT
        for row in golden.read(LIBRARY / name / golden.NAME).rows
    ]


def f1(outcomes: Sequence[ExampleOutcome]) -> float:
    """Harmonic mean of precision and recall of "violates"; malformed output counts as not violating."""
    found = sum(o.violates is True and o.example.violates for o in outcomes)
    called = sum(o.violates is True for o in outcomes)
    return 2 * found / max(1, called + sum(o.example.violates for o in outcomes))


def _golden_table(outcomes: Sequence[ExampleOutcome]) -> list[str]:
    lines = ["| golden sets | violating | found | safe | correct | F1 | balanced accuracy |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    groups: dict[str, list[ExampleOutcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.example.lesson].append(outcome)
    for outcome in outcomes:
        groups[f"all, in {outcome.example.source}"].append(outcome)
    for name, group in groups.items():
        cells = _cells(group)
        balanced = balanced_accuracy(group)
        lines.append(
            f"| {name} | {' | '.join(cells)} | {f1(group):.3f} | {'' if balanced is None else f'{balanced:.3f}'} |"
        )
    return lines


def _cells(group: Sequence[ExampleOutcome]) -> list[str]:
    """How many texts of either side, and the share judged correctly."""
    cells = []
    for side in (True, False):
        of_side = [o for o in group if o.example.violates is side]
        correct = f"{sum(o.violates is side for o in of_side) / len(of_side):.3f}" if of_side else ""
        cells += [str(len(of_side)), correct]
    return cells


def _language_table(outcomes: Sequence[ExampleOutcome]) -> list[str]:
    """Own sentences of new frames: balanced accuracy by policy and language."""
    lines = [f"| policy | {' | '.join(LANGUAGES)} |", f"| --- |{' --- |' * len(LANGUAGES)}"]
    for lesson in LESSONS:
        cells = []
        for language in LANGUAGES:
            of = [o for o in outcomes if o.example.lesson == lesson and o.example.source == f"new sentences {language}"]
            balanced = balanced_accuracy(of)
            cells.append("" if balanced is None else f"{balanced:.3f} of {len(of)}")
        lines.append(f"| {lesson} | {' | '.join(cells)} |")
    return lines


def _table(outcomes: Sequence[ExampleOutcome]) -> list[str]:
    lines = ["| policy | source | violating | correct | safe | correct | balanced accuracy |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    groups: dict[tuple[str, str], list[ExampleOutcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.example.lesson, "all"].append(outcome)
        groups[outcome.example.lesson, outcome.example.source].append(outcome)
    for (policy, source), group in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1])
    ):
        cells = _cells(group)
        balanced = balanced_accuracy(group)
        lines.append(f"| {policy} | {source} | {' | '.join(cells)} | {'' if balanced is None else f'{balanced:.3f}'} |")
    return lines


class Measured(NamedTuple):
    """Outcomes on held-out texts, on golden sets, and on sources that no training used."""

    held_out: Sequence[ExampleOutcome]
    golden: Sequence[ExampleOutcome]
    unseen: Sequence[ExampleOutcome]
    per_second: float


def card(name: str, size: int, trained: Trained, measured: Measured) -> str:
    """The model card, in Markdown. size: of the compacted model, in bytes."""
    held_out, golden_outcomes, unseen, per_second = measured
    everything = [*held_out, *golden_outcomes, *unseen]
    malformed = Counter(o.malformed for o in everything if o.malformed)
    total = len(everything)
    accepted = total - sum(malformed.values())
    correct_rule = [o.rules == (o.example.rule,) for o in held_out if o.violates is not None]
    noisy = [name for name, lesson in LESSONS.items() if lesson.noisy]
    sources = [f"- {name}: {_listed(lesson.sources)}" for name, lesson in LESSONS.items()]
    scores = [f1(group) for group in _by_lesson(golden_outcomes).values()]
    return f"""# Small gpt-oss model card

**This model is only for trying the pipeline on a machine without a GPU. Do not moderate with it.** It has learned
the library's policies, and one changed version of the first, from a few public data sets. It follows no other policy
text: `learned.json` has the digests of the texts, and commands refuse any other or warn. For moderation, use
openai/gpt-oss-safeguard-20b or -120b with the same worker.

Model `{name}`, {size:,} bytes compacted. It has the architecture of gpt-oss (mixture
of experts, sliding and full attention, sinks, yarn) with {LAYERS} layers of {HIDDEN}, the o200k vocabulary, and the
harmony format. Its embeddings began as those of the multilingual sentence encoder, which it also learned to imitate.
Training took {trained.steps:,} steps, {trained.seconds / 60:.0f} minutes on one core, of which others used a part.
The weights are this project's, under Apache-2.0.

Outputs that the strict parser accepted at the first attempt: {accepted} of {total} ({100 * accepted / total:.2f}%).
Rejected, by reason: {_listed(malformed)}.
Accepted held-out texts whose rule is as labelled: {100 * sum(correct_rule) / len(correct_rule):.1f}%.
This measurement judged {per_second:.0f} texts a second through vLLM.

## Golden sets

The texts of `policies/library/*/golden.jsonl`, which no training uses.
Mean F1 of the six policies: {sum(scores) / len(scores):.3f}.
About two in three of these texts violate, and a model that flags everything has an F1 of about 0.8 here.
Read F1 with the share of safe texts judged correctly.

{_lines(_golden_table(golden_outcomes))}

## Own sentences of new frames, by language

Balanced accuracy on the project's own sentences whose frames were kept from training.

{_lines(_language_table(held_out))}

## Held-out texts of its training sources

One text in ten, chosen by a hash, was kept from training. The figures are of at most {MAX_MEASURED} of these texts
for each side of a policy, drawn at random.

{_lines(_table(held_out))}

## Sources it was not trained on

{_lines(_table(unseen))}

## Data

Maximum number of rows of each side, by source (sources and licences are in the prefilter's card):

{_lines(sources)}

Labels of the data sets for {" and ".join(noisy)} contradict each other. There, it learned decisions halfway between
the label and the opinion of a linear classifier that had not seen the text (`opinions.py`).

Training also used at most {SENTENCES} of the project's own sentences for each rule and language
({", ".join(LANGUAGES)}), made from frames (`sentences/`).
They are the only examples of many rules, and teach the form of a rule rather than its meaning.
"""


def _by_lesson(outcomes: Sequence[ExampleOutcome]) -> dict[str, list[ExampleOutcome]]:
    grouped: dict[str, list[ExampleOutcome]] = defaultdict(list)
    for outcome in outcomes:
        grouped[outcome.example.lesson].append(outcome)
    return grouped


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def train_and_measure(
    data: Path, validation: Path | None, out: Path, minutes: float, seed: int, on_progress: OnProgress
) -> str:
    """Train on `data`, write the compacted model and its card beside it. Returns the card."""
    examples, _ = collect(data, seed)
    seconds = 60 * minutes
    trained = train(
        examples,
        taught_policies(),
        out,
        seconds=seconds,
        seed=seed,
        on_step=lambda share, detail: on_progress("training", int(share * seconds), int(seconds), detail),
    )
    return write_card(data, validation, out, trained, on_progress)


def write_card(data: Path, validation: Path | None, out: Path, trained: Trained, on_progress: OnProgress) -> str:
    """Measure a trained model, and write its card and its record beside it. Returns the card."""
    text = asyncio.run(measure(data, validation, out, trained, on_progress))
    out.with_name("card.md").write_text(text, encoding="utf-8")
    record = msgspec.json.encode(learned_by(expand(out).name))
    out.with_name("learned.json").write_bytes(msgspec.json.format(record, indent=2) + b"\n")
    return text


def learned_by(name: str) -> Learned:
    """The record of what a model of this name has learned, from the documents that training uses."""
    return Learned(name, {lesson: digest(policy.text) for lesson, policy in taught_policies().items()})


async def measure(data: Path, validation: Path | None, out: Path, trained: Trained, on_progress: OnProgress) -> str:
    """Measure a compacted model through vLLM; returns its card."""
    policies = taught_policies()
    size = out.stat().st_size  # noqa: ASYNC240  (nothing else runs yet)
    _, held_out = collect(data)
    parts = [
        [e for group in by_lesson(held_out).values() for e in _sample(group)],
        golden_examples(),
        [e for group in by_lesson(_unseen(validation) if validation else []).values() for e in _sample(group)],
    ]
    folder = await asyncio.to_thread(expand, out)
    backend = await VllmBackend.start(settings.load(model=str(folder)))
    began = time.monotonic()
    try:
        outcomes = iter(await judge_all(backend, policies, [e for part in parts for e in part], on_progress))
        per_second = sum(map(len, parts)) / (time.monotonic() - began)
    finally:
        await backend.close()
    held, gold, unseen = ([next(outcomes) for _ in part] for part in parts)
    return card(folder.name, size, trained, Measured(held, gold, unseen, per_second))
