"""What people decided under a policy, as labels: JSON lines that calibration, distillation and golden sets read.

An item has one label: what stands of the decisions about its present text. Left out, and counted, are items

- whose decisions were all taken back, or passed the item on to a colleague;
- about which a second look says otherwise, until somebody decides once more;
- whose text is past its time, was erased, or was edited since.

A label stands for as many items as the gate draws one from: a sampled item at 1% for 100 (Horvitz and Thompson 1952).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import orjson
from sqlalchemy import Connection, Engine, Row, exists, select

from safeguard_streams.console.migrations import is_current
from safeguard_streams.console.projector import AWAY, brief
from safeguard_streams.console.schema import actions, items, policy_releases, reviews, verdicts
from safeguard_streams.errors import ConfigurationError, DependencyError, PolicyError, choices
from safeguard_streams.policies import golden
from safeguard_streams.policies.files import with_changes
from safeguard_streams.policies.golden import Golden
from safeguard_streams.policies.parsing import parse
from safeguard_streams.quality.verdict_labels import DRAWS

_BATCH = 1000  # rows that are read at a time


class Wanted(NamedTuple):
    """Which labels. since: decisions of this time or later. blind_only: of people who had not seen the verdict.

    as_golden: as rows of a golden set, with the rule that was cited, each text once.
    """

    policy_id: str
    since: datetime | None = None
    blind_only: bool = False
    as_golden: bool = False


Reason = Literal["withdrawn", "passed_on", "disputed", "not_blind", "edited", "text_gone", "no_rule", "twice"]
_WORDS: Mapping[Reason, str] = {
    "withdrawn": "taken back",
    "passed_on": "passed on to a colleague",
    "disputed": "disputed by a second look",
    "not_blind": "not decided blind",
    "edited": "edited since",
    "text_gone": "without a text: past its time, or erased",
    "no_rule": "without a rule that says the same",
    "twice": "with the text of another",
}


class Counts:
    """How many labels were written by decision, and why other items that people decided about have none."""

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()
        self.left_out: Counter[Reason] = Counter()

    def report(self) -> dict[str, object]:
        """The same for programs."""
        decided = {name: self.written[name] for name in ("violates", "safe")}
        return {"labels": self.written.total(), **decided, "left_out": {why: self.left_out[why] for why in _WORDS}}

    @property
    def reasons(self) -> str:
        """Why items have no label, in words; empty where all have one."""
        return ", ".join(f"{self.left_out[why]:,} {words}" for why, words in _WORDS.items() if self.left_out[why])


def lines(connection: Connection, wanted: Wanted, counts: Counts, without: Collection[str] = ()) -> Iterator[bytes]:
    """The lines of the labels, in the order of ids. What is written and left out is counted as they are read.

    without: ids of items that are passed over.

    Raises PolicyError for a golden set where the policy is not in force, or cannot be read.
    """
    sides = _sides(connection, wanted.policy_id) if wanted.as_golden else {}
    seen: set[str] = set()
    for (content_id, _), rows in groupby(
        _rows(connection, wanted.policy_id), key=lambda row: (row.content_id, row.content_sha256)
    ):
        decisions = list(rows)
        if content_id in without or (wanted.since is not None and decisions[-1].at < wanted.since):
            continue
        try:
            row = _standing(decisions, blind_only=wanted.blind_only)
            made = _golden(row, sides, seen) if wanted.as_golden else _weighted(row)
        except _LeftOut as left:
            counts.left_out[left.why] += 1
        else:
            counts.written[row.decision] += 1
            yield orjson.dumps(made) + b"\n"


class _LeftOut(Exception):
    """An item has no label."""

    def __init__(self, why: Reason) -> None:
        super().__init__(why)
        self.why = why


def _rows(connection: Connection, policy_id: str) -> Iterable[Row[Any]]:
    """All decisions about each text, in their order, with what the item and its verdict say."""
    withdrawn = exists().where(actions.c.content_id == reviews.c.content_id, actions.c.withdraws == reviews.c.action_id)
    joined = reviews.outerjoin(items, items.c.content_id == reviews.c.content_id).outerjoin(
        verdicts, verdicts.c.verdict_id == reviews.c.verdict_id
    )
    query = (
        select(
            reviews.c.at,
            *(reviews.c[name] for name in ("content_id", "content_sha256", "decision", "rule", "blind", "action_id")),
            withdrawn.label("withdrawn"),
            items.c.text,
            items.c.language,
            items.c.content_sha256.label("present"),
            verdicts.c.gate,
            verdicts.c.gate_rate,
            verdicts.c.decision.label("verdict"),
        )
        .select_from(joined)
        .where(reviews.c.policy_id == policy_id, reviews.c.golden.is_(False))
        .order_by(reviews.c.content_id, reviews.c.content_sha256, reviews.c.at, reviews.c.id)
    )
    return connection.execution_options(stream_results=True, yield_per=_BATCH).execute(query)


def _standing(decisions: Sequence[Row[Any]], *, blind_only: bool) -> Row[Any]:
    """The decision that stands about a text. A second look is a decision without an action: it overrides none."""
    left = [one for one in decisions if not one.withdrawn]
    if not left:
        raise _LeftOut("withdrawn")
    said = [one for one in left if one.decision != "undetermined"]
    if not said:
        raise _LeftOut("passed_on")
    last, others = standing(said)
    if others:
        raise _LeftOut("disputed")
    if blind_only and not any(one.blind and one.decision == last.decision for one in said):
        raise _LeftOut("not_blind")
    if last.text is None:
        raise _LeftOut("text_gone")
    if last.present != last.content_sha256:
        raise _LeftOut("edited")
    return last


def standing(said: Sequence[Row[Any]]) -> tuple[Row[Any], Sequence[Row[Any]]]:
    """Of what people said about a text, in order: the decision that stands, and later second looks that differ."""
    acted = [number for number, one in enumerate(said) if one.action_id is not None]
    stands = acted[-1] if acted else 0
    return said[stands], [one for one in said[stands:] if one.decision != said[stands].decision]


def _weighted(row: Row[Any]) -> dict[str, object]:
    is_drawn = row.gate in DRAWS and row.gate_rate is not None and 0 < row.gate_rate <= 1
    weight = round(1 / row.gate_rate, 4) if is_drawn else 1.0
    return {"text": row.text, "violates": row.decision == "violates", "weight": weight}


def _golden(row: Row[Any], sides: Mapping[str, str], seen: set[str]) -> dict[str, object]:
    """A row of a golden set. A text about which a person and the model differ is one near the boundary."""
    if sides.get(row.rule) != row.decision:
        raise _LeftOut("no_rule")
    text = golden.canonical(row.text)
    if text in seen:
        raise _LeftOut("twice")
    seen.add(text)
    kind: golden.Kind = "clear" if row.verdict in (None, row.decision) else "boundary"
    return dict(msgspec.to_builtins(Golden(row.text, row.decision, row.rule, kind, row.language or "en")))


def _sides(connection: Connection, policy_id: str) -> dict[str, str]:
    """What each rule of the policy in force says of a text. Raises PolicyError where none is, or it cannot be read."""
    release = policy_releases.c.policy_id == policy_id, policy_releases.c.place == "in-force"
    document = connection.execute(select(policy_releases.c.document).where(*release)).scalar()
    if document is None:
        raise PolicyError(f"a golden set needs the rules of {policy_id}, which the console does not know: release it")
    policy = parse(with_changes(document, "gate", distilled=None), policy_id)  # its file is not here
    return {**dict.fromkeys(policy.violating, "violates"), **dict.fromkeys(policy.safe, "safe")}


def write(engine: Engine, wanted: Wanted, out: Path) -> Counts:
    """Write labels to a file that this user alone may read, whole or not at all.

    Raises ConfigurationError where nobody decided under the policy, or where the database has no tables of this
    version; DependencyError where it does not answer; PolicyError as `lines` does.
    """
    counts, part = Counts(), out.with_name(f".{out.name}.part")
    try:
        with engine.connect() as connection:
            if not is_current(connection):
                raise ConfigurationError(
                    "the console's database has no tables of this version: safeguard console project"
                )
            if wanted.policy_id not in (known := policies(connection)):
                named = choices(wanted.policy_id, known)
                raise ConfigurationError(f"nobody decided under a policy {wanted.policy_id!r} in the console{named}")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.writelines(lines(connection, wanted, counts))
        part.replace(out)
    except AWAY as error:
        raise DependencyError(f"the console's database failed: {brief(error)}") from None
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return counts


def policies(connection: Connection) -> Sequence[str]:
    """The policies under which people decided."""
    found = select(reviews.c.policy_id).where(reviews.c.golden.is_(False)).distinct()
    return connection.execute(found.order_by(reviews.c.policy_id)).scalars().all()
