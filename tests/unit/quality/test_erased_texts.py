"""No classifier is trained on the text of an erased item."""

import asyncio
from datetime import UTC, datetime

import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    ErasureRequest,
    Escalation,
    PrefilterResult,
    Verdict,
    content_sha256,
    encode,
)
from safeguard_streams.quality import verdict_labels
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.settings import Settings

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(WHEN.timestamp() * 1000)
GATE = PrefilterResult(gate="everything")


def verdict(content_id):
    digest = content_sha256(f"text of {content_id}")
    return Verdict(f"v-{content_id}", content_id, digest, "hate", "1", "safe", "reasoner", "live", "m", WHEN)


def escalation(content_id):
    return Escalation(ContentEvent(content_id, f"text of {content_id}", WHEN), "hate", "1", 1, GATE, "live", WHEN)


@pytest.mark.parametrize(("written", "texts"), [(MS, ["text of c2"]), (MS + 1, ["text of c1", "text of c2"])])
def test_texts_of_erased_items_are_left_out(monkeypatch, written, texts):
    async def read_decoded(_settings, names, _kind, **_):
        for content_id in ("c1", "c2"):
            one = (verdict if topics.VERDICTS in names else escalation)(content_id)
            yield StoredRecord(names[0], 0, 0, written, None, b""), one

    async def read(erasures, _settings):
        erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, b"c1", encode(ErasureRequest("c1", WHEN, "ann"))))

    monkeypatch.setattr(verdict_labels.kafka, "read_decoded", read_decoded)
    monkeypatch.setattr(verdict_labels.ErasureList, "read", read)
    labels = asyncio.run(verdict_labels.from_kafka(Settings(), "hate", texts=True))
    assert sorted(row.text for row in labels.rows) == texts
