"""How the rows of a batch reach their tables: one statement for each table, the same on both databases.

PostgreSQL gets the rows as one JSON document, which is several times as fast there as a statement for each row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, get_args

from sqlalchemy import Connection, Float, Table, Update, and_, bindparam, case, cast, column, func, or_, select, update

from safeguard_streams.console import schema
from safeguard_streams.console.database import Insert, insert
from safeguard_streams.contract.records import Enforced
from safeguard_streams.enforcement.rules import severity
from safeguard_streams.policies.vocabulary import SEVERITIES, Severity

Row = dict[str, Any]
Key = tuple[Any, ...]

_WEIGHTS = {"user": 1, "trusted_flagger": 10, "authority": 100}  # of reports, against each other
_OF_REPORTS = 0.99  # the most that reports lift an item among those with the same action at stake; the rest is severity
KEYS = {table: tuple(str(one.name) for one in table.primary_key) for table in schema.PROJECTED}
OF_TEXT = (  # columns of an item that change with its text
    *("text", "language", "surface", "author_id", "context", "attributes", "created_at"),
    *("content_sha256", "event_partition", "event_offset"),
)


def write(connection: Connection, statement: Insert, rows: Sequence[Row]) -> None:
    """Insert rows, those of equal keys one after the other."""
    for distinct in _distinct(rows, KEYS[_table(statement)]):
        if connection.dialect.name == "postgresql":
            connection.execute(_from_document(statement, list(distinct[0])), {"rows": distinct})
        else:
            connection.execute(statement, distinct)


def add(connection: Connection, table: Table, rows: Sequence[Row]) -> frozenset[Any]:
    """Insert the rows of distinct ids that are new. Returns their ids: the first column of the key."""
    if not rows:
        return frozenset()
    statement, named = insert(connection.engine, table).on_conflict_do_nothing(), table.c[KEYS[table][0]]
    if connection.dialect.name == "postgresql":
        from_document = _from_document(statement, list(rows[0])).returning(named)
        return frozenset(connection.scalars(from_document, {"rows": rows}))
    return frozenset(connection.scalars(statement.returning(named), rows))


def _from_document(statement: Insert, names: list[str]) -> Insert:
    table = _table(statement)
    typed = [column(name, table.c[name].type) for name in names]
    document = func.json_to_recordset(bindparam("rows", type_=schema.JSON))
    chosen = select(document.table_valued(*typed).render_derived(with_types=True))
    return statement.from_select(names, chosen)


def _table(statement: Insert) -> Table:
    table = statement.table
    assert isinstance(table, Table)
    return table


def _distinct(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[Sequence[Row]]:
    """The rows in their order, in lists of distinct keys: one statement may change a row once."""
    key_of = itemgetter(*keys)
    if len(set(map(key_of, rows))) == len(rows):
        yield from [rows] if rows else []
        return
    lists: list[list[Row]] = []
    times = Counter[Any]()
    for row in rows:
        key = key_of(row)
        if times[key] == len(lists):
            lists.append([])
        lists[times[key]].append(row)
        times[key] += 1
    yield from lists


def replacing(connection: Connection, table: Table, columns: Iterable[str] = ()) -> Insert:
    """An insert that replaces these columns of a row that is there, or else all."""
    statement, keys = insert(connection.engine, table), KEYS[table]
    names = list(columns) or [one.name for one in table.columns if one.name not in keys]
    return statement.on_conflict_do_update(
        index_elements=list(keys), set_={name: statement.excluded[name] for name in names}
    )


def counting(connection: Connection, table: Table) -> Insert:
    """An insert that adds to the count of a row that is there."""
    statement = insert(connection.engine, table)
    return statement.on_conflict_do_update(
        index_elements=list(KEYS[table]), set_={"count": table.c.count + statement.excluded.count}
    )


def followed_actions(connection: Connection) -> Insert:
    """What a moderator wrote comes twice: as written, and with a sequence once the agent followed it, which stays."""
    table, statement = schema.actions, insert(connection.engine, schema.actions)
    return statement.on_conflict_do_update(
        index_elements=["action_id"],
        set_={one.name: statement.excluded[one.name] for one in table.columns if not one.primary_key},
        where=or_(table.c.sequence.is_(None), statement.excluded.sequence.is_not(None)),
    )


def followed_strikes(connection: Connection) -> Insert:
    """What the records about a strike say, in their order. One that a person forgave stays forgiven, and one that is
    taken back is known from the record that gave it.
    """
    table, statement = schema.strikes, insert(connection.engine, schema.strikes)
    new, ended = statement.excluded, ("state", "ended_at", "by", "why")
    values: dict[str, Any] = {
        one.name: case((new.state == "given", new[one.name]), else_=table.c[one.name])
        for one in table.columns
        if not one.primary_key and one.name not in ended
    }
    for name in ended:
        values[name] = case((table.c.state == "forgiven", table.c[name]), else_=new[name])
    return statement.on_conflict_do_update(index_elements=["strike_id"], set_=values)


def newer_texts(connection: Connection) -> Insert:
    """The text of the later event. Two partitions have no order: there, the time that the producer gives counts.

    A text of no event is no item's of the platform, or an early version wrote it: one of an event replaces it.
    """
    table, statement = schema.items, insert(connection.engine, schema.items)
    new = statement.excluded
    placed = and_(table.c.event_partition == new.event_partition, table.c.event_offset.is_not(None))
    same = or_(
        and_(placed, table.c.event_offset == new.event_offset),
        and_(table.c.event_offset.is_(None), table.c.content_sha256 == new.content_sha256),
    )
    newer = case(
        (or_(table.c.text_at.is_(None), and_(table.c.event_offset.is_(None), new.event_offset.is_not(None))), True),
        (placed, new.event_offset > table.c.event_offset),
        else_=new.created_at > table.c.created_at,
    )
    earlier = and_(same, new.text_at < table.c.text_at)
    values = {name: case((or_(same, newer), new[name]), else_=table.c[name]) for name in OF_TEXT}
    for name in ("text_at", "text_expires_at"):
        values[name] = case((earlier, new[name]), (same, table.c[name]), (newer, new[name]), else_=table.c[name])
    return statement.on_conflict_do_update(index_elements=["content_id"], set_=values)


def share_of_severity(violation: Severity | None) -> float:
    """What the severity of a violation adds to the priority of an item: less than any report of it does."""
    rank = 0 if violation is None else SEVERITIES.index(violation) + 1
    return (1 - _OF_REPORTS) * rank / (len(SEVERITIES) + 1)


def priorities(content_ids: Sequence[str]) -> Update:
    """Lift those of these items in the queue that were reported above the others with the same action at stake.

    Gives the same result whichever of report and standing came first.
    """
    queue, reports = schema.review_items, schema.reports
    stake = case({action: float(severity(action)) for action in get_args(Enforced)}, value=queue.c.action)
    graded = case({one: share_of_severity(one) for one in SEVERITIES}, value=queue.c.severity, else_=0.0)
    weight = cast(func.sum(case(_WEIGHTS, value=reports.c.reporter, else_=1)), Float)
    of_item = reports.c.content_id == queue.c.content_id
    lift = select(_OF_REPORTS * weight / (weight + 1.0)).where(of_item).scalar_subquery()
    reported = select(reports.c.content_id).where(reports.c.content_id.in_(content_ids))
    return update(queue).where(queue.c.content_id.in_(reported)).values(priority=stake + graded + lift)
