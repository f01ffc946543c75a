"""Whether this process can listen on a port, and an error that says what to do if it cannot."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from safeguard_streams.errors import ConfigurationError


def check_port(host: str, port: int) -> None:
    """Raise ConfigurationError unless this process can listen there now; port 0 stands for any free one.

    Commands call it before they load anything. Another process may still take the port before it is bound.
    """
    with listening(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections linger
            probe.bind(address)
            probe.listen()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Turn the error of a server that cannot listen into a ConfigurationError that says what to do."""
    try:
        yield
    except OSError as error:
        known = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {str(reason).lower()}; choose another port with --port, or another "
            "address with SAFEGUARD_HOST"
        ) from error
