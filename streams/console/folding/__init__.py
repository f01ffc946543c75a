"""How each kind of record becomes rows: one module for each, and `FOLDS`, which names the topics.

A fold decodes one record and adds rows. It raises RecordError for a record that is none of its topic, before it adds
any. `erased` tells which items were erased: what was written before that is stored without words, in whatever order
the two records are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from safeguard_streams.bus.interface import Record
from safeguard_streams.console.folding import (
    actions,
    appeals,
    authors,
    cleared,
    dead_letters,
    erasures,
    escalations,
    policies,
    rationales,
    replays,
    reports,
    standing,
    verdicts,
)
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract import topics

Fold = Callable[[Record, Rows, Context], None]

FOLDS: Mapping[str, Fold] = {
    topics.ERASURES: erasures.fold,  # first: it tells how the others are stored
    topics.VERDICTS: verdicts.fold,
    topics.REPLAYS: verdicts.fold_replay,
    topics.RATIONALES: rationales.fold,
    **dict.fromkeys(topics.LANES.values(), escalations.fold),
    topics.ACTIONS: actions.fold,
    topics.APPEALS: appeals.fold,
    topics.STANDING: standing.fold,
    topics.STRIKES: authors.fold,
    topics.AUTHOR_ACTIONS: authors.fold_action,
    topics.AUTHOR_STANDING: authors.fold_standing,
    topics.CLEARED: cleared.fold,
    topics.REPORTS: reports.fold,
    topics.POLICIES: policies.fold,
    topics.POLICIES_HISTORY: policies.fold_change,
    topics.REPLAY_JOBS: replays.fold,
    topics.REPLAY_PROGRESS: replays.fold_progress,
    topics.DEAD_LETTERS: dead_letters.fold,
    topics.DEAD_LETTERS_HANDLED: dead_letters.fold_handled,
}
