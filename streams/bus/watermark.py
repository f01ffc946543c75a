"""Which records of a partition are done, when they finish in any order, and how to remember it in a commit.

Invariants: offsets are delivered in rising order, with gaps; `watermark` is the lowest delivered offset that is
not done, or one past the last delivered; what is done at or above the watermark fits the commit's metadata,
because `room` keeps delivery within SPAN offsets of the watermark.
"""

from __future__ import annotations

import base64
import zlib
from collections import deque
from collections.abc import Iterable

SPAN = 16_384  # offsets; as a bitmap 2,048 bytes, in base85 2,560: below the broker's limit of 4,096 in any case


class Watermark:
    """Tracks one partition from a committed position on (offset None: from wherever delivery begins)."""

    def __init__(self, offset: int | None, metadata: str = "") -> None:
        self._base = offset
        self._next = offset
        self._pending: deque[int] = deque()
        self._done: set[int] = unpack(offset, metadata) if offset is not None else set()

    @property
    def position(self) -> int | None:
        """The offset to commit; None before anything was delivered."""
        return self._pending[0] if self._pending else self._next

    @property
    def metadata(self) -> str:
        """The completed set above the position, at most 4,096 bytes."""
        position = self.position
        return pack(position, self._done) if position is not None else ""

    def room(self, offset: int) -> bool:
        """Whether this offset may be started without running too far ahead of the watermark."""
        return not self._pending or offset - self._pending[0] < SPAN

    def take(self, offset: int) -> bool:
        """Take the next offset into account. False when it is not to be done: delivered already, or done by an earlier
        owner.
        """
        if self._next is not None and offset < self._next:
            return False
        self._pending.append(offset)
        self._next = offset + 1
        if offset in self._done:
            self.complete(())
            return False
        return True

    def complete(self, offsets: Iterable[int]) -> None:
        """Mark delivered offsets as done; the watermark moves over what is done."""
        self._done.update(offsets)
        pending, done = self._pending, self._done
        while pending and pending[0] in done:
            done.discard(pending.popleft())

    @property
    def waiting(self) -> int:
        """Delivered and not yet below the watermark."""
        return len(self._pending)


def pack(position: int, done: Iterable[int]) -> str:
    """Bitmap of the done offsets from `position` on, compressed, in base85; empty when there are none."""
    bits = 0
    for offset in done:
        if offset >= position:
            bits |= 1 << (offset - position)
    if not bits:
        return ""
    raw = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return base64.b85encode(zlib.compress(raw, 1)).decode()


def unpack(position: int, metadata: str) -> set[int]:
    """The inverse of pack. Metadata of another origin is taken as an empty set: work is repeated, none is lost."""
    if not metadata:
        return set()
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b85decode(metadata), SPAN // 8 + 1)
    except (ValueError, zlib.error):
        return set()
    return {position + 8 * i + bit for i, byte in enumerate(raw) if byte for bit in range(8) if byte >> bit & 1}
