"""Rates as the engine runs them: events to posts of their authors, and posts to strikes."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from safeguard_streams.authors.posts import Posts, posts
from safeguard_streams.authors.rates import Rates, checked
from safeguard_streams.authors.windows import Windows
from safeguard_streams.bus.interface import Partition
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import AuthorPost, ContentEvent, Strike, account_age, decode, encode
from safeguard_streams.enforcement.author_rules import AuthorRules, Rate
from safeguard_streams.errors import RecordError
from safeguard_streams.runtime.memory_broker import StoredRecord

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TEXT = "cheap watches with free shipping, number"
RULES = AuthorRules(rate=(Rate("flood", 20, "10m", weight=3, expires="1d"),))


def event(number=0, author="ann", *, text=TEXT, created_at=NOW, **more):
    return {
        "content_id": f"c{number}", "text": f"{text} {number}", "created_at": created_at, "author_id": author, **more
    }  # fmt: skip


def record(value, offset=0, at=NOW, topic=topics.EVENTS, key=b"k"):
    return StoredRecord(topic, 0, offset, round(at.timestamp() * 1000), key, value)


def made(*events, at=NOW, moment=NOW):
    outputs = posts([record(orjson.dumps(one), at=at) for one in events], moment)
    return [decode(one.value, AuthorPost) for one in outputs]


def test_a_post_holds_a_sketch_and_no_text_and_goes_to_the_partition_of_its_author():
    (output,) = posts([record(orjson.dumps(event()))], NOW)
    assert (output.topic, output.key, output.by_key) == (topics.AUTHOR_POSTS, b"ann", True)
    post = decode(output.value, AuthorPost)
    assert (post.author_id, post.content_id, post.posted_at, len(post.sketch)) == ("ann", "c0", NOW, 16)
    assert b"watches" not in output.value


def test_what_names_no_author_or_cannot_be_read_is_no_post():
    broken = [record(None), record(b"{"), record(b'{"content_id": "c1"}')]
    assert posts(broken, NOW) == []
    assert made(event(author=None), event(author="")) == []
    (post,) = made(event(text="", author="ben"), event(author=None))[:1]
    assert post.author_id == "ben"


@pytest.mark.parametrize(
    ("created", "arrived", "posted"),
    [
        (NOW - HOUR, NOW, NOW - HOUR),
        (NOW + HOUR, NOW, NOW),
        (NOW + HOUR, NOW + 9 * HOUR, NOW),
        (NOW + HOUR, datetime(9999, 1, 1, tzinfo=UTC), NOW),
        (NOW.replace(tzinfo=None), NOW, NOW),
        (datetime(1, 1, 1, tzinfo=UTC), NOW, datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_no_post_is_later_than_its_arrival(created, arrived, posted):
    assert made(event(created_at=created), at=arrived)[0].posted_at == posted


@pytest.mark.parametrize(
    ("created", "account", "age"),
    [
        (NOW, None, None),
        (NOW, NOW - HOUR, 3600),
        (NOW + HOUR, NOW - HOUR, 3600),
        (NOW, NOW + HOUR, 0),
        (NOW, NOW + 2 * HOUR, None),
        (NOW, (NOW - HOUR).replace(tzinfo=None), 3600),
        (NOW, datetime(1, 1, 1, tzinfo=UTC), 63905457600),
    ],
)
def test_the_age_of_an_account_is_that_when_the_item_was_created(created, account, age):
    assert account_age(ContentEvent("c", "t", created, author_created_at=account), NOW) == age
    assert made(event(created_at=created, author_created_at=account))[0].account_age == age


async def test_events_of_erased_items_are_no_posts():
    events = [record(orjson.dumps(event(number))) for number in range(3)]
    outputs = await Posts(lambda records: list(records)[1:]).process(events)
    assert [decode(one.value, AuthorPost).content_id for one in outputs] == ["c1", "c2"]
    assert await Posts(lambda _: []).process(events) == []


async def counting(windows=None):
    async def restore(_):
        return windows or Windows(RULES.rate)

    rates = Rates(RULES, restore)
    await rates.opened(Partition(topics.AUTHOR_POSTS, 0))
    return rates


def written(*found, first=0):
    return [
        record(encode(one), first + offset, topic=topics.AUTHOR_POSTS, key=one.author_id.encode())
        for offset, one in enumerate(found)
    ]


async def test_a_flood_gives_one_strike_to_its_author():
    rates = await counting()
    found = made(*(event(number) for number in range(25)), *(event(number, "ben", text="ok") for number in range(25)))
    (output,) = await rates.process(written(*found))
    assert (output.topic, output.key) == (topics.STRIKES, b"ann")
    assert output.by_key, "a post that waits while partitions are added is not in its author's partition"
    strike = decode(output.value, Strike)
    assert (strike.author_id, strike.state, strike.rule, strike.weight) == ("ann", "given", "flood", 3)
    assert (strike.content_id, strike.origin, strike.expires_at - strike.at) == ("c19", "0@19", timedelta(days=1))


async def test_who_reads_the_posts_again_gives_the_same_strike():
    found = written(*made(*(event(number) for number in range(25))))
    ids = set()
    for shift in (0, 1000):
        rates = await counting()
        again = written(*(decode(one.value, AuthorPost) for one in found), first=shift)
        (output,) = await rates.process(again)
        ids.add(decode(output.value, Strike).strike_id)
    assert len(ids) == 1


async def test_a_broken_record_fails_before_any_item_counts():
    rates = await counting()
    found = written(*made(*(event(number) for number in range(20))))
    broken = record(b'{"author_id": "ann", "content_id": "c", "posted_at": "2026-01-31T12:00:00Z", "sketch": "?"}', 20)
    with pytest.raises(RecordError, match="sketch"):
        await rates.process([*found, broken])
    assert len(rates.windows[0]) == 0
    assert len(await rates.process(found)) == 1
    rates.closed(Partition(topics.AUTHOR_POSTS, 0))
    assert rates.windows == {}


@pytest.mark.parametrize("sketch", ["", "f" * 17, "-1"])
def test_a_sketch_that_is_none_is_refused(sketch):
    with pytest.raises(RecordError, match="sketch"):
        checked(AuthorPost("ann", "c", NOW, sketch))


async def test_a_timestamp_that_cannot_be_true_empties_no_window():
    rates = await counting()
    found = written(*made(*(event(number) for number in range(20))))
    strange = [StoredRecord(one.topic, 0, one.offset, 10**16, one.key, one.value) for one in written(*made(event(99)))]
    assert await rates.process(found[:19]) == []
    await rates.process(strange)
    assert len(rates.windows[0]) > 0
