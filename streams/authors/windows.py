"""What authors published lately, and which rates an item passes. Pure, and bounded in memory.

Two items are in one window if both of their times say so: those at which they were created, and those at which they
reached the author's partition. The latter may be twice as far apart, because records wait. Alone, the first would take
a stopped clock for a flood, and the second the import of an archive. A clock that is wrong, but goes, changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from safeguard_streams.contract.limits import AUTHOR_POSTS, PARTITION_POSTS
from safeguard_streams.contract.records import AuthorPost, aware
from safeguard_streams.enforcement.author_rules import Rate, duration, is_young
from safeguard_streams.prefilter.sketch import is_similar
from safeguard_streams.releases.erasures import Erased, never


class _Item(msgspec.Struct, gc=False):
    """An item of an author. It keeps its place and times when it is sent again or edited.

    place: offset of its first record. posted: seconds since 1970; written: ms since 1970.
    """

    place: int
    posted: float
    written: int
    sketch: int | None
    characters: int
    account_age: int | None


class _Author:
    """The last items of an author by id, oldest place first, and up to which place those of a rate are used."""

    __slots__ = ("items", "used")

    def __init__(self) -> None:
        self.items: dict[str, _Item] = {}
        self.used: dict[str, int] = {}


class Windows:
    """The authors of one partition. What is kept depends on the records alone, so a restore ends in the same state.

    erased: whether an item was erased; such items do not count.
    """

    def __init__(self, rates: Sequence[Rate], erased: Erased = never, most: int = PARTITION_POSTS) -> None:
        self._rates = rates
        self._erased = erased
        self._most = most
        self._count = 0
        self._authors: OrderedDict[str, _Author] = OrderedDict()  # who wrote least recently comes first
        self._kept_for = kept_for(rates)

    def __len__(self) -> int:
        """The number of items that are kept."""
        return self._count

    def take(self, post: AuthorPost, place: int, written: int) -> None:
        """Add an item, or its newest text. place: the record's offset; written: its timestamp in ms since 1970."""
        author = self._authors.setdefault(post.author_id, _Author())
        self._authors.move_to_end(post.author_id)
        self._drop_old(author, written - self._kept_for)
        sketch = None if post.sketch is None else int(post.sketch, 16)
        known = author.items.get(post.content_id)
        if known is not None:
            known.sketch, known.characters = sketch, post.characters
            return
        posted = aware(post.posted_at).timestamp()
        author.items[post.content_id] = _Item(place, posted, written, sketch, post.characters, post.account_age)
        self._count += 1
        if len(author.items) > AUTHOR_POSTS:
            self._drop(author, next(iter(author.items)))
        while self._authors and (self._count > self._most or self._is_old(written)):
            _, forgotten = self._authors.popitem(last=False)
            self._count -= len(forgotten.items)

    def passed(self, post: AuthorPost, place: int) -> list[Rate]:
        """The rates that the last record taken passes. The items that they counted are used from then on."""
        author = self._authors.get(post.author_id)
        if author is None:
            return []
        for content_id in [name for name, one in author.items.items() if self._erased(name, one.written)]:
            self._drop(author, content_id)
        newest = author.items.get(post.content_id)
        if newest is None:
            return []
        found = [rate for rate in self._rates if _is_passed(rate, author, newest)]
        for rate in found:
            self.use(post.author_id, rate.name, place)
        return found

    def use(self, author_id: str, rate: str, place: int) -> None:
        """Note that a rate gave a strike at a place: the author's items up to there do not count for it any more."""
        author = self._authors.get(author_id)
        if author is not None:
            author.used[rate] = max(place, author.used.get(rate, -1))

    def _is_old(self, written: int) -> bool:
        author = next(iter(self._authors.values()))
        return all(one.written < written - self._kept_for for one in author.items.values())

    def _drop_old(self, author: _Author, before: int) -> None:
        for content_id in [name for name, one in author.items.items() if one.written < before]:
            self._drop(author, content_id)

    def _drop(self, author: _Author, content_id: str) -> None:
        del author.items[content_id]
        self._count -= 1


def kept_for(rates: Sequence[Rate]) -> int:
    """How long items are kept, in ms: as far apart as two may reach a partition and count together."""
    return max((_apart(rate) for rate in rates), default=0)


def _apart(rate: Rate) -> int:
    return 2000 * round(duration(rate.within).total_seconds())


def _is_passed(rate: Rate, author: _Author, newest: _Item) -> bool:
    """Whether enough items of an author are in one window with the newest record's, which is among them."""
    used = author.used.get(rate.name, -1)
    if newest.place <= used or not is_young(newest.account_age, rate.max_account_age):
        return False
    length = duration(rate.within).total_seconds()
    times = sorted(
        one.posted
        for one in author.items.values()
        if one.place > used
        and abs(one.posted - newest.posted) <= length
        and abs(one.written - newest.written) <= _apart(rate)
        and (not rate.similar or _is_alike(rate, one, newest))
    )
    # All times are so near to the newest record's that whatever fits into one window fits into one with it.
    return any(last - first <= length for first, last in zip(times, times[rate.posts - 1 :], strict=False))


def _is_alike(rate: Rate, one: _Item, newest: _Item) -> bool:
    return (
        one.sketch is not None
        and newest.sketch is not None
        and min(one.characters, newest.characters) >= rate.least_characters
        and is_similar(one.sketch, newest.sketch)
    )
