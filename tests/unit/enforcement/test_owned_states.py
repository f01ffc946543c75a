"""Enforcement keeps the state of the partitions that it owns, and of no others."""

from safeguard_streams.bus.interface import Partition
from safeguard_streams.contract import topics
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import Enforcer
from tests.unit.enforcement.test_transform import RULES

FIRST, SECOND = Partition(topics.ENFORCEMENT, 0), Partition(topics.ENFORCEMENT, 1)


class Restored:
    """Restores a state of its own each time."""

    def __init__(self):
        self.states = []

    async def __call__(self, partition):
        state = EnforcementState()
        self.states.append((partition, state))
        return state


def enforcer(restore):
    return Enforcer(RULES, 2, restore)


async def test_the_state_of_a_lost_partition_is_gone_and_that_of_an_owned_one_stays():
    restored = Restored()
    transform = enforcer(restored)
    await transform.opened(FIRST)
    await transform.opened(SECOND)
    kept = transform.states[1]
    transform.closed(FIRST)
    assert transform.states == {1: kept}
    assert restored.states[1] == (SECOND, kept)


async def test_a_partition_that_is_taken_again_is_restored_again():
    restored = Restored()
    transform = enforcer(restored)
    await transform.opened(FIRST)
    transform.closed(FIRST)
    await transform.opened(FIRST)
    (_, before), (_, now) = restored.states
    assert transform.states == {0: now}
    assert now is not before


def test_a_partition_that_was_never_opened_can_be_closed():
    transform = enforcer(Restored())
    transform.closed(FIRST)
    assert transform.states == {}
