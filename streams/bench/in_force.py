"""The policies that benchmarks run under: the library's, and lists of terms and patterns beside them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import parse

POLICIES = 6
_TERMS = 8000  # of one list; a document has bounds
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


def policies(texts: Sequence[str], terms: int = 2000, patterns: int = 50) -> list[Policy]:
    """POLICIES of them, or more where there are many terms; their terms and patterns, so many in all, are made of words that the texts hold, at random."""
    made = list(load_library().values())[: POLICIES - 1]
    words = sorted({word for text in texts for word in text.lower().split() if word.isalpha() and len(word) > 3})
    draw = random.Random(0)
    lists = max(POLICIES - len(made), -(-terms // _TERMS))
    for number in range(lists):
        pairs = [draw.sample(words, 2) for _ in range(terms // lists + (number < terms % lists))]
        gaps = [draw.sample(words, 2) for _ in range(patterns // lists + (number < patterns % lists))]
        document = _LIST.format(
            number=number,
            terms=[" ".join(pair) for pair in pairs],
            patterns=[rf"\b{first}\s+(?:\w+\s+){{0,3}}{second}\b" for first, second in gaps],
        )
        made.append(parse(document))
    return made
