"""Columns of any record, and cells that no spreadsheet takes for formulas."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.contract.topics import CATALOGUE
from safeguard_streams.errors import RecordError
from safeguard_streams.exporting.cells import cell, guarded, written
from safeguard_streams.exporting.columns import TIME, columns, values
from safeguard_streams.exporting.formats import format_of


class Inner(msgspec.Struct, frozen=True):
    name: str
    number: int = 0


class Outer(msgspec.Struct, frozen=True, omit_defaults=True):
    at: datetime
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()
    times: dict[str, float] = {}
    anything: dict[str, Any] = {}
    either: int | str | None = None
    flag: bool = False


@pytest.mark.parametrize(
    "record", dict.fromkeys(topic.record for topic in CATALOGUE), ids=lambda record: record.__name__
)
def test_every_record_of_the_contract_has_columns_in_the_order_of_its_fields(record):
    assert tuple(columns(record)) == record.__struct_fields__
    format_of("parquet", record)


def test_values_are_nested_typed_and_null_where_a_field_is_absent():
    of = columns(Outer)
    schema = pa.schema([(name, column.type) for name, column in of.items()])
    at = datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    full = Outer(at, Inner("a", 1), (Inner("b"),), {"x": 1.5}, {"k": [None]}, "e", flag=True)
    bare = msgspec.convert({"at": "2026-01-01T12:00:00"}, Outer)
    rows = pa.RecordBatch.from_pylist([values(full, of), values(bare, of)], schema).to_pylist()
    assert rows[0] == {
        "at": datetime(2026, 1, 1, 10, 0, 0, 1, tzinfo=UTC),
        "inner": {"name": "a", "number": 1},
        "several": [{"name": "b", "number": 0}],
        "times": [("x", 1.5)],
        "anything": '{"k":[null]}',
        "either": '"e"',
        "flag": True,
    }
    assert rows[1] == {
        "at": datetime(2026, 1, 1, 12, tzinfo=UTC),  # a time without an offset is UTC
        "inner": None,
        "several": [],
        "times": [],
        "anything": "{}",
        "either": None,
        "flag": False,
    }


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_that_no_column_holds_is_an_error_of_the_record(number):
    with pytest.raises(RecordError, match="64 bits"):
        values(Inner("a", number), columns(Inner))


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"])
def test_times_at_the_ends_of_the_calendar_are_exported_and_can_be_read(text):
    moment = datetime.fromisoformat(text)
    (read,) = pa.array([columns(Outer)["at"].value(moment)], TIME).to_pylist()
    assert abs(moment - read) <= timedelta(hours=14)
    assert written(moment) == moment.isoformat(timespec="microseconds")


@given(st.text())
def test_no_cell_begins_as_a_formula_and_other_texts_stay(text):
    shown = guarded(text)
    assert shown.removeprefix("'") == text.removeprefix("'") or shown == "'" + text
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (True, "true"),
        (-1.5, "-1.5"),
        ("-1", "'-1"),
        ("\ufeff=1", "'\ufeff=1"),
        (" \x00=1", "' \x00=1"),
        ("\u200b\u202e@x", "'\u200b\u202e@x"),
        ("\xa0\uff1d1", "'\xa0\uff1d1"),
        (" a=1", " a=1"),
        (("=1",), '["=1"]'),
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2025-12-31T23:00:00.000000Z"),
        (Inner("猫"), '{"name":"猫","number":0}'),
    ],
)
def test_a_cell_is_plain_text_or_json(value, expected):
    assert cell(value) == expected
