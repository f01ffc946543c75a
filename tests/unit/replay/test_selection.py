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


async def test_a_replay_of_some_authors_covers_their_content_alone():
    policy = load_library()["hate-harassment"]
    replayed = Replayed(policy.id, policy.version, policy.document)
    bounds = {"3": 0}, {"3": 9}
    replay = Replay("r1", (replayed,), *bounds, "running", now(), "test", noise=0.0, authors=("alice", "bob"))
    authors = [b"alice", "аlice".encode(), b"bob", b"Alice"]
    value = b'{"content_id":"c%d","text":"%s","created_at":"2026-01-01T00:00:00Z","author_id":"%s"}'
    records = [
        StoredRecord(topics.EVENTS, 3, offset, 0, b"k", value % (offset, INSULT, author), [])
        for offset, author in enumerate(authors)
    ]
    without = b'{"content_id":"c9","text":"%s","created_at":"2026-01-01T00:00:00Z"}' % INSULT
    records.append(StoredRecord(topics.EVENTS, 3, 4, 0, b"k", without, []))
    selection = await ReplaySelector(replay, Classifier(), {})(records)
    assert selection.items == 2
    assert [decode(one.value, Escalation).event.content_id for one in selection.outputs] == ["c0", "c2"]
