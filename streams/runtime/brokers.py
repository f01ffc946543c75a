"""Addresses of Kafka brokers."""

from __future__ import annotations

import re

from safeguard_streams.errors import ConfigurationError

_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s,:/\[\]]+):([0-9]{1,5})", re.ASCII)


def check_brokers(brokers: object) -> None:
    """Raise ConfigurationError unless these are brokers as HOST:PORT,HOST:PORT."""
    addresses = brokers.split(",") if isinstance(brokers, str) else [""]
    for address in addresses:
        parts = _BROKER.fullmatch(address.strip())
        if parts is None or not 1 <= int(parts[2]) <= 65_535:
            raise ConfigurationError("brokers: expected HOST:PORT, or several joined by commas")
