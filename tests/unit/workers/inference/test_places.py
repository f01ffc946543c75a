"""Which request gets the next place at which server."""

import asyncio

import pytest

from safeguard_streams.runtime import metrics
from safeguard_streams.workers.inference.discovery import Address
from safeguard_streams.workers.inference.limit import Limit
from safeguard_streams.workers.inference.places import Places


class Stub:
    """A server as far as places are concerned."""

    url = ""

    def __init__(self, places, *, healthy=True, url="http://a:1/v1"):
        self.address = Address(url)
        self.limit = Limit(places)
        self.pending = 0
        self.healthy = healthy

    @property
    def has_place(self):
        return self.healthy and self.pending < self.limit.value


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def takes(places, rank, tried=None):
    return asyncio.create_task(places.take(rank, tried or {}))


async def test_the_server_that_is_least_loaded_for_its_limit_gets_the_request():
    small, large = Stub(2), Stub(8)
    places = Places([small, large], 0.25)
    for _ in range(10):
        await places.take(0, {})
    assert (small.pending, large.pending) == (2, 8)


async def test_live_content_comes_first_and_the_background_never_stops():
    server = Stub(2)
    places = Places([server], 0.25)
    await places.take(0, {})
    await places.take(0, {})
    waiting = {name: takes(places, rank) for name, rank in (("replay", 2), ("audit", 1), ("live", 0), ("later", 0))}
    order = []
    for name, task in waiting.items():
        task.add_done_callback(lambda _, name=name: order.append(name))
    for held in (0, 0, 0, 1):
        await settled()
        places.give_back(server, held)
    await settled()
    assert order == ["audit", "live", "later", "replay"]


async def test_with_one_place_live_content_keeps_it():
    server = Stub(1)
    places = Places([server], 0.25)
    await places.take(0, {})
    audit, live = takes(places, 1), takes(places, 0)
    await settled()
    places.give_back(server, 0)
    await settled()
    assert (audit.done(), live.done()) == (False, True)
    audit.cancel()


async def test_beside_live_content_the_background_has_its_share():
    server = Stub(16)
    places = Places([server], 0.25)
    await places.take(0, {})
    waiting = [takes(places, 2) for _ in range(12)]
    await settled()
    assert sum(task.done() for task in waiting) == 4
    places.give_back(server, 0)
    await settled()
    assert all(task.done() for task in waiting), "without live content it may have all places"


async def test_a_request_waits_for_a_server_that_had_it_less_often():
    first, second = Stub(1), Stub(1)
    places = Places([first, second], 0.25)
    assert {await places.take(0, {}), await places.take(0, {})} == {first, second}
    again = takes(places, 0, {first: 1})
    other = takes(places, 0)
    await settled()
    places.give_back(first, 0)
    await settled()
    assert (again.done(), other.done()) == (False, True), "it keeps no other request waiting"
    second.healthy = False
    places.give_back(first, 0)
    await settled()
    assert again.result() is first, "the other one is away"


async def test_places_come_back_when_a_server_does():
    server = Stub(2, healthy=False)
    places = Places([server], 0.25)
    waiting = [takes(places, 0) for _ in range(3)]
    await settled()
    assert not any(task.done() for task in waiting)
    server.healthy = True
    places.grant()
    await settled()
    assert [task.done() for task in waiting] == [True, True, False]
    waiting[2].cancel()


@pytest.mark.parametrize("granted", [True, False])
async def test_a_request_that_is_cancelled_leaves_no_place_taken(granted):
    server = Stub(1, healthy=False)
    places = Places([server], 0.25)
    first, second = takes(places, 0), takes(places, 0)
    await settled()
    server.healthy = True
    if granted:
        places.grant()  # it is cancelled before it can take what it was granted
    first.cancel()
    await settled()
    places.grant()
    await settled()
    assert first.cancelled()
    assert second.result() is server
    assert server.pending == 1


async def test_metrics_add_up_what_has_the_same_host_and_port():
    """Before, the exporter kept the last one of two base URLs behind one router."""
    urls = ("http://router:80/first/v1", "http://router/second/v1", "http://[::1]:8000/v1")
    places = Places([Stub(number + 1, url=url) for number, url in enumerate(urls)], 0.25)
    await places.take(0, {})
    shared, alone = (
        {"server.address": host, "server.port": port} for host, port in (("router", "80"), ("::1", "8000"))
    )
    with places.observed():
        (limits,) = metrics._callbacks[metrics.SERVER_LIMIT.name]
        (in_flight,) = metrics._callbacks[metrics.SERVER_IN_FLIGHT.name]
        assert list(limits()) == [(3, shared), (3, alone)]
        assert list(in_flight()) == [(1, shared), (0, alone)]
