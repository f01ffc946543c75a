"""A policy released and rolled back while events flow.

Measures when each stage applies the new version, and whether any event is lost or judged by the wrong version.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from safeguard_streams.bench import processes
from safeguard_streams.bench.common import Say, fresh, texts
from safeguard_streams.bench.prefilter import event
from safeguard_streams.bus import kafka
from safeguard_streams.bus.interface import Record
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode
from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.settings import Settings

POLICY = "hate-harassment"
PARTITIONS = 2
TIMEOUT = 300.0  # seconds without an answer
TICK = 0.01  # seconds between batches
SLACK = 1.0  # seconds; a release takes effect a moment before its commit is known here


class Release(msgspec.Struct, frozen=True):
    """A version that came into force during the run; moment is in s since 1970, after its transaction was committed."""

    name: str
    release: PolicyRelease
    policy: Policy
    moment: float

    @property
    def set_version(self) -> str:
        """The version of the policy set that cleared verdicts name."""
        return PolicySet({self.policy.id: Released(self.policy, self.release.revision)}).version


def versions(share: float) -> tuple[Policy, Policy]:
    """A policy that escalates this share of content at random, and the same policy with a changed sentence."""
    document = load_library()[POLICY].document
    gate = {"harms": None, "threshold": None, "calibration": None, "sample": share}
    first = with_changes(document, "gate", **gate)
    return parse(first), parse(first.replace("You review user content", "You look at user content"))


async def release(
    bootstrap: str,
    rate: float,
    seconds: float,
    escalated: float,
    folder: Path,
    say: Say,
    reasoner: Sequence[str] = (),
) -> dict[str, Any]:
    """Publish `rate` events per second, of which `escalated` per second are judged.

    Releases another version after a third of the time and rolls back after two thirds. reasoner is the command of the
    reasoning worker.
    """
    before, after = versions(min(1.0, escalated / rate))
    current = await fresh(bootstrap, PARTITIONS, [before])
    first = (await operator.history(current)).in_force[POLICY]
    variables = {**processes.environment(current), "SAFEGUARD_AUDIT_RATE_NEAR": "0", "SAFEGUARD_AUDIT_RATE_FAR": "0"}
    ports = {"prefilter": brokers.free_port(), "reasoner": brokers.free_port()}
    variables |= {f"SAFEGUARD_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    commands = {"prefilter": processes.safeguard("prefilter", "run")}
    commands["reasoner"] = list(reasoner) or processes.safeguard("reason", "run")
    async with contextlib.AsyncExitStack() as stack:
        starting = []
        for name, command in commands.items():
            log = folder / f"{name}.log"
            child = stack.enter_context(processes.process(command, variables, log))
            starting.append(processes.ready(child, f"http://127.0.0.1:{ports[name]}/health/ready", name, log))
        say("starting the prefilter and the reasoner")
        await asyncio.gather(*starting)
        say(f"publishing {rate:,.0f} events/s for {seconds:.0f} s")
        publishing = asyncio.create_task(_publish(current, rate, seconds))
        releases = [Release("first", first, before, time.time())]
        await asyncio.sleep(seconds / 3)
        (released,) = await operator.release(current, [after], ChangedBy("bench"))
        releases.append(Release("release", released, after, time.time()))
        say(f"released version {released.version}")
        await asyncio.sleep(seconds / 3)
        released = await operator.rollback(current, POLICY, None, ChangedBy("bench"))
        releases.append(Release("rollback", released, before, time.time()))
        say(f"rolled back to version {released.version}")
        published = await publishing
        await _wait_for_answers(current, published, say)
    return await _figures(current, published, releases)


async def _publish(current: Settings, rate: float, seconds: float) -> int:
    sample = texts()
    count, sent = round(rate * seconds), 0
    start = time.monotonic()
    async with kafka.producer(current) as producer:
        while sent < count:
            due = min(count, 1 + int((time.monotonic() - start) * rate))
            while sent < due:
                key, value = event(sent, sample[sent % len(sample)])
                await producer.send(current.prefix + topics.EVENTS, key=key, value=value)
                sent += 1
            await asyncio.sleep(TICK)
        await producer.flush()
    return count


async def _wait_for_answers(current: Settings, count: int, say: Say) -> None:
    """Wait until `count` answers are written. Raises SafeguardError after TIMEOUT seconds without one."""
    answers, progressed = 0, time.monotonic()
    async with kafka.reader(current, [topics.CLEARED, topics.VERDICTS, topics.DEAD_LETTERS]) as consumer:
        while answers < count:
            polled = sum(len(records) for records in (await consumer.getmany(timeout_ms=200)).values())
            answers += polled
            if polled:
                progressed = time.monotonic()
            if time.monotonic() - progressed > TIMEOUT:
                raise SafeguardError(f"no answer for {TIMEOUT:.0f} s; {answers:,} of {count:,} events were answered")
    say(f"{answers:,} answers")


class WrittenAnswer(NamedTuple):
    """When an answer was written (s since 1970), and by which version of the policy (or of the set, if cleared)."""

    moment: float
    version: str


class AnswerCheck:
    """All answers of a run, checked against the versions in force."""

    def __init__(self, releases: Sequence[Release], escalated: Mapping[str, int]) -> None:
        self.cleared: list[WrittenAnswer] = []
        self.judged: list[WrittenAnswer] = []
        self.by_key: Counter[bytes] = Counter()
        self.undetermined = self.dead_letters = self.unreleased = self.outdated = 0
        self._releases = releases
        self._escalated = escalated  # the policy's revision at escalation, by content_id

    def take(self, topic: str, record: Record) -> None:
        """Count an answer read from `topic`, which may have a prefix."""
        self.by_key[record.key or b""] += 1
        if topic.endswith(topics.DEAD_LETTERS):
            self.dead_letters += 1
            return
        verdict = decode(record.value, Verdict)
        answer = WrittenAnswer(record.timestamp / 1000, verdict.policy_version)
        if topic.endswith(topics.VERDICTS):
            self.judged.append(answer)
            self._check_judged(verdict)
        else:
            self.cleared.append(answer)
            self.unreleased += answer.version not in {release.set_version for release in self._releases}

    def _check_judged(self, verdict: Verdict) -> None:
        decided = verdict.decided_at.timestamp()
        revisions = [
            release.release.revision
            for release in self._releases
            if release.release.version == verdict.policy_version and release.moment - SLACK <= decided
        ]
        self.unreleased += not revisions
        self.outdated += bool(revisions) and max(revisions) < self._escalated[verdict.content_id]
        self.undetermined += verdict.decision == "undetermined"


async def _figures(current: Settings, published: int, releases: Sequence[Release]) -> dict[str, Any]:
    escalated: dict[str, int] = {}
    async for record in kafka.read_all(current, [topics.ESCALATIONS]):
        escalation = decode(record.value, Escalation)
        escalated[escalation.event.content_id] = escalation.policy_revision
    answers = AnswerCheck(releases, escalated)
    async for record in kafka.read_all(current, [topics.CLEARED, topics.VERDICTS, topics.DEAD_LETTERS]):
        answers.take(record.topic, record)
    return {
        "variants": {
            release.name: delays(answers, release, former, releases)
            for release, former in zip(releases[1:], releases, strict=False)
        },
        "counts": {
            "events": published,
            "answered": len(answers.by_key),
            "unanswered": published - len(answers.by_key),
            "answered_twice": sum(count > 1 for count in answers.by_key.values()),
            "verdicts": len(answers.judged),
            "undetermined": answers.undetermined,
            "dead_letters": answers.dead_letters,
            "verdicts_by_a_version_never_released": answers.unreleased,
            "verdicts_by_a_version_older_than_their_escalation": answers.outdated,
        },
    }


def delays(
    answers: AnswerCheck, release: Release, former: Release, releases: Sequence[Release]
) -> dict[str, float | None]:
    """Seconds from a release until its first answers, and until the last answer by the version before it."""
    start = release.moment - SLACK
    end = next((later.moment for later in releases if later.moment > release.moment), float("inf"))
    cleared = [a.moment for a in answers.cleared if a.version == release.set_version and a.moment >= start]
    judged = [a.moment for a in answers.judged if a.version == release.release.version and a.moment >= start]
    stale = [a.moment for a in answers.cleared if a.version == former.set_version and start <= a.moment < end]
    return {
        "first_cleared_s": _after(min(cleared, default=None), release.moment),
        "last_cleared_by_the_former_s": _after(max(stale, default=None), release.moment),
        "first_verdict_s": _after(min(judged, default=None), release.moment),
    }


def _after(moment: float | None, start: float) -> float | None:
    return None if moment is None else round(moment - start, 2)
