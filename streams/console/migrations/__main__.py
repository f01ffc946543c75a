"""Writes the next version of the schema from what changed in it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import config, upgrade


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit('usage: python -m safeguard_streams.console.migrations "what changes"')
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_of(f"sqlite:///{folder}/console.db")
        upgrade(engine)
        with engine.begin() as connection:
            options = config(connection)
            number = len(list((Path(__file__).parent / "versions").glob("0*.py"))) + 1
            command.revision(options, sys.argv[1], autogenerate=True, rev_id=f"{number:04}")
        engine.dispose()


main()
