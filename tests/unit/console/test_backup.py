"""The commands of the documentation save what people did in the console, and bring it back."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from safeguard_streams.console import schema
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.store import Store
from safeguard_streams.contract import topics
from tests import projected
from tests.databases import programs
from tests.projected import BEGAN, record

GUIDE = Path(__file__).parents[3] / "docs/guides/console-database.md"


def command(program, url, folder):
    """A command of the guide, as somebody types it."""
    (found,) = re.findall(rf"^{program} (?:.*\\\n)*.*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(found.replace("\\\n", "").replace('"$SAFEGUARD_CONSOLE_DATABASE"', url))
    return subprocess.run([programs() / words[0], *words[1:]], cwd=folder, capture_output=True, text=True, check=True)


def filled(table):
    """A row for a table that the pages write."""
    values = {sa.Integer: 1, sa.BigInteger: 1, sa.Boolean: True, sa.Date: BEGAN.date(), sa.JSON: ["kim"]}
    kinds = {column.name: type(column.type) for column in table.columns if column.name != "id"}
    return {name: BEGAN if kind is schema.Moment else values.get(kind, "kim") for name, kind in kinds.items()}


def rows(engine, table):
    with engine.connect() as connection:
        return connection.execute(sa.select(table).order_by(*table.primary_key)).all()


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_backup_brings_back_what_the_pages_wrote_and_holds_no_text(engine, cluster, tmp_path):
    store = Store(engine)
    store.open()
    store.apply([record(topics.ESCALATIONS, projected.escalation(1, text="a wombat among words"))])
    with engine.begin() as connection:
        for table in schema.OWN:
            connection.execute(sa.insert(table), filled(table))
    command("pg_dump", engine.url.set(drivername="postgresql").render_as_string(hide_password=False), tmp_path)
    words = [programs() / "pg_restore", "-f", "-", tmp_path / "console.dump"]
    assert b"wombat" not in subprocess.run(words, check=True, capture_output=True).stdout
    restored = engine_of(cluster.new_database())
    try:
        upgrade(restored)
        command("pg_restore", restored.url.set(drivername="postgresql").render_as_string(hide_password=False), tmp_path)
        for table in schema.OWN:
            assert rows(restored, table) == rows(engine, table) != [], f"{table.name}: name it in the guide"
        with restored.begin() as connection:  # the sequences were restored, too
            connection.execute(sa.insert(schema.audit_log), filled(schema.audit_log))
        assert len(rows(restored, schema.audit_log)) == 2
    finally:
        restored.dispose()


def test_the_guide_names_every_table():
    guide = GUIDE.read_text(encoding="utf-8")
    assert [table.name for table in schema.metadata.sorted_tables if f"`{table.name}`" not in guide] == []
