"""Health checks for containers: `safeguard-health URL` exits with status 0 when the URL answers 200, else with 1."""

from __future__ import annotations

import sys
from urllib.error import URLError
from urllib.request import urlopen


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: safeguard-health URL")
    try:
        with urlopen(sys.argv[1], timeout=2) as response:  # noqa: S310  (the container configures the URL)
            status: int = response.status
    except (URLError, OSError, ValueError) as error:
        sys.exit(f"unhealthy: {error}")
    sys.exit(0 if status == 200 else 1)
