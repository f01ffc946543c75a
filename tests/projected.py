"""Records of a small deployment for the console's tests, and the rows that are projected from them."""

import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import sqlalchemy as sa

from safeguard_streams.console import schema
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Attempt,
    ContentEvent,
    DeadLetter,
    ErasureRequest,
    Escalation,
    HandledLetter,
    Message,
    ModeratorDecision,
    Origin,
    PolicyChange,
    PolicyRelease,
    PolicyStanding,
    PrefilterResult,
    Rationale,
    Replay,
    Replayed,
    ReplayProgress,
    Standing,
    Tokens,
    Verdict,
    encode,
)

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)
WHEN_READ = ("projected_at",)  # differs from run to run


def at(seconds):
    return BEGAN + timedelta(seconds=seconds)


def record(topic, value, *, offset=0, partition=0, key=b"k", headers=()):
    """One record as a consumer returns it. value: a record of the contract, bytes, or None for a tombstone."""
    value = encode(value) if isinstance(value, msgspec.Struct) else value
    timestamp = int(BEGAN.timestamp() * 1000) + offset
    return SimpleNamespace(
        topic=topic, partition=partition, offset=offset, timestamp=timestamp, key=key, value=value, headers=headers
    )


def verdict(number, content_id="c1", decision="violates", **fields):
    given = {"policy_id": "hate", "policy_version": "v1", "stage": "reasoner", "lane": "live", "model": "gpt-oss"}
    given |= {"rule_ids": ("H1",) if decision == "violates" else (), "reason": "quotes wombat", "score": 0.75}
    given |= {"prefilter": PrefilterResult("terms", label="wombat", score=0.5), "tokens": Tokens(10, 5, 2)}
    given |= {"latency": {"reason": 2.5}, "decided_at": at(number), "content_sha256": "0" * 64}
    return Verdict(verdict_id=f"v{number}", content_id=content_id, decision=decision, **{**given, **fields})


def escalation(number, content_id="c1", text="a wombat among words", **fields):
    event = ContentEvent(
        content_id,
        text,
        at(number),
        author_id="author-7",
        surface="comment",
        language="en",
        context=(Message("user", "an earlier wombat"),),
        attributes={"title": "wombat"},
    )
    given = {"policy_id": "hate", "policy_version": "v1", "policy_revision": 1, "lane": "live"}
    given |= {"prefilter": PrefilterResult("terms", label="wombat"), "escalated_at": at(number)}
    given |= {"origin": f"0@{number}"}
    return Escalation(event=event, **{**given, **fields})


def action(number, content_id="c1", name="remove", **fields):
    given = {"acted_at": at(number), "effective": name, "policy_id": "hate", "reason": "quotes wombat", "sequence": 1}
    return Action(f"a{number}", content_id, name, **{**given, **fields})


def standing(content_id="c1", policies=(), decision=None, effective="review", **fields):
    return Standing(content_id, effective, 1, tuple(policies), decision, **fields)


def in_review(policy_id="hate", decision="violates"):
    return PolicyStanding(policy_id, action="review", action_id="a1", at=at(5), decision=decision, rule="unsure")


def decided(name="allow"):
    return ModeratorDecision(name, "d1", at(9), "kim", "why wombat")


def rationale(number, content_id="c1"):
    tried = (Attempt("the wombat is", "1"),)
    return Rationale(f"v{number}", content_id, "hate", "v1", "gpt-oss", tried, at(number))


def release(policy_id="hate", revision=1, **fields):
    return PolicyRelease(policy_id, f"v{revision}", revision, "---\n# a policy", at(revision), "kim", **fields)


def deployment(seed=1, items=40):
    """Records of every topic, by topic and partition; with duplicates, tombstones, foreign records and an erasure."""
    chance = random.Random(seed)
    logs = {}

    def write(topic, value, content_id="", key=None):
        partition = hash_of(content_id) if content_id else 0
        log = logs.setdefault((topic, partition), [])
        log.append(record(topic, value, offset=len(log), partition=partition, key=key or content_id.encode()))

    number = 0
    for item in range(items):
        content_id = f"c{item}"
        for edit in range(chance.choice([1, 1, 2])):
            number += 1
            text = f"text {number} of wombat {content_id}"
            for policy in chance.sample(["hate", "spam", "fraud"], chance.randint(1, 2)):
                place = f"{hash_of(content_id)}@{number}"
                one = escalation(number, content_id, text, policy_id=policy, origin=place)
                for _ in range(chance.choice([1, 1, 2])):
                    write(topics.ESCALATIONS, one, content_id)
                lane = chance.choice(["live", "audit"])
                name = chance.choice(["violates", "safe", "undetermined"])
                judged = verdict(number * 10, content_id, name, policy_id=policy, lane=lane, origin=place)
                judged = msgspec.structs.replace(judged, verdict_id=f"v{number}-{policy}")
                for _ in range(chance.choice([1, 1, 2])):
                    write(topics.VERDICTS, judged, content_id)
                shadow = msgspec.structs.replace(judged, verdict_id=f"s{number}-{policy}", lane="shadow")
                write(topics.REPLAYS, shadow, content_id)
                explained = msgspec.structs.replace(rationale(number, content_id), verdict_id=judged.verdict_id)
                write(topics.RATIONALES, explained, content_id, judged.verdict_id.encode())
                one = action(number * 10, content_id, "review", policy_id=policy, verdict_id=judged.verdict_id)
                write(topics.ACTIONS, msgspec.structs.replace(one, action_id=f"a{number}-{policy}"), content_id)
                write(topics.STANDING, standing(content_id, [in_review(policy, name)]), content_id)
        if chance.random() < 0.3:
            made = action(number * 10 + 1, content_id, "allow", policy_id=None, by="kim", why="no wombat", sequence=None)
            write(topics.ACTIONS, made, content_id)
            write(topics.ACTIONS, msgspec.structs.replace(made, sequence=9), content_id)
            write(topics.STANDING, standing(content_id, [in_review()], decided(), "allow"), content_id)
        if chance.random() < 0.1:
            write(topics.STANDING, None, content_id)
        if chance.random() < 0.1:
            write(topics.ERASURES, ErasureRequest(content_id, at(number * 10 + 5), "kim"), key=content_id.encode())
        if chance.random() < 0.1:
            write(topics.RATIONALES, None, content_id, f"v{number}-hate".encode())
        for _ in range(3):
            cleared = verdict(number, f"x{number}", "safe", policy_id="*", stage="prefilter")
            write(topics.CLEARED, cleared, f"x{number}")
    write(topics.VERDICTS, b"\xff no record", "c1")
    write(topics.VERDICTS, verdict(5, "p" * 9000, malformed=2**63), "c1")
    for revision in (1, 2):
        write(topics.POLICIES, release(revision=revision), key=b"hate")
        write(topics.POLICIES_HISTORY, PolicyChange("release", "hate", at(revision), "kim", "", release(revision=revision)))
    write(topics.POLICIES, release("spam"), key=b"spam")
    write(topics.POLICIES, None, key=b"spam")
    job = Replay("r1", (Replayed("hate", "v2", "doc"),), {"0": 0}, {"0": 9}, "running", at(1), "kim")
    write(topics.REPLAY_JOBS, job, key=b"r1")
    write(topics.REPLAY_PROGRESS, ReplayProgress("r1", 0, 5, 4, 1, 2), key=b"r1 0")
    letter = DeadLetter(Origin("content.events", 0, 7, 1), "prefilter", "RecordError", "text: is missing", 1, at(3))
    write(topics.DEAD_LETTERS, letter)
    write(topics.DEAD_LETTERS_HANDLED, HandledLetter("0@0", int(BEGAN.timestamp() * 1000), "requeued", at(4), "kim"))
    return logs


def hash_of(content_id):
    return sum(content_id.encode()) % 2


def dump(engine, *, without=()):
    """All projected rows, by table, in the order of their keys."""
    found = {}
    with engine.connect() as connection:
        for table in schema.PROJECTED:
            columns = [column for column in table.columns if column.name not in (*WHEN_READ, *without)]
            rows = connection.execute(sa.select(*columns).order_by(*table.primary_key))
            found[table.name] = [dict(row._mapping) for row in rows]
    return found
