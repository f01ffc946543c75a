"""What a stage of the pipeline is for the engine: a transform from records to outputs, with state for each partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from safeguard_streams.bus.interface import Output, Partition, Record

Process = Callable[[Sequence[Record]], Awaitable[Sequence[Output]]]


class Transform(Protocol):
    """Records in, outputs out. It knows nothing of offsets, commits or writers.

    For each ownership of a partition the engine calls `opened`, then `process` any number of times, then `closed`. The next
    ownership of the partition in this process begins after that, so state kept by partition belongs to one ownership.
    """

    async def opened(self, partition: Partition) -> None:
        """Restore the state of a partition.

        The partition is owned, and every earlier writer of it is fenced: what they wrote is all there is. No record of the
        partition is processed before this returns. An error ends the engine. The call is cancelled when the partition is
        lost meanwhile.
        """

    async def process(self, records: Sequence[Record]) -> Sequence[Output]:
        """The outputs of some records of one partition, to be committed together with the fact that these are done.

        After an error, the engine calls again with each half of the records, until the failing one is alone. That one is
        retried, then written to the dead letters. A DependencyError ends the engine instead. The call is cancelled when the
        partition is lost and its time to finish is over. In both cases the same records come again, here or in another
        process, so a call must be safe to rerun.
        """

    def closed(self, partition: Partition) -> None:
        """Drop the state of a partition: nothing more will be committed for it.

        Called once for each ownership, also where `opened` failed, was cancelled or had not begun. Calls of `process` that
        were under way have been cancelled.
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
