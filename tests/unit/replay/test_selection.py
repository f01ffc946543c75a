"""What a replay escalates of an event: its own bytes, with its place."""

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, Replay, Replayed, decode, now
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.replay.selection import ReplaySelector
from safeguard_streams.runtime.memory_broker import StoredRecord

INSULT = b"you are a stupid worthless bitch, kill yourself"


async def test_a_replay_reads_events_as_the_prefilter_does():
    policy = load_library()["hate-harassment"]
    replayed = Replayed(policy.id, policy.version, policy.document)
    replay = Replay("r1", (replayed,), {"3": 0}, {"3": 9}, "running", now(), "test", noise=0.0)
    value = b'{"n":1E400,"content_id":"c1","text":"\\ud83d %s","created_at":"2026-01-01T00:00:00Z","context":null}'
    records = [
        StoredRecord(topics.EVENTS, 3, offset, 0, b"another", text, [])
        for offset, text in enumerate([value % INSULT, b"no event", value % (INSULT * 3000), value % INSULT])
    ]
    selection = await ReplaySelector(replay, Classifier(), {})(records)
    assert (selection.items, selection.unreadable) == (3, 1)
    outputs = selection.outputs
    escalations = [decode(output.value, Escalation) for output in outputs]
    assert [escalation.origin for escalation in escalations] == ["3@0", "3@2", "3@3"]
    assert all(escalation.repaired for escalation in escalations)
    assert {output.key for output in outputs} == {b"c1"}
    assert (value % INSULT).replace(rb"\ud83d", rb"\ufffd") in outputs[0].value
