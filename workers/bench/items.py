"""The contents that the reasoner is measured on: of a length, each its own or with some that repeat others."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

from safeguard_streams.bench.common import texts
from safeguard_streams.contract.records import ContentEvent, Escalation, Lane, PrefilterResult, encode, now
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.workers.judging import prompt

LENGTH = 60  # tokens of each content
ANSWER = 512  # tokens, at most


def policies() -> list[Policy]:
    """The library's."""
    return list(load_library().values())


def under(text: str, among: Sequence[Policy]) -> Policy:
    """The policy that a content is judged by; equal contents by the same."""
    return among[zlib.crc32(text.encode()) % len(among)]


def contents(count: int, duplicates: float = 0.0, seed: int = 0) -> list[str]:
    """So many contents made of the demo's texts; of these the share `duplicates`, 0 to 1, repeats an earlier one."""
    draw = random.Random(seed)
    pool = texts()
    made: list[str] = []
    fresh = set(draw.sample(range(1, count), count - 1 - round(count * duplicates))) | {0}
    for number in range(count):
        if number not in fresh:
            made.append(draw.choice(made))
            continue
        tokens: list[int] = []
        while len(tokens) < LENGTH:
            tokens += prompt.encode(draw.choice(pool) + " ")
        made.append(prompt.decode(tokens[:LENGTH]).replace("\ufffd", ""))
    return made


def escalations(made: Sequence[str], lane: Lane, name: str, replay_id: str | None = None) -> list[tuple[bytes, bytes]]:
    """Keys and values of escalations."""
    among = policies()
    result = PrefilterResult("everything")
    records = []
    for number, text in enumerate(made):
        policy, key = under(text, among), f"{name}-{number}"
        event = ContentEvent(key, text, now())
        escalation = Escalation(event, policy.id, policy.version, 1, result, lane, now(), replay_id=replay_id)
        records.append((key.encode(), encode(escalation)))
    return records
