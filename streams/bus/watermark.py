"""Which records of a partition are done when they finish in any order, and how a commit remembers it.

Offsets are taken in rising order and may have gaps. The watermark is the lowest taken offset that is not done, or one
past the last taken. A commit stores it as its position, and the done offsets above it in its metadata:

    offset      40    41    42    43    44    45    46    47    48
    state       done  done  -     done  -     done  done  -     not taken yet
                            ^ watermark = 42: the committed offset

    bitmap                  0     1     0     1     1           bit n stands for offset 42 + n, lowest bit first
    metadata    the bytes of the bitmap in zlib, then the tag, in base85; "" when no bit is set and there is no tag

The next owner reads from 42 on, processes 42, 44 and 47, and passes over 43, 45 and 46. Metadata of another origin
counts as an empty set: work is then repeated, and none is lost.

Within one log, positions and completed sets only grow. A position that is read back therefore says whether a commit
took place, and whether another owner has committed since. After a reset the numbers come again, hence the tag: 8 random
bytes, drawn at each reset, that all later commits carry on.

Kafka stores at most 4,096 bytes of metadata. `ceiling` keeps work within SPAN offsets of the watermark. The bitmap of
16,384 offsets takes 2,048 bytes, or 2,560 in base85 even if zlib saves nothing.
"""

from __future__ import annotations

import base64
import math
import os
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

SPAN = 16_384  # offsets
_TAG = 8  # bytes


class Watermark:
    """Tracks one partition from a committed position on; offset None: from the first offset that is taken."""

    def __init__(self, offset: int | None, metadata: str = "") -> None:
        self._next = offset
        self._pending: deque[int] = deque()
        self._done: set[int] = unpack(offset, metadata) if offset is not None else set()
        self._tag = log_tag(metadata)

    def draw_tag(self) -> None:
        """Tell the commits from now on apart from all earlier ones."""
        self._tag = os.urandom(_TAG)

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

    @property
    def last_done(self) -> int:
        """The last offset that is done above the position, -1 if none is."""
        return max(self._done, default=-1)

    @property
    def ceiling(self) -> float:
        """The offset from which on a taken one would run more than SPAN ahead of the watermark."""
        return self._pending[0] + SPAN if self._pending else math.inf  # inf: the next offset may be any

    def take_all(self, offsets: Sequence[int]) -> Sequence[int]:
        """Take the next offsets, and return those that were not taken already and that no earlier owner has done."""
        if offsets and not self._done and (self._next is None or offsets[0] >= self._next):
            self._pending.extend(offsets)
            self._next = offsets[-1] + 1
            return offsets
        return [offset for offset in offsets if self._take(offset)]

    def _take(self, offset: int) -> bool:
        if self._next is not None and offset < self._next:
            return False
        self._pending.append(offset)
        self._next = offset + 1
        if offset in self._done:
            self.complete(())
            return False
        return True

    def with_done(self, offsets: Sequence[int]) -> tuple[int | None, str]:
        """Position and metadata as they are once these taken offsets are done, too. Changes nothing."""
        done: set[int] = set()
        if self._leads(offsets):
            position = self._pending[len(offsets)] if len(offsets) < len(self._pending) else self._next
        else:
            done = self._done.union(offsets)
            position = next((offset for offset in self._pending if offset not in done), self._next)
        return position, pack(position, done, self._tag) if position is not None else ""

    def complete(self, offsets: Sequence[int]) -> None:
        """Mark taken offsets as done, and move the watermark over those that are done."""
        pending, done = self._pending, self._done
        if self._leads(offsets):
            for _ in offsets:
                pending.popleft()
            return
        done.update(offsets)
        while pending and pending[0] in done:
            done.discard(pending.popleft())

    def _leads(self, offsets: Sequence[int]) -> bool:
        """Whether these are the first pending offsets, and nothing else is done: as calls in order finish."""
        return not self._done and [*islice(self._pending, len(offsets))] == offsets


def pack(position: int, done: Iterable[int], tag: bytes = b"") -> str:
    """The metadata for the done offsets from `position` on; empty when there are none and no tag."""
    ahead = [offset - position for offset in done if offset >= position]
    if not ahead and not tag:
        return ""
    raw = bytearray(max(ahead, default=-1) // 8 + 1)
    for distance in ahead:
        raw[distance // 8] |= 1 << distance % 8
    return base64.b85encode(zlib.compress(raw, 1) + tag).decode()


def unpack(position: int, metadata: str) -> set[int]:
    """The done offsets that `pack` stored; an empty set for metadata of another origin."""
    raw, _ = _unpacked(metadata)
    return {position + 8 * i + bit for i, byte in enumerate(raw) if byte for bit in range(8) if byte >> bit & 1}


def log_tag(metadata: str) -> bytes:
    """The tag that `pack` stored; empty before any reset."""
    return _unpacked(metadata)[1]


def _unpacked(metadata: str) -> tuple[bytes, bytes]:
    """The bitmap and the tag; both empty for metadata of another origin."""
    if not metadata:
        return b"", b""
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b85decode(metadata), SPAN // 8 + 1)
    except (ValueError, zlib.error):
        return b"", b""
    return raw, inflater.unused_data[:_TAG]
