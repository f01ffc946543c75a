"""What stands, after its records were moved to other partitions: the rows are those of the newest place, whatever the
projector reads first.
"""

import itertools

import msgspec
import pytest
import sqlalchemy as sa

from safeguard_streams.console import schema
from safeguard_streams.console.store import Store
from safeguard_streams.contract import topics
from tests import projected
from tests.projected import record

FORMER, NEW = 1, 4  # partitions of the author and of the item before and after their topics got more


@pytest.fixture
def store(engine):
    opened = Store(engine, text_days=10_000)
    opened.open()
    return opened


def rows(store, table, *columns):
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*(table.c[name] for name in columns)))]


def of_author(action, partitions):
    given = projected.author_standing(strikes=[projected.strike(1)], action=action)
    return msgspec.structs.replace(given, partitions=partitions)


def of_item(effective, partitions, policies=("hate",)):
    reviewed = [projected.in_review(name) for name in policies]
    return msgspec.structs.replace(projected.standing(policies=reviewed, effective=effective), partitions=partitions)


def log(topic, key, partition, *values):
    return [record(topic, one, offset=place, partition=partition, key=key) for place, one in enumerate(values)]


def moved(topic, key, before, after, *later):
    """The logs of both partitions, with what a repartition wrote to each."""
    return log(topic, key, FORMER, before, None), log(topic, key, NEW, after, *later)


def orders(former, new):
    """All orders in which the records of two partitions can be read."""
    count = len(former) + len(new)
    for places in itertools.combinations(range(count), len(former)):
        left, right = iter(former), iter(new)
        yield [next(left) if place in places else next(right) for place in range(count)]


def in_every_order(store, logs, read, size):
    """What `read` finds after each order of the records, in transactions of `size` records."""
    for records in orders(*logs):
        store.clear()
        for start in range(0, len(records), size):
            store.apply(records[start : start + size])
        yield read()


@pytest.mark.parametrize("size", [1, 5])
def test_an_author_who_was_moved_stands_as_in_the_new_partition(store, size):
    key = b"author-7"
    logs = moved(topics.AUTHOR_STANDING, key, of_author("warn", 4), of_author("warn", 6), of_author("suspend", 6))
    for found in in_every_order(store, logs, lambda: rows(store, schema.author_standings, "author_id", "action"), size):
        assert found == [("author-7", "suspend")]


def test_a_record_of_more_partitions_than_are_known_yet_is_of_this_topic(store):
    """A client learns of new partitions minutes later."""
    logs = moved(topics.AUTHOR_STANDING, b"author-7", of_author("warn", 4), of_author("suspend", 6))
    for records in orders(*logs):
        store.clear()
        store.partitions = {topics.AUTHOR_STANDING: 4}
        for one in records:
            store.apply([one])
        assert rows(store, schema.author_standings, "action") == [("suspend",)]


@pytest.mark.parametrize("size", [1, 5])
def test_an_author_who_was_moved_stands_no_longer_once_the_new_partition_says_so(store, size):
    logs = moved(topics.AUTHOR_STANDING, b"author-7", of_author("warn", 4), of_author("warn", 6), None)
    for found in in_every_order(store, logs, lambda: rows(store, schema.author_standings, "author_id"), size):
        assert found == []


@pytest.mark.parametrize("size", [1, 5])
def test_an_item_that_was_moved_stands_and_waits_as_in_the_new_partition(store, size):
    logs = moved(topics.STANDING, b"c1", of_item("review", 4), of_item("review", 6), of_item("limit", 6, ["spam"]))
    for found in in_every_order(
        store,
        logs,
        lambda: (
            rows(store, schema.items, "content_id", "effective"),
            [name for name, state in rows(store, schema.review_items, "policy_id", "state") if state == "open"],
        ),
        size,
    ):
        assert found == ([("c1", "limit")], ["spam"])


@pytest.mark.parametrize("size", [1, 5])
def test_an_item_that_was_moved_is_allowed_once_the_new_partition_says_so(store, size):
    logs = moved(topics.STANDING, b"c1", of_item("review", 4), of_item("review", 6), None)
    for found in in_every_order(
        store,
        logs,
        lambda: (rows(store, schema.items, "effective"), {one for (one,) in rows(store, schema.review_items, "state")}),
        size,
    ):
        assert found in [([("allow",)], {"decided"}), ([("allow",)], set())]


@pytest.mark.parametrize("size", [1, 5])
def test_an_appeal_of_an_item_that_was_moved_is_as_in_the_new_partition(store, size):
    opened = projected.standing_with_appeal("open", 4)
    closed = projected.standing_with_appeal("upheld", 6)
    logs = moved(topics.STANDING, b"c1", opened, msgspec.structs.replace(opened, partitions=6), closed)
    for found in in_every_order(store, logs, lambda: rows(store, schema.appeals, "state"), size):
        assert found == [("upheld",)]


def test_a_topic_that_was_created_again_with_fewer_partitions_is_followed(store):
    store.partitions = {topics.AUTHOR_STANDING: 6}
    store.apply(log(topics.AUTHOR_STANDING, b"author-7", NEW, of_author("suspend", 6)))
    store.partitions = {topics.AUTHOR_STANDING: 4}
    store.apply(log(topics.AUTHOR_STANDING, b"author-7", FORMER, of_author("warn", 4)))
    assert rows(store, schema.author_standings, "action") == [("warn",)]


def test_what_an_earlier_version_stored_without_its_place_is_replaced_and_ends(store):
    store.apply(log(topics.AUTHOR_STANDING, b"author-7", NEW, of_author("suspend", 6)))
    with store.engine.begin() as connection:
        connection.execute(sa.update(schema.author_standings).values(partition=None, partitions=None))
    store.apply([record(topics.AUTHOR_STANDING, None, offset=1, partition=NEW, key=b"author-7")])
    assert rows(store, schema.author_standings, "author_id") == []
