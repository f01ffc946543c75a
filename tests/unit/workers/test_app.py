"""The reasoning worker: its limits, and its warning about policies that the small model cannot judge by."""

import asyncio

import msgspec
import pytest

from safeguard_streams.bus.admission import PriorityAdmission
from safeguard_streams.policies import small_model
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases.feed import PolicySet, Released
from safeguard_streams.runtime import settings
from safeguard_streams.workers.app import Worker, start_backend, warn_of_unlearned

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


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256])
async def test_live_content_finds_a_quarter_of_the_backend_free_beside_a_replay(concurrency):
    class Backend:
        pass

    Backend.concurrency = concurrency
    limits = Worker(settings.load(), start_backend)._limits(Backend())
    ranks = max(limits.ranks.values(), default=0) + 1
    admission = PriorityAdmission(limits.max_in_flight, ranks, limits.reserve, limits.max_background)
    if ranks == 1:
        assert concurrency < 4
        return
    replayed = [asyncio.create_task(admission.acquire(ranks - 1)) for _ in range(2 * limits.max_in_flight)]
    await asyncio.sleep(0)
    taken = sum(task.done() for task in replayed)
    assert 1 <= taken <= concurrency - concurrency // 4
    live = [asyncio.create_task(admission.acquire(0)) for _ in range(concurrency // 4)]
    await asyncio.sleep(0)
    assert all(task.done() for task in live)
    assert taken + len(live) <= concurrency, "none of them waits in the backend's own queue"
    for task in replayed:
        task.cancel()
    await asyncio.gather(*replayed, return_exceptions=True)
