"""How many judgements at a time an estimate counts on, and why."""

from datetime import UTC, datetime, timedelta

import pytest

from safeguard_streams.contract.records import Tokens, Verdict
from safeguard_streams.replay import estimate
from safeguard_streams.runtime import settings

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


ON_SERVERS = settings.load().model_copy(update={"model": "20b", "max_in_flight": None})


def judged(decided, *, seconds=2.0, waited=10.0):
    return Verdict(
        f"v{decided}", "c", "sha", "hate", "1", "safe", "reasoner", "live", "m", WHEN + timedelta(seconds=decided),
        tokens=Tokens(100, 0, 10), latency={"escalation": 1000 * waited, "reasoner": 1000 * seconds},
    )  # fmt: skip


def busy(at_once, **more):
    """So many workers without a pause: each judgement begins when the one before it has ended."""
    return [judged(2.0 * step + 2.0 * place / at_once, **more) for step in range(200) for place in range(at_once)]


@pytest.mark.parametrize("at_once", [1, 7, 130])
def test_busy_workers_tell_how_many_judgements_run_at_a_time(at_once):
    """Before, an estimate counted on 64 whatever the workers did."""
    assert estimate._concurrency(ON_SERVERS, busy(at_once)) == (at_once, "measured")


def test_judgements_that_took_no_time_are_one_at_a_time():
    """Before, none ran at a time, by which the estimate divided the cost."""
    assert estimate._concurrency(ON_SERVERS, busy(1, seconds=0.0)) == (1, "measured")


def test_idle_or_few_judgements_tell_nothing():
    assert estimate._concurrency(ON_SERVERS, busy(7, waited=0.1)) == (64, "default")
    assert estimate._concurrency(ON_SERVERS, busy(7)[: estimate.ENOUGH - 1]) == (64, "default")
    assert estimate._concurrency(ON_SERVERS.model_copy(update={"model": "small"}), [judged(1.0)]) == (8, "default")
    lone = [judged(10.0 * number) for number in range(estimate.ENOUGH)]
    assert estimate._concurrency(ON_SERVERS, lone) == (1, "measured")


def test_the_settings_come_first():
    assert estimate._concurrency(ON_SERVERS.model_copy(update={"max_in_flight": 4}), busy(7)) == (4, "settings")
