"""What a topic deleted before it was exported is counted once, however often the export is repeated."""

from safeguard_streams.exporting.export import past_expired
from safeguard_streams.exporting.manifest import Manifest


def test_offsets_that_expired_are_counted_once():
    before = Manifest("verdicts", "moderation.verdicts", "csv", positions={"0": 100, "1": 7}, expired=2)
    after = past_expired(before, {0: 150, 1: 3, 2: 9})
    assert (after.positions, after.expired) == ({"0": 150, "1": 7}, 52)
    assert past_expired(after, {0: 150, 1: 3, 2: 9}) == after, "nothing came, and nothing more was lost"
    assert past_expired(after, {0: 151, 1: 7, 2: 9}).expired == 53
