"""Which model judges is known from the newest verdicts."""

from datetime import UTC, datetime, timedelta

from safeguard_streams.contract.records import Verdict
from safeguard_streams.releases import model_notice
from safeguard_streams.runtime.settings import Settings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_a_verdict_whose_time_has_no_offset_is_compared_in_utc(monkeypatch):
    """Python compares no time without an offset with one that has it."""

    async def end_offsets(*_):
        return {}

    async def read_decoded(*_, **__):
        naive = (NOON + timedelta(minutes=1)).replace(tzinfo=None)
        for model, at in (("older", NOON), ("newest", naive), ("oldest", NOON - timedelta(minutes=1))):
            yield None, Verdict(model, "c1", "sha", "hate", "v1", "safe", "reasoner", "live", model, at)

    monkeypatch.setattr(model_notice.kafka, "end_offsets", end_offsets)
    monkeypatch.setattr(model_notice.kafka, "read_decoded", read_decoded)
    assert await model_notice._judging_model(Settings()) == "newest"
