"""Gates on texts of any length, at a cost that has a bound.

The classifier reads the beginning, the end and samples of a very long text. Terms and patterns are searched in all of
it, in sections, so that no single call takes long or much memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from safeguard_streams.contract.limits import (
    JUDGED_AT_ENDS,
    JUDGED_BETWEEN,
    JUDGED_IN_FULL,
    JUDGED_SAMPLE,
    SECTION,
    SECTION_OVERLAP,
)
from safeguard_streams.prefilter.gates import GateResults, Gates, Matches
from safeguard_streams.prefilter.normalise import Flags


class Evaluation(NamedTuple):
    """truncated [texts]: whether the classifier read only a part of a text."""

    results: GateResults
    truncated: Flags


def evaluate(gates: Gates, texts: Sequence[str]) -> Evaluation:
    """Evaluate all gates on each text."""
    truncated = np.array([len(text) > JUDGED_IN_FULL for text in texts], dtype=bool)
    if not truncated.any():
        return Evaluation(gates.evaluate(texts), truncated)
    results = gates.evaluate([excerpt(text) if len(text) > JUDGED_IN_FULL else text for text in texts])
    # The joints of an excerpt may look like a term.
    matches: Matches = {cell: found for cell, found in results.matches.items() if not truncated[cell[0]]}
    for number in np.flatnonzero(truncated).tolist():
        for section in sections(texts[number]):
            for (_, column), found in gates.matches([section]).items():
                matches.setdefault((number, column), found)
    return Evaluation(results._replace(matches=matches), truncated)


def excerpt(text: str) -> str:
    """The beginning, the end, and samples that spread evenly between them. The same text has the same excerpt."""
    count = JUDGED_BETWEEN // JUDGED_SAMPLE
    first, last = JUDGED_AT_ENDS, len(text) - JUDGED_AT_ENDS - JUDGED_SAMPLE
    starts = [first + (last - first) * number // (count - 1) for number in range(count)]
    samples = [text[start : start + JUDGED_SAMPLE] for start in starts]
    return " ".join([text[:JUDGED_AT_ENDS], *samples, text[-JUDGED_AT_ENDS:]])


def sections(text: str) -> Iterator[str]:
    """Sections that overlap, cut at a space where there is one."""
    start = 0
    while start + SECTION < len(text):
        end = text.rfind(" ", start + SECTION - SECTION_OVERLAP // 4, start + SECTION)
        end = end if end > 0 else start + SECTION
        yield text[start:end]
        cut = end - SECTION_OVERLAP
        space = text.find(" ", cut - SECTION_OVERLAP // 4, cut)
        start = space if space > 0 else cut
    yield text[start:]
