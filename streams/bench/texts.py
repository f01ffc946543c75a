"""What a text costs by its kind and length: time and peak memory of the prefilter's decision and of the prompt.

Each measurement runs in a process of its own, because a process never forgets its peak memory. The module of a
measurement prints one `Cost` as JSON: python -m MODULE KIND BYTES.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from safeguard_streams.bench.common import Say, texts
from safeguard_streams.bench.costs import KINDS, Cost, cost, text_of
from safeguard_streams.contract import topics
from safeguard_streams.contract.limits import EVENT_BYTES, KiB, MiB

SHORT = 300  # bytes
SIZES = (SHORT, 16 * KiB, MiB, EVENT_BYTES - KiB)  # the last with room for the other fields of an event
SECONDS = 120  # a measurement that takes longer has no figures
# The prompt's libraries are those of the reasoner, which a prefilter's host may lack.
MEASURED = {"prefilter": "safeguard_streams.bench.texts", "prompt": "safeguard_streams.workers.bench.texts"}


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
                row[f"{part}_us"], row[f"{part}_mib"] = (found.us, found.mib) if found else (None, None)
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
