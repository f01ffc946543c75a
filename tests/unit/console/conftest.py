"""The console's database, on SQLite and on PostgreSQL."""

import uuid

import pytest
import sqlalchemy as sa

from safeguard_streams.console.database import engine_of
from tests.databases import postgresql


@pytest.fixture(scope="session")
def cluster():
    with postgresql() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/console.db"
    running = request.getfixturevalue("cluster")
    name = f"t{uuid.uuid4().hex[:8]}"
    server = engine_of(running.url)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    server.dispose()
    return running.url.removesuffix("postgres") + name


@pytest.fixture
def engine(address):
    made = engine_of(address)
    yield made
    made.dispose()
