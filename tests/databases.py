"""Databases of the tests' own: files of SQLite, and a PostgreSQL in a temporary directory, on a free port."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

PROGRAMS = Path("/usr/lib/postgresql")  # where Debian's package puts each version


def programs():
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name))
    if not found and (on_path := shutil.which("initdb")):
        found = [Path(on_path)]
    if not found:
        pytest.skip("not run on PostgreSQL: it is not installed (Debian: postgresql)")
    return found[-1].parent


class PostgreSQL:
    """A cluster that can be stopped and started again. initdb refuses root, so that it runs as another user then."""

    def __init__(self, folder):
        self.programs, self.folder = programs(), folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://tests@127.0.0.1:{self.port}/postgres"
        self.user = {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres") if _exists("postgres") else pwd.getpwnam("nobody")
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._call("initdb", "-D", folder / "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync")

    def new_database(self):
        """The URL of an empty database."""
        name = f"t{uuid.uuid4().hex[:8]}"
        server = sa.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        server.dispose()
        return self.url.removesuffix("postgres") + name

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._call("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self):
        self._call("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def _call(self, program, *arguments):
        subprocess.run(
            [self.programs / program, *arguments],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            **self.user,
        )


def _exists(name):
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


@contextlib.contextmanager
def postgresql():
    """A running cluster."""
    with tempfile.TemporaryDirectory(prefix="safeguard-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = PostgreSQL(Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                cluster.stop()


@pytest.fixture(scope="session")
def cluster():
    with postgresql() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/console.db"
    return request.getfixturevalue("cluster").new_database()
