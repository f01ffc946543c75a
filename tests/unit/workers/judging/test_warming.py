"""Policies' prefixes reach the backend's cache before content needs them."""

import asyncio
import contextlib

import msgspec
import pytest

from safeguard_streams.contract.records import REPLAYED, SHADOW, policy_key
from safeguard_streams.errors import DependencyError
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases.feed import PolicyFeed, PolicySet, Released
from safeguard_streams.workers.inference.interface import Completion, InferenceError
from safeguard_streams.workers.judging.instructions import instructions_for
from safeguard_streams.workers.judging.judge import RANKS
from safeguard_streams.workers.judging.warming import PrefixWarmer

LIBRARY = load_library()
HATE, FRAUD = LIBRARY["hate-harassment"], LIBRARY["fraud-spam"]
NEWER = msgspec.structs.replace(FRAUD, text=FRAUD.text + "\nAnd one more rule.\n")


class Backend:
    """Records the prefixes that it computes."""

    revision = None
    continues = False

    def __init__(self, error=None):
        self.computed = []
        self.error = error

    async def generate(self, request):
        assert (len(request.user), request.max_tokens) == (0, 1)
        assert request.rank == max(RANKS.values()), "no content waits for it"
        self.computed.append((request.policy_text, request.effort))
        if self.error:
            raise self.error
        await asyncio.sleep(0)
        return Completion([], 1, 0)


class Feed(PolicyFeed):
    """A feed whose records a test sets."""

    def set(self, *policies, place=""):
        for policy in policies:
            self._by_key[policy_key(policy.id, place)] = Released(policy, 1)
        self.policies = PolicySet({r.policy.id: r for key, r in self._by_key.items() if key == policy_key(r.policy.id)})
        self.changed.set()

    def end(self, policy, place=""):
        del self._by_key[policy_key(policy.id, place)]
        self.set()


@contextlib.asynccontextmanager
async def following(warmer):
    task = asyncio.create_task(warmer.follow())
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settled():
    for _ in range(100):
        await asyncio.sleep(0)


async def test_each_policy_at_its_own_effort_comes_before_content_and_other_efforts_meanwhile():
    backend, feed = Backend(), Feed()
    feed.set(HATE, FRAUD)
    warmer = PrefixWarmer(backend, feed)
    await warmer.warm_up()
    assert backend.computed == [(HATE.text, HATE.effort), (FRAUD.text, FRAUD.effort)]
    assert {HATE.effort, FRAUD.effort} == {"low"}
    async with following(warmer):
        await settled()
        assert backend.computed[2:] == [(HATE.text, "medium"), (FRAUD.text, "medium")], "what a retry asks for"


async def test_the_grammar_of_answers_is_compiled_once_for_each_policy():
    grammars = []

    class Continuing(Backend):
        continues = True

        async def generate(self, request):
            if request.pattern is None:
                return await super().generate(request)
            grammars.append(request.pattern)
            assert request.max_tokens == 1
            return Completion([], 1, 0)

    backend, feed = Continuing(), Feed()
    feed.set(HATE)
    warmer = PrefixWarmer(backend, feed)
    await warmer.warm_up()
    assert len(grammars) == 1
    assert "HH1" in grammars[0]
    async with following(warmer):
        feed.set(FRAUD)
        await settled()
    assert len(grammars) == 2
    assert "FS1" in grammars[1]
    assert len(backend.computed) == 4


async def test_a_new_version_is_computed_when_it_is_released_and_nothing_twice():
    backend, feed = Backend(), Feed()
    feed.set(HATE, FRAUD)
    warmer = PrefixWarmer(backend, feed)
    await warmer.warm_up()
    async with following(warmer):
        await settled()
        before = len(backend.computed)
        feed.set(NEWER)
        await settled()
        assert backend.computed[before:] == [(NEWER.text, "low"), (NEWER.text, "medium")]
        feed.set(NEWER)
        await settled()
        assert len(backend.computed) == before + 2
        feed.set(FRAUD)
        await settled()
        assert backend.computed[before + 2 :] == [(FRAUD.text, "low"), (FRAUD.text, "medium")], (
            "it may be evicted by now"
        )


@pytest.mark.parametrize("place", [SHADOW, REPLAYED + "1a2b3c4d5e6f"])
async def test_shadows_and_versions_under_replay_are_computed_and_forgotten(place):
    backend, feed = Backend(), Feed()
    feed.set(HATE)
    warmer = PrefixWarmer(backend, feed)
    await warmer.warm_up()
    async with following(warmer):
        await settled()
        feed.set(NEWER, place=place)
        await settled()
        assert backend.computed[-2:] == [(NEWER.text, "low"), (NEWER.text, "medium")]
        feed.end(NEWER, place)
        await settled()
        assert len(backend.computed) == 4


async def test_efforts_under_load_are_computed_as_far_as_they_are_lower():
    careful = msgspec.structs.replace(FRAUD, effort="high")
    backend, feed = Backend(), Feed()
    feed.set(HATE, careful)
    async with following(PrefixWarmer(backend, feed, {"medium": 30, "low": 120})):
        await settled()
    assert sorted(backend.computed) == sorted(
        [(HATE.text, "low"), (HATE.text, "medium"), *((careful.text, effort) for effort in ("low", "medium", "high"))]
    )


async def test_a_bundle_is_computed_as_content_is_judged_by_it():
    bundled = [
        msgspec.structs.replace(p, judging=msgspec.structs.replace(p.judging, bundle="b")) for p in (HATE, FRAUD)
    ]
    backend, feed = Backend(), Feed()
    feed.set(*bundled)
    async with following(PrefixWarmer(backend, feed)):
        await settled()
    text = instructions_for(bundled[0], bundled).text
    assert backend.computed == [(text, "low"), (text, "medium")]


async def test_a_failed_request_stops_nothing_and_a_dead_backend_ends_the_worker():
    feed = Feed()
    feed.set(HATE)
    failing = Backend(InferenceError("no"))
    warmer = PrefixWarmer(failing, feed)
    await warmer.warm_up()
    async with following(warmer) as task:
        await settled()
        assert not task.done()
        assert len(failing.computed) == 2, "each is tried once"
    with pytest.raises(DependencyError):
        await PrefixWarmer(Backend(DependencyError("dead")), feed).follow()
