"""The reasoning worker: its end, and its warning about policies that the small model cannot judge by."""

import asyncio

import msgspec
import pytest

from safeguard_streams.policies import small_model
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.runtime import settings
from safeguard_streams.workers import app
from safeguard_streams.workers.app import warn_of_unlearned

POLICY = load_library()["fraud-spam"]
FOREIGN = msgspec.structs.replace(POLICY, id="my-own", text=POLICY.text.replace("FS1", "FS6"))
SMALL = small_model.learned().model


@pytest.mark.parametrize(
    ("model", "policies", "warned"),
    [
        (SMALL, [POLICY], False),
        (SMALL, [POLICY, FOREIGN], True),
        ("gpt-oss-safeguard-20b", [FOREIGN], False),
        (SMALL, [], False),
    ],
)
def test_a_worker_with_the_small_model_names_the_policies_that_it_has_not_learned(caplog, model, policies, warned):
    warn_of_unlearned(model, PolicySet({policy.id: Released(policy, 1) for policy in policies}))
    assert ("policies=my-own (not a policy of the package)" in caplog.text) is warned
    assert bool(caplog.records) is warned


@pytest.mark.parametrize("failure", [None, KeyError])
async def test_a_worker_closes_its_backend_however_it_ends(monkeypatch, failure):
    closed = []

    class Backend:
        async def close(self):
            closed.append(self)

    async def ended(*tasks):
        for task in tasks:
            task.close()
        if failure:
            raise failure

    monkeypatch.setattr(app, "run_until_first", ended)
    worker = app.Worker(settings.load(), start=None)
    worker.backend = Backend()
    outcome = (await asyncio.gather(worker.run(asyncio.Event()), return_exceptions=True))[0]
    assert type(outcome) is (failure or type(None))
    assert closed == [worker.backend]
