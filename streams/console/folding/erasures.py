"""moderation.erasures: the items whose words are removed."""

from __future__ import annotations

from safeguard_streams.bus.interface import Record
from safeguard_streams.console import schema
from safeguard_streams.console.database import clean
from safeguard_streams.console.folding.context import Context, key_of
from safeguard_streams.console.rows import Rows
from safeguard_streams.contract.records import ErasureRequest, decode, in_utc


def fold(record: Record, rows: Rows, context: Context) -> None:
    """A tombstone ends an erasure."""
    if record.value is None:
        content_id = clean(key_of(record.key))
        context.erasures.pop(content_id, None)
        rows.drop(schema.erasures, content_id)
        return
    request = decode(record.value, ErasureRequest)
    content_id, erased_at = clean(request.content_id), in_utc(request.erased_at)
    erased_at = max(erased_at, context.erasures.get(content_id, erased_at))
    context.erasures[content_id] = erased_at
    rows.put(schema.erasures, {"content_id": content_id, "erased_at": erased_at, "overwritten": False})
