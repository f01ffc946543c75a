"""The logits of the decision tokens as vLLM's batch changes, without a model."""

from types import SimpleNamespace

import pytest

from safeguard_streams.workers.inference.harmony import ONE, ZERO
from safeguard_streams.workers.inference.vllm_arguments import NOTED

pytestmark = [pytest.mark.slow, pytest.mark.model]


class Batch:
    """A batch of requests as vLLM's model runner keeps it. Rows: the names of requests, or None for one without."""

    def __init__(self):
        import torch
        from vllm.v1.sample.logits_processor import BatchUpdate

        from safeguard_streams.workers.inference import vllm_decisions

        self.torch, self.update, self.module = torch, BatchUpdate, vllm_decisions
        vllm_decisions._noted.clear()
        self.processor = vllm_decisions.DecisionLogits(None, torch.device("cpu"), False)
        self.taken = vllm_decisions.Notes().take_decision_logits

    def change(self, added=(), removed=(), moved=()):
        rows = []
        for index, name, written in added:
            parameters = SimpleNamespace(extra_args={NOTED: name} if name else None)
            rows.append((index, parameters, None, written))
        self.processor.update_state(self.update(0, removed, rows, moved))

    def step(self, *pairs):
        """One step, with the logits of ZERO and ONE for each row."""
        logits = self.torch.zeros(len(pairs), 20)
        for row, (zero, one) in enumerate(pairs):
            logits[row, ZERO], logits[row, ONE] = zero, one
        before = logits.clone()
        self.processor.update_state(None)
        assert self.torch.equal(self.processor.apply(logits), before), "sampling is left alone"


@pytest.fixture
def batch():
    return Batch()


def test_logits_belong_to_the_number_of_tokens_written_before(batch):
    written = []
    batch.change([(0, "a", written)])
    for position, pair in enumerate([(0, 1), (2, 3), (4, 5)]):
        batch.step(pair)
        written.append(position)
    assert batch.taken("a", [2, 0]) == [[4, 5], [0, 1]]
    assert batch.taken("a", [0]) == [None], "they are taken once"


def test_a_prompt_in_parts_and_a_step_after_the_end_do_not_shift_them(batch):
    written = []
    batch.change([(0, "a", written)])
    batch.step((9, 9))  # the prompt's first part
    batch.step((0, 1))
    written.append(7)
    batch.step((2, 3))
    written.append(8)
    batch.step((9, 9))  # vLLM schedules a step before it knows that the last token ended the output
    assert batch.taken("a", [0, 1]) == [[0, 1], [2, 3]]


def test_requests_keep_theirs_when_rows_move_swap_and_are_taken_by_others(batch):
    from vllm.v1.sample.logits_processor.interface import MoveDirectionality as Direction

    outputs = {name: [] for name in "abcd"}
    batch.change([(index, name, outputs[name]) for index, name in enumerate("abc")])
    batch.step((0, 0), (1, 1), (2, 2))
    for written in outputs.values():
        written.append(5)
    batch.change(removed=[0], moved=[(2, 0, Direction.UNIDIRECTIONAL)])  # c, b
    batch.step((20, 20), (10, 10))
    for written in outputs.values():
        written.append(5)
    batch.change([(2, "d", outputs["d"])], moved=[(0, 1, Direction.SWAP)])  # b, c, d
    batch.step((11, 11), (21, 21), (30, 30))
    assert batch.taken("a", [0, 1]) == [[0, 0], None]
    assert batch.taken("b", [0, 1, 2]) == [[1, 1], [10, 10], [11, 11]]
    assert batch.taken("c", [0, 1, 2]) == [[2, 2], [20, 20], [21, 21]]
    assert batch.taken("d", [2]) == [[30, 30]]


def test_a_request_that_leaves_the_batch_for_a_while_keeps_what_was_noted(batch):
    written = []
    batch.change([(0, "a", written)])
    batch.step((0, 1))
    written.append(5)
    batch.change(removed=[0])
    batch.change([(0, None, [])])
    batch.step((9, 9))
    batch.change([(0, "a", written)])
    batch.step((2, 3))
    assert batch.taken("a", [0, 1]) == [[0, 1], [2, 3]]


def test_requests_that_are_never_taken_do_not_fill_the_memory(batch):
    kept = batch.module.KEPT
    for number in range(kept + 10):
        batch.change([(0, str(number), [])])
        batch.step((0, 1))
    assert len(batch.module._noted) == kept
    assert batch.taken("9", [0]) == [None]
    assert batch.taken("10", [0]) == [[0, 1]]
