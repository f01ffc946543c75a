"""The state of a replay, from its record and its counts."""

import msgspec
import pytest

from safeguard_streams.contract.records import Publication, Replay, now
from safeguard_streams.replay.status import ReplayCounts, ReplayStatus

RUNNING = Replay("r", (), {"0": 0}, {"0": 9}, "running", now(), "ann")
DONE = msgspec.structs.replace(RUNNING, state="escalated", escalated_at=now())


def published(*directions, policy="hate"):
    return tuple(Publication(direction, policy, now(), "ann") for direction in directions)


def with_publications(*publications):
    return msgspec.structs.replace(DONE, publications=publications)


@pytest.mark.parametrize(
    ("replay", "counts", "state"),
    [
        (RUNNING, (0, 0, 0), "escalating"),
        (RUNNING, (5, 5, 0), "escalating"),
        (DONE, (5, 0, 0), "judging"),
        (DONE, (5, 3, 1), "judging"),
        (DONE, (5, 4, 1), "judged"),
        (DONE, (5, 5, 1), "judged"),
        (DONE, (0, 0, 0), "judged"),
        (msgspec.structs.replace(RUNNING, state="paused"), (0, 0, 0), "paused"),
        (msgspec.structs.replace(DONE, state="paused"), (5, 5, 0), "paused"),
        (msgspec.structs.replace(DONE, state="cancelled"), (5, 1, 0), "cancelled"),
        (with_publications(*published("promote")), (5, 3, 0), "promoted"),
        (with_publications(*published("promote", "revert")), (5, 5, 0), "reverted"),
        (with_publications(*published("promote", "revert", "promote")), (5, 5, 0), "promoted"),
        (
            with_publications(*published("promote", "revert"), *published("promote", policy="spam")),
            (5, 5, 0),
            "promoted",
        ),
    ],
)
def test_each_state_has_its_evidence(replay, counts, state):
    assert ReplayStatus(replay, 0, 0, 0, ReplayCounts(*counts)).state == state
