"""Reads appeals as platforms send them."""

from __future__ import annotations

import msgspec

from safeguard_streams.contract.intake import decode_sent
from safeguard_streams.contract.records import Appeal, place_of
from safeguard_streams.errors import RecordError


def read_appeal(value: bytes | None) -> Appeal:
    """An appeal from its JSON. Raises RecordError that names the field at fault and quotes nothing of it."""
    appeal = decode_sent(value, Appeal)
    if appeal.action_id is None and appeal.verdict_id is None:
        raise RecordError("action_id", "is missing, and so is verdict_id; name the action or the verdict")
    if appeal.origin is not None and place_of(appeal.origin) is None:
        raise RecordError("origin", "is no place; write partition and offset, as 3@1042")
    return appeal


def without_statement(appeal: Appeal) -> Appeal:
    """An appeal without what the appellant says: the agent needs none of it."""
    return msgspec.structs.replace(appeal, reason="", new_context="")
