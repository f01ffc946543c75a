"""The console: how fast records are projected into its database, and how fast its pages answer on what is there.

The records are those of a deployment over the last 30 days, with the demo's texts. The pages are asked of a process of
`safeguard console serve` over HTTP, one request after the other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
import msgspec
import sqlalchemy as sa

from safeguard_streams.bench import processes
from safeguard_streams.bench.common import Say, texts
from safeguard_streams.bus.interface import Record
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.store import Store
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    ContentEvent,
    Escalation,
    PolicyStanding,
    PrefilterResult,
    Standing,
    Tokens,
    Verdict,
    encode,
    now,
)
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.infra.brokers import free_port

DAYS = 30
REQUESTS = 60  # of each page; the console allows a person 300 a minute
_BATCH = 5_000
_STAGE = 100_000  # records between two lines of progress
_IN_REVIEW = 20  # of so many acted items, one waits
_POLICIES = ("hate-harassment", "fraud-spam", "violence", "self-harm", "sexual-content")
_RULES = 6  # of each policy
_AUTHORS = 20_000
_DECISIONS = ("violates", "violates", "violates", "safe", "safe", "safe", "safe", "undetermined")


class _Read(NamedTuple):
    """A record as a consumer returns it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Deployment:
    """Records about `items` content items, with one or two verdicts each, and actions on some."""

    def __init__(self, verdicts: int, actions: int) -> None:
        self.verdicts, self.actions, self.items = verdicts, actions, max(1, verdicts // 2)
        self._chance = random.Random(1)
        self._texts = texts()
        self._began = now() - timedelta(days=DAYS)

    def records(self) -> Mapping[str, Iterator[Record]]:
        """The records of each topic, in the order in which a topic holds them."""
        return {
            topics.ESCALATIONS: self._read(topics.ESCALATIONS, self.items, self._escalation),
            topics.VERDICTS: self._read(topics.VERDICTS, self.verdicts, self._verdict),
            topics.ACTIONS: self._read(topics.ACTIONS, self.actions, self._action),
            topics.STANDING: self._read(topics.STANDING, self.actions // _IN_REVIEW, self._standing),
        }

    def word(self) -> str:
        """A word of some text."""
        return max(self._chance.choice(self._texts).split() or ["word"], key=len)

    def item(self) -> str:
        """The id of some item."""
        return f"item-{self._chance.randrange(self.items)}"

    def _read(self, topic: str, count: int, make: Callable[[int], msgspec.Struct]) -> Iterator[Record]:
        for number in range(count):
            yield _Read(topic, 0, number, int(self._began.timestamp() * 1000), None, encode(make(number)))

    def _at(self, number: int, count: int) -> datetime:
        return self._began + timedelta(days=DAYS) * (number / count)

    def _escalation(self, number: int) -> Escalation:
        at, chance = self._at(number, self.items), self._chance
        text = f"{chance.choice(self._texts)} {number}"
        author = f"author-{int(_AUTHORS * chance.random() ** 3)}"  # a few write most
        event = ContentEvent(f"item-{number}", text, at, author, chance.choice(("comment", "post")), "en")
        return Escalation(event, _policy(number), "v1", 1, _GATE, "live", at, origin=f"0@{number}")

    def _verdict(self, number: int) -> Verdict:
        item, chance = number % self.items, self._chance
        decision, policy = chance.choice(_DECISIONS), _policy(item if number < self.items else item + 1)
        rules = (f"{policy[:2].upper()}{chance.randrange(_RULES)}",) if decision == "violates" else ()
        return Verdict(
            _verdict_id(number),
            f"item-{item}",
            f"{item:064x}",
            policy,
            "v1",
            decision,  # type: ignore[arg-type]  # one of _DECISIONS
            "reasoner",
            "live",
            "gpt-oss-safeguard-20b",
            self._at(item, self.items) + timedelta(seconds=2),
            rules,
            chance.random(),
            reason="One sentence that says which words break which rule.",
            prefilter=_GATE,
            tokens=Tokens(900, 800, 60),
            latency={"prefilter": 1.5, "queue": 120.0, "reason": 800.0},
            surface="comment",
            origin=f"0@{item}",
        )

    def _action(self, number: int) -> Action:
        item = number * self.items // self.actions
        policy = _policy(item)
        at = self._at(number, self.actions) + timedelta(seconds=3)
        given: dict[str, Any] = {"policy_id": policy, "effective": "remove", "rule": "all", "sequence": number}
        return Action(f"action-{number}", f"item-{item}", "remove", at, verdict_id=_verdict_id(item), **given)

    def _standing(self, number: int) -> Standing:
        item = number * self.items * _IN_REVIEW // max(1, self.actions)
        at = self._at(item, self.items)
        policy = PolicyStanding(_policy(item), action="review", at=at, decision="undetermined", rule="unsure")
        return Standing(f"item-{item}", "review", 1, (policy,))


_GATE = PrefilterResult("label", "hate", 0.71, 0.2)


def _verdict_id(number: int) -> str:
    """Different for each number, and in no order, as hashes are: rows do not go to the end of an index."""
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def _policy(number: int) -> str:
    return _POLICIES[number % len(_POLICIES)]


async def console(database: str, deployment: Deployment, folder: Path, say: Say) -> dict[str, Any]:
    """Project a deployment into an empty database, and ask the pages. Raises ConfigurationError if it is not empty."""
    engine = engine_of(database)
    try:
        if sa.inspect(engine).get_table_names():
            raise ConfigurationError("--database: has tables already; name an empty database, which this fills")
        rates = _project(Store(engine, text_days=2 * DAYS), deployment, say)
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
        pages = await _pages(database, deployment, folder, say)
    finally:
        engine.dispose()
    return {"variants": pages, "counts": {f"{name}_per_second": round(rate) for name, rate in rates.items()}}


def _project(store: Store, deployment: Deployment, say: Say) -> dict[str, float]:
    """Records of each topic that were projected in a second. Making them is not part of it."""
    store.open()
    rates = {}
    for topic, records in deployment.records().items():
        seconds, count = 0.0, 0
        while batch := list(islice(records, _BATCH)):
            began = time.perf_counter()
            store.apply(batch)
            seconds, count = seconds + time.perf_counter() - began, count + len(batch)
            if count % _STAGE == 0:
                say(f"{count:,} records of {topic} projected, {count / seconds:,.0f} a second")
        name = topic.rpartition(".")[2]
        rates[name] = count / seconds if seconds else 0.0
        say(f"{count:,} records of {topic} projected in {seconds:.1f} s")
    return rates


async def _pages(database: str, deployment: Deployment, folder: Path, say: Say) -> dict[str, dict[str, float]]:
    port, log = free_port(), folder / "console.log"
    variables = {"SAFEGUARD_CONSOLE_DATABASE": database, "SAFEGUARD_HOST": "127.0.0.1"}
    command = processes.safeguard("console", "serve", "--no-project", "--port", str(port))
    asked: dict[str, Callable[[], str]] = {
        "overview": lambda: "/",
        "queue": lambda: "/queue",
        "item": lambda: "/item?" + urlencode({"id": deployment.item()}),
        "search by word": lambda: "/search?" + urlencode({"words": deployment.word()}),
    }
    with processes.process(command, variables, log) as child:
        await processes.ready(child, f"http://127.0.0.1:{port}/health/live", "console serve", log)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            return {name: await _timed(http, name, url, say) for name, url in asked.items()}


async def _timed(http: aiohttp.ClientSession, name: str, url: Callable[[], str], say: Say) -> dict[str, float]:
    """Milliseconds until a page is there, as percentiles."""
    times = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        async with http.get(url()) as response:
            await response.read()
            if response.status != 200:
                raise SafeguardError(f"the page {name} answered with status {response.status}")
        times.append(1000 * (time.perf_counter() - began))
    times.sort()
    say(f"{REQUESTS} requests of the page {name}")
    return {"p50_ms": round(times[REQUESTS // 2], 1), "p95_ms": round(times[int(REQUESTS * 0.95)], 1)}
