"""Files of texts and labels as editors and broken transfers leave them."""

import gzip

import pytest

from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import golden, labelled
from safeguard_streams.quality import verdict_labels

LINE = b'{"text": "a", "violates": true}'
ROW = b'{"text": "a", "decision": "safe", "rule": "AB1", "kind": "clear"}'
PACKED = gzip.compress(LINE * 50)


def test_a_byte_order_mark_and_line_ends_of_windows_are_skipped(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE + b"\r\n" + LINE + b"\r\n")
    assert [row.text for row in labelled.read(path)] == ["a", "a"]
    assert [row.text for row in verdict_labels.from_file(path).rows] == ["a", "a"]
    path.write_bytes(b"\xef\xbb\xbf" + ROW + b"\r\n")
    assert [row.text for row in golden.load(path)] == ["a"]
    golden.add(path, golden.Golden("b", "safe", "AB1", "clear"))
    assert [row.text for row in golden.load(path)] == ["a", "b"]


@pytest.mark.parametrize(
    "data",
    [PACKED[:-10], PACKED[:12] + b"\xff" * 20, PACKED[:-8] + bytes(8), LINE, PACKED + b"more"],
    ids=["cut", "damaged", "of another checksum", "not compressed", "followed by something"],
)
def test_a_compressed_file_that_cannot_be_read_to_its_end_is_named(tmp_path, data):
    path = tmp_path / "labels.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(PolicyError, match=r"labels.jsonl.gz(:1)?: "):
        list(labelled.read(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(PolicyError, match="cannot be read"):
            list(labelled.read(path))


def test_a_problem_of_a_line_is_short_however_long_the_line_is(tmp_path):
    path = tmp_path / golden.NAME
    path.write_bytes(ROW.replace(b"text", b"t" * 1_000_000))
    (problem,) = golden.read(path).problems
    assert len(problem.message) <= 200
