"""What training draws: texts of one policy, balanced by side, rule, language and source, and of similar length."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from safeguard_streams.policies.document import Policy
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.small.examples import LESSONS, Example, answer, shorten, vary_policy
from safeguard_streams.workers.small.network import Vocabulary

MAX_TEXT = 400  # characters of one text
LONG_TEXT = 1600  # the same of the few long batches
CHUNK = 12  # batches that are drawn at once and cut by length, for less padding
UNKNOWN = 0.1  # share of a text's tokens replaced by the unknown token, against overfitting
EFFORTS = {"low": 0.8, "medium": 0.15, "high": 0.05}  # how often a batch has each effort; retries use higher ones
SIZE_EXPONENT = 0.8  # of groups of data sets: 0 draws each group equally often, 1 each text
OWN_SIZE_EXPONENT = 0.4  # the same for the project's own sentences
OWN = 0.35  # share of a side's rows that are the project's own sentences, where data sets cover it too
DECISION = 6  # tokens of an answer that decide
BEFORE = tuple(harmony.encode_markup("<|start|>user<|message|>"))
AFTER = tuple(harmony.encode_markup("<|end|><|message|>It"))
TURN = tuple(harmony.encode_markup("<|end|><|start|>assistant<|channel|>analysis<|message|>"))
OPENED = "<|channel|>analysis<|message|>"  # of an answer; some prompts have it already, those of chat servers do not


class Drawn(NamedTuple):
    """Examples of one lesson, of similar length."""

    lesson: str
    examples: list[Example]


class Source:
    """Draws examples of all lessons without end."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._draw = random.Random(seed)
        sides: dict[str, dict[bool, dict[tuple[bool, str], list[Example]]]] = {}
        for example in examples:
            own = example.source.startswith("sentences")
            groups = sides.setdefault(example.lesson, {True: defaultdict(list), False: defaultdict(list)})
            groups[example.violates][own, f"{example.source} {example.rule}"].append(example)
        self._sides = sides
        self._cut: dict[tuple[str, int], list[list[Example]]] = {}
        self._shares = {lesson: LESSONS[lesson].share for lesson in sides}

    def next(self, size: int, max_characters: int = MAX_TEXT) -> Drawn:
        """A batch of this size."""
        lesson = self._draw.choices(list(self._shares), list(self._shares.values()))[0]
        cut = self._cut.setdefault((lesson, size), [])
        if not cut:
            half = size * CHUNK // 2
            rows = [self._one(lesson, side) for side in (True, False) for _ in range(half)]
            rows.sort(key=lambda e: (min(len(e.text.encode()), max_characters), self._draw.random()))
            cut += [rows[i : i + size] for i in range(0, len(rows), size)]
            self._draw.shuffle(cut)
        return Drawn(lesson, cut.pop())

    def _one(self, lesson: str, side: bool) -> Example:
        groups = self._sides[lesson][side]
        own = {key: rows for key, rows in groups.items() if key[0]}
        data = {key: rows for key, rows in groups.items() if not key[0]}
        chosen = own if own and (not data or self._draw.random() < OWN) else data
        exponent = OWN_SIZE_EXPONENT if chosen is own else SIZE_EXPONENT
        key = self._draw.choices(list(chosen), [len(rows) ** exponent for rows in chosen.values()])[0]
        return self._draw.choice(chosen[key])


def tokens_of(text: str, draw: random.Random, max_characters: int = MAX_TEXT) -> list[int]:
    """A text as training reads it: a window, sometimes in lower case, with unknown tokens; -1 is such a token."""
    text = shorten(text, max_characters, draw.randrange(2**30))
    if draw.random() < 0.1:
        text = text.lower()
    return [t if draw.random() > UNKNOWN else -1 for t in harmony.encode_text(text)]


def padded(rows: Sequence[Sequence[int]], inputs: Vocabulary) -> torch.Tensor:
    """Rows of the input table [texts, tokens], with zeros at the ends."""
    width = max(map(len, rows))
    table = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        table[i, : len(row)] = inputs.rows(list(row))
    return table


class Judged(NamedTuple):
    """A batch to judge: what the model reads, which tokens it shall answer, and how much each counts."""

    prefix: torch.Tensor
    suffix: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


def judged(
    drawn: Drawn,
    policies: Mapping[str, Policy],
    inputs: Vocabulary,
    outputs: Vocabulary,
    draw: random.Random,
    *,
    whole: bool,
    max_characters: int = MAX_TEXT,
) -> Judged:
    """The tensors of a batch. whole: with whole answers; the others end after the decision."""
    effort = draw.choices(list(EFFORTS), list(EFFORTS.values()))[0]
    prefix = inputs.rows(list(harmony.prefix(vary_policy(policies[drawn.lesson], draw), effort)))
    rows, lengths = [], []
    for example in drawn.examples:
        completion = harmony.encode_markup(answer(example).removeprefix(OPENED))
        completion = completion if whole else completion[:DECISION]
        rows.append([*tokens_of(example.text, draw, max_characters), *TURN, *completion])
        lengths.append(len(completion))
    opened = len(harmony.encode_markup(OPENED))
    suffix = padded(rows, inputs)
    target = torch.full(suffix.shape, -100)
    weight = torch.full(suffix.shape, 0.3)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        start = len(row) - length
        target[i, start - opened - 1 : len(row) - 1] = outputs.rows(row[start - opened :])
        weight[i, start - 1 : start - 1 + DECISION] = 1.0
        weight[i, start] = 6.0  # violates or safe
    return Judged(prefix, suffix, target, weight)


def endless(source: Source, size: int) -> Iterator[Drawn]:
    """Batches of this size."""
    while True:
        yield source.next(size)
