"""Policies' prefixes in the cache of the inference backend, and the grammars of their answers, before content needs
them.

Otherwise, content items that arrive together would each compute the whole policy, or wait for its grammar.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.vocabulary import EFFORTS, Effort
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.workers.inference.interface import InferenceBackend, InferenceError, InferenceRequest
from safeguard_streams.workers.judging.attempt import compile_form
from safeguard_streams.workers.judging.instructions import Instructions, instructions_for
from safeguard_streams.workers.judging.reasoner import HIGHER, RANKS

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
            await self._compute(instructions, instructions.effort)

    async def follow(self) -> None:
        """Warm the other efforts, and whatever is released from now on, until cancelled."""
        while True:
            wanted = {(one.text, effort): one for one, effort in self._wanted()}
            self._warm.intersection_update(wanted)
            cold = next((prefix for prefix in wanted if prefix not in self._warm), None)
            if cold:
                await self._compute(wanted[cold], cold[1])
            else:
                self._feed.changed.clear()
                await self._feed.changed.wait()

    async def _compute(self, instructions: Instructions, effort: Effort) -> None:
        """Compute a prefix, after all content that waits."""
        self._warm.add((instructions.text, effort))
        with contextlib.suppress(InferenceError):
            await self._backend.generate(InferenceRequest(instructions.text, effort, (), max_tokens=1, rank=RANKS - 1))
        if effort == instructions.effort:
            await compile_form(self._backend, instructions)

    def _wanted(self) -> Iterator[tuple[Instructions, Effort]]:
        """What to compute, first at the policies' own efforts."""
        everything = [self._instructions(policy) for policy in self._feed.readable]
        yield from ((one, one.effort) for one in everything)
        for one in everything:
            yield one, HIGHER[one.effort]
            yield from ((one, min(one.effort, step, key=EFFORTS.index)) for step in self._steps)

    def _instructions(self, policy: Policy) -> Instructions:
        others = [other for other in self._in_force() if other.id != policy.id]
        return instructions_for(policy, [policy, *others])

    def _in_force(self) -> Sequence[Policy]:
        return [released.policy for released in self._feed.policies.released.values()]
