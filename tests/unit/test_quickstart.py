"""The quickstart is true to the letter: what it says of its two content items holds for the shipped gates."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode, encode
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.memory_broker import StoredRecord

PAGE = Path(__file__).parents[2] / "docs/index.md"


def test_the_first_item_is_judged_and_the_second_is_cleared_and_not_audited():
    feed = PolicyFeed()
    for policy in load_library().values():
        record = PolicyRelease(policy.id, policy.version, 1, policy.document, datetime.now(UTC), "test")
        feed.take(record.key, encode(record))
    (block,) = re.findall(
        r"<!-- file: events.jsonl -->\n```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    lines = block.splitlines()
    records = [StoredRecord(topics.EVENTS, 0, n, 0, None, line.encode()) for n, line in enumerate(lines)]
    first, second = (json.loads(line)["content_id"] for line in lines)
    by_topic = {}
    for output in Prefilter(Classifier(), feed).decide(records):
        by_topic.setdefault(output.topic, []).append(output.value)
    assert set(by_topic) == {topics.ESCALATIONS, topics.CLEARED}
    escalations = [decode(value, Escalation) for value in by_topic[topics.ESCALATIONS]]
    assert {one.event.content_id for one in escalations} == {first}
    assert "fraud-spam" in {one.policy_id for one in escalations}
    assert [decode(value, Verdict).content_id for value in by_topic[topics.CLEARED]] == [second]
