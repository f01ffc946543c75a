"""An erasure by an operator who may not read all topics."""

import pytest

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.errors import ForbiddenError
from safeguard_streams.operations import erasure
from safeguard_streams.runtime import settings


@pytest.mark.parametrize("by_key", [False, True])
async def test_who_may_not_read_referrals_erases_the_rest_and_is_told(monkeypatch, by_key):
    def check(names):
        if topics.REFERRALS in names:
            raise ForbiddenError("the broker refuses this user")

    async def partitions_of(_, name):
        check([name])
        return [0, 1]

    async def read_all(_, names, *__, **___):
        check(names)
        for nothing in ():
            yield nothing

    monkeypatch.setattr(kafka, "partitions_of", partitions_of)
    monkeypatch.setattr(kafka, "read_all", read_all)
    assert await erasure._referrals(settings.load(), "post-1", erasure.Search(by_key=by_key)) == (0, [], False)
