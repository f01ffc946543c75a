"""Whatever program listens at a port of /health/ready, `status` and `doctor` go on."""

import asyncio
import contextlib

import orjson
import pytest

from safeguard_streams.operations import host_checks
from safeguard_streams.operations.health_pages import own_health_page
from safeguard_streams.runtime.settings import Settings
from tests.conftest import TIMEOUT

OWN = {"ready": True, "stage": "enforcement", "prefix": ""}


def page(body, status="200 OK"):
    return b"HTTP/1.1 %s\r\nServer: other\r\n\r\n%s" % (status.encode(), body)


@contextlib.asynccontextmanager
async def answering(*parts, goes_on=False):
    """A port where each connection gets these bytes; goes_on: and then a blank every now and then."""

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read(1000)
            for part in parts:
                writer.write(part)
                await writer.drain()
            while goes_on:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command\r\n",
        b"\x00\x01\x02\xff" * 20,
        page(b"<html>hello</html>"),
        page(b"<html>", "404 Not Found"),
        page(b'{"ready": true, "x": "' + b"a" * 5_000_000 + b'"}'),
        page(b"[" * 100_000),
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        page(b"", "302 Found\r\nLocation: file:///etc/hostname"),
        page(orjson.dumps({"ready": [1]})),
        page(orjson.dumps(OWN | {"stage": {"a": 1}})),
        page(orjson.dumps(OWN | {"prefix": "p" * 300_000})),
        page(orjson.dumps(OWN | {"webhook": {"answers": 500}})),
    ],
)
async def test_what_is_no_page_of_ours_is_another_program(answer):
    """A server of any protocol may be at the port, and what it says is not shown."""
    async with answering(answer) as number:
        assert await own_health_page(Settings(), "enforcement", number) is None
        check = await host_checks.port(Settings(), "enforcement", number)
        assert (check.result, "in use" in check.found) == ("failed", True)
        server = await host_checks.inference_server(f"http://127.0.0.1:{number}/v1")
        assert server.name == "inference server"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX: ", page(b"{"), page(b"{", "503 Unavailable")])
async def test_an_answer_that_does_not_end_is_not_waited_for(answer):
    """The time is bounded for the whole answer, not for each part."""
    async with answering(answer, goes_on=True) as number, asyncio.timeout(TIMEOUT):
        assert await own_health_page(Settings(), "enforcement", number) is None


async def test_a_page_in_parts_is_read_whole_and_no_proxy_is_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    whole = page(orjson.dumps(OWN | {"webhook": "answers 500", "undelivered": {"messages": 1}}), "503 Unavailable")
    async with answering(whole[:30], whole[30:60], whole[60:]) as number:
        found = await own_health_page(Settings(), "enforcement", number)
        assert found is not None
        assert (found.webhook, found.undelivered) == ("answers 500", {"messages": 1})
        assert await own_health_page(Settings(prefix="acme."), "enforcement", number) is None
