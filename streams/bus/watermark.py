"""Which records of a partition are done when they finish in any order, and how a commit remembers it.

Offsets are taken in rising order and may have gaps. The watermark is the lowest taken offset that is not done, or one
past the last taken. A commit stores it as its position, and the done offsets above it in its metadata:

    offset      40    41    42    43    44    45    46    47    48
    state       done  done  -     done  -     done  done  -     not taken yet
                            ^ watermark = 42: the committed offset

    bitmap                  0     1     0     1     1           bit n stands for offset 42 + n, lowest bit first
    metadata    the bytes of the bitmap in zlib, then base85; "" when no bit is set

The next owner reads from 42 on, processes 42, 44 and 47, and passes over 43, 45 and 46. Metadata of another origin
counts as an empty set: work is then repeated, and none is lost.

Kafka stores at most 4,096 bytes of metadata. `room` keeps work within SPAN offsets of the watermark, and the bitmap of
16,384 offsets takes 2,048 bytes, or 2,560 in base85 even if zlib saves nothing.
"""

from __future__ import annotations

import base64
import zlib
from collections import deque
from collections.abc import Iterable

SPAN = 16_384  # offsets


class Watermark:
    """Tracks one partition from a committed position on; offset None: from the first offset that is taken."""

    def __init__(self, offset: int | None, metadata: str = "") -> None:
        self._next = offset
        self._pending: deque[int] = deque()
        self._done: set[int] = unpack(offset, metadata) if offset is not None else set()

    @property
    def position(self) -> int | None:
        """The lowest taken offset that is not done, or one past the last taken; None before anything was taken."""
        return self._pending[0] if self._pending else self._next

    @property
    def metadata(self) -> str:
        """The completed set above the position, at most 4,096 bytes."""
        return self.with_done(())[1]

    @property
    def ahead(self) -> int:
        """How many offsets above the position are done."""
        position = self.position
        return 0 if position is None else sum(offset > position for offset in self._done)

    def room(self, offset: int) -> bool:
        """Whether this offset may be taken without running more than SPAN ahead of the watermark."""
        return not self._pending or offset - self._pending[0] < SPAN

    def take(self, offset: int) -> bool:
        """Take the next offset. Returns False when it was taken already or an earlier owner has done it."""
        if self._next is not None and offset < self._next:
            return False
        self._pending.append(offset)
        self._next = offset + 1
        if offset in self._done:
            self.complete(())
            return False
        return True

    def with_done(self, offsets: Iterable[int]) -> tuple[int | None, str]:
        """Position and metadata as they are once these taken offsets are done, too. Changes nothing."""
        done = self._done.union(offsets)
        position = next((offset for offset in self._pending if offset not in done), self._next)
        return position, pack(position, done) if position is not None else ""

    def complete(self, offsets: Iterable[int]) -> None:
        """Mark taken offsets as done, and move the watermark over those that are done."""
        self._done.update(offsets)
        pending, done = self._pending, self._done
        while pending and pending[0] in done:
            done.discard(pending.popleft())


def pack(position: int, done: Iterable[int]) -> str:
    """The metadata for the done offsets from `position` on; empty when there are none."""
    ahead = [offset - position for offset in done if offset >= position]
    if not ahead:
        return ""
    raw = bytearray(max(ahead) // 8 + 1)
    for distance in ahead:
        raw[distance // 8] |= 1 << distance % 8
    return base64.b85encode(zlib.compress(raw, 1)).decode()


def unpack(position: int, metadata: str) -> set[int]:
    """The inverse of pack; an empty set for metadata of another origin."""
    if not metadata:
        return set()
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b85decode(metadata), SPAN // 8 + 1)
    except (ValueError, zlib.error):
        return set()
    return {position + 8 * i + bit for i, byte in enumerate(raw) if byte for bit in range(8) if byte >> bit & 1}
