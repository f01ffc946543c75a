"""Windows of rates: what passes one equals an offline count, whatever comes twice, late, edited, or after a restart."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.authors.windows import Windows, kept_for
from safeguard_streams.contract.limits import AUTHOR_POSTS
from safeguard_streams.contract.records import AuthorPost
from safeguard_streams.enforcement.author_rules import Rate

START = datetime(2026, 1, 1, tzinfo=UTC)
SAME, NEAR, OTHER = "0" * 16, "00000000000000ff", "f" * 16
FLOOD = Rate("flood", 20, "10m")


def post(number, seconds=0.0, *, author="ann", sketch=SAME, characters=40, age=None):
    return AuthorPost(author, f"c{number}", START + timedelta(seconds=seconds), sketch, characters, age)


def ms(seconds):
    return round((START.timestamp() + seconds) * 1000)


class Counting:
    """Windows with the records that they took; `restart` restores them as a new owner does."""

    def __init__(self, *rates):
        self.rates, self.records, self.strikes = rates, [], []
        self.windows = Windows(rates)

    def take(self, one, written):
        place = len(self.records)
        self.records.append((one, ms(written)))
        self.windows.take(one, place, ms(written))
        found = [rate.name for rate in self.windows.passed(one, place)]
        self.strikes += [(place, one.author_id, name) for name in found]
        return found

    def restart(self):
        restored = Windows(self.rates)
        since = max((written for _, written in self.records), default=0) - 2 * kept_for(self.rates)
        for place, (one, written) in enumerate(self.records):
            if written >= since:
                restored.take(one, place, written)
                for at, author, name in self.strikes:
                    if at == place:
                        restored.use(author, name, at)
        self.windows = restored


def counted(rate, *posts):
    """How often posts, each with the second of its arrival, pass a rate."""
    counting = Counting(rate)
    return sum(len(counting.take(one, written)) for one, written in posts)


def test_many_posts_that_differ_by_little_pass_once():
    assert counted(FLOOD, *((post(n, n, sketch=NEAR if n % 2 else SAME), n) for n in range(25))) == 1
    assert counted(FLOOD, *((post(n, n), n) for n in range(19))) == 0
    assert counted(FLOOD, *((post(n, n), n) for n in range(40))) == 2


def test_posts_that_differ_do_not_unless_the_rate_counts_all():
    posts = [(post(n, n, sketch=f"{(n * 0x9E3779B97F4A7C15) % 2**64:016x}"), n) for n in range(25)]
    assert counted(FLOOD, *posts) == 0
    assert counted(Rate("any", 20, "10m", similar=False), *posts) == 1


def test_posts_that_come_twice_count_once():
    doubled = [(post(n // 2, n // 2), n // 2) for n in range(50)]
    assert counted(FLOOD, *doubled[:38]) == 0
    assert counted(FLOOD, *doubled, *doubled) == 1


def test_authors_and_posts_far_apart_do_not_add_up():
    assert counted(FLOOD, *((post(n, n, author=f"a{n % 2}"), n) for n in range(38))) == 0
    assert counted(FLOOD, *((post(n, 35 * n), 35 * n) for n in range(60))) == 0


def test_late_posts_count_where_they_were_created():
    """They come in any order, and with them those of another hour."""
    late = [post(n, n) for n in reversed(range(12))]
    assert counted(FLOOD, *((post(n, n), 12) for n in range(12, 20)), *((one, 600) for one in late)) == 1
    assert counted(FLOOD, *((post(n, -3600), 12) for n in range(12, 20)), *((one, 600) for one in late)) == 0


def test_a_clock_that_is_stopped_or_far_behind_neither_triggers_nor_defeats():
    assert counted(FLOOD, *((post(n, -(10**9)), 300 * n) for n in range(60))) == 0
    assert counted(FLOOD, *((post(n, n - 10**8), n) for n in range(20))) == 1
    counting = Counting(FLOOD, Rate("long", 100, "1d"))  # for which items are kept longer
    assert not any(counting.take(post(n, -(10**9)), 300 * n) for n in range(60))


def test_an_archive_that_is_imported_is_no_flood():
    assert counted(FLOOD, *((post(n, 86400 * (n - 100)), 0) for n in range(60))) == 0


def test_short_texts_and_those_without_a_sketch_do_not_count_as_similar():
    assert counted(FLOOD, *((post(n, n, characters=9), n) for n in range(25))) == 0
    assert counted(Rate("s", 20, "10m", min_characters=2), *((post(n, n, characters=2), n) for n in range(25))) == 1
    assert counted(FLOOD, *((post(n, n, sketch=None), n) for n in range(25))) == 0


def test_an_item_counts_by_its_newest_text():
    """Items that are edited into the same text are a flood. Once they have counted, nobody counts them again."""
    harmless = [(post(n, n, sketch=f"{(n * 0x9E3779B97F4A7C15) % 2**64:016x}"), n) for n in range(20)]
    edited = [(post(n, n), 30) for n in range(20)]
    again = [(post(n, n, sketch=NEAR), 60) for n in range(20)]
    assert counted(FLOOD, *harmless) == 0
    assert counted(FLOOD, *harmless, *edited) == 1
    assert counted(FLOOD, *harmless, *edited, *again) == 1


def test_a_rate_for_young_accounts_looks_at_the_age_when_the_item_was_created():
    young = Rate("young", 3, "10m", max_account_age="1d")
    for age, passed in ((0, 1), (86400, 1), (86401, 0), (None, 0)):
        assert counted(young, *((post(n, n, age=age), n) for n in range(3))) == passed


def test_erased_items_do_not_count():
    windows = Windows([FLOOD], lambda content_id, _: content_id == "c3")
    found = []
    for n in range(20):
        windows.take(post(n, n), n, ms(n))
        found += windows.passed(post(n, n), n)
    assert (found, len(windows)) == ([], 19)


def test_memory_is_bounded_by_author_and_by_partition_and_ends_with_the_window():
    windows = Windows([Rate("all", 100, "1d", similar=False)], most=2 * AUTHOR_POSTS)
    for n in range(3 * AUTHOR_POSTS):
        windows.take(post(n, n), n, ms(n))
    assert len(windows) == AUTHOR_POSTS
    for n in range(3 * AUTHOR_POSTS):
        windows.take(post(n, n, author=f"a{n}"), n, ms(n))
    assert len(windows) == 2 * AUTHOR_POSTS
    windows.take(post(0, 0), 9999, ms(10**6))
    assert len(windows) == 1


RATES = (Rate("similar", 3, "10s"), Rate("all", 4, "8s", similar=False), Rate("young", 2, "6s", max_account_age="5s"))


def expected(records):
    """The strikes for records, counted from all of them each time."""
    apart = {rate.name: int(rate.within[:-1]) for rate in RATES}
    items, used, strikes = {}, {}, []
    for place, (one, written) in enumerate(records):
        own = items.setdefault(one.author_id, {})
        for name in [name for name, item in own.items() if item["written"] < written - 2 * max(apart.values())]:
            del own[name]
        at = (one.posted_at - START).total_seconds()
        item = own.setdefault(one.content_id, {"place": place, "at": at, "written": written, "age": one.account_age})
        item["sketch"] = one.sketch
        for rate in RATES:
            last, length = used.get((one.author_id, rate.name), -1), apart[rate.name]
            free = [
                other["at"]
                for other in own.values()
                if other["place"] > last
                and abs(other["written"] - item["written"]) <= 2 * length
                and (not rate.similar or other["sketch"] == item["sketch"])
            ]
            young = rate.max_account_age is None or (item["age"] is not None and item["age"] <= 5)
            spans = [(begin, sum(begin <= t <= begin + length for t in free)) for begin in free]
            full = any(n >= rate.posts and begin <= item["at"] <= begin + length for begin, n in spans)
            if item["place"] > last and young and full:
                used[one.author_id, rate.name] = place
                strikes.append((place, one.author_id, rate.name))
    return strikes


STEPS = st.tuples(
    st.integers(0, 4),  # seconds since the record before
    st.sampled_from(["ann", "ben"]),
    st.integers(0, 9),  # the item: some come twice, some are edited
    st.integers(0, 12),  # seconds that it is late
    st.sampled_from([SAME, OTHER]),
    st.sampled_from([None, 3, 7]),
    st.booleans(),  # whether the process is restarted then
)


@given(st.lists(STEPS, max_size=60))
def test_strikes_equal_an_offline_count(steps):
    counting, clock, records = Counting(*RATES), 0, []
    for wait, author, number, late, sketch, age, restarted in steps:
        clock += wait
        one = post(f"{author}{number}", clock - late, author=author, sketch=sketch, age=age)
        records.append((one, clock))
        counting.take(one, clock)
        if restarted:
            counting.restart()
    assert counting.strikes == expected(records)
    assert len(counting.windows) <= len(records)


@given(st.lists(STEPS, max_size=40))
def test_reading_all_again_gives_no_other_strike(steps):
    """The ids of strikes come from items, so that a group which begins again repeats those it gave."""
    first, second, clock = Counting(*RATES), Counting(*RATES), 0
    for wait, author, number, late, sketch, age, _ in steps:
        clock += wait
        one = post(f"{author}{number}", clock - late, author=author, sketch=sketch, age=age)
        first.take(one, clock)
        second.take(msgspec.structs.replace(one), clock)
    assert first.strikes == second.strikes
