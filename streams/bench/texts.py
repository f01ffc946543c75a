"""What a text costs by its kind and length: time and peak memory of the prefilter's decision and of the prompt.

Each measurement runs in a process of its own, because a process never forgets its peak memory. The module of a
measurement prints one `Cost` as JSON: python -m MODULE KIND BYTES.
"""

from __future__ import annotations

import base64
import hashlib
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from safeguard_streams.bench.common import Say, texts
from safeguard_streams.contract import topics
from safeguard_streams.contract.limits import EVENT_BYTES, KiB, MiB

SHORT = 300  # bytes
SIZES = (SHORT, 16 * KiB, MiB, EVENT_BYTES - KiB)  # the last with room for the other fields of an event
SECONDS = 120  # a measurement that takes longer has no figures
REPEATS = 0.2  # seconds for which a text is measured again and again
# The prompt's libraries are those of the reasoner, which a prefilter's host may lack.
MEASURED = {"prefilter": "safeguard_streams.bench.texts", "prompt": "safeguard_streams.workers.bench.texts"}


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


def measured(module: str, kind: str, size: int) -> Cost | None:
    """A measurement in a process of its own; None if it takes too long, or cannot run on this host."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", module, kind, str(size)], capture_output=True, timeout=SECONDS, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return msgspec.json.decode(child.stdout, type=Cost)


def measure(sizes: Iterable[int], say: Say) -> dict[str, Any]:
    """The costs by kind and size. A measurement without a figure has none."""
    variants = {}
    for size in sizes:
        for kind in KINDS:
            name = f"{kind}, {_shown(size)}"
            row: dict[str, float | None] = {}
            for part, module in MEASURED.items():
                found = measured(module, kind, size)
                row |= {f"{part}_us": found and found.us, f"{part}_mib": found and found.mib}
            say(f"{name}: {row}")
            variants[name] = row
    for part in MEASURED:
        if all(row[f"{part}_us"] is None for row in variants.values()):
            for row in variants.values():
                del row[f"{part}_us"], row[f"{part}_mib"]
    return {"variants": variants}


def _shown(size: int) -> str:
    unit, name = (MiB, "MiB") if size >= MiB else (KiB, "KiB") if size >= KiB else (1, "bytes")
    return f"{round(size / unit):,} {name}"


def _decision() -> Callable[[str], object]:
    from safeguard_streams.bench import policies
    from safeguard_streams.bench.prefilter import event
    from safeguard_streams.bench.variants import prefilter_under
    from safeguard_streams.runtime.memory_broker import StoredRecord

    prefilter = prefilter_under(policies.generate(texts()))
    return lambda text: prefilter.decide([StoredRecord(topics.EVENTS, 0, 0, 0, *event(0, text))])


if __name__ == "__main__":
    print(msgspec.json.encode(cost(_decision(), text_of(sys.argv[1], int(sys.argv[2])))).decode())
