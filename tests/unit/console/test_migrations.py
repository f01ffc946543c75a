"""The schema's versions."""

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from safeguard_streams.console import schema
from safeguard_streams.console.migrations import config, upgrade
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


def test_an_upgrade_of_the_first_release_keeps_second_looks_and_labels(engine):
    with engine.begin() as connection:
        command.upgrade(config(connection), "0003")
        about = {"who": "ann", "policy_id": "hate", "since": BEGAN, "content_sha256": "0" * 64}
        for name, expected, key in (
            ("g1", "violates", None),
            ("g2", "safe", "k"),
            ("s1", None, None),
            ("s2", None, "k"),
        ):
            golden = {"expected": expected, "text": expected and "a text", "key": key}
            columns = {**about, **golden, "content_id": name}
            connection.execute(sa.insert(sa.table("checks", *map(sa.column, columns))).values(columns))
        said = {"content_id": "g2", "decision": "safe", "action": "allow", "blind": True, "golden": True}
        label = {"who": "ann", "policy_id": "hate", "second": False, "at": BEGAN, "expected": "safe"}
        connection.execute(sa.insert(schema.reviews).values(**said, **label))
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(schema.checks.c.content_id).order_by("content_id")).scalars().all() == [
            "s1",
            "s2",
        ]
        assert connection.execute(sa.select(schema.reviews.c.content_id)).scalars().all() == ["g2"]
        assert connection.execute(sa.select(schema.draws.c.name)).scalars().all() == ["queue"]


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
