"""The benchmark of the console fills an empty database with the records that it says."""

import pytest
import sqlalchemy as sa

from safeguard_streams.bench import console
from safeguard_streams.console import schema
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.store import Store
from safeguard_streams.errors import ConfigurationError


def test_every_record_is_projected(tmp_path):
    engine, lines = engine_of(f"sqlite:///{tmp_path}/console.db"), []
    store = Store(engine, text_days=60)
    rates = console._project(store, console.Deployment(2000, 400), lines.append)
    assert set(rates) == {"escalations", "verdicts", "actions", "standing"}
    assert min(rates.values()) > 0
    assert len(lines) == 4
    with engine.connect() as connection:
        tables = (schema.items, schema.verdicts, schema.actions, schema.review_items)
        counts = [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables]
        judged = sa.select(schema.items.c.content_id).join(
            schema.verdicts, schema.verdicts.c.content_id == schema.items.c.content_id
        )
        assert len(set(connection.scalars(judged))) == 1000
    assert counts == [1000, 2000, 400, 20]
    assert not store.skipped
    engine.dispose()


async def test_a_database_in_use_is_refused(tmp_path):
    database = f"sqlite:///{tmp_path}/console.db"
    engine = engine_of(database)
    Store(engine).open()
    with pytest.raises(ConfigurationError, match="empty database"):
        await console.console(database, console.Deployment(1000, 100), tmp_path, print)
    engine.dispose()
