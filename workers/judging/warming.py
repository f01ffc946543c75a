"""Policies' prefixes in the cache of the inference backend, before content needs them.

Otherwise, content items that arrive together would each compute the whole policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.vocabulary import EFFORTS, Effort
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.workers.inference.interface import InferenceBackend, InferenceError, InferenceRequest
from safeguard_streams.workers.judging.instructions import Instructions, instructions_for
from safeguard_streams.workers.judging.reasoner import HIGHER

Prefix = tuple[str, Effort]


class PrefixWarmer:
    """Computes the prefix of each policy once. steps: the efforts that content may be judged at under load."""

    def __init__(self, backend: InferenceBackend, feed: PolicyFeed, steps: Collection[Effort] = ()) -> None:
        self._backend = backend
        self._feed = feed
        self._steps = steps
        self._warm: set[Prefix] = set()

    async def warm_up(self) -> None:
        """Warm the policies in force, each at its own effort."""
        for policy in self._in_force():
            instructions = instructions_for(policy, self._in_force())
            await self._compute((instructions.text, instructions.effort))

    async def follow(self) -> None:
        """Warm the other efforts, and whatever is released from now on, until cancelled."""
        while True:
            wanted = list(dict.fromkeys(self._wanted()))
            self._warm.intersection_update(wanted)
            cold = next((prefix for prefix in wanted if prefix not in self._warm), None)
            if cold:
                await self._compute(cold)
            else:
                self._feed.changed.clear()
                await self._feed.changed.wait()

    async def _compute(self, prefix: Prefix) -> None:
        self._warm.add(prefix)
        with contextlib.suppress(InferenceError):
            await self._backend.generate(InferenceRequest(*prefix, (), max_tokens=1))

    def _wanted(self) -> Iterator[Prefix]:
        """All prefixes, first those at the policies' own efforts."""
        everything = [self._instructions(policy) for policy in self._feed.readable]
        yield from ((one.text, one.effort) for one in everything)
        for one in everything:
            yield one.text, HIGHER[one.effort]
            yield from ((one.text, min(one.effort, step, key=EFFORTS.index)) for step in self._steps)

    def _instructions(self, policy: Policy) -> Instructions:
        others = [other for other in self._in_force() if other.id != policy.id]
        return instructions_for(policy, [policy, *others])

    def _in_force(self) -> Sequence[Policy]:
        return [released.policy for released in self._feed.policies.released.values()]
