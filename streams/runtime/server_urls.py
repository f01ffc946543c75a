"""Base URLs of inference servers. One that begins with dns+ stands for a server at each address of its name."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from safeguard_streams.errors import ConfigurationError

DNS = "dns+"
PORTS = {"http": 80, "https": 443}
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


def urls_of(servers: str) -> list[str]:
    """The URLs of a setting that joins them by commas."""
    return [url.strip() for url in servers.split(",") if url.strip()]


def direct_url(url: str) -> str:
    """The URL at which the server, or one of several at a name, is asked directly."""
    return url.removeprefix(DNS).rstrip("/")


def check_servers(servers: str) -> None:
    """Raise ConfigurationError unless these are base URLs, joined by commas, or nothing."""
    urls = urls_of(servers)
    if servers.strip() and not urls:
        raise ConfigurationError("names no base URL: give one as in http://HOST:8000/v1")
    for url in urls:
        if not _is_base_url(direct_url(url)):
            shown = re.split(r"[?#]", url)[0]  # what follows may be a token
            raise ConfigurationError(f"{shown} is no base URL: give it as in http://HOST:8000/v1")


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # what DNS cannot have
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and parts.scheme in PORTS and not _BLANK.search(url) and not re.search(r"[?#]", url)
