"""The addresses of inference servers: base URLs as they are, or every address that a name has in DNS.

A URL such as dns+http://vllm.inference:8000/v1 stands for one server at each address of the name, which is what a
headless service of Kubernetes publishes. The name is resolved every INTERVAL seconds. A resolution that fails, or that
finds nothing, changes nothing: whether the known servers work is for their test requests to show.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from safeguard_streams.runtime.server_urls import DNS, PORTS, direct_url

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two resolutions of a name

# The addresses of a host name, as text. Raises OSError.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Address(NamedTuple):
    """Where a server is. host: what it is called in requests, where its URL has an IP address of a name."""

    url: str
    host: str = ""

    @property
    def tls_name(self) -> str | None:
        """The name in the server's certificate, where it is not the URL's."""
        return urlsplit(f"//{self.host}").hostname if self.host and self.url.startswith("https:") else None

    @property
    def labels(self) -> dict[str, str]:
        """The server in metrics."""
        parts = urlsplit(self.url)
        return {"server.address": parts.hostname or "", "server.port": str(parts.port or PORTS[parts.scheme])}


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a name by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """The present addresses of the URLs in the settings. `addresses` has no two equal ones."""

    def __init__(self, urls: Sequence[str], resolve: Resolve = resolve_by_system) -> None:
        self.dynamic = any(url.startswith(DNS) for url in urls)
        self._resolve = resolve
        self._found: dict[str, list[Address]] = {
            url: [] if url.startswith(DNS) else [Address(direct_url(url))] for url in urls
        }
        self._failed: set[str] = set()

    @property
    def addresses(self) -> list[Address]:
        return list(dict.fromkeys(address for found in self._found.values() for address in found))

    async def refresh(self) -> None:
        """Resolve the names."""
        for url in self._found:
            if url.startswith(DNS):
                await self._refresh(url)

    async def _refresh(self, url: str) -> None:
        parts = urlsplit(direct_url(url))
        try:
            found = await self._resolve(parts.hostname or "", parts.port or PORTS[parts.scheme])
        except OSError:
            found = ()
        if found:
            self._failed.discard(url)
            self._found[url] = [_at(parts, address) for address in sorted(set(found))]
        elif url not in self._failed:
            self._failed.add(url)
            log.warning("inference servers were not found in DNS, known ones are kept name=%s", parts.hostname)


def _at(parts: SplitResult, address: str) -> Address:
    """The server of a URL at one address of its name."""
    host = f"[{address}]" if ipaddress.ip_address(address.partition("%")[0]).version == 6 else address
    port = f":{parts.port}" if parts.port else ""
    return Address(parts._replace(netloc=f"{host}{port}").geturl(), parts.netloc)
