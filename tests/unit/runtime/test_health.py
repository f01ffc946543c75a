"""A process has started before it owns a partition, and is ready only then."""

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from safeguard_streams.runtime.health import served


@pytest.mark.parametrize(
    ("state", "started", "ready"),
    [
        ({"ready": False}, 200, 503),
        ({"started": False, "ready": False}, 503, 503),
        ({"started": True, "ready": False}, 200, 503),
        ({"started": True, "ready": True}, 200, 200),
    ],
)
async def test_started_is_not_ready(state, started, ready):
    port = unused_port()
    async with served("127.0.0.1", port, lambda: state), aiohttp.ClientSession() as http:
        statuses = {}
        for page in ("live", "started", "ready"):
            async with http.get(f"http://127.0.0.1:{port}/health/{page}") as response:
                statuses[page] = response.status
    assert statuses == {"live": 200, "started": started, "ready": ready}
