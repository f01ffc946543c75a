"""What was done about an item is read from what the agent writes about it."""

from datetime import timedelta

import msgspec

from safeguard_streams.exporting.transparency.figures import median_hours
from safeguard_streams.exporting.transparency.history import history
from tests.unit.enforcement.test_appeals import REMOVED, Agent, decided
from tests.unit.enforcement.test_transform import WHEN


async def test_a_message_that_says_again_what_stands_is_no_second_restriction():
    agent = Agent()
    (removed,) = await agent(REMOVED)
    (again,) = await agent(msgspec.structs.replace(removed, previous="allow"))
    assert again.told, "the platform had not accepted the first message"
    assert again.action_id != removed.action_id
    (measure,) = history(agent.actions, ()).measures
    assert (measure.policy_id, measure.action) == (removed.policy_id, "remove")
    await agent(decided("kim", "limit"))
    (again,) = await agent(msgspec.structs.replace(agent.actions[-1]))
    assert [one.automated for one in history(agent.actions, ()).measures] == [True, False]


async def test_who_sends_an_item_to_review_has_not_checked_its_verdict():
    agent = Agent()
    await agent(REMOVED, decided("ann", "review", "d1"))
    assert history(agent.actions, ()).checks == []
    await agent(decided("bob", "allow", "d2"))
    (check,) = history(agent.actions, ()).checks
    assert (check.restricted, check.allowed) == (True, True)


def test_no_median_is_negative_whatever_the_clocks_said():
    assert median_hours([(WHEN, WHEN - timedelta(hours=3))]) == 0
    assert median_hours([]) is None
