"""What a feed knows about a release that is late, ended, broken, or ended before the feed began."""

import asyncio
from datetime import UTC, datetime

import pytest

from safeguard_streams.contract.records import PolicyRelease, encode, policy_key
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import feed as feed_module
from safeguard_streams.releases.feed import PolicyFeed

POLICY = load_library()["hate-harassment"]
KEY = policy_key(POLICY.id)


def released(feed, revision, version=POLICY.version):
    release = PolicyRelease(POLICY.id, version, revision, POLICY.document, datetime.now(UTC), "test")
    feed.take(release.key, encode(release))


async def settled(feed, revision):
    """What a wait for a revision returns at once, or "waits"."""
    waiting = asyncio.create_task(feed.wait_for(KEY, revision))
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        result = waiting.result()
        return result.revision if result else "ended"
    waiting.cancel()
    return "waits"


async def test_only_a_tombstone_is_an_end():
    feed = PolicyFeed()
    assert await settled(feed, 1) == "waits", "unknown"
    released(feed, 3)
    assert [await settled(feed, n) for n in (2, 3, 4)] == [3, 3, "waits"]
    feed.take(KEY, None)
    assert [await settled(feed, n) for n in (2, 3, 4)] == ["ended", "ended", "waits"]
    released(feed, 5)
    assert [await settled(feed, n) for n in (3, 4, 5, 6)] == [5, 5, 5, "waits"]


async def test_a_tombstone_says_what_it_ended_even_when_the_release_was_compacted_away():
    feed = PolicyFeed()
    feed.take(KEY, None, [("revision", b"4")])
    assert [await settled(feed, n) for n in (3, 4, 5)] == ["ended", "ended", "waits"]


@pytest.mark.parametrize(
    "headers", [(), [("revision", None)], [("revision", b"x")], [("revision", b"-1")], [("other", b"4")]]
)
async def test_a_tombstone_without_a_revision_ends_all_before_it(headers):
    feed = PolicyFeed()
    feed.take(KEY, None, headers)
    assert await settled(feed, 7) == "ended"
    released(feed, 8)
    assert await settled(feed, 8) == 8


async def test_a_tombstone_whose_revision_is_huge_is_taken():
    feed = PolicyFeed()
    feed.take(KEY, None, [("revision", b"9" * 5000)])
    assert await settled(feed, 7) == "ended"


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"\xff", b'{"policy_id": "x"}'])
async def test_a_broken_release_is_no_end(value):
    feed = PolicyFeed()
    feed.take(KEY, value)
    assert await settled(feed, 1) == "waits"
    released(feed, 1)
    feed.take(KEY, value)
    assert await settled(feed, 1) == 1
    released(feed, 2, version="0123456789ab")  # a version that is not the document's
    assert await settled(feed, 2) == "waits"


async def test_a_late_release_is_logged_once_and_then_taken(monkeypatch, caplog):
    monkeypatch.setattr(feed_module, "LATE", 0.01)
    feed = PolicyFeed()
    released(feed, 1)
    waiting = asyncio.create_task(feed.wait_for(KEY, 2))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert caplog.text.count("release not arrived") == 1
    assert "revision=2 newest=1" in caplog.text
    released(feed, 2)
    assert (await waiting).revision == 2


@pytest.mark.parametrize("moment", [0.0, 0.05])
async def test_a_wait_can_be_cancelled_before_and_after_it_is_late(monkeypatch, moment):
    monkeypatch.setattr(feed_module, "LATE", 0.01)
    waiting = asyncio.create_task(PolicyFeed().wait_for(KEY, 2))
    await asyncio.sleep(moment)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
