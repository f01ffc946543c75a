"""The ledger's process: what it waits for before it follows strikes."""

import asyncio

import pytest

from safeguard_streams.authors import app
from safeguard_streams.enforcement import rules
from safeguard_streams.runtime import settings


@pytest.fixture
def process(monkeypatch):
    """A process whose engines note that they run, and end. `known` has the events of what it looks up."""
    made = app.LedgerProcess(settings.load(bootstrap="127.0.0.1:1"), rules.load(rules.SHIPPED), 1)
    made.ran, made.known = [], []

    async def follow(_settings, known):
        made.known.append(known)
        await asyncio.Event().wait()

    async def run_engines(_stop):
        made.ran.append(True)

    for one in (made._policies, made._erasures):
        monkeypatch.setattr(one, "follow", follow)
    monkeypatch.setattr(made, "_run_engines", run_engines)
    return made


@pytest.mark.parametrize("last", [0, 1])
async def test_no_strike_is_followed_before_policies_and_erased_items_are_known(process, last):
    running = asyncio.create_task(process.run(asyncio.Event()))
    while len(process.known) < 2:
        await asyncio.sleep(0)
    process.known[1 - last].set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert process.ran == []
    process.known[last].set()
    await running
    assert process.ran == [True]


async def test_a_process_that_is_stopped_while_it_waits_ends(process):
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    while len(process.known) < 2:
        await asyncio.sleep(0)
    stop.set()
    await running
