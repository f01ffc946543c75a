"""Content items for measuring the reasoner: all of one length, either all different or with duplicates."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from safeguard_streams.bench.common import texts
from safeguard_streams.contract.records import ContentEvent, Escalation, Lane, PrefilterResult, encode, now
from safeguard_streams.operations.capacity import LOGGED
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.workers.inference import harmony

ITEM_TOKENS = 60  # length of each item
MAX_ANSWER_TOKENS = 512


class KeyValue(NamedTuple):
    """A record to publish."""

    key: bytes
    value: bytes


def at_once(places: int) -> int:
    """How many requests to have in progress at an engine that computes `places`: as many as the worker has."""
    return places + places // 4


def policies() -> list[Policy]:
    """The policies of the library."""
    return list(load_library().values())


def answer_lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    """Completion tokens of answers whose lengths spread as those of gpt-oss-safeguard-20b do."""
    draw = random.Random(seed)
    return [min(longest, round(LOGGED.at(draw.random()))) for _ in range(count)]


def policy_for(text: str, candidates: Sequence[Policy]) -> Policy:
    """The policy that judges an item. Equal items get the same policy."""
    return candidates[zlib.crc32(text.encode()) % len(candidates)]


def make_items(count: int, duplicates: float = 0.0, seed: int = 0) -> list[str]:
    """Make texts from those of the demo. A share `duplicates`, 0 to 1, repeats earlier items."""
    draw = random.Random(seed)
    pool = texts()
    items: list[str] = []
    distinct = set(draw.sample(range(1, count), count - 1 - round(count * duplicates))) | {0}
    for number in range(count):
        if number not in distinct:
            items.append(draw.choice(items))
            continue
        tokens: list[int] = []
        while len(tokens) < ITEM_TOKENS:
            tokens += harmony.encode_text(draw.choice(pool) + " ")
        items.append(harmony.decode_tokens(tokens[:ITEM_TOKENS]).replace("\ufffd", ""))
    return items


def escalations(items: Sequence[str], lane: Lane, name: str, replay_id: str | None = None) -> list[KeyValue]:
    """Escalations of items; `name` begins their content ids, which are the keys."""
    candidates = policies()
    result = PrefilterResult("everything")
    records = []
    for number, text in enumerate(items):
        policy, content_id = policy_for(text, candidates), f"{name}-{number}"
        event = ContentEvent(content_id, text, now())
        escalation = Escalation(event, policy.id, policy.version, 1, result, lane, now(), replay_id=replay_id)
        records.append(KeyValue(content_id.encode(), encode(escalation)))
    return records
