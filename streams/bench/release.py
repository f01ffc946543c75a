"""A policy released and rolled back while events flow: who takes it when, and whether any event is lost or judged by the
wrong version.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from safeguard_streams.bench import processes
from safeguard_streams.bench.common import Say, fresh, texts
from safeguard_streams.bench.run import event
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode
from safeguard_streams.errors import SafeguardError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.releases.operator import Author
from safeguard_streams.runtime.settings import Settings

POLICY = "hate-harassment"
PARTITIONS = 2
PATIENCE = 60.0  # seconds without an answer
TICK = 0.01  # seconds
SLACK = 1.0  # seconds; a release is noted when its transaction is known to be committed, which is a moment later


class Release(msgspec.Struct, frozen=True):
    """A version that came into force during the run, and when: s since 1970, after its transaction was committed."""

    name: str
    release: PolicyRelease
    policy: Policy
    moment: float

    @property
    def set_version(self) -> str:
        """What cleared verdicts name."""
        return PolicySet({self.policy.id: Released(self.policy, self.release.revision)}).version


def versions(share: float) -> tuple[Policy, Policy]:
    """A policy that judges this share of content, drawn at random, and the same with a sentence changed."""
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
    """Publish `rate` events per second for so many seconds, of which `escalated` per second are judged; release another
    version after a third, roll back after two. reasoner: the command of the reasoning worker.
    """
    before, after = versions(min(1.0, escalated / rate))
    current = await fresh(bootstrap, PARTITIONS, [before])
    first = (await operator.past(current)).in_force[POLICY]
    given = {**processes.environment(current), "SAFEGUARD_AUDIT_RATE_NEAR": "0", "SAFEGUARD_AUDIT_RATE_FAR": "0"}
    ports = {"prefilter": brokers.free_port(), "reasoner": brokers.free_port()}
    given |= {f"SAFEGUARD_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    commands = {"prefilter": processes.safeguard("prefilter", "run")}
    commands["reasoner"] = list(reasoner) or processes.safeguard("reason", "run")
    async with contextlib.AsyncExitStack() as stack:
        waiting = []
        for name, command in commands.items():
            log = folder / f"{name}.log"
            child = stack.enter_context(processes.process(command, given, log))
            waiting.append(processes.ready(child, f"http://127.0.0.1:{ports[name]}/health/ready", name, log))
        say("starting the prefilter and the reasoner")
        await asyncio.gather(*waiting)
        say(f"publishing {rate:,.0f} events/s for {seconds:.0f} s")
        publishing = asyncio.create_task(_publish(current, rate, seconds))
        came = [Release("first", first, before, time.time())]
        await asyncio.sleep(seconds / 3)
        (made,) = await operator.release(current, [after], Author("bench"))
        came.append(Release("release", made, after, time.time()))
        say(f"released version {made.version}")
        await asyncio.sleep(seconds / 3)
        made = await operator.rollback(current, POLICY, None, Author("bench"))
        came.append(Release("rollback", made, before, time.time()))
        say(f"rolled back to version {made.version}")
        published = await publishing
        await _answered(current, published, say)
    return await _figures(current, published, came)


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


async def _answered(current: Settings, count: int, say: Say) -> None:
    """Wait until as many answers are written as events were published. Raises SafeguardError when they stop coming."""
    answers, moved = 0, time.monotonic()
    async with kafka.reader(current, [topics.CLEARED, topics.VERDICTS, topics.DEAD_LETTERS]) as consumer:
        while answers < count:
            found = sum(len(records) for records in (await consumer.getmany(timeout_ms=200)).values())
            answers += found
            if found:
                moved = time.monotonic()
            if time.monotonic() - moved > PATIENCE:
                raise SafeguardError(
                    f"{answers:,} of {count:,} events were answered, and no more came for {PATIENCE:.0f} s"
                )
    say(f"{answers:,} answers")


async def _figures(current: Settings, published: int, came: Sequence[Release]) -> dict[str, Any]:
    answered: Counter[bytes] = Counter()
    unreleased = older = undetermined = dead = 0
    escalated: dict[str, int] = {}
    seen: dict[str, list[tuple[float, str]]] = {"cleared": [], "verdicts": []}
    async for record in kafka.read_all(current, [topics.ESCALATIONS]):
        escalation = decode(record.value, Escalation)
        escalated[escalation.event.content_id] = escalation.policy_revision
    async for record in kafka.read_all(current, [topics.CLEARED, topics.VERDICTS, topics.DEAD_LETTERS]):
        answered[record.key or b""] += 1
        if record.topic.endswith(topics.DEAD_LETTERS):
            dead += 1
            continue
        verdict = decode(record.value, Verdict)
        judged = record.topic.endswith(topics.VERDICTS)
        seen["verdicts" if judged else "cleared"].append((record.timestamp / 1000, verdict.policy_version))
        if judged:
            decided = verdict.decided_at.timestamp()
            there = [r.release.revision for r in came if r.release.version == verdict.policy_version]
            by_then = [r.release.revision for r in came if r.release.revision in there and r.moment - SLACK <= decided]
            unreleased += not by_then
            older += bool(by_then) and max(by_then) < escalated[verdict.content_id]
            undetermined += verdict.decision == "undetermined"
        else:
            unreleased += verdict.policy_version not in {r.set_version for r in came}
    rows = {}
    for r, former in zip(came[1:], came, strict=False):
        cleared = [at for at, version in seen["cleared"] if version == r.set_version and at >= r.moment - SLACK]
        verdicts = [at for at, version in seen["verdicts"] if version == r.release.version and at >= r.moment - SLACK]
        until = next((later.moment for later in came if later.moment > r.moment), float("inf"))
        stale = [at for at, v in seen["cleared"] if v == former.set_version and r.moment - SLACK <= at < until]
        rows[r.name] = {
            "first_cleared_s": _after(min(cleared, default=None), r.moment),
            "last_cleared_by_the_former_s": _after(max(stale, default=None), r.moment),
            "first_verdict_s": _after(min(verdicts, default=None), r.moment),
        }
    return {
        "variants": rows,
        "counts": {
            "events": published,
            "answered": len(answered),
            "unanswered": published - len(answered),
            "answered_twice": sum(count > 1 for count in answered.values()),
            "verdicts": len(seen["verdicts"]),
            "undetermined": undetermined,
            "dead_letters": dead,
            "verdicts_by_a_version_never_released": unreleased,
            "verdicts_by_a_version_older_than_their_escalation": older,
        },
    }


def _after(moment: float | None, start: float) -> float | None:
    return None if moment is None else round(moment - start, 2)
