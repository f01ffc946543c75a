"""moderation.policies and its history: what is in force, and each change."""

from __future__ import annotations

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.folding.context import Context, key_of
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import PolicyChange, PolicyRelease, decode, in_utc, verdict_id


def fold(record: Record, rows: Rows, _context: Context) -> None:
    """One policy in force, in shadow or kept for a replay; a tombstone ends it."""
    if record.value is None:
        rows.drop(schema.policy_releases, key_of(record.key))
        return
    release = decode(record.value, PolicyRelease)
    rows.put(
        schema.policy_releases,
        {
            "key": key_of(record.key),
            "policy_id": release.policy_id,
            "place": _place(release),
            "version": release.version,
            "revision": release.revision,
            "document": release.document,
            "released_at": release.released_at,
            "released_by": release.released_by,
            "why": release.why,
            "distilled": release.distilled is not None,
            "shadow": release.shadow,
        },
    )


def _place(release: PolicyRelease) -> str:
    if release.replay:
        return "replay"
    return "in-force" if release.shadow is None else "shadow"


def fold_change(record: Record, rows: Rows, _context: Context) -> None:
    """One change to the policies in force."""
    change = decode(record.value, PolicyChange)
    release = change.release
    rows.put(
        schema.policy_changes,
        {
            "change_id": verdict_id(
                change.policy_id, in_utc(change.changed_at).isoformat(), change.action, change.changed_by
            ),
            "policy_id": change.policy_id,
            "action": change.action,
            "changed_at": change.changed_at,
            "changed_by": change.changed_by,
            "why": change.why,
            "version": release and release.version,
            "revision": release and release.revision,
            "document": release and release.document,
            "shadow": release and release.shadow,
        },
    )
