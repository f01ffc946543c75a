"""safeguard-health URL: exit status 0 when a health page answers 200, for container health checks."""

from __future__ import annotations

import sys
from urllib.error import URLError
from urllib.request import urlopen


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: safeguard-health URL")
    try:
        with urlopen(sys.argv[1], timeout=2) as response:  # noqa: S310  (the container says which)
            status: int = response.status
    except (URLError, OSError, ValueError) as error:
        sys.exit(f"not healthy: {error}")
    sys.exit(0 if status == 200 else 1)
