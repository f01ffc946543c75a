"""The watermark and the completed set, against a model made of plain sets."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from safeguard_streams.bus.watermark import SPAN, Watermark, pack, unpack


class Partition(RuleBasedStateMachine):
    """Deliver with gaps, complete in any order, commit, crash and resume from the commit."""

    def __init__(self):
        super().__init__()
        self.watermark = Watermark(0)
        self.log = []  # offsets that exist
        self.at = 0  # index in the log of what is read next
        self.running = []
        self.done = set()
        self.committed = (0, "", frozenset())

    @rule(gaps=st.lists(st.integers(0, 5), min_size=1, max_size=20))
    def produce(self, gaps):
        for gap in gaps:
            self.log.append((self.log[-1] + 1 if self.log else 0) + gap)

    @precondition(lambda self: self.at < len(self.log))
    @rule(count=st.integers(1, 10))
    def deliver(self, count):
        for offset in self.log[self.at : self.at + count]:
            if offset >= self.watermark.ceiling:
                break
            self.at += 1
            if self.watermark.take_all([offset]):
                assert offset not in self.done, "a done record was taken again"
                self.running.append(offset)
            else:
                assert offset in self.done

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def complete(self, data):
        offset = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.watermark.complete([offset])
        self.done.add(offset)

    @rule()
    def commit(self):
        self.committed = (self.watermark.position, self.watermark.metadata, frozenset(self.done))

    @rule()
    def crash_and_resume(self):
        position, metadata, done = self.committed
        self.watermark = Watermark(position, metadata)
        self.done = set(done)
        self.running = []
        self.at = sum(offset < position for offset in self.log)

    @invariant()
    def nothing_unfinished_is_below_the_position(self):
        position = self.watermark.position
        assert {offset for offset in self.log if offset < position} <= self.done
        done_above = {o for o in self.done if o >= position}
        assert unpack(position, self.watermark.metadata) == done_above

    @invariant()
    def metadata_fits_the_brokers_limit(self):
        assert len(self.watermark.metadata) < 4096


TestPartition = Partition.TestCase


@given(st.integers(0, 2**60), st.sets(st.integers(0, SPAN - 1)))
def test_packing_is_exact(position, ahead):
    done = {position + n for n in ahead}
    assert unpack(position, pack(position, done)) == done
    assert unpack(position, pack(position, done, b"12345678")) == done


def test_the_worst_completed_set_fits():
    scattered = {n for n in range(SPAN) if hash((n, "x")) % 2}
    assert len(pack(0, scattered)) < 4096


def test_work_ahead_of_the_watermark_is_bounded():
    watermark = Watermark(0)
    assert watermark.take_all([0]) == [0]
    assert watermark.ceiling == SPAN


def test_metadata_of_another_origin_repeats_work_but_loses_none():
    for metadata in ("written by another tool", "{}", "\u00e9"):
        assert unpack(5, metadata) == set()


@given(st.sets(st.integers(0, SPAN - 1)))
def test_a_tag_tells_commits_apart_and_is_carried_on(done):
    watermark = Watermark(7, pack(7, {7 + offset for offset in done}))
    untagged = watermark.metadata
    watermark.draw_tag()
    tagged = watermark.metadata
    assert Watermark(7, tagged).metadata == tagged
    watermark.draw_tag()
    assert len({untagged, tagged, watermark.metadata}) == 3
    assert unpack(7, tagged) == unpack(7, untagged)
    assert len(tagged) <= 4096
