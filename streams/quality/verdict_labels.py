"""Labels under one policy: the reasoner's verdicts, weighted by how their content was drawn, or a file's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
import orjson

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PrefilterResult, Verdict, decode
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.settings import Settings


class LabeledItem(msgspec.Struct, frozen=True):
    """One content item under one policy. weight is the number of items in the stream that it stands for."""

    violates: bool
    weight: float = 1.0
    content_id: str = ""
    text: str | None = None
    prefilter: PrefilterResult | None = None


class Labels(msgspec.Struct, frozen=True):
    """Labels under one version of a policy.

    Verdicts under other versions (older) and undetermined ones are only counted.
    """

    rows: list[LabeledItem]
    version: str = ""
    undetermined: int = 0
    older: int = 0


def from_verdicts(verdicts: Iterable[Verdict], policy_id: str, version: str | None = None) -> Labels:
    """The last verdict on each content item under this version of the policy, by default the one judged last."""
    latest: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.policy_id == policy_id and verdict.stage == "reasoner" and verdict.lane != "replay":
            current = latest.get(verdict.content_id)
            if current is None or current.decided_at <= verdict.decided_at:
                latest[verdict.content_id] = verdict
    if version is None and latest:
        version = max(latest.values(), key=lambda verdict: verdict.decided_at).policy_version
    of_version = [verdict for verdict in latest.values() if verdict.policy_version == version]
    rows = [
        LabeledItem(v.decision == "violates", 1 / _rate(v.prefilter), v.content_id, None, v.prefilter)
        for v in of_version
        if v.decision != "undetermined"
    ]
    return Labels(rows, version or "", len(of_version) - len(rows), len(latest) - len(of_version))


def _rate(result: PrefilterResult | None) -> float:
    return result.rate if result is not None and result.rate else 1.0


async def from_kafka(settings: Settings, policy_id: str, version: str | None = None, *, texts: bool = False) -> Labels:
    """Labels from moderation.verdicts. With texts, only those whose escalation still exists, with its text."""
    verdicts = [decode(record.value, Verdict) async for record in kafka.read_all(settings, [topics.VERDICTS])]
    labels = from_verdicts(verdicts, policy_id, version)
    if not texts:
        return labels
    labelled = {row.content_id for row in labels.rows}
    text_of: dict[str, str] = {}
    async for record in kafka.read_all(settings, [topics.ESCALATIONS, topics.ESCALATIONS_AUDIT]):
        if (record.key or b"").decode(errors="replace") in labelled:
            event = decode(record.value, Escalation).event
            text_of[event.content_id] = event.text
    rows = [
        msgspec.structs.replace(row, text=text_of[row.content_id]) for row in labels.rows if row.content_id in text_of
    ]
    return msgspec.structs.replace(labels, rows=rows)


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
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
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
