"""Files of statements of reasons for the EU's DSA Transparency Database: one file for each request to its interface.

A run writes what the folder's files lack, by the statements' ids, so that a run that was killed is repeated as it is.
Each file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import orjson

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import StatementOfReasons, aware
from safeguard_streams.enforcement import dsa
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.releases.texts import TextPlace, events_at
from safeguard_streams.runtime.settings import Settings

_NAME = "statements-{number:06}.json"
_NUMBERED = re.compile(r"statements-([0-9]+)\.json")
OUTSIDE = "holds outside the European Economic Area only"
UNDATED = "nobody knows when the content was created"


class Exported(msgspec.Struct):
    """What a run wrote. left_out: how many statements were not written, by the reason. invalid: those among them that
    the interface would refuse, by id, and why. before: statements that were in the folder's files already.
    """

    statements: int = 0
    files: int = 0
    before: int = 0
    left_out: Counter[str] = msgspec.field(default_factory=Counter)
    invalid: dict[str, str] = msgspec.field(default_factory=dict)


class Period(msgspec.Struct, frozen=True):
    """The time in which statements were issued: from `since` on, before `until`."""

    since: datetime | None = None
    until: datetime | None = None

    def covers(self, at: datetime) -> bool:
        return (self.since is None or aware(at) >= self.since) and (self.until is None or aware(at) < self.until)


async def export(settings: Settings, folder: Path, period: Period) -> Exported:
    """Write the statements that were issued in a period. Raises ConfigurationError where another run uses the folder,
    or a file in it is no batch.
    """
    with _alone(folder):
        batches = _Batches(folder)
        done = Exported(before=len(batches.known))
        ended = {one.statement_id: one.stated_at async for one in _read(settings, period) if one.state == "withdrawn"}
        erasures = ErasureList()
        await erasures.read(settings)
        waiting: list[StatementOfReasons] = []
        async for one in _read(settings, period):
            if one.state == "issued" and period.covers(one.stated_at) and batches.claim(one.statement_id):
                waiting.append(one)
            if len(waiting) == dsa.BATCH:
                await _add(settings, batches, waiting, ended, erasures, done)
                waiting.clear()
        await _add(settings, batches, waiting, ended, erasures, done)
        batches.flush()
        done.files = batches.written
        return done


async def _read(settings: Settings, period: Period) -> AsyncIterator[StatementOfReasons]:
    """All records of statements that were written since the period began."""
    found = kafka.read_decoded(settings, [topics.STATEMENTS], StatementOfReasons, since=period.since)
    async with contextlib.aclosing(found) as records:
        async for _, one in records:
            yield one


async def _add(
    settings: Settings,
    batches: _Batches,
    statements: Sequence[StatementOfReasons],
    ended: Mapping[str, datetime],
    erasures: ErasureList,
    done: Exported,
) -> None:
    """Add the submissions of statements to the batches, as far as the interface would take them."""
    undated = {
        one.statement_id: TextPlace(one.content_id, one.content_sha256, one.origin)
        for one in statements
        if one.content_created_at is None and one.content_id is not None
    }
    events = await events_at(settings, undated.values(), erasures.erased) if undated else {}
    for one in statements:
        event = events.get(undated[one.statement_id]) if one.statement_id in undated else None
        created_at = one.content_created_at or (event.created_at if event else None)
        if created_at is None:
            done.left_out[UNDATED] += 1
            continue
        if not dsa.territories(one.territory):
            done.left_out[OUTSIDE] += 1
            continue
        submission = dsa.submission(one, created_at=created_at, ended_at=ended.get(one.statement_id))
        if (problem := dsa.problem(submission)) is not None:
            done.left_out["invalid"] += 1
            done.invalid[one.statement_id] = problem
            continue
        batches.add(submission)
        done.statements += 1


class _Batches:
    """The files of a folder. known: ids of the statements in them, and of those that this run has taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Mapping[str, object]] = []
        files = sorted(folder.glob("statements-*.json"))
        self.known = {puid for file in files for puid in _puids(file)}
        numbered = [_NUMBERED.fullmatch(file.name) for file in files]  # others are copies with names of their own
        self._number = max((int(found[1]) for found in numbered if found), default=0)
        self.written = 0

    def claim(self, puid: str) -> bool:
        """Take a statement for this run; False if it was taken before."""
        new = puid not in self.known
        self.known.add(puid)
        return new

    def add(self, submission: Mapping[str, object]) -> None:
        self._waiting.append(submission)
        if len(self._waiting) == dsa.BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits as the next file."""
        if not self._waiting:
            return
        self._number += 1
        path = self._folder / _NAME.format(number=self._number)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(orjson.dumps({"statements": self._waiting}, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        self.written += 1
        self._waiting.clear()


def _puids(file: Path) -> list[str]:
    try:
        return [str(one["puid"]) for one in orjson.loads(file.read_bytes())["statements"]]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{file}: no batch of statements; move it out of the folder") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one run at a time write to a folder, which is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigurationError(f"{folder}: another export writes to it; wait for its end") from None
    finally:
        os.close(handle)
