"""The schema's versions."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from safeguard_streams.console import schema
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.errors import ConfigurationError
from tests.projected import BEGAN


def test_the_versions_lead_to_the_schema(engine):
    upgrade(engine)
    uncompared = {"ix_items_words", "words"}
    if engine.dialect.name == "sqlite":  # Alembic reads no order of a column there
        uncompared |= {"ix_review_items_next", "ix_review_items_of_policy"}
    with engine.connect() as connection:
        options = {
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or not name.startswith(("items_words", "alembic")),
            "include_object": lambda _object, name, kind, *_: name not in uncompared,
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata) == []


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(engine):
    upgrade(engine)
    tables = sa.inspect(engine).get_table_names()
    upgrade(engine)
    assert sa.inspect(engine).get_table_names() == tables


@pytest.mark.parametrize("change", [sa.update(schema.audit_log).values(who="mallory"), sa.delete(schema.audit_log)])
def test_the_audit_log_only_grows(engine, change):
    upgrade(engine)
    entry = {"at": BEGAN, "who": "kim", "role": "reviewer", "action": "reveal", "object": "c1", "details": {}}
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.audit_log), entry)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(change)
    with engine.connect() as connection:
        assert connection.scalars(sa.select(schema.audit_log.c.who)).all() == ["kim"]


def test_tables_of_a_newer_version_are_said(engine):
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="another version of safeguard, '9999'"):
        upgrade(engine)
