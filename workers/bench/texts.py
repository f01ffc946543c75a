"""The cost of a prompt, for `safeguard bench texts`: python -m safeguard_streams.workers.bench.texts KIND BYTES."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from safeguard_streams.bench.costs import cost, text_of
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.reasoner import MAX_WINDOWS

WINDOW_TOKENS = 4096


def _prompt(text: str) -> prompt.Windows:
    return asyncio.run(prompt.windows_of(text, (), WINDOW_TOKENS, MAX_WINDOWS))


if __name__ == "__main__":
    print(msgspec.json.encode(cost(_prompt, text_of(sys.argv[1], int(sys.argv[2])))).decode())
