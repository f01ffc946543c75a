"""The versions of the console's schema, by Alembic. `upgrade` applies the missing ones; every command begins with it.

After a change of `schema`, write the next version, and edit what it needs beyond new tables and columns:

    python -m safeguard_streams.console.migrations "what changes"
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from safeguard_streams.errors import ConfigurationError

_LOCK = 7_233_861  # of PostgreSQL: of two processes that start at once, one waits until the other has upgraded


def upgrade(engine: Engine) -> None:
    """Bring the tables to the newest version, in one transaction. Raises ConfigurationError where they are newer."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = MigrationContext.configure(connection).get_current_revision()
        script = ScriptDirectory.from_config(config(connection))
        if found is not None and found not in {one.revision for one in script.walk_revisions()}:
            raise ConfigurationError(
                f"the console's database has the tables of another version of safeguard, {found!r}: install that "
                "version or a later one, or name another database in SAFEGUARD_CONSOLE_DATABASE"
            )
        command.upgrade(config(connection), "head")


def is_current(connection: Connection) -> bool:
    """Whether the tables are those of this version of the package."""
    head = ScriptDirectory.from_config(config(connection)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head


def config(connection: Connection) -> Config:
    """Alembic's configuration: the versions in this package, on a connection."""
    options = Config()
    options.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    options.attributes["connection"] = connection
    return options
