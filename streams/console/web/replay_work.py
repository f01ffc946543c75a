"""What people ask for about replays that outlasts a request: a row for each, which any process of the console does.

A row has a key, and of one key nothing is done twice at once: a request that comes twice finds the row of the first.
The process that does the work keeps a lease on the row. A process that is killed loses it, and another one takes the
work over. Every step may therefore begin once more, and must do no harm by it.

Each step runs in a thread with an event loop of its own. Joins and classifiers would keep all pages waiting otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Engine, Row, and_, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from safeguard_streams.bus import kafka
from safeguard_streams.console.database import insert
from safeguard_streams.console.schema import replay_work as table
from safeguard_streams.contract.records import now
from safeguard_streams.errors import BusError, ForbiddenError, SafeguardError
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

Kind = Literal["estimate", "run", "compare", "plan", "publish"]
_LEASE = timedelta(seconds=60)
_PAUSE = timedelta(seconds=5)  # before work is tried again that Kafka did not answer
_LOOK_SECONDS = 1.0
_THREADS = 4
_TRIES = 3
_AWAY = "Kafka did not answer. Ask for it once more."
_FORBIDDEN = "Kafka's access lists do not allow this to the console. Its rights: safeguard topics acls console."
_DIED = "The processes of the console that did this ended. Their logs say more; ask for it once more."
_FAILED = "The console failed to do this. Its log says where; tell your administrator."
_SHOWN = [one for one in table.c if one.name != "judgements"]  # which may be many megabytes


class Asked(msgspec.Struct, frozen=True):
    """What somebody asks for. replay_id is empty for an estimate; judgements are those that a plan publishes."""

    key: str
    kind: Kind
    who: str
    replay_id: str = ""
    policy_id: str | None = None
    given: Mapping[str, Any] = {}
    judgements: list[str] | None = None


class Doing:
    """What a step gets: the row, and how to say how far it is. stop is set when the process ends."""

    def __init__(self, settings: Settings, engine: Engine, row: Row[Any]) -> None:
        self.settings = settings
        self.engine = engine
        self.row = row
        self.stop = asyncio.Event()
        self.leased_until = now() + _LEASE
        self.done, self.total = 0, 0

    def advance(self, done: int, total: int) -> None:
        """Note how much of the work is done."""
        self.done, self.total = done, total


class Outcome(msgspec.Struct, frozen=True):
    """What a step returns: what pages show of it, and the verdicts that a plan would publish."""

    result: dict[str, Any]
    judgements: list[str] | None = None


Step = Callable[[Doing], Awaitable[Outcome | None]]
"""A step returns None if the process ended before it was done."""


def begin(connection: Connection, asked: Asked, *, again: bool = False) -> bool:
    """Ask for work, unless it is under way or done. again: what is done is done once more, as what failed is.

    Returns whether this request began it.
    """
    at = now()
    fresh = {"changed_at": at, "alive_until": at, "tries": 0, "done": 0, "total": 0}
    values = {**msgspec.structs.asdict(asked), **fresh, "ended_at": None, "error": None}
    new = insert(connection.engine, table).values(**values)
    over = {name: new.excluded[name] for name in values if name != "key"}
    free = table.c.ended_at.is_not(None) if again else table.c.error.is_not(None)
    written = new.on_conflict_do_update(index_elements=["key"], set_=over, where=free).returning(table.c.key)
    return connection.execute(written).first() is not None


Found = Row[Any]


def find(connection: Connection, key: str) -> Found | None:
    """The row of a key."""
    return connection.execute(select(*_SHOWN).where(table.c.key == key)).first()


def touch(connection: Connection, key: str) -> None:
    """Tell the pages that show this work that there is something new to show."""
    connection.execute(table.update().where(table.c.key == key).values(changed_at=now()))


def under_way(connection: Connection, replay_id: str, kind: Kind) -> bool:
    """Whether work of this kind about a replay has not ended."""
    wanted = select(table.c.key).where(table.c.replay_id == replay_id, table.c.kind == kind, table.c.ended_at.is_(None))
    return connection.execute(wanted).first() is not None


def judgements(connection: Connection, key: str) -> list[str]:
    """The ids of the replay's verdicts that a plan publishes."""
    return connection.execute(select(table.c.judgements).where(table.c.key == key)).scalar() or []


class Workers:
    """Does the work of all rows that no living process does."""

    def __init__(self, settings: Settings, engine: Engine, steps: Mapping[Kind, Step]) -> None:
        self._settings = settings
        self._engine = engine
        self._steps = steps
        self._threads = ThreadPoolExecutor(_THREADS, "replay-work")
        self._doing: dict[str, Doing] = {}
        self._ending = threading.Event()
        self._look = threading.Event()
        self._looking: threading.Thread | None = None
        self._starting = threading.Lock()

    def wake(self) -> None:
        """Look for work now. The first call begins to look for it."""
        with self._starting:
            if self._looking is None and not self._ending.is_set():
                self._looking = threading.Thread(target=self._watch, name="replay-work", daemon=True)
                self._looking.start()
        self._look.set()

    def close(self) -> None:
        """End all steps, and leave their rows to other processes, or to the next one here."""
        self._ending.set()
        self.wake()
        if self._looking is not None:
            self._looking.join()
        self._threads.shutdown()

    def _watch(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(DBAPIError, PoolTimeoutError):  # pages say that the database is away
                self._renew()
                for row in self._waiting():
                    self._take(row)
            self._look.wait(_LOOK_SECONDS)
            self._look.clear()

    def _waiting(self) -> list[Row[Any]]:
        if len(self._doing) >= _THREADS:
            return []
        with self._engine.connect() as connection:
            waits = and_(
                table.c.ended_at.is_(None), table.c.alive_until <= now(), table.c.key.not_in(list(self._doing))
            )
            found = connection.execute(select(*_SHOWN).where(waits).order_by(table.c.changed_at).limit(_THREADS))
            return list(found)

    def _take(self, row: Row[Any]) -> None:
        with self._engine.begin() as connection:
            same = and_(table.c.key == row.key, table.c.ended_at.is_(None), table.c.alive_until == row.alive_until)
            lease = {"alive_until": now() + _LEASE, "tries": row.tries + 1}
            if not connection.execute(table.update().where(same).values(**lease)).rowcount:
                return
        if row.tries >= _TRIES:
            self._end(row.key, error=_DIED)
            return
        doing = self._doing[row.key] = Doing(self._settings, self._engine, row)
        self._threads.submit(self._do, doing)

    def _renew(self) -> None:
        for key, doing in list(self._doing.items()):
            further = or_(table.c.done != doing.done, table.c.total != doing.total)
            at = now()
            with self._engine.begin() as connection:
                mine = and_(table.c.key == key, table.c.ended_at.is_(None))
                moved = {"done": doing.done, "total": doing.total, "changed_at": at, "tries": 0}
                connection.execute(table.update().where(mine, further).values(**moved))
                if at + _LEASE / 2 > doing.leased_until:
                    doing.leased_until = at + _LEASE
                    connection.execute(table.update().where(mine).values(alive_until=doing.leased_until))

    def _do(self, doing: Doing) -> None:
        """Do a step, in a thread of its own, and write how it ended."""
        try:
            asyncio.run(self._step(doing))
        finally:
            self._doing.pop(doing.row.key, None)
            self._look.set()

    async def _step(self, doing: Doing) -> None:
        watching = asyncio.create_task(self._end_with_process(doing, asyncio.current_task()))
        try:
            await kafka.wait_for_broker(self._settings, kafka.COMMAND_SECONDS)
            outcome = await self._steps[doing.row.kind](doing)
            if outcome is None:
                self._leave(doing.row.key)
            else:
                self._end(doing.row.key, **msgspec.structs.asdict(outcome))
        except asyncio.CancelledError:
            self._leave(doing.row.key)
        except Exception as error:  # each is written for the people who asked
            if isinstance(error, BusError) and doing.row.tries + 1 < _TRIES:
                self._leave(doing.row.key, alive_until=now() + _PAUSE, tries=doing.row.tries + 1)
            else:
                self._end(doing.row.key, error=_said(error))
        finally:
            watching.cancel()

    async def _end_with_process(self, doing: Doing, step: asyncio.Task[Any] | None) -> None:
        """Set `stop` when the process ends, and cancel a step that does not heed it."""
        while not self._ending.is_set():
            await asyncio.sleep(_LOOK_SECONDS / 4)
        doing.stop.set()
        await asyncio.sleep(_LOOK_SECONDS)
        if step is not None:
            step.cancel()

    def _end(self, key: str, **values: Any) -> None:
        """Write that work has ended, and how."""
        self._write(key, {"ended_at": now(), **values})

    def _leave(self, key: str, **values: Any) -> None:
        """Leave work to any process, at once unless it says when."""
        self._write(key, {"alive_until": now(), "tries": 0, **values})

    def _write(self, key: str, values: Mapping[str, Any]) -> None:
        with contextlib.suppress(DBAPIError, PoolTimeoutError), self._engine.begin() as connection:
            own = and_(table.c.key == key, table.c.ended_at.is_(None))  # or another process ended it meanwhile
            connection.execute(table.update().where(own).values(changed_at=now(), **values))


def _said(error: Exception) -> str:
    """What people read of an error."""
    if isinstance(error, ImportError):
        return f"{error.name} is not installed where the console runs: install infra/requirements/all-cpu.txt."
    if isinstance(error, ForbiddenError):
        return _FORBIDDEN
    if isinstance(error, BusError):
        return _AWAY
    if isinstance(error, SafeguardError):
        return str(error)
    log.error("work on a replay failed error=%s", type(error).__name__)
    return _FAILED
