"""Which topics a command or a process needs to find what stands against an author."""

import pytest

from safeguard_streams.authors import standings
from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.runtime import settings


@pytest.fixture
def asked(monkeypatch):
    """The topics whose partitions were asked for."""
    names = []

    async def partitions_of(_, name):
        names.append(name)
        return list(range(4 if name == topics.AUTHOR_POSTS else 2))

    monkeypatch.setattr(kafka, "partitions_of", partitions_of)
    return names


@pytest.mark.parametrize("role", ["console", "auditor", "operator"])
async def test_people_need_no_topic_that_their_role_may_not_read(asked, role):
    assert await standings.partitions_of(settings.load()) == 2
    assert set(asked) <= set(ROLES[role].reads)


async def test_rates_need_the_posts_in_partitions_of_the_same_number(asked):
    with pytest.raises(ConfigurationError, match="moderation.author-posts 4"):
        await standings.partitions_of(settings.load(), rates=True)
