"""A console on SQLite, filled with what a small deployment has after a day."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from safeguard_streams.console.database import engine_of
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.roles import ROLES
from safeguard_streams.runtime import settings
from tests.unit.console.web.filling import fill

SECRET = "a secret of the proxy"
BOTH_DATABASES = pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True, scope="module")
TOKEN = re.compile(r'name="token" value="([^"]+)"')


@pytest.fixture(scope="module")
def engine(request, tmp_path_factory):
    """An empty database of the newest schema, for the tests of one file. Each test takes items of its own.

    On SQLite, unless a file asks for both with BOTH_DATABASES.
    """
    address = f"sqlite:///{tmp_path_factory.mktemp('console')}/console.db"
    if getattr(request, "param", "sqlite") == "postgresql":
        address = request.getfixturevalue("cluster").new_database()
    made = engine_of(address)
    upgrade(made)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def filled(engine):
    """The same with rows."""
    fill(engine)
    return engine


class Browser:
    """One person at the console, signed in by a proxy."""

    def __init__(self, app, name: str, *groups: str) -> None:
        headers = {"x-safeguard-proxy": SECRET, "x-forwarded-user": name, "x-forwarded-groups": ",".join(groups)}
        self.client = TestClient(app, headers=headers, client=("127.0.0.1", 50000), follow_redirects=False)

    def get(self, url: str, **values):
        return self.client.get(url, **values)

    def post(self, url: str, **fields):
        """Send a form of this session."""
        token = TOKEN.search(self.client.get("/sign-in/none").text)
        assert token is not None
        return self.client.post(url, data={"token": token[1], **fields})


@pytest.fixture(scope="module")
def current():
    """The settings of a console behind a proxy. Nobody decides blind or gets a check, unless a test says so."""
    return settings.load(
        bootstrap="127.0.0.1:1",
        console_proxy_secret=SECRET,
        console_roles={role: (role,) for role in ROLES},
        console_blind_share=0.0,
        console_golden_share=0.0,
        console_second_share=0.0,
    )


@pytest.fixture(scope="module")
def app(filled, current):
    return build(current, filled)


@pytest.fixture
def browser(app) -> Callable[..., Browser]:
    """Opens a browser for a person with roles."""
    return lambda name, *roles: Browser(app, name, *roles)
