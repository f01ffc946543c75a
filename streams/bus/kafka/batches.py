"""Batches to write whose headers may have names of any bytes, so that a requeue restores the original to the byte.

aiokafka's fast builder takes only names that are UTF-8. Its builder in Python serves for the rare batch with others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from safeguard_streams.bus.interface import Output
from safeguard_streams.bus.kafka.clients import PRODUCER_OPTIONS
from safeguard_streams.contract.records import Headers


def new_batch(producer: AIOKafkaProducer, *, any_names: bool) -> BatchBuilder:
    """An empty batch that can take outputs by `append`; any_names: also those with header names of any bytes."""
    if not any_names:
        return producer.create_batch()
    manager = producer._txn_manager
    return _AnyNameBatch(transactional=manager is not None and manager.transactional_id is not None)


def have_utf8_names(outputs: Iterable[Output]) -> bool:
    """Whether aiokafka's own builder takes the names of all headers."""
    distinct = {id(output.headers): output.headers for output in outputs}.values()  # most outputs share theirs
    return all(map(_is_utf8, {name for headers in distinct for name, _ in headers}))


def append(batch: BatchBuilder, output: Output) -> bool:
    """Add an output to a batch, and return whether it had room."""
    headers = [*output.headers]
    return batch.append(key=output.key, value=output.value, timestamp=None, headers=headers) is not None


class _AnyNameBatch(BatchBuilder):
    def __init__(self, *, transactional: bool) -> None:
        size = PRODUCER_OPTIONS["max_batch_size"]
        super().__init__(size, 0, is_transactional=transactional)
        self._builder: Any = _DefaultRecordBatchBuilderPy(2, 0, transactional, -1, -1, 0, size)

    def append(self, *, headers: Headers, **fields: Any) -> Any:
        return super().append(headers=[(_Name(name), value) for name, value in headers], **fields)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._builder.set_producer_state(producer_id, producer_epoch, base_sequence)


class _Name(str):
    """A header's name whose surrogates are bytes that were not UTF-8 (PEP 383)."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return super().encode(errors="surrogateescape")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
