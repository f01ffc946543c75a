"""The writer of an owned partition: opened with retries, and replaced after a failed commit.

After a failed commit its outcome is unknown. A new writer fences the old one, and the position that it then reads is
final. `reopen` returns that position, and the partition worker compares it with the requested one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from safeguard_streams.bus.interface import Bus, Committed, Output, Partition, Writer
from safeguard_streams.errors import BusError, FencedError, OutputRefusedError

log = logging.getLogger(__name__)

_FENCED_FACTOR = 5  # a fenced process learns from its next heartbeats whether the partition is still its own


class OwnedWriter:
    """Opens, uses and replaces the bus's writer of one partition. Times are in seconds."""

    def __init__(self, bus: Bus, partition: Partition, *, commit_timeout: float, reopen_delay: float) -> None:
        self._bus = bus
        self._partition = partition
        self._commit_timeout = commit_timeout
        self._reopen_delay = reopen_delay
        self._writer: Writer | None = None

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    async def open(self) -> Committed:
        """Become the partition's only writer and return the committed position. Retries until it works."""
        while True:
            writer = None
            try:
                writer = await self._bus.writer(self._partition)
                committed = await writer.committed()
                self._writer = writer
                return committed
            except BusError as error:
                log.warning("writer not opened, retrying partition=%s error=%s", self._partition, error)
            finally:
                if writer is not None and writer is not self._writer:
                    await writer.close()
            await asyncio.sleep(self._reopen_delay)

    async def commit(self, outputs: Sequence[Output], position: Committed) -> None:
        """Write outputs and position. Raises BusError or TimeoutError where the outcome is unknown: then `reopen`."""
        assert self._writer is not None
        assert position.offset is not None
        async with asyncio.timeout(self._commit_timeout):
            await self._writer.commit(outputs, position.offset, position.metadata)

    async def reopen(self, error: Exception) -> Committed:
        """Replace the writer after a commit failed with this error, and return the position that is final now."""
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        await asyncio.sleep(self._delay_after(error))
        return await self.open()

    def _delay_after(self, error: Exception) -> float:
        if isinstance(error, OutputRefusedError):
            return 0.0  # the broker is well
        return self._reopen_delay * (_FENCED_FACTOR if isinstance(error, FencedError) else 1)

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()
