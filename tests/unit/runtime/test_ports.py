"""A port that cannot be listened on ends a command with what to do, before it works."""

import socket

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.health import served
from safeguard_streams.runtime.ports import check_port

HOST = "127.0.0.1"


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_and_an_unknown_host_are_explained(taken):
    with pytest.raises(ConfigurationError, match=f"cannot listen on {HOST}:{taken}: address already in use; choose"):
        check_port(HOST, taken)
    with pytest.raises(ConfigurationError, match="cannot listen on nosuch.invalid:0: "):
        check_port("nosuch.invalid", 0)


def test_a_free_port_stays_free(taken):
    check_port(HOST, 0)
    with socket.socket() as server:
        server.bind((HOST, 0))
        port = server.getsockname()[1]
    check_port(HOST, port)
    check_port(HOST, port)


async def test_a_port_that_was_taken_since_is_explained_by_the_server_too(taken):
    with pytest.raises(ConfigurationError, match="address already in use"):
        async with served(HOST, taken, lambda: {"ready": True}):
            raise AssertionError
