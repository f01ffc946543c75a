"""The console's database, on SQLite and on PostgreSQL."""

import pytest

from safeguard_streams.console.database import engine_of
from tests.databases import address, cluster

__all__ = ["address", "cluster"]


@pytest.fixture
def engine(address):
    made = engine_of(address)
    yield made
    made.dispose()
