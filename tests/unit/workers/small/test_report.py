"""The record that training writes beside the model."""

import pytest

from safeguard_streams.policies import small_model


def test_training_would_write_the_shipped_record():
    pytest.importorskip("vllm")
    from safeguard_streams.workers.small.report import learned_by

    shipped = small_model.learned()
    assert learned_by(shipped.model) == shipped
