"""What the reasoner said of one policy's content, as labels: verdicts read from Kafka, weighted by how they were drawn."""

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
    """One content under one policy. weight: how many contents of the stream it stands for."""

    violates: bool
    weight: float = 1.0
    content_id: str = ""
    text: str | None = None
    prefilter: PrefilterResult | None = None


class Labels(msgspec.Struct, frozen=True):
    """What was found; older: verdicts under other versions of the policy, left out, as are undetermined ones."""

    rows: list[LabeledItem]
    version: str = ""
    undetermined: int = 0
    older: int = 0


def from_verdicts(verdicts: Iterable[Verdict], policy_id: str, version: str | None = None) -> Labels:
    """The last verdict on each content under this version of the policy; by default the version judged last."""
    latest: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.policy_id == policy_id and verdict.stage == "reasoner" and verdict.lane != "replay":
            known = latest.get(verdict.content_id)
            if known is None or known.decided_at <= verdict.decided_at:
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
    """Verdicts on moderation.verdicts; with `texts`, those whose escalation is still there, with its text."""
    verdicts = [decode(record.value, Verdict) async for record in kafka.read_all(settings, [topics.VERDICTS])]
    labels = from_verdicts(verdicts, policy_id, version)
    if not texts:
        return labels
    wanted = {row.content_id for row in labels.rows}
    found: dict[str, str] = {}
    async for record in kafka.read_all(settings, [topics.ESCALATIONS, topics.ESCALATIONS_AUDIT]):
        if (record.key or b"").decode(errors="replace") in wanted:
            event = decode(record.value, Escalation).event
            found[event.content_id] = event.text
    rows = [msgspec.structs.replace(row, text=found[row.content_id]) for row in labels.rows if row.content_id in found]
    return msgspec.structs.replace(labels, rows=rows)


class _Line(msgspec.Struct):
    text: str
    violates: bool | None = None
    weight: float = 1.0
    decision: Literal["violates", "safe"] | None = None


def from_file(path: Path) -> Labels:
    """JSON lines {text, violates, weight}; weight is 1 when it is left out. A golden set's {text, decision} will do too.

    Raises ConfigurationError that names file and line.
    """
    rows = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = msgspec.convert(orjson.loads(line), _Line)
            except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
                raise ConfigurationError(f"{path}:{number}: {error}") from error
            if not row.weight > 0:
                raise ConfigurationError(f"{path}:{number}: weight must be above 0, not {row.weight}")
            if row.violates is None and row.decision is None:
                raise ConfigurationError(f"{path}:{number}: say whether it violates: true or false")
            violates = row.decision == "violates" if row.violates is None else row.violates
            rows.append(LabeledItem(violates, row.weight, text=row.text))
    return Labels(rows)
