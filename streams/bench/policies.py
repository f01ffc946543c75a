"""The policies in force during a benchmark: the library's, and generated lists of terms and patterns."""

from __future__ import annotations

import random
from collections.abc import Sequence

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import parse

MIN_POLICIES = 6
_MAX_TERMS = 8000  # in one list: the length of a document is bounded
_LIST = """---
id: bench-list-{number}
title: Terms and patterns of a benchmark
owner: bench
rules:
  BL1: On the list
  BL2: Not on the list
gate:
  terms: {terms}
  patterns: {patterns}
---
# A list

## VIOLATES
- BL1: On the list.

## SAFE
- BL2: Not on the list.
"""


def generate(texts: Sequence[str], terms: int = 2000, patterns: int = 50) -> list[Policy]:
    """MIN_POLICIES policies, or more where the terms need it.

    Together the generated lists have `terms` terms and `patterns` patterns, made of random words from the texts.
    """
    policies = list(load_library().values())[: MIN_POLICIES - 1]
    words = sorted({word for text in texts for word in text.lower().split() if word.isalpha() and len(word) > 3})
    draw = random.Random(0)
    lists = max(MIN_POLICIES - len(policies), -(-terms // _MAX_TERMS))
    for number in range(lists):
        pairs = [draw.sample(words, 2) for _ in range(terms // lists + (number < terms % lists))]
        gaps = [draw.sample(words, 2) for _ in range(patterns // lists + (number < patterns % lists))]
        document = _LIST.format(
            number=number,
            terms=[" ".join(pair) for pair in pairs],
            patterns=[rf"\b{first}\s+(?:\w+\s+){{0,3}}{second}\b" for first, second in gaps],
        )
        policies.append(parse(document))
    return policies
