"""What the console does about replays beyond one request, by the same functions as the commands `safeguard replay`."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from safeguard_streams.console import native
from safeguard_streams.console.database import clean
from safeguard_streams.console.schema import replay_flips
from safeguard_streams.console.web import flips as worklists
from safeguard_streams.console.web.replay_work import Doing, Kind, Outcome, Step, judgements
from safeguard_streams.console.web.writing import transaction
from safeguard_streams.contract.records import Direction, Replay, decode, encode
from safeguard_streams.releases import model_notice
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.replay import jobs, promotion
from safeguard_streams.runtime.settings import Settings

MOST_FLIPS = 10_000  # of a worklist: far more than tell whether people agree
_ROWS = 500  # in one insert
_FLIPS = """
SELECT
    content_id, content_sha256, flip, before, text_after AS after, rules_before, rules_after,
    verdict_before, verdict_after
FROM read_parquet($file) WHERE flip IS NOT NULL ORDER BY hash(content_id), content_id LIMIT $most
"""


class Wanted(jobs.ReplayScope, frozen=True):
    """The form of a replay: a policy in one of its released versions, a reason, and the content to replay."""

    policy_id: str
    version: str
    why: str = ""


async def estimate(doing: Doing) -> Outcome:
    """What a replay would cost. Its job is fixed, bounds included, and not written."""
    from safeguard_streams.replay import estimate, estimate_text

    settings, wanted = doing.settings, msgspec.convert(doing.row.given, Wanted)
    policy = await jobs.released(settings, wanted.policy_id, wanted.version)
    scope = {name: getattr(wanted, name) for name in jobs.ReplayScope.__struct_fields__}
    request = jobs.ReplayRequest([policy], **scope)
    by = ChangedBy(wanted.why, doing.row.who)
    replay, estimated = await estimate.plan(settings, request, by, _classifier(settings))
    return Outcome(
        {
            "replay": encode(replay).decode(),
            "replay_id": replay.replay_id,
            "rows": estimate_text.rows(estimated, settings.background_share),
            "notice": await model_notice.unlearned(settings, [policy]),
        }
    )


def _classifier(settings: Settings) -> Any:
    from safeguard_streams.prefilter.classifier import SHIPPED, Classifier

    return Classifier(settings.prefilter_model or SHIPPED)


async def run(doing: Doing) -> Outcome | None:
    """Write a replay's job, unless it is there, and escalate its items until they all are, or somebody pauses it."""
    from safeguard_streams.replay import runner

    settings, row = doing.settings, doing.row
    if planned := row.given.get("replay"):
        await jobs.create(settings, decode(planned.encode(), Replay))
    replay = await jobs.find(settings, row.replay_id)
    state = replay.state
    if state == "running":
        state = await runner.run(
            settings, replay, _classifier(settings), doing.stop, lambda done: doing.advance(done, replay.total)
        )
    return None if state == "running" else Outcome({"state": state})


async def compare(doing: Doing) -> Outcome:
    """What a replay changes, and its flips as a worklist."""
    from safeguard_streams.replay import diff, headline

    settings, row = doing.settings, doing.row
    replay = await jobs.find(settings, row.replay_id)
    policy = jobs.policy_of(replay, row.policy_id)
    with tempfile.TemporaryDirectory(prefix="safeguard-replay-") as folder:
        file = Path(folder) / "compared.parquet"
        found = await diff.compute(settings, replay, policy, file, texts=False, max_examples=0)
        flips = _read_flips(file)
    _keep_flips(doing, policy.policy_id, flips)
    return Outcome({"diff": msgspec.to_builtins(found), "headline": headline.headline(found)})


def _read_flips(file: Path) -> list[dict[str, Any]]:
    """The flips of a comparison in an order that is random, and the same each time."""
    import duckdb

    with duckdb.connect() as db:
        found = db.execute(_FLIPS, {"file": str(file), "most": MOST_FLIPS})
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _keep_flips(doing: Doing, policy_id: str, flips: Sequence[Mapping[str, Any]]) -> None:
    """Replace the worklist. Leases on its flips stay."""
    old, of = replay_flips, {"replay_id": doing.row.replay_id, "policy_id": policy_id}
    same = (old.c.replay_id == of["replay_id"], old.c.policy_id == policy_id)
    with transaction(doing.engine) as connection:
        native.alone(connection, worklists.name(**of))
        leases = connection.execute(
            old.select().with_only_columns(old.c.content_id, old.c.claimed_by, old.c.claim_expires_at).where(*same)
        )
        held = {one.content_id: (one.claimed_by, one.claim_expires_at) for one in leases}
        connection.execute(old.delete().where(*same))
        rows = []
        for place, flip in enumerate(flips):
            by, until = held.get(clean(flip["content_id"]), (None, None))
            rows.append({**of, **clean(flip), "place": place, "claimed_by": by, "claim_expires_at": until})
        for start in range(0, len(rows), _ROWS):
            connection.execute(old.insert(), rows[start : start + _ROWS])


async def plan(doing: Doing) -> Outcome:
    """What a promotion or a reversion would write. `publish` writes this and nothing else."""
    direction: Direction = doing.row.given["direction"]
    prepared = await promotion.prepare(doing.settings, doing.row.replay_id, doing.row.policy_id, direction)
    planned = prepared.plan
    result = {
        "plan": uuid.uuid4().hex,
        "direction": direction,
        "figures": prepared.figures,
        "changes": len(planned.changes),
        "share": msgspec.to_builtins(planned.share),
    }
    return Outcome(result, [change.after.verdict_id for change in planned.changes])


async def publish(doing: Doing) -> Outcome:
    """Write what a plan showed. Repeated, it writes what is missing."""
    settings, row = doing.settings, doing.row
    with doing.engine.connect() as connection:
        shown = judgements(connection, row.key)
    prepared = await promotion.prepare(settings, row.replay_id, row.policy_id, row.given["direction"])
    planned = prepared.plan.only(frozenset(shown))
    by = ChangedBy(row.given["why"], row.who)
    if row.given["budget"] is not None:
        planned.require_within(row.given["budget"], row.replay_id)
    written = 0
    if planned.changes:
        written = await promotion.publish(settings, prepared.status.replay, prepared.policy, planned, by, doing.advance)
    return Outcome({"written": written, "planned": len(shown)})


STEPS: Mapping[Kind, Step] = {
    "estimate": estimate,
    "run": run,
    "compare": compare,
    "plan": plan,
    "publish": publish,
}
