"""moderation.replays.jobs and moderation.replays.progress: what was started, and how far it is."""

from __future__ import annotations

import msgspec

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import Replay, ReplayProgress, decode


def fold(record: Record, rows: Rows, _context: Context) -> None:
    """One replay as its operator left it."""
    replay = decode(record.value, Replay)
    rows.put(
        schema.replays,
        {
            "replay_id": replay.replay_id,
            "state": replay.state,
            "policies": [
                {"policy_id": one.policy_id, "version": one.version, "before_version": one.before_version}
                for one in replay.policies
            ],
            "starts": replay.starts,
            "ends": replay.ends,
            "sample": replay.sample,
            "noise": replay.noise,
            "surfaces": replay.surfaces,
            "languages": replay.languages,
            "decisions": replay.decisions,
            "created_at": replay.created_at,
            "created_by": replay.created_by,
            "why": replay.why,
            "escalated_at": replay.escalated_at,
            "publications": msgspec.to_builtins(replay.publications),
        },
    )


def fold_progress(record: Record, rows: Rows, _context: Context) -> None:
    """How far a replay is in one partition."""
    rows.put(schema.replay_progress, msgspec.structs.asdict(decode(record.value, ReplayProgress)))
