"""Labels under one policy: the reasoner's verdicts, weighted by how their content was drawn, or a file's."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import orjson

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Stratum,
    Verdict,
    content_sha256,
)
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime.settings import Settings

DRAWS = ("sample", "audit")  # gates that draw from what the others let pass
Key = tuple[str, str]  # id of a content item, and the hash of its text
REPORT = "report"  # instead of a gate: somebody reported the item, which is no random draw


class LabeledItem(msgspec.Struct, frozen=True):
    """One content item under one policy. weight is the number of items in the stream that it stands for.

    decided_at: when its verdict was made; None for a label of a file.
    """

    violates: bool
    weight: float = 1.0
    content_id: str = ""
    text: str | None = None
    prefilter: PrefilterResult | None = None
    content_sha256: str = ""
    decided_at: datetime | None = None

    @property
    def key(self) -> Key:
        """The item's id and the hash of its text."""
        return self.content_id, self.content_sha256

    @property
    def drawn(self) -> bool:
        """Whether the gates let the item pass, and the sample or the audit drew it."""
        return self.prefilter is not None and self.prefilter.gate in DRAWS


class Labels(msgspec.Struct, frozen=True):
    """Labels under one version of a policy, or under several that judge alike. version: that of the last one.

    Verdicts under other versions (older), of gates whose scores do not compare (other_gates) and undetermined ones are
    only counted. The weights of the other items make up for those that are undetermined.
    """

    rows: list[LabeledItem]
    version: str = ""
    undetermined: int = 0
    older: int = 0
    other_gates: int = 0

    @property
    def left_out(self) -> str:
        """What was not used, in words; empty if nothing."""
        counts = {
            "under other versions": self.older,
            "of other gates, whose scores do not compare": self.other_gates,
            "undetermined": self.undetermined,
        }
        return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


def from_verdicts(
    verdicts: Iterable[Verdict], policy_id: str, versions: Collection[str] = (), *, one_gate: bool = True
) -> Labels:
    """The last verdict on each content item under these versions of the policy, by default the one judged last.

    one_gate: only items that the gate of the last verdict saw, whose scores compare. Reported items are left out:
    nobody knows what share of such content is reported.
    """
    latest: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        judged = verdict.policy_id == policy_id and verdict.stage == "reasoner" and verdict.lane in ("live", "audit")
        if judged and not is_reported(verdict):
            key = (verdict.content_id, verdict.content_sha256)
            current = latest.get(key)
            if current is None or decided(current) <= decided(verdict):
                latest[key] = verdict
    newest_first = sorted(latest.values(), key=decided, reverse=True)
    if not versions and newest_first:
        versions = {newest_first[0].policy_version}
    of_version = [verdict for verdict in newest_first if verdict.policy_version in versions][::-1]
    gate = next((name for v in reversed(of_version) if (name := _fingerprint(v))), None)
    kept = [verdict for verdict in of_version if not one_gate or _fingerprint(verdict) == gate]
    rows = _weighted(kept)
    return Labels(
        rows=rows,
        version=of_version[-1].policy_version if of_version else "",
        undetermined=len(kept) - len(rows),
        older=len(latest) - len(of_version),
        other_gates=len(of_version) - len(kept),
    )


def is_reported(verdict: Verdict) -> bool:
    """Whether an item was judged because somebody reported it."""
    return verdict.prefilter is not None and verdict.prefilter.gate == REPORT


def decided(verdict: Verdict) -> datetime:
    """When the verdict was made; a time without an offset is taken as UTC."""
    at = verdict.decided_at
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _fingerprint(verdict: Verdict) -> str | None:
    return verdict.prefilter.fingerprint if verdict.prefilter else None


def _weighted(verdicts: Sequence[Verdict]) -> list[LabeledItem]:
    """A row for each determined verdict.

    Undetermined verdicts are a further draw: the others of the same gate, stratum and rate stand for them.
    """
    rates = _draw_rates(verdicts)
    cells = [_cell(verdict.prefilter, rates) for verdict in verdicts]
    judged = Counter(cells)
    determined = Counter(cell for cell, v in zip(cells, verdicts, strict=True) if v.decision != "undetermined")
    return [
        LabeledItem(
            violates=v.decision == "violates",
            weight=judged[cell] / determined[cell] / cell.rate,
            content_id=v.content_id,
            prefilter=v.prefilter,
            content_sha256=v.content_sha256,
            decided_at=decided(v),
        )
        for cell, v in zip(cells, verdicts, strict=True)
        if v.decision != "undetermined"
    ]


class _Cell(NamedTuple):
    """Verdicts on content that was escalated alike, with the probability of being judged at all."""

    gate: str
    stratum: str | None
    rate: float


def _cell(result: PrefilterResult | None, rates: Mapping[tuple[str, str | None], float]) -> _Cell:
    if result is None or result.gate not in DRAWS or result.rate is None or not 0 < result.rate <= 1:
        return _Cell(result.gate if result else "", None, 1.0)
    if result.fingerprint is not None:
        return _Cell("drawn", result.stratum, result.rate)
    # Records of releases before fingerprints hold the rate of their own draw alone.
    stratum = _stratum(result)
    other = ("audit", stratum) if result.gate == "sample" else ("sample", None)
    return _Cell("drawn", stratum, min(1.0, result.rate + rates.get(other, 0.0)))


def _draw_rates(verdicts: Iterable[Verdict]) -> dict[tuple[str, str | None], float]:
    """The last rate of each draw, by gate and stratum; samples have none."""
    return {
        (v.prefilter.gate, v.prefilter.stratum if v.prefilter.gate == "audit" else None): v.prefilter.rate
        for v in verdicts
        if v.prefilter and v.prefilter.rate
    }


def _stratum(result: PrefilterResult) -> Stratum:
    if result.stratum:
        return result.stratum
    near = result.score is not None and result.threshold is not None and result.score >= result.threshold / 2
    return "near" if near else "far"


async def from_kafka(
    settings: Settings,
    policy_id: str,
    *,
    texts: bool = False,
    since: datetime | None = None,
    versions: Collection[str] = (),
) -> Labels:
    """Labels from moderation.verdicts. With texts, only those whose escalation still exists, with its text. Texts of
    erased items are left out.

    since: when the oldest verdict to read was written; by default all. versions: as in `from_verdicts`.
    """
    read = kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since)
    verdicts = [verdict async for _, verdict in read if verdict.policy_id == policy_id]
    labels = from_verdicts(verdicts, policy_id, versions, one_gate=not texts)
    if not texts:
        return labels
    keys = {row.key for row in labels.rows}
    text_of = {key: event.text async for key, event in escalated_events(settings, keys)}
    rows = [msgspec.structs.replace(row, text=text_of[row.key]) for row in labels.rows if row.key in text_of]
    return msgspec.structs.replace(labels, rows=rows)


async def escalated_events(settings: Settings, wanted: Container[Key]) -> AsyncIterator[tuple[Key, ContentEvent]]:
    """The wanted items whose escalation still exists, as often as they were escalated. Erased items are left out."""
    erasures = ErasureList()
    await erasures.read(settings)
    # An item was escalated before it was judged, at most as long before as the topic keeps escalations.
    escalated = kafka.read_decoded(settings, [topics.ESCALATIONS, topics.ESCALATIONS_AUDIT], Escalation)
    async for record, escalation in escalated:
        event = escalation.event
        key = (event.content_id, content_sha256(event.text))
        if key in wanted and not erasures.erased(event.content_id, record.timestamp):
            yield key, event


class _Line(msgspec.Struct):
    text: str
    violates: bool | None = None
    weight: float = 1.0
    decision: Literal["violates", "safe"] | None = None


def from_file(path: Path) -> Labels:
    """Labels from JSON lines {text, violates, weight}, or {text, decision} as in golden sets. weight defaults to 1.

    Raises ConfigurationError that names file and line.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    return Labels([_labeled(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()])


def _labeled(line: bytes, place: str) -> LabeledItem:
    try:
        row = msgspec.convert(orjson.loads(line), _Line)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{place}: {error}") from error
    if not row.weight > 0:
        raise ConfigurationError(f"{place}: weight must be above 0, not {row.weight}")
    if row.violates is None and row.decision is None:
        raise ConfigurationError(f"{place}: add the field violates, true or false")
    violates = row.decision == "violates" if row.violates is None else row.violates
    return LabeledItem(violates, row.weight, text=row.text)
