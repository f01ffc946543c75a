"""Takes apart what a fetch returned, batch by batch, so that one bad record or batch costs only that.

aiokafka's own reader raises at the first record that it cannot decode, and its position then stays before it.
Here, such a batch is read again record by record: header names that are not UTF-8 keep their bytes (PEP 383), and what
cannot be read at all becomes an `UnreadableRecord` with its place and its bytes.

A batch is decompressed up to LARGEST_BATCH bytes, because a few kilobytes can decompress to gigabytes.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import cramjam
import msgspec
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.structs import ConsumerRecord

LARGEST_BATCH = 256 * 2**20  # bytes, decompressed
_HEADER = struct.Struct(">qiibIhiqqqhii")  # of a batch; see aiokafka.record.default_records
_LENGTH = struct.Struct(">i")
_OVERHEAD = 12  # bytes of offset and length, which the length does not count
_MAGIC, _ATTRIBUTES = 16, 21  # where they stand in a batch
_SHORTEST = (26, 34, _HEADER.size)  # bytes of a batch in the formats 0, 1 and 2; aiokafka reads so many unasked
_CODEC, _NO_CODEC = 0x07, 0xF8  # bits of the attributes' low byte
_SNAPPY_BLOCKS = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
_Buffer = bytes | bytearray | memoryview


class UnreadableRecord(msgspec.Struct, frozen=True):
    """What could not be decoded: one record, or all records of a batch from offset `first` to `offset`.

    value is the bytes as they are stored in the log, never content. problem says what is wrong with them.
    """

    topic: str
    partition: int
    first: int
    offset: int
    timestamp: int
    value: bytes
    problem: str
    key: None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class ReadableRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """The records that a fetch returned for one partition, which iterates past what cannot be read."""

    next_fetch_offset: int

    def __init__(self, fetched: PartitionRecords, raw: bytes) -> None:
        """fetched: aiokafka's records, not iterated yet. raw: the batches that they consist of."""
        self.__dict__.update(fetched.__dict__)
        self._records = _Batches(raw)
        self._records_iterator = self._unpack_records()

    def _unpack_records(self) -> Iterator[ConsumerRecord | UnreadableRecord]:
        while True:
            try:
                yield from super()._unpack_records()
                return
            except Exception as error:
                batch = self._records.current
                if batch is None:
                    raise
                first, end = self._rest_of(batch)
                records = list(_read_again(batch, self._tp, first, end, error))
            # The batch after this one comes next: that may be past the last record, where compaction removed the end.
            last = len(records) - 1
            for number, record in enumerate(records):
                self.next_fetch_offset = end if number == last else record.offset + 1
                yield record
            self.next_fetch_offset = end

    def _rest_of(self, batch: _Batch) -> tuple[int, int]:
        """The first offset of a batch that was not handed out, and the one behind its last."""
        first, end = self.next_fetch_offset, batch.next_offset
        if not batch.intact:
            return first, max(end, first + 1)
        # A record whose offset is outside of its batch moves the position past it: all of the batch is in doubt then.
        return (first if first <= end else batch.base_offset), end


class _Batches:
    """The batches of a fetch, as aiokafka's reader asks for them. current: the one returned last."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._view = memoryview(raw)
        self._start = self._end = 0  # of the batch that comes next
        self.current: _Batch | None = None

    def has_next(self) -> bool:
        size = len(self._raw)
        if self._start + _MAGIC >= size:
            return False
        self._end = self._start + _OVERHEAD + _LENGTH.unpack_from(self._raw, self._start + 8)[0]
        return self._start + _MAGIC < self._end <= size

    def next_batch(self) -> _Batch:
        """The next batch, after `has_next` has found one."""
        start, self._start = self._start, self._end
        self.current = _Batch(self._view[start : self._end], self._raw[self._end : self._end + 8])
        return self.current


class _Batch:
    """One batch, which is decompressed when its records are asked for."""

    __slots__ = (
        *("raw", "modern", "intact", "next_offset", "producer_id", "is_control_batch", "is_transactional"),
        *("_inner", "_following"),
    )

    def __init__(self, raw: memoryview, following: bytes) -> None:
        """following: the first bytes of the next batch, which begins with its first offset."""
        self.raw = raw
        self.modern = raw[_MAGIC] >= 2
        try:
            if len(raw) < _SHORTEST[min(raw[_MAGIC], 2)]:
                raise CorruptRecordException("shorter than its header")
            inner = DefaultRecordBatch(raw) if self.modern else LegacyRecordBatch(raw, raw[_MAGIC])
        except Exception:  # even its header is broken
            inner = _NO_BATCH
        self._inner = inner
        self.producer_id = inner.producer_id
        self.is_control_batch = inner.is_control_batch
        self.is_transactional = inner.is_transactional
        self.next_offset: int = inner.next_offset
        self.intact = True
        self._following = following

    @property
    def base_offset(self) -> int:
        return int.from_bytes(self.raw[:8], "big")

    def validate_crc(self) -> bool:
        self.intact = self._inner.validate_crc()
        if not self.intact and len(self._following) == 8:
            self.next_offset = int.from_bytes(self._following, "big")  # this batch's own header may be what is broken
        return self.intact

    def __next__(self) -> Any:
        return next(self._inner)

    def __iter__(self) -> Iterator[Any]:
        if not self.modern or not self.raw[_ATTRIBUTES + 1] & _CODEC:
            return iter(self._inner)
        return iter(DefaultRecordBatch(self.plain()))

    def plain(self) -> _Buffer:
        """The batch without compression. Raises if it cannot be decompressed to LARGEST_BATCH bytes."""
        raw, codec = self.raw, self.raw[_ATTRIBUTES + 1] & _CODEC
        if not codec:
            return raw
        plain = _decompressed(codec, raw[_HEADER.size :], room=_HEADER.size)
        plain[: _HEADER.size] = raw[: _HEADER.size]
        plain[_ATTRIBUTES + 1] &= _NO_CODEC
        return plain


class _NoBatch:
    """A batch whose header cannot be read, in the terms of aiokafka's batches."""

    producer_id = None
    is_control_batch = is_transactional = False
    next_offset = 0

    def validate_crc(self) -> bool:
        return False


_NO_BATCH = _NoBatch()


def _decompressed(codec: int, data: memoryview, room: int) -> bytearray | memoryview:
    """The decompressed data, after `room` bytes for a header."""
    if codec == DefaultRecordBatch.CODEC_GZIP:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(LARGEST_BATCH + 1)
        if len(plain) > LARGEST_BATCH:
            raise _too_large()
        return bytearray(room) + plain
    if codec == DefaultRecordBatch.CODEC_SNAPPY:
        return _snappy(data, room)
    if codec == DefaultRecordBatch.CODEC_LZ4:
        return _within(cramjam.lz4.decompress_into, data, room)
    if codec == DefaultRecordBatch.CODEC_ZSTD:
        return _within(cramjam.zstd.decompress_into, data, room)
    raise UnsupportedCodecError(f"codec {codec} is unknown")


def _within(decompress_into: Callable[[memoryview, memoryview], int], data: memoryview, room: int) -> memoryview:
    """Decompress into a buffer of sufficient size, which is not known before."""
    size = max(2**12, 8 * len(data))
    while True:
        buffer = memoryview(bytearray(room + min(size, LARGEST_BATCH)))
        try:
            return buffer[: room + decompress_into(data, buffer[room:])]
        except cramjam.DecompressionError:
            if size >= LARGEST_BATCH:
                raise
            size *= 8


def _snappy(data: memoryview, room: int) -> bytearray:
    """Snappy as Java's producers write it, in blocks after a header, or as one block."""
    plain = bytearray(room)
    for block in _snappy_blocks(data):
        if len(plain) + cramjam.snappy.decompress_raw_len(block) > room + LARGEST_BATCH:
            raise _too_large()
        plain += cramjam.snappy.decompress_raw(block)
    return plain


def _snappy_blocks(data: memoryview) -> Iterator[memoryview]:
    if data[: len(_SNAPPY_BLOCKS)] != _SNAPPY_BLOCKS:
        yield data
        return
    start = len(_SNAPPY_BLOCKS)
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 4 + size]
        start += 4 + size


def _too_large() -> CorruptRecordException:
    return CorruptRecordException(f"more than {LARGEST_BATCH} bytes when decompressed")


# ---------------------------------------------------------------------- reading again, record by record


def _read_again(
    batch: _Batch, tp: TopicPartition, first: int, end: int, error: Exception
) -> Iterator[ConsumerRecord | UnreadableRecord]:
    """The records of a batch from offset `first` on, in order, and what cannot be read of the offsets before `end`."""
    plain: _Buffer | None = None
    if batch.modern and batch.intact:
        first = max(first, batch.base_offset)
        try:
            plain = batch.plain()
        except Exception as problem:
            error = problem
    if plain is None and first < end:
        yield _unreadable(tp, first, end, batch.raw, error)
    elif plain is not None:
        yield from _Records(plain, tp, first, end)


class _Records:
    """The records of a batch without compression, each read for itself."""

    def __init__(self, plain: _Buffer, tp: TopicPartition, first: int, end: int) -> None:
        self._plain = memoryview(plain)
        self._tp = tp
        self._next = first
        self._end = end
        header = _HEADER.unpack_from(plain)
        self._base, self._attributes, self._count = header[0], header[5], header[12]
        self._first_timestamp, self._max_timestamp = header[7], header[8]

    def __iter__(self) -> Iterator[ConsumerRecord | UnreadableRecord]:
        start = _HEADER.size
        for _ in range(self._count):
            try:
                size, begin = _varint(self._plain, start)
                stored = _taken(self._plain, begin, size)
            except ValueError as error:  # where the next one would begin is unknown
                if self._next < self._end:
                    yield _unreadable(self._tp, self._next, self._end, self._plain[start:], error)
                return
            start = begin + size
            record = self._read(stored)
            if record.offset >= self._next:
                self._next = record.offset + 1
                yield record

    def _read(self, stored: memoryview) -> ConsumerRecord | UnreadableRecord:
        """One record; its offset is the expected one where it cannot be read."""
        offset = self._next
        try:
            delta, at = _varint(stored, 1)  # after the attributes, which have no meaning yet
            number, at = _varint(stored, at)
            offset = self._base + number
            key, at = _data(stored, at)
            value, at = _data(stored, at)
            headers, at = _headers(stored, at)
            if at != len(stored) or not self._base <= offset < self._end:
                raise ValueError("its size or offset is wrong")
        except ValueError as error:
            within = min(max(offset, self._next), self._end - 1)
            return _unreadable(self._tp, within, within + 1, stored, error)
        appended = bool(self._attributes & 0x08)  # the timestamps are the broker's
        timestamp = self._max_timestamp if appended else self._first_timestamp + delta
        sizes = [-1 if data is None else len(data) for data in (key, value)]
        return ConsumerRecord(*self._tp, offset, timestamp, int(appended), key, value, None, *sizes, headers)


def _unreadable(tp: TopicPartition, first: int, end: int, stored: _Buffer, error: Exception) -> UnreadableRecord:
    last = max(first, end - 1)
    where = f"offset {first}" if first == last else f"offsets {first} to {last}"
    # The text of an error may quote content, its type does not.
    problem = f"cannot be read ({type(error).__name__} at {where}); its bytes are kept as the log has them"
    return UnreadableRecord(tp.topic, tp.partition, first, last, -1, bytes(stored), problem)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A zigzag number and where it ends. Raises ValueError."""
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise ValueError("it ends in a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise ValueError("a number is too long")


def _taken(data: memoryview, at: int, size: int) -> memoryview:
    """So many bytes from `at` on. Raises ValueError where there are fewer."""
    if size < 0 or at + size > len(data):
        raise ValueError("it ends before its data")
    return data[at : at + size]


def _data(data: memoryview, at: int) -> tuple[bytes | None, int]:
    """Bytes after their length, None for a negative one, and where they end."""
    size, at = _varint(data, at)
    return (None, at) if size < 0 else (bytes(_taken(data, at, size)), at + size)


def _headers(data: memoryview, at: int) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    headers = []
    count, at = _varint(data, at)
    for _ in range(count):
        name, at = _data(data, at)
        value, at = _data(data, at)
        headers.append(((name or b"").decode(errors="surrogateescape"), value))
    return tuple(headers), at
