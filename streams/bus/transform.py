"""What the engine asks of a stage: a transform from records to outputs, with state for each partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from safeguard_streams.bus.interface import Output, Partition, Record

Process = Callable[[Sequence[Record]], Awaitable[Sequence[Output]]]


class Transform(Protocol):
    """Makes outputs from records. It knows nothing about offsets, commits or writers.

    For each ownership of a partition, the engine calls `opened`, then `process` any number of times, then `closed`. The
    next ownership of that partition in this process begins after `closed`. State kept by partition therefore belongs to
    one ownership.
    """

    async def opened(self, partition: Partition) -> None:
        """Restore the state of a partition.

        The partition is owned and every earlier writer of it is fenced. Everything that they wrote can be read. No
        record of the partition is processed before this returns. An error ends the engine. The engine cancels the call
        if the partition is lost.
        """

    async def process(self, records: Sequence[Record]) -> Sequence[Output]:
        """The outputs of some records of one partition, in their order.

        The engine commits the outputs together with the fact that the records are done. After an error, it calls
        again with each half of the records until the failing record is alone. It retries that record, then writes it
        to the dead letters. A DependencyError ends the engine instead. The engine cancels a call when the partition
        is lost and drain_timeout is over.

        In all these cases the same records come again, here or in another process. A call must be safe to rerun.
        """

    def closed(self, partition: Partition) -> None:
        """Drop the state of a partition: nothing more will be committed for it.

        Called once for each ownership, even if `opened` failed, was cancelled or had not begun. Calls of `process` in
        progress have been cancelled. An error ends the engine.
        """


def stateless(function: Process) -> Transform:
    """A transform without state, which processes records by a function."""
    return _Stateless(function)


class _Stateless:
    def __init__(self, function: Process) -> None:
        self._function = function

    async def opened(self, _: Partition) -> None:
        return

    async def process(self, records: Sequence[Record]) -> Sequence[Output]:
        return await self._function(records)

    def closed(self, _: Partition) -> None:
        return
