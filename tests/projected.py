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
    Appeal,
    AppealStanding,
    Attempt,
    AuthorAction,
    AuthorDecision,
    AuthorStanding,
    AuthorStatement,
    ContentEvent,
    ContentReport,
    DeadLetter,
    ErasureRequest,
    Escalation,
    Grounds,
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
    Strike,
    Tokens,
    Verdict,
    encode,
)

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)
WHEN_READ = ("projected_at", "overwritten")  # differs from run to run


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


def report(number, content_id="c1", reporter="user", **fields):
    event = ContentEvent(content_id, "a wombat among words", at(number), "author-7", "comment", "en")
    given = {"report_id": f"r{number}", "event": event, "reporter": reporter, "reported_at": at(number)}
    return ContentReport(**{**given, "reason": "calls me a wombat", **fields})


def standing(content_id="c1", policies=(), decision=None, effective="review", **fields):
    return Standing(content_id, effective, 1, tuple(policies), decision, **fields)


def standing_with_appeal(state, partitions, content_id="c1"):
    said = AppealStanding("p1", "author", state, at(3), at(9), "review", "g")
    return Standing(content_id, "review", partitions, (in_review(),), appeals=(said,))


def in_review(policy_id="hate", decision="violates", grade=None):
    grounds = Grounds("p1", ("H1",), severity=grade) if grade else None
    waits = {"action": "review", "action_id": "a1", "at": at(5), "decision": decision, "rule": "unsure"}
    return PolicyStanding(policy_id, **waits, grounds=grounds)


def decided(name="allow"):
    return ModeratorDecision(name, "d1", at(9), "kim", "why wombat")


def strike(number, author_id="author-7", state="given", content_id="c1", name=None, **fields):
    """A record of moderation.strikes. name: of the strike; otherwise one of its own."""
    given = {"content_id": content_id, "policy_id": "hate"} if state in ("given", "taken-back") else {}
    if state == "given":
        given |= {"verdict_id": f"v{number}", "action_id": f"a{number}", "rule_ids": ("H1",), "severity": "high"}
        given |= {"rule": "any", "weight": 1, "expires_at": at(number) + timedelta(days=90)}
    elif state != "taken-back":
        given |= {"by": "kim", "why": "not wombat"}
    return Strike(name or f"s{number}", author_id, state, at(number), **{**given, **fields})


def author_action(number, author_id="author-7", name="warn", **fields):
    given = {"previous": "none", "acted_at": at(number), "sequence": number, "weight": 1, "rule": "first"}
    given |= {"strike_id": f"s{number}", "verdict_id": f"v{number}", "content_id": "c1"}
    if name in ("limit", "suspend"):
        given["statement"] = AuthorStatement(f"st{number}", "en", f"Your account: {name}.\nIt says why.")
    return AuthorAction(f"aa-{author_id}-{number}", author_id, name, **{**given, **fields})


def author_standing(author_id="author-7", strikes=(), action="none", decision=None, **fields):
    given = {"weight": sum(one.weight for one in strikes), "rule": "first" if strikes else None, "since": at(5)}
    return AuthorStanding(author_id, 1, tuple(strikes), action=action, decision=decision, **{**given, **fields})


def author_decided(name="none", number=9):
    return AuthorDecision(name, f"s{number}", at(number), "kim", "not wombat")


def rationale(number, content_id="c1"):
    tried = (Attempt("the wombat is", "1"),)
    return Rationale(f"v{number}", content_id, "hate", "v1", "gpt-oss", tried, at(number))


def release(policy_id="hate", revision=1, **fields):
    return PolicyRelease(policy_id, f"v{revision}", revision, "---\n# a policy", at(revision), "kim", **fields)


def deployment(seed=1, items=40):
    """Records of every topic, by topic and partition; with duplicates, tombstones, foreign records and erasures."""
    made = _Deployment(random.Random(seed))
    for item in range(items):
        made.item(f"c{item}")
    for author in range(6):
        made.author(f"author-{author}", [f"c{item}" for item in range(author, items, 6)])
    made.foreign()
    made.once()
    return made.logs


class _Deployment:
    def __init__(self, chance):
        self.chance, self.logs, self.number = chance, {}, 0

    def write(self, topic, value, content_id="", key=None, most=1):
        """Write a record to the partition of its item, perhaps several times, as a broker without transactions does."""
        partition = hash_of(content_id) if content_id else 0
        log = self.logs.setdefault((topic, partition), [])
        for _ in range(self.chance.choice(range(1, most + 1))):
            log.append(record(topic, value, offset=len(log), partition=partition, key=key or content_id.encode()))

    def item(self, content_id):
        """An item with one or two texts, and what the pipeline and people did about them."""
        for _ in range(self.chance.choice([1, 1, 2])):
            self.number += 1
            for policy in self.chance.sample(["hate", "spam", "fraud"], self.chance.randint(1, 2)):
                self.judged(content_id, policy)
        last = self.number * 10
        if self.chance.random() < 0.3:
            given = {"policy_id": None, "by": "kim", "why": "no wombat"}
            made = action(last + 1, content_id, "allow", **given, sequence=None)
            self.write(topics.ACTIONS, made, content_id)
            self.write(topics.ACTIONS, msgspec.structs.replace(made, sequence=9), content_id)
            self.write(topics.STANDING, standing(content_id, [in_review()], decided(), "allow"), content_id)
        for count in range(self.chance.choice([0, 0, 1, 3])):
            kind = self.chance.choice(["user", "trusted_flagger", "authority"])
            reported = report(last + count, content_id, kind, report_id=f"r{last}-{count}")
            self.write(topics.REPORTS, reported, content_id, most=2)
        if self.chance.random() < 0.1:
            self.write(topics.STANDING, None, content_id)
        if self.chance.random() < 0.1:
            self.write(topics.ERASURES, ErasureRequest(content_id, at(last + 5), "kim"), key=content_id.encode())
        if self.chance.random() < 0.1:
            self.write(topics.RATIONALES, None, content_id, f"v{self.number}-hate".encode())
        if self.number % 5 == 0:
            said = Appeal(
                content_id, "author", at(last), "p1", verdict_id="v", reason="no wombat", new_context="wombat"
            )
            self.write(topics.APPEALS, said, content_id, most=2)
            waiting = AppealStanding("p1", "author", "open", at(last), at(last + 9), "review", "g")
            stands = msgspec.structs.replace(standing(content_id, [in_review()]), appeals=(waiting,), deciders=("Kim",))
            self.write(topics.STANDING, stands, content_id)
        for name in (f"x{self.number}", f"y{self.number}", f"z{self.number}"):
            self.write(topics.CLEARED, verdict(self.number, name, "safe", policy_id="*", stage="prefilter"), name)

    def judged(self, content_id, policy):
        """One text under one policy."""
        number = self.number
        place = f"{hash_of(content_id)}@{number}"
        text = f"text {number} of wombat {content_id}"
        self.write(
            topics.ESCALATIONS,
            escalation(number, content_id, text, policy_id=policy, origin=place),
            content_id,
            most=2,
        )
        lane, name = self.chance.choice(["live", "audit"]), self.chance.choice(["violates", "safe", "undetermined"])
        one = verdict(number * 10, content_id, name, policy_id=policy, lane=lane, origin=place)
        one = msgspec.structs.replace(one, verdict_id=f"v{number}-{policy}")
        self.write(topics.VERDICTS, one, content_id, most=2)
        shadow = msgspec.structs.replace(one, verdict_id=f"s{number}-{policy}", lane="shadow")
        self.write(topics.REPLAYS, shadow, content_id)
        explained = msgspec.structs.replace(rationale(number, content_id), verdict_id=one.verdict_id)
        self.write(topics.RATIONALES, explained, content_id, one.verdict_id.encode())
        followed = action(number * 10, content_id, "review", policy_id=policy, verdict_id=one.verdict_id)
        self.write(topics.ACTIONS, msgspec.structs.replace(followed, action_id=f"a{number}-{policy}"), content_id)
        self.write(topics.STANDING, standing(content_id, [in_review(policy, name)]), content_id)

    def author(self, author_id, content_ids):
        """Strikes for some items, what became of them, and what people decided; two authors are forgotten."""
        begins = self.number = self.number + 100
        for place, content_id in enumerate(content_ids):
            self.number += 1
            given = strike(self.number, author_id, content_id=content_id)
            self.write(topics.STRIKES, given, author_id, most=2)
            acted = author_action(self.number, author_id, content_id=content_id)
            self.write(topics.AUTHOR_ACTIONS, acted, author_id, most=2)
            self.write(topics.AUTHOR_STANDING, author_standing(author_id, [given], "warn"), author_id)
            if ended := self.chance.choice([None, None, "taken-back", "forgiven"]):
                self.write(
                    topics.STRIKES, strike(self.number, author_id, ended, content_id, given.strike_id), author_id
                )
            if self.chance.random() < 0.3:
                self.write(topics.STRIKES, given, author_id)
            if place == 2 and author_id in ("author-1", "author-2"):
                self.write(topics.STRIKES, strike(self.number, author_id, "forgotten", name="f"), author_id)
                self.write(topics.AUTHOR_STANDING, None, author_id)
        said = strike(begins + 90, author_id, "decided", action="suspend")
        self.write(topics.STRIKES, said, author_id, most=2)
        self.write(topics.STRIKES, strike(begins + 91, author_id, "undecided"), author_id)
        self.write(topics.AUTHOR_STANDING, author_standing(author_id, decision=author_decided("suspend")), author_id)

    def foreign(self):
        """What is no record of its topic, and one that no database takes."""
        self.write(topics.VERDICTS, b"\xff no record", "c1")
        self.write(topics.VERDICTS, verdict(5, "p" * 9000, malformed=2**63), "c1")

    def once(self):
        """Policies, a replay and a dead letter."""
        for revision in (1, 2):
            one = release(revision=revision)
            self.write(topics.POLICIES, one, key=b"hate")
            change = PolicyChange("release", "hate", at(revision), "kim", "", one)
            self.write(topics.POLICIES_HISTORY, change)
        self.write(topics.POLICIES, release("spam"), key=b"spam")
        self.write(topics.POLICIES, None, key=b"spam")
        job = Replay("r1", (Replayed("hate", "v2", "doc"),), {"0": 0}, {"0": 9}, "running", at(1), "kim")
        self.write(topics.REPLAY_JOBS, job, key=b"r1")
        self.write(topics.REPLAY_PROGRESS, ReplayProgress("r1", 0, 5, 4, 1, 2), key=b"r1 0")
        origin = Origin("content.events", 0, 7, 1)
        self.write(topics.DEAD_LETTERS, DeadLetter(origin, "prefilter", "RecordError", "text: is missing", 1, at(3)))
        handled = HandledLetter("0@0", int(BEGAN.timestamp() * 1000), "requeued", at(4), "kim")
        self.write(topics.DEAD_LETTERS_HANDLED, handled)


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
