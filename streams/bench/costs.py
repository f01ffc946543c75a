"""Texts by kind and length, and what work on one costs: time, and peak memory of this process."""

from __future__ import annotations

import base64
import hashlib
import random
import resource
import time
from collections.abc import Callable

import msgspec

from safeguard_streams.bench.common import texts
from safeguard_streams.contract.limits import KiB

REPEATS = 0.2  # seconds for which a text is measured again and again


class Cost(msgspec.Struct, frozen=True):
    """Microseconds for one text, and MiB of memory above what the process needed before."""

    us: float
    mib: float


def _posts(size: int) -> str:
    return " ".join(texts() * (1 + size // 10_000))


def _drawn(first: int, last: int) -> Callable[[int], str]:
    return lambda size: "".join(chr(random.randint(first, last)) for _ in range(size // 2))


def _hashes(size: int) -> str:
    return " ".join(hashlib.sha256(str(random.random()).encode()).hexdigest() for _ in range(1 + size // 65))


def _data_uri(size: int) -> str:
    return "data:image/png;base64," + base64.b64encode(random.randbytes(size * 3 // 4)).decode()


KINDS: dict[str, Callable[[int], str]] = {
    "posts": _posts,
    "new words": lambda size: " ".join(f"{random.getrandbits(40):x}" for _ in range(1 + size // 10)),
    "hashes": _hashes,
    "data URI": _data_uri,
    "CJK": _drawn(0x4E00, 0x9FFF),
    "Cyrillic": _drawn(0x0430, 0x044F),
    "emoji": lambda size: "\U0001f600\u200d" * (size // 7),
    "spaced": lambda size: "a b " * (size // 4),
    "stretched": lambda size: "a" * size,
    "marks": lambda size: "a." * (size // 2),
    "brackets": lambda size: "[" * size,
}


def text_of(kind: str, size: int) -> str:
    """A text of this kind with about so many bytes in UTF-8, the same every time."""
    random.seed(kind)
    return KINDS[kind](size).encode()[:size].decode(errors="ignore")


def cost(work: Callable[[str], object], text: str) -> Cost:
    """Time and memory of the work on a text, after the work has been done on another one."""
    work("a text to warm up")
    before = _peak()
    started = time.perf_counter()
    work(text)
    seconds, runs = time.perf_counter() - started, 1
    memory = _peak() - before
    while seconds < REPEATS:
        work(f"{text} {runs}")
        seconds, runs = time.perf_counter() - started, runs + 1
    return Cost(round(seconds / runs * 1e6, 1), round(memory, 1))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KiB
