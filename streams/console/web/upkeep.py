"""What the console does every few seconds, apart from all requests: no request takes longer for it.

Several processes may do it. Each finds what another one did.
"""

from __future__ import annotations

import asyncio
import logging
import traceback

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool

from safeguard_streams.console.migrations import is_current
from safeguard_streams.console.web import golden_items, policy_drafts
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.writing import transaction

log = logging.getLogger(__name__)

_SECONDS = 5.0


async def run(console: Console) -> None:
    """Go on until it is cancelled. A database that is away is tried again: pages say that it is.

    Until the projector has made the tables, there is nothing to do.
    """
    has_tables = False
    while True:
        try:
            has_tables = has_tables or await run_in_threadpool(_has_tables, console)
            if has_tables:
                await run_in_threadpool(once, console)
        except (DBAPIError, PoolTimeoutError) as error:
            log.warning("upkeep not done error=%s", type(error).__name__)
        except Exception as error:  # pages are served on; the message may quote content
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("upkeep failed error=%s at=%s:%s", type(error).__name__, place.name, place.lineno)  # noqa: TRY400 - as above
        await asyncio.sleep(_SECONDS)


def _has_tables(console: Console) -> bool:
    with console.engine.connect() as connection:
        return is_current(connection)


def once(console: Console) -> None:
    """One round. What ends comes first, in a transaction of its own: no fault of the rest keeps it."""
    with transaction(console.engine) as connection:
        policy_drafts.forget_old(connection, console.settings)
    with transaction(console.engine) as connection:
        golden_items.keep_up(connection, console.settings)
