"""The author ledger on Apache Kafka with killed processes and a misbehaving receiver: python tests/faults/authors.py.

Verdicts come on items of many authors. Meanwhile enforcement and the ledger are killed, a replay is promoted and half
of it reverted, and moderators decide and undo. Appeals are upheld, overturned, and moot by another replay, of which
half is reverted, too. Some strikes expire within seconds. Outcomes that are written as if the agent had followed them,
or by somebody who decided before, do not count. Logs its steps; its last line is one JSON object. Exit status 0 only if
each author's standing equals one computed offline from what was published, no strike is lost or written twice, each
appeal has the end that was meant for it, and the receiver had the actions about each author once and in order.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from appealed import Appeals
from processes import BIN, Process, say
from receiver import SECRET, Receiver

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    AuthorAction,
    AuthorStanding,
    StatementOfReasons,
    Strike,
    Verdict,
    encode,
)
from safeguard_streams.enforcement.author_rules import ACCOUNT_RESTRICTIONS
from safeguard_streams.enforcement.strikes import strike_id
from safeguard_streams.infra import brokers
from safeguard_streams.replay.promotion import VerdictChange
from safeguard_streams.runtime import settings

TIMEOUT_SECONDS = 200.0
STARTED_SECONDS = 300.0  # the ledger writes nothing while appeals are opened
TIMEOUT = 0.5  # seconds, of the webhook
PARTITIONS = 4
MOODS = {"well": 88, "fails before": 4, "fails after": 3, "says nothing": 1, "late": 2, "twice": 2}
POLICIES = {"hate-harassment": ["HH3", "HH2", "HH1", None], "fraud-spam": ["FS2", "FS1", None]}
WEIGHTS = {"HH3": 3, "HH2": 1, "HH1": 1, "FS2": 1, "FS1": 1}
RESTRICTED = {"HH3", "HH2", "FS2", "FS1"}  # HH1 waits for a moderator
SHORT = "FS1"  # its strikes expire within the run
RULES = """
[[rule]]
name = "wait"
rules = ["HH1"]
action = "review"
[[rule]]
name = "all"
action = "remove"
[cap]
max_actions = 10000000
window = "1h"
[[authors.strike]]
name = "threats"
rules = ["HH3"]
weight = 3
[[authors.strike]]
name = "short"
rules = ["FS1"]
expires = "5s"
[[authors.strike]]
name = "any"
[[authors.threshold]]
name = "first"
weight = 1
action = "warn"
[[authors.threshold]]
name = "some"
weight = 6
action = "review"
[[authors.threshold]]
name = "many"
weight = 9
action = "limit"
[[authors.threshold]]
name = "too many"
weight = 15
action = "suspend"
"""
WEBHOOK = """
[webhook]
url = "http://127.0.0.1:{port}/authors"
timeout = {timeout}
"""


def expected_action(weight):
    return next(
        (one for least, one in ((15, "suspend"), (9, "limit"), (6, "review"), (1, "warn")) if weight >= least), "none"
    )


class Plan:
    """What is published, and what stands afterwards: by the last verdicts and decisions."""

    def __init__(self, options):
        self.chance = random.Random(options.seed)
        self.authors = options.authors
        self.items = max(1, options.verdicts * 2 // 3)
        self.verdicts = {}  # by item and policy
        self.decisions = {}  # by item
        self.overturned = {}  # what a person decided about an item by its appeal
        self.last_id = {}
        self.appeals = None

    def author(self, item):
        return f"author {item % self.authors}"

    def verdict(self, number):
        item, policy = self.chance.randrange(self.items), self.chance.choice(list(POLICIES))
        cited = self.chance.choice(POLICIES[policy])
        one = Verdict(
            f"v{number}", f"c{item}", "sha", policy, "p1", "violates" if cited else "safe", "reasoner", "live", "m",
            datetime.now(UTC), rule_ids=(cited,) if cited else (), origin=f"0@{item}", author_id=self.author(item),
            supersedes=self.last_id.get((item, policy)), judged_under=tuple(POLICIES),
        )  # fmt: skip
        self.stands(item, one)
        return one

    def stands(self, item, one):
        self.verdicts[item, one.policy_id] = one
        self.last_id[item, one.policy_id] = one.verdict_id

    def restricts(self, verdict):
        """Whether an item is restricted for a verdict, where nobody decided."""
        return verdict.decision == "violates" and verdict.rule_ids[0] in RESTRICTED

    def found_safe(self, items):
        """What a replay finds about items that verdicts restrict: that they are safe."""
        wanted = set(items)
        places = [place for place, one in self.verdicts.items() if place[0] in wanted and one.decision == "violates"]
        return self.changes(places, "r2")

    def sample(self, count):
        return self.chance.sample(sorted(self.verdicts), min(count, len(self.verdicts)))

    def changes(self, places, replay="r1"):
        """What a replay finds: other decisions on items that were judged."""
        found = []
        for item, policy in places:
            before = self.verdicts[item, policy]
            cited = POLICIES[policy][0]
            safe = before.decision == "violates"
            after = msgspec.structs.replace(
                before, verdict_id=f"{replay}-{before.verdict_id}", replay_id=replay, lane="replay",
                decision="safe" if safe else "violates", rule_ids=() if safe else (cited,),
            )  # fmt: skip
            found.append((item, VerdictChange(before, after, 0)))
        return found

    def superseding(self, changes, direction):
        for item, change in changes:
            one = change.result(direction)
            self.stands(item, one)
            yield one

    def decide(self, items):
        for item in items:
            action = self.chance.choice(["allow", "remove", "review"])
            self.decisions[item] = action
            yield Action(
                f"d{item}", f"c{item}", action, datetime.now(UTC), by="ann", content_sha256="sha",
                author_id=self.author(item), cited_policy="fraud-spam",
            )  # fmt: skip

    def undo(self, items):
        for item in items:
            del self.decisions[item]
            yield Action(f"u{item}", f"c{item}", "allow", datetime.now(UTC), by="ann", withdraws=f"d{item}")

    def strikes(self):
        """The strikes that count at the end, by author: ids and weights."""
        found = defaultdict(dict)
        items = defaultdict(dict)
        for (item, policy), one in self.verdicts.items():
            items[item][policy] = one
        for item in items.keys() | self.decisions.keys():
            decided, author, content = self.decisions.get(item), self.author(item), f"c{item}"
            violated = {policy: one.rule_ids[0] for policy, one in items[item].items() if one.decision == "violates"}
            if item in self.overturned:
                counting = (violated or {"": None}) if self.overturned[item] == "label" else {}
            elif decided == "remove":
                counting = violated or {"fraud-spam": None}
            else:
                counting = {} if decided else {p: rule for p, rule in violated.items() if rule in RESTRICTED}
            for policy, rule in counting.items():
                if rule != SHORT:
                    found[author][strike_id(content, "sha", policy)] = WEIGHTS.get(rule, 1)
        return found


async def publish(current, topic, records, rate):
    async with kafka.producer(current) as producer:
        start = time.monotonic()
        for number, record in enumerate(records):
            await producer.send(current.prefix + topic, key=record.content_id.encode(), value=encode(record))
            if number % 50 == 0:
                await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        await producer.flush()


async def publish_all(current, plan, options):
    """Verdicts, a promotion, decisions, appeals and their outcomes, reversions, more verdicts, and undone decisions."""
    half, few = options.verdicts // 2, options.verdicts // 20
    await publish(current, topics.VERDICTS, map(plan.verdict, range(half)), options.rate)
    changes = plan.changes(plan.sample(few))
    await publish(current, topics.VERDICTS, plan.superseding(changes, "promote"), options.rate)
    say(f"{len(changes)} verdicts of a replay are promoted")
    decided = plan.chance.sample(range(plan.items), min(few, plan.items))
    await publish(current, topics.ACTIONS, plan.decide(decided), options.rate)
    say(f"moderators decided about {len(decided)} items")
    mooted = await appeal(current, plan, 2 * few, {item for item, _ in changes}, options.rate)
    reverted = changes[::2] + mooted[::2]
    await publish(current, topics.VERDICTS, plan.superseding(reverted, "revert"), options.rate)
    say(f"{len(reverted)} of them are reverted")
    await publish(current, topics.VERDICTS, map(plan.verdict, range(half, options.verdicts)), options.rate)
    undone = [item for item in decided[::2] if item not in plan.appeals.items]
    await publish(current, topics.ACTIONS, plan.undo(undone), options.rate)
    say(f"{len(undone)} decisions are undone")


async def appeal(current, plan, count, changed, rate):
    """Appeals and their outcomes, each once what it is about was followed. Returns the replay that made some moot."""
    appeals = plan.appeals = Appeals(plan, count, changed)
    await appeals.until_restricted(current)
    await publish(current, topics.APPEALS, appeals.sent(), rate)
    await appeals.until(current)
    mooted = plan.found_safe(appeals.of_kind("moot"))
    await publish(current, topics.VERDICTS, plan.superseding(mooted, "promote"), rate)
    await publish(current, topics.ACTIONS, appeals.outcomes(), rate)
    await appeals.until(current, "overturned", "milder", "upheld", "moot")
    return mooted


async def written(current):
    """How many records enforcement has written about what stands on items, and the ledger about authors."""
    ends = [await kafka.end_offsets(current, name) for name in (topics.STANDING, topics.AUTHOR_STANDING)]
    return [sum(one.values()) for one in ends]


async def kill_all(current, processes, options, publishing):
    """Kill both processes so many times, each time when both have written something since they were started."""
    chance = random.Random(options.seed)
    for number in range(options.kills):
        before, deadline = await written(current), time.monotonic() + STARTED_SECONDS
        while any(now <= then for now, then in zip(await written(current), before, strict=True)):
            assert time.monotonic() < deadline, f"nothing was written in {STARTED_SECONDS:g} s: publish more slowly"
            await asyncio.sleep(0.2)
        await asyncio.sleep(chance.uniform(0.0, 1.0))
        for process in processes:
            process.kill()
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            process.start()
        say(f"kill {number + 1} of {options.kills}, {'after' if publishing.done() else 'before'} the last verdict")


class Found:
    """What the topics and the receiver hold."""

    def __init__(self, standings, strikes, actions, statements, receiver):
        self.standings, self.strikes, self.actions, self.statements = standings, strikes, actions, statements
        self.had = {author: [one["action_id"] for one in had] for author, had in receiver.of_author.items()}

    @classmethod
    async def read(cls, current, receiver):
        table = await kafka.read_table(current, topics.AUTHOR_STANDING, AuthorStanding)
        strikes = [one async for _, one in kafka.read_decoded(current, [topics.STRIKES], Strike)]
        actions = [one async for _, one in kafka.read_decoded(current, [topics.AUTHOR_ACTIONS], AuthorAction)]
        said = [one async for _, one in kafka.read_decoded(current, [topics.STATEMENTS], StatementOfReasons)]
        statements = [one for one in said if one.content_id is None]
        return cls({one.author_id: one for one in table.values()}, strikes, actions, statements, receiver)

    def wrong(self, plan):
        """The authors whose standing is not that of the offline computation."""
        wanted, wrong = plan.strikes(), []
        for number in range(plan.authors):
            author = f"author {number}"
            standing = self.standings.get(author) or AuthorStanding(author, PARTITIONS)
            given = {one.strike_id: one.weight for one in standing.strikes if one.state == "given"}
            weight = sum(wanted[author].values())
            if (given, standing.weight, standing.action) != (wanted[author], weight, expected_action(weight)):
                wrong.append(author)
        return wrong

    def in_order(self):
        """The ids of the actions about each author, in the order in which they were written."""
        order = defaultdict(list)
        for one in self.actions:
            order[one.author_id].append(one.action_id)
        return order

    def repeated(self):
        """Records about strikes that say again what the one before said: something was written twice."""
        last, twice = {}, 0
        for one in self.strikes:
            said = (one.state, one.action_id, one.verdict_id)
            if one.state == "given" and last.get(one.strike_id) == said:
                twice += 1
            if one.state != "aged":
                last[one.strike_id] = said
        return twice

    def wrong_statements(self):
        """Statements about accounts that no action tells of, or that are there twice, and restrictions without one."""
        told = Counter(("issued", one.statement.statement_id) for one in self.actions if one.statement)
        told += Counter(("withdrawn", one.ends_statement) for one in self.actions if one.ends_statement)
        said = Counter((one.state, one.statement_id) for one in self.statements)
        wrong = sum(((told - said) + (said - told)).values()) + sum(count > 1 for count in said.values())
        holding = {name for state, name in said if state == "issued" and ("withdrawn", name) not in said}
        restricted = [one for one in self.standings.values() if one.action in ACCOUNT_RESTRICTIONS]
        wrong += len(holding ^ {one.statement.statement_id for one in self.standings.values() if one.statement})
        return wrong + sum(one.statement is None for one in restricted) + abs(len(holding) - len(restricted))

    def broken_chains(self):
        """Actions that do not begin with what the one before about the author ended with."""
        stands, broken = {}, 0
        for one in self.actions:
            broken += one.previous != stands.get(one.author_id, "none")
            stands[one.author_id] = one.action
        return broken

    def summary(self, plan, receiver):
        order = self.in_order()
        return {
            "authors": plan.authors,
            "strikes_that_count": sum(map(len, plan.strikes().values())),
            "records_about_strikes": len(self.strikes),
            "expired": sum(one.state == "aged" for one in self.strikes),
            "author_actions": len(self.actions),
            "wrong_standings": len(self.wrong(plan)),
            "statements": len(self.statements),
            "wrong_statements": self.wrong_statements(),
            "strikes_written_twice": self.repeated(),
            "broken_chains": self.broken_chains(),
            "action_ids_twice": len(self.actions) - len({one.action_id for one in self.actions}),
            "authors_out_of_order": sum(
                ids[: len(self.had[a])] != self.had[a] for a, ids in order.items() if a in self.had
            ),
            "not_delivered": sum(map(len, order.values())) - sum(map(len, self.had.values())),
            "messages_not_due": sum(author not in order for author in self.had),
            "requests": dict(receiver.requests),
        }


async def settled(current, plan, receiver, processes):
    """Wait until the standings are those of the offline computation and the receiver had all actions, or until nothing
    comes nearer to that any more.
    """
    deadline, before = time.monotonic() + TIMEOUT_SECONDS, None
    while True:
        for process in processes:
            assert process.process.poll() is None, f"{process.name} ended: {process.log.read_text()[-2000:]}"
        found = await Found.read(current, receiver)
        delivered, wrong = found.in_order() == found.had, found.wrong(plan)
        say(f"{len(found.strikes):,} records about strikes; {len(wrong)} authors are not where they will be")
        reached = len(found.strikes), len(wrong), sum(map(len, found.had.values()))
        if reached != before:
            deadline, before = time.monotonic() + TIMEOUT_SECONDS, reached
        if (not wrong and delivered) or time.monotonic() > deadline:
            await asyncio.sleep(2.0)  # whatever comes after that would be too much
            return await Found.read(current, receiver)
        await asyncio.sleep(3.0)


async def run(address, options, folder):
    current = settings.load(bootstrap=address, prefix=f"authors{os.getpid()}.", partitions=PARTITIONS)
    await kafka.create_topics(current)
    receiver, plan = Receiver(brokers.free_port(), 2 * TIMEOUT, options.seed, MOODS), Plan(options)
    (folder / "content.toml").write_text(RULES)
    (folder / "authors.toml").write_text(RULES + WEBHOOK.format(port=receiver.port, timeout=TIMEOUT))
    environment = {**os.environ, "SAFEGUARD_BOOTSTRAP": address, "SAFEGUARD_PREFIX": current.prefix}
    environment |= {"SAFEGUARD_WEBHOOK_SECRET": SECRET, "SAFEGUARD_GROUP_INSTANCE_ID": "one"}
    processes = [
        Process(
            name, [BIN / "safeguard", name, "run", folder / rules, "--port", str(brokers.free_port())], environment,
            folder,
        )
        for name, rules in (("enforce", "content.toml"), ("authors", "authors.toml"))
    ]  # fmt: skip
    publishing = asyncio.create_task(publish_all(current, plan, options))
    started = time.monotonic()
    try:
        await receiver.start()
        await kill_all(current, processes, options, publishing)
        await publishing
        found = await settled(current, plan, receiver, processes)
        summary = found.summary(plan, receiver) | await plan.appeals.summary(current)
    finally:
        publishing.cancel()
        for process in processes:
            process.process.kill()
        await receiver.stop()
    none = ("wrong_standings", "strikes_written_twice", "broken_chains", "action_ids_twice", "authors_out_of_order")
    none = (*none, "not_delivered", "messages_not_due", "wrong_statements", "wrong_appeals")
    none = (*none, "forged_without_one_letter")
    passed = not any(summary[name] for name in none) and summary["expired"] > 0 and summary["statements"] > 0
    for author in found.wrong(plan)[:5]:
        say(f"{author}: wanted {plan.strikes()[author]}, found {found.standings.get(author)}")
    kills = {"verdicts": options.verdicts, "kills_of_each": options.kills}
    return {**kills, **summary, "seconds": round(time.monotonic() - started), "passed": passed}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=50_000)
    parser.add_argument("--authors", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=5, help="number of times that each process is killed")
    parser.add_argument("--rate", type=float, default=1000.0, help="verdicts per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bootstrap", help="an existing broker")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safeguard-authors-")))
        address = options.bootstrap or brokers.addresses(stack.enter_context(brokers.kafka_cluster(1, "768m")))
        found = asyncio.run(run(address, options, folder))
        if not found["passed"]:
            for log in sorted(folder.glob("*.log")):
                print(f"--- end of {log.name}\n{log.read_text(errors='replace')[-3000:]}")
    print(json.dumps(found))
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
