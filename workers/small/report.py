"""`safeguard reason train-small`: trains the small model, measures it through vLLM, writes its card."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safeguard_streams.policies import labelled
from safeguard_streams.policies.document import Policy
from safeguard_streams.runtime import settings
from safeguard_streams.workers.inference.interface import Inference, Question
from safeguard_streams.workers.inference.vllm import VllmEngine
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.parse import Malformed, parse
from safeguard_streams.workers.small.examples import LESSONS, SENTENCES, Example, by_lesson, collect, taught_policies
from safeguard_streams.workers.small.train import train
from safeguard_streams.workers.small.weights import expand

MEASURED = 600  # at most, of each side of a policy
ANSWER = 256  # tokens
_OTHER_SOURCES = {
    "hate-harassment": ("hatecheck", "bias_madlibs", "mhc_german", "mhc_mandarin"),
    "prompt-injection": ("deepset_inj_test",),
}


class Outcome(msgspec.Struct, frozen=True):
    """What the model made of an example; violates is None for a malformed output."""

    example: Example
    violates: bool | None
    rules: tuple[str, ...] = ()
    malformed: str | None = None


async def judge_all(inference: Inference, policies: dict[str, Policy], examples: Sequence[Example]) -> list[Outcome]:
    """One attempt each, as many at once as the engine takes."""
    slots = asyncio.Semaphore(64)

    async def judge(example: Example) -> Outcome:
        policy = policies[example.lesson]
        async with slots:
            question = Question(policy.text, policy.effort, prompt.encode(example.text), ANSWER)
            completion = await inference.generate(question)
        try:
            answer = parse(completion.tokens, [policy]).answers[0]
        except Malformed as malformed:
            return Outcome(example, None, malformed=malformed.reason)
        return Outcome(example, answer.violates, answer.rule_ids)

    return list(await asyncio.gather(*map(judge, examples)))


def balanced_accuracy(outcomes: Sequence[Outcome]) -> float | None:
    """Mean of the shares judged rightly on either side, malformed outputs counted as wrong; None without a side."""
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
        chosen += draw.sample(of_side, min(MEASURED, len(of_side)))
    return chosen


def _unseen(validation: Path) -> list[Example]:
    """Texts of sources that were not trained on at all, for the policies that they are about."""
    examples = []
    for policy, sources in _OTHER_SOURCES.items():
        for source in sources:
            path = validation / f"{source}.jsonl.gz"
            if path.is_file():
                examples += [Example(policy, source, r.text, r.violates, "", "") for r in labelled.read(path)]
    return examples


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    lines = ["| policy | source | violating | judged rightly | safe | judged rightly | balanced accuracy |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.example.lesson, "all"].append(outcome)
        groups[outcome.example.lesson, outcome.example.source].append(outcome)
    for (policy, source), group in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1])
    ):
        cells = []
        for side in (True, False):
            of_side = [o for o in group if o.example.violates is side]
            right = f"{sum(o.violates is side for o in of_side) / len(of_side):.3f}" if of_side else ""
            cells += [str(len(of_side)), right]
        balanced = balanced_accuracy(group)
        lines.append(f"| {policy} | {source} | {' | '.join(cells)} | {'' if balanced is None else f'{balanced:.3f}'} |")
    return lines


def card(name: str, size: int, seconds: float, held: Sequence[Outcome], unseen: Sequence[Outcome], steps: int) -> str:
    """The model card, in Markdown."""
    malformed = Counter(o.malformed for o in [*held, *unseen] if o.malformed)
    total = len(held) + len(unseen)
    right_rule = [o.rules == (o.example.rule,) for o in held if o.violates is not None]
    return "\n".join(
        [
            "# Small gpt-oss model card",
            "",
            "**For trying the pipeline on a machine without a GPU. It is no judge of content:** it has learned the",
            "library's policies, and one changed text of the first, from a few public data sets, and follows no other text. What replaces it is",
            "openai/gpt-oss-safeguard-20b or -120b, through the same worker.",
            "",
            f"Model `{name}`, {size:,} bytes compacted. The architecture of gpt-oss (mixture of experts, sliding and full",
            f"attention, sinks, yarn) with 2 layers of 128, the o200k vocabulary, harmony in and out. {steps:,} steps of 32",
            f"texts, {seconds / 60:.0f} minutes on two cores. Weights: this project's, Apache-2.0.",
            "",
            f"Outputs that parsed strictly at the first try: {total - sum(malformed.values())} of {total}",
            f"({100 * (1 - sum(malformed.values()) / total):.2f} %). Refused: {dict(malformed) or 'none'}.",
            f"Rule as labelled, of the held-out texts that parsed: {100 * sum(right_rule) / len(right_rule):.1f} %.",
            "",
            "## Held-out texts of the sources it was taught from",
            "",
            "One text in ten, chosen by a hash, was kept from training; at most 600 of each side of a policy, drawn at random.",
            "",
            *_table(held),
            "",
            "## Sources it was not taught from",
            "",
            "Here it is hardly better than chance where templates, languages or subjects differ from its sources:",
            "the reason why it is for trying the pipeline only.",
            "",
            *_table(unseen),
            "",
            "## Data",
            "",
            "Most rows taken of each side, by source (sources and licences are in the prefilter's card):",
            "",
            *(
                f"- {name}: {', '.join(f'{s} {n}' for s, n in lesson.sources.items())}"
                for name, lesson in LESSONS.items()
            ),
            "",
            f"Besides, {SENTENCES} sentences of our own for each of these rules, made of frames (`sentences.py`), because no data",
            f"set is about them: {', '.join(rule for lesson in LESSONS.values() for rule in lesson.rules)}. They teach the form of",
            "a rule, not its meaning, and figures on them say little.",
            "",
        ]
    )


def train_and_measure(data: Path, validation: Path | None, out: Path, steps: int, seed: int) -> None:
    """Train on `data`, write the compacted model and its card beside it."""
    taught, held = collect(data, seed)
    print(f"{len(taught)} examples to learn from, {len(held)} held out", flush=True)
    start = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=steps)

        def step(number: int, loss: float) -> None:
            bar.update(task, completed=number, description=f"training, loss {loss:.3f}")

        train(taught, taught_policies(), out, steps=steps, seed=seed, progress=step)
    text = asyncio.run(measure(data, validation, out, steps, time.monotonic() - start))
    out.with_name("card.md").write_text(text, encoding="utf-8")
    print(text)


async def measure(data: Path, validation: Path | None, out: Path, steps: int, seconds: float) -> str:
    """Measure a compacted model through vLLM; returns its card."""
    policies = taught_policies()
    size = out.stat().st_size  # noqa: ASYNC240  (nothing else runs yet)
    _, held = collect(data)
    chosen = [e for group in by_lesson(held).values() for e in _sample(group)]
    others = [e for group in by_lesson(_unseen(validation) if validation else []).values() for e in _sample(group)]
    print(f"measuring {len(chosen) + len(others)} texts through vLLM", flush=True)
    folder = await asyncio.to_thread(expand, out)
    inference = await VllmEngine.start(settings.load(model=str(folder)))
    try:
        outcomes = await judge_all(inference, policies, [*chosen, *others])
    finally:
        await inference.close()
    split = len(chosen)
    return card(folder.name, size, seconds, outcomes[:split], outcomes[split:], steps)
