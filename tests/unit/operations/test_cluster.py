"""Questions about consumer groups wait for their coordinator, which a new cluster does not have at once."""

from types import SimpleNamespace

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupLoadInProgressError

from safeguard_streams.operations import cluster
from safeguard_streams.runtime.settings import Settings


class NewCluster:
    """Has no coordinator for the first answers, and one that loads its groups for the next three."""

    def __init__(self, refusals):
        self.refusals = refusals

    async def describe_consumer_groups(self, names):
        self.refusals -= 1
        if self.refusals > 3:
            raise GroupCoordinatorNotAvailableError
        if self.refusals > 0:
            return [SimpleNamespace(groups=[(GroupLoadInProgressError.errno, names[0], "", "", "", [])])]
        return [SimpleNamespace(groups=[(0, names[0], "Empty", "", "", [])])]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(cluster, "_COORDINATOR_PAUSE", 0)


async def test_groups_of_a_new_cluster_are_read():
    found = await cluster.groups(Settings(prefix="eu."), NewCluster(7))
    assert found["prefilter"] == cluster.Group("eu.prefilter", "Empty", [])


async def test_a_coordinator_that_never_comes_is_an_error():
    with pytest.raises(GroupCoordinatorNotAvailableError):
        await cluster.groups(Settings(), NewCluster(1000))
