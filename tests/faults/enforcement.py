"""Enforcement on Apache Kafka with a killed agent and a misbehaving receiver: python tests/faults/enforcement.py.

Logs its steps; its last line is one JSON object. Exit status 0 only if each verdict led to its action once, every
action with an effect was delivered, in order for each content item, a receiver that honours the key applied none twice,
and the receiver knows the effective action of every content item on moderation.standing. At the end, edits of all
items on which something stands are cleared among others, and nothing may stand any more. Each restriction then has had
one statement of reasons, which was withdrawn once.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

from processes import BIN, Process, say
from receiver import SECRET, Receiver

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import EVERY_POLICY, Action, StatementOfReasons, Verdict, encode
from safeguard_streams.enforcement import moderators
from safeguard_streams.infra import brokers
from safeguard_streams.runtime import settings

KILLS = (0.2, 0.4, 0.6)  # of the actions; one in five has no effect and is not delivered
TIMEOUT_SECONDS = 120.0  # seconds
TIMEOUT = 0.5  # seconds, of the webhook
DECISIONS = 20  # content items that moderators decide about
RULES = """
[[rule]]
name = "threats"
rules = ["HH3"]
action = "remove"
[[rule]]
name = "insults"
rules = ["HH2"]
action = "limit"
[cap]
max_actions = 1000000
window = "1h"
[webhook]
url = "http://127.0.0.1:{port}/actions"
timeout = {timeout}
"""


def verdicts(count, seed):
    """Verdicts on a third as many content items; each supersedes the previous verdict on its item."""
    chance, last = random.Random(seed), {}
    for number in range(count):
        content = f"c{chance.randrange(count // 3)}"
        rule = chance.choice(["HH2", "HH3", "HH5"])
        yield verdict(f"v{number}", content, rule, last.get(content), number)
        last[content] = f"v{number}"


def verdict(name, content, rule, supersedes=None, number=0):
    """number: of the event on content.events."""
    decision = "safe" if rule == "HH5" else "violates"
    return Verdict(
        name, content, "sha", "hate-harassment", "p1", decision, "reasoner", "live", "m", datetime.now(UTC),
        rule_ids=(rule,), supersedes=supersedes, origin=f"0@{number}", judged_under=("hate-harassment",),
    )  # fmt: skip


def cleared(content, number):
    """The cleared verdict on an edit."""
    return Verdict(
        f"edit-{content}", content, "edited", EVERY_POLICY, "set", "safe", "prefilter", "live", "m", datetime.now(UTC),
        origin=f"0@{number}",
    )  # fmt: skip


def due(found):
    """The ids of verdicts that lead to an action: all but those that allow an item which is already allowed."""
    stands, named = {}, set()
    for one in found:
        if one.decision == "violates" or stands.get(one.content_id) == "violates":
            named.add(one.verdict_id)
        stands[one.content_id] = one.decision
    return named


async def publish(current, topic, records, rate=math.inf):
    async with kafka.producer(current) as producer:
        start = time.monotonic()
        for number, record in enumerate(records):
            await producer.send(current.prefix + topic, key=record.content_id.encode(), value=encode(record))
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        await producer.flush()


async def acted(current):
    """What the agent did; not what moderators wrote."""
    found = [action async for _, action in kafka.read_decoded(current, [topics.ACTIONS], Action)]
    return [action for action in found if action.sequence is not None]


async def stated(current, actions):
    """Statements of reasons that an action names and that are not there once, or that are there and no action names."""
    read = kafka.read_decoded(current, [topics.STATEMENTS], StatementOfReasons)
    found = Counter([(one.state, one.statement_id) async for _, one in read])
    named = Counter(("issued", one.statement.statement_id) for one in actions if one.statement)
    named.update(("withdrawn", one.ends_statement) for one in actions if one.ends_statement)
    issued, withdrawn = ({name for state, name in found if state == which} for which in ("issued", "withdrawn"))
    return {
        "statements": len(issued),
        "statements_lost_or_doubled": (named - found).total() + (found - named).total(),
        "statements_that_hold": len(issued ^ withdrawn),
    }


async def until(condition, agent, what):
    """Wait for an async condition. Fails when the agent exits or the time is up."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not await condition():
        assert agent.process.poll() is None, f"the agent ended: {agent.log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"waited {TIMEOUT_SECONDS:g} s for {what}"
        await asyncio.sleep(0.3)


async def run(address, options, folder):
    current = settings.load(bootstrap=address, prefix=f"enforcing{os.getpid()}.", partitions=4, session_timeout_ms=6000)
    await kafka.create_topics(current)
    receiver = Receiver(brokers.free_port(), 2 * TIMEOUT, options.seed)
    (folder / "rules.toml").write_text(RULES.format(port=receiver.port, timeout=TIMEOUT))
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": address, "SAFEGUARD_PREFIX": current.prefix}
    environment |= {"SAFEGUARD_SESSION_TIMEOUT_MS": "6000", "SAFEGUARD_WEBHOOK_SECRET": SECRET}
    command = [BIN / "safeguard", "enforce", "run", folder / "rules.toml", "--port", str(brokers.free_port())]
    agent = Process("agent", command, environment, folder)
    found = list(verdicts(options.verdicts, options.seed))
    publishing = asyncio.create_task(publish(current, topics.VERDICTS, found, options.rate))
    try:
        await receiver.start()
        await misbehave(KILLS[: options.kills], options.down, receiver, agent, len(due(found)))
        await publishing
        await until(lambda: settled(current, receiver, found), agent, "the actions of all verdicts to be delivered")
        say("all actions are delivered; moderators decide, and more verdicts follow")
        content_ids = sorted(receiver.of_content)[:DECISIONS]
        decisions = [Action(f"d-{content}", content, "label", datetime.now(UTC), by="ann") for content in content_ids]
        await publish(current, topics.ACTIONS, decisions)
        names = [one.action_id for one in decisions]
        await until(lambda: settled(current, receiver, found, names), agent, "the decisions to be delivered")
        late = [verdict(f"late-{content}", content, "HH3", number=options.verdicts) for content in content_ids]
        await publish(current, topics.VERDICTS, late)
        await until(lambda: settled(current, receiver, [*found, *late]), agent, "the last verdicts to be followed")
        stood = await moderators.standing(current)
        known = receiver.stands() == stood
        await edit(current, options, stood, agent)
        await until(lambda: settled(current, receiver, [*found, *late]), agent, "the edits to be delivered")
        stands = await moderators.standing(current)
        edits = {"edited": len(stood), "knew_before_edits": known}
        actions = await acted(current)
        counts = summary(actions, [*found, *late], receiver, stands) | await stated(current, actions)
        return {**counts, **edits, "kills": options.kills}
    finally:
        publishing.cancel()
        agent.process.kill()
        await receiver.stop()


async def edit(current, options, stood, agent):
    """Clear edits of all items on which something stands, among ten times as many others; kill the agent meanwhile."""
    say(f"{len(stood)} edits are cleared among others, and the agent is killed")
    given = [f"other{number}" for number in range(10 * len(stood))] + sorted(stood)
    random.Random(options.seed).shuffle(given)
    edits = [cleared(content, options.verdicts + number) for number, content in enumerate(given, 1)]
    await publish(current, topics.CLEARED, edits[: len(edits) // 2])
    agent.kill()
    agent.start()
    await publish(current, topics.CLEARED, edits[len(edits) // 2 :])

    async def ended():
        return not await moderators.standing(current)

    await until(ended, agent, "the edits to end what stands")


async def misbehave(kills, down, receiver, agent, count):
    """Kill the agent when these parts of its actions are delivered; after the first, take the receiver down."""

    async def reached():
        return len(receiver.had) >= part * count

    for part in kills:
        await until(reached, agent, f"deliveries of {part:.0%} of the actions")
        agent.kill()
        agent.start()
        if part == kills[0]:
            say(f"the receiver is down for {down:g} s")
            await receiver.stop()
            await asyncio.sleep(down)
            await receiver.start()


def keys(actions):
    return {f"action-{action.action_id}" for action in actions if action.changes}


async def settled(current, receiver, found, decisions=()):
    actions = await acted(current)
    decided = {action.action_id for action in actions if action.human} >= set(decisions)
    followed = {action.verdict_id for action in actions if not action.human} >= due(found)
    return decided and followed and set(receiver.had) >= keys(actions)


def summary(actions, found, receiver, stands):
    followed = Counter((action.verdict_id, action.policy_id) for action in actions if not action.human)
    with_action = {verdict_id for verdict_id, _ in followed}
    in_order = defaultdict(list)
    for action in actions:
        if action.changes:
            in_order[action.content_id].append(action.action_id)
    had = {content: [one["action_id"] for one in of_content] for content, of_content in receiver.of_content.items()}
    counts = {
        "verdicts": len(found),
        "actions": len(actions),
        "verdicts_without_their_action": len(due(found) - with_action),
        "verdicts_followed_twice": sum(times > 1 for times in followed.values()),
        "overridden": sum(action.state == "overridden" for action in actions),
        "due": len(keys(actions)),
        "delivered": len(receiver.had),
        "not_delivered": len(keys(actions) - set(receiver.had)),
        "not_due": len(set(receiver.had) - keys(actions)),
        "out_of_order": sum(ids != had.get(content) for content, ids in in_order.items()),
        "requests": dict(receiver.requests),
        "standing": len(stands),
        "receiver_knows": receiver.stands() == stands,
    }
    none = ("verdicts_without_their_action", "verdicts_followed_twice", "not_delivered", "not_due", "out_of_order")
    repeated = receiver.requests.total() > len(receiver.had)
    passed = not any(counts[name] for name in none) and counts["receiver_knows"] and repeated
    return {**counts, "passed": passed and counts["overridden"] == DECISIONS and not stands}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=100.0, help="verdicts per second")
    parser.add_argument("--down", type=float, default=60.0, help="seconds that the receiver is down")
    parser.add_argument("--kills", type=int, default=len(KILLS), help="number of times the agent is killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bootstrap", help="an existing broker")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safeguard-enforcement-")))
        address = options.bootstrap or brokers.addresses(stack.enter_context(brokers.kafka_cluster(1, "768m")))
        found = asyncio.run(run(address, options, folder))
        found["passed"] = found["passed"] and found["knew_before_edits"] and found["edited"] > 0
        wrong = found["statements_lost_or_doubled"] or found["statements_that_hold"]
        found["passed"] = found["passed"] and not wrong and found["statements"] > found["edited"]
        if not found["passed"]:
            print(f"--- end of the agent's log\n{(folder / 'agent.log').read_text(errors='replace')[-3000:]}")
    print(json.dumps(found))
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
