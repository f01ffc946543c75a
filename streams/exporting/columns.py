"""Arrow columns from the types of a record: one generic function for all records.

Structs and lists stay nested, and objects with values of one simple type are maps. What has no one type, such as the
attributes of an event, is JSON in a text. Times are in UTC with microseconds. Every column may be null: a field of a
record that is absent on the wire has its default, which is null for most optional fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from msgspec import inspect

from safeguard_streams.contract.records import in_utc
from safeguard_streams.errors import RecordError

TIME = pa.timestamp("us", tz="UTC")
_BITS = 63  # of a 64-bit integer, beside its sign


class Column(NamedTuple):
    """The type of a column, and what makes its value of a field that is not null."""

    type: pa.DataType
    value: Callable[[Any], Any]


def columns(record: type[msgspec.Struct]) -> dict[str, Column]:
    """The columns of a record, in the order of its fields."""
    kind = inspect.type_info(record)
    assert isinstance(kind, inspect.StructType)
    return _fields(kind)


def values(record: msgspec.Struct, of: dict[str, Column]) -> dict[str, Any]:
    """The values of a record's columns. Raises RecordError for a number that no column holds."""
    row = {}
    for name, column in of.items():
        value = getattr(record, name)
        row[name] = None if value is None else column.value(value)
    return row


def _fields(kind: inspect.StructType) -> dict[str, Column]:
    return {field.name: _column(field.type) for field in kind.fields}


def _column(kind: inspect.Type) -> Column:
    kind = _without_null(kind)
    if isinstance(kind, inspect.StructType):
        return _struct(kind)
    if isinstance(kind, (inspect.VarTupleType, inspect.ListType)):
        return _list(_column(kind.item_type))
    if isinstance(kind, inspect.DictType):
        return _map(kind)
    return _SIMPLE.get(type(kind), _TEXT_OF_JSON)


def _without_null(kind: inspect.Type) -> inspect.Type:
    """A type without its descriptions and without null, if one type remains."""
    while isinstance(kind, (inspect.Metadata, inspect.UnionType)):
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
            continue
        others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(others) != 1:
            return kind
        kind = others[0]
    return kind


def _struct(kind: inspect.StructType) -> Column:
    fields = _fields(kind)
    return Column(
        pa.struct([(name, column.type) for name, column in fields.items()]), lambda value: values(value, fields)
    )


def _list(item: Column) -> Column:
    return Column(pa.list_(item.type), lambda value: [None if one is None else item.value(one) for one in value])


def _map(kind: inspect.DictType) -> Column:
    """An object as a map or, where its values have no one type, as JSON."""
    if not isinstance(_without_null(kind.key_type), inspect.StrType) or isinstance(kind.value_type, inspect.AnyType):
        return _TEXT_OF_JSON
    item = _column(kind.value_type)
    return Column(
        pa.map_(pa.string(), item.type), lambda value: [(name, item.value(one)) for name, one in value.items()]
    )


def _integer(value: int) -> int:
    if not -(1 << _BITS) <= value < 1 << _BITS:
        raise RecordError("record", "has a number beyond 64 bits")
    return value


def _same(value: Any) -> Any:
    return value


_TEXT_OF_JSON = Column(pa.string(), lambda value: msgspec.json.encode(value).decode())
_SIMPLE: dict[type[inspect.Type], Column] = {
    inspect.StrType: Column(pa.string(), _same),
    inspect.LiteralType: Column(pa.string(), _same),
    inspect.BoolType: Column(pa.bool_(), _same),
    inspect.IntType: Column(pa.int64(), _integer),
    inspect.FloatType: Column(pa.float64(), float),
    inspect.DateTimeType: Column(TIME, in_utc),
}
