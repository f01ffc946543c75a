"""What a fetch returned is read past whatever cannot be decoded; the rest arrives, in order, and nothing twice."""

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import snappy_encode
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safeguard_streams.runtime import record_batches
from safeguard_streams.runtime.record_batches import ReadableRecords, UnreadableRecord

TP = TopicPartition("topic", 3)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(record_batches, "LARGEST_BATCH", 2**20)


NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = (NONE, GZIP, SNAPPY, LZ4, ZSTD)
HEADER = 61


class AnyName(str):
    """A header name of any bytes, for aiokafka's builder in Python."""

    __slots__ = ()

    def encode(self, *_):
        return super().encode(errors="surrogateescape")


def name(data):
    return AnyName(data.decode(errors="surrogateescape"))


def batch(values, base=0, codec=NONE, headers=(), key=b"k", transactional=0, producer=-1, timestamp=5):
    """A batch; headers: one list for each value, or none."""
    plain = all(type(n) is str for each in headers for n, _ in each)
    cls = DefaultRecordBatchBuilder if plain else _DefaultRecordBatchBuilderPy
    builder = cls(2, codec, transactional, producer, 0 if producer >= 0 else -1, -1, 2**24)
    for number, value in enumerate(values):
        added = builder.append(number, timestamp, key, value, list(headers[number]) if headers else [])
        assert added is not None
    return at(bytes(builder.build()), base)


def at(raw, base):
    return struct.pack(">q", base) + raw[8:]


def sealed(raw):
    """A batch with the checksum and the length of its bytes."""
    raw = bytearray(raw)
    raw[8:12] = struct.pack(">i", len(raw) - 12)
    raw[17:21] = struct.pack(">I", calc_crc32c(bytes(raw[21:])))
    return bytes(raw)


def read(raw, first=0, aborted=()):
    fetched = PartitionRecords(TP, MemoryRecords(raw), list(aborted), first, None, None, True, READ_COMMITTED)
    records = ReadableRecords(fetched, raw)
    return list(records), records.next_fetch_offset


def values(records):
    return [None if isinstance(record, UnreadableRecord) else record.value for record in records]


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_every_codec_are_read(codec):
    raw = batch([b"a", b"b"], 10, codec) + batch([b"c"], 12, codec)
    records, end = read(raw, 10)
    assert values(records) == [b"a", b"b", b"c"]
    assert [record.offset for record in records] == [10, 11, 12]
    assert end == 13


def test_xerial_and_plain_snappy_are_read():
    header, body = batch([b"a" * 100], codec=SNAPPY)[:HEADER], batch([b"a" * 100])[HEADER:]
    for payload in (snappy_encode(body), snappy_encode(body, xerial_compatible=False), snappy_encode(body * 1)):
        assert values(read(sealed(header + payload))[0]) == [b"a" * 100]


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_name_that_is_not_utf8_keeps_its_bytes_and_costs_no_record(codec):
    headers = [[(name(b"good"), b"1")], [(name(b"\xff\x00bad"), None), (name(b""), b"")], []]
    records, end = read(batch([b"a", b"b", b"c"], 7, codec, headers) + batch([b"d"], 10), 7)
    assert values(records) == [b"a", b"b", b"c", b"d"]
    assert end == 11
    assert records[1].headers == (("\udcff\x00bad", None), ("", b""))
    assert records[1].headers[0][0].encode(errors="surrogateescape") == b"\xff\x00bad"
    assert [record.timestamp for record in records] == [5] * 4


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_batch_that_cannot_be_decompressed_is_one_unreadable_record_with_its_bytes(codec):
    whole = batch([b"x" * 500, b"y" * 500, b"z"], 4, codec)
    broken = sealed(whole[: HEADER + 20])
    records, end = read(batch([b"a"], 3) + broken + batch([b"b"], 7), 3)
    assert values(records) == [b"a", None, b"b"]
    assert (records[1].first, records[1].offset, end) == (4, 6, 8)
    assert records[1].value == broken
    assert "offsets 4 to 6" in records[1].problem


def test_a_codec_that_nobody_knows_costs_its_batch_only():
    raw = bytearray(batch([b"a"], 0))
    raw[22] |= 6
    records, end = read(sealed(raw) + batch([b"b"], 1))
    assert values(records) == [None, b"b"]
    assert "UnsupportedCodecError" in records[0].problem
    assert end == 2


def test_a_batch_with_a_wrong_checksum_is_unreadable_whatever_its_header_says():
    for position, byte in ((HEADER + 3, 0x55), (24, 0x7F), (26, 0x0F), (23, 0xFF)):  # a record, last offset delta
        raw = bytearray(batch([b"a", b"b"], 0))
        raw[position] ^= byte
        records, end = read(bytes(raw) + batch([b"c"], 2))
        assert values(records) == [None, b"c"], position
        assert (records[0].first, records[0].offset, end) == (0, 1, 3)


@pytest.mark.parametrize(("magic", "size"), [(2, 20), (0, 14), (1, 40), (9, 60)])
def test_a_batch_whose_header_is_broken_costs_itself_only(magic, size):
    broken = struct.pack(">qiibI", 5, size, 0, magic, 7).ljust(12 + size, b"\0")
    records, end = read(batch([b"a"], 4) + broken + batch([b"b"], 6), 4)
    assert values(records) == [b"a", None, b"b"]
    assert (records[1].offset, end) == (5, 7)
    assert records[1].value == broken


def test_one_broken_record_costs_no_other_of_its_batch():
    raw = bytearray(batch([b"a", b"bbbb", b"c"], 20))
    position = raw.index(b"bbbb") - 1
    raw[position] = 0x7E  # the value's length goes past the record
    records, end = read(sealed(raw), 20)
    assert values(records) == [b"a", None, b"c"]
    assert [record.offset for record in records] == [20, 21, 22]
    assert b"bbbb" in records[1].value
    assert end == 23


def test_a_batch_with_fewer_records_than_it_says_ends_with_an_unreadable_rest():
    raw = bytearray(batch([b"a", b"b"], 0))
    raw[57:61] = struct.pack(">i", 5)
    raw[23:27] = struct.pack(">i", 4)
    records, end = read(sealed(raw))
    assert values(records) == [b"a", b"b", None]
    assert (records[2].first, records[2].offset, end) == (2, 4, 5)


def test_a_bomb_is_not_decompressed():
    for codec in (GZIP, SNAPPY, LZ4, ZSTD):
        records, end = read(batch([bytes(2**21)], 0, codec) + batch([b"after"], 1))
        assert values(records) == [None, b"after"], codec
        assert end == 2
        records, _ = read(batch([bytes(2**20 - 100)], 0, codec))
        assert values(records) == [bytes(2**20 - 100)], codec


def test_records_below_the_position_are_passed_over_when_a_batch_is_read_again():
    headers = [[(name(b"\xff"), b"")]] * 4
    records, end = read(batch([b"a", b"b", b"c", b"d"], 0, GZIP, headers), 2)
    assert values(records) == [b"c", b"d"]
    assert end == 4


def test_a_broken_batch_of_an_aborted_transaction_is_left_out():
    broken = sealed(batch([b"x" * 100], 0, ZSTD, transactional=1, producer=9)[: HEADER + 10])
    records, end = read(broken + batch([b"b"], 1), aborted=[(9, 0)])
    assert values(records) == [b"b"]
    assert end == 2


def test_a_fetch_that_ends_within_a_batch_leaves_that_to_the_next_fetch():
    raw = batch([b"a"], 0) + batch([b"b" * 100], 1)
    records, end = read(raw[:-10])
    assert values(records) == [b"a"]
    assert end == 1


NAMES = st.binary(max_size=12).map(name)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=12)), max_size=4)


@given(st.lists(HEADERS, min_size=1, max_size=5), st.sampled_from(CODECS), st.none() | st.binary(max_size=9))
def test_any_headers_arrive_as_they_were_sent(headers, codec, key):
    records, end = read(batch([b"v"] * len(headers), 0, codec, headers, key))
    assert [list(record.headers) for record in records] == [[(str(n), v) for n, v in each] for each in headers]
    assert {record.key for record in records} == {key}
    assert end == len(headers)


@given(
    st.sampled_from(CODECS),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4),
    st.booleans(),
)
@example(SNAPPY, 2, [(23, 128), (1701, 1)], True)
@example(NONE, 3, [(214, 1), (858, 4)], True)
@settings(max_examples=300)
def test_whatever_is_broken_the_next_batch_arrives(codec, count, changes, reseal):
    raw = bytearray(batch([b"value %d" % number for number in range(count)], 0, codec))
    for position, byte in changes:  # anywhere after the length, the magic and the counts, which a broker reads itself
        raw[HEADER + position % (len(raw) - HEADER)] ^= byte
    raw = sealed(raw) if reseal else bytes(raw)
    records, end = read(raw + batch([b"after"], count))
    assert records[-1].value == b"after"
    assert end == count + 1
    if not reseal:
        covered = [offset for r in records[:-1] for offset in range(getattr(r, "first", r.offset), r.offset + 1)]
        assert covered == list(range(count))


@pytest.mark.parametrize("magic", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [17, 25, 33, 60])
def test_a_batch_that_is_shorter_than_its_header_ends_no_process(magic, size):
    short = struct.pack(">qii", 10, size - 12, -1) + bytes([magic]) + b"\xff" * (size - 17)
    records, end = read(short + batch([b"a"], 11, 0), 10)
    assert isinstance(records[0], UnreadableRecord)
    assert records[0].value == short
    assert values(records) == [None, b"a"]
    assert end == 12
