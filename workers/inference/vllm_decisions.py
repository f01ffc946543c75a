"""The logits of the decision tokens, noted while vLLM writes answers. For vLLM's CPU build.

vLLM computes log-probabilities over the whole vocabulary, for every request of a step in which one asks for them. On a
CPU this takes about as long as the step itself. A score needs two logits. Both classes run where the model does:
`DecisionLogits` notes the two logits of each step and changes nothing, and through `Notes` this project's process
fetches them when a request has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from safeguard_streams.workers.inference.harmony import ONE, ZERO
from safeguard_streams.workers.inference.vllm_arguments import NOTED

KEPT = 1024  # requests; the logits of a request that was cancelled are never fetched

_Logits = dict[int, list[float]]  # of ZERO and ONE, by the number of tokens written before
_noted: OrderedDict[str, _Logits] = OrderedDict()  # by the name of the request


class _Row(NamedTuple):
    """A request in vLLM's batch. written: its output, which vLLM extends."""

    written: Sequence[int]
    logits: _Logits


class DecisionLogits(LogitsProcessor):
    """Notes the logits of the decision tokens in each step. vLLM creates it, and calls it before it samples."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._rows: dict[int, _Row] = {}
        self._tokens = torch.tensor([ZERO, ONE], device=device)

    def is_argmax_invariant(self) -> bool:
        return False  # vLLM does not call invariant ones for greedy requests

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, _row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self._rows:
            both = logits[:, self._tokens].tolist()
            for index, row in self._rows.items():
                # A step that has not read the whole prompt yet is followed by one with as many tokens written.
                row.logits[len(row.written)] = both[index]
        return logits


def _row(parameters: Any, _prompt: list[int] | None, written: list[int]) -> _Row | None:
    """The row of a request that joins the batch, which it may do several times."""
    name = (parameters.extra_args or {}).get(NOTED)
    if name is None:
        return None
    logits = _noted.setdefault(name, {})
    while len(_noted) > KEPT:
        _noted.popitem(last=False)
    return _Row(written, logits)


class Notes:
    """A part of vLLM's worker."""

    def take_decision_logits(self, name: str, positions: Sequence[int]) -> list[list[float] | None]:
        """The logits noted at positions of a request's output, which are then forgotten."""
        logits = _noted.pop(name, {})
        return [logits.get(position) for position in positions]
