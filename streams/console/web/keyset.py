"""Pages of a list by key: each begins after the last row of the page before, whatever was added meanwhile."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, or_, true

from safeguard_streams.contract.records import aware


class Keyset(NamedTuple):
    """The order of a list: by time, and by id within one time. newest: whether the newest rows come first."""

    at: ColumnElement[Any]
    id: ColumnElement[Any]
    newest: bool = True

    @property
    def order(self) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        return (self.at.desc(), self.id.desc()) if self.newest else (self.at.asc(), self.id.asc())

    def place(self, at: datetime, row_id: str) -> str:
        """The place of a row, for the URL of the page after it."""
        return f"{at.isoformat()}~{row_id}"

    def after(self, place: str) -> ColumnElement[bool]:
        """The rows after a place; all of them where it is none."""
        at, _, row_id = place.partition("~")
        try:
            moment = aware(datetime.fromisoformat(at))
        except ValueError:
            return true()
        if self.newest:
            return or_(self.at < moment, and_(self.at == moment, self.id < row_id))
        return or_(self.at > moment, and_(self.at == moment, self.id > row_id))
