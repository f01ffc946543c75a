"""Addresses in DNS: added, dropped, kept when the resolver fails, and asked under the name of the URL."""

import socket

import pytest
from aiohttp import web

from safeguard_streams.runtime import settings
from safeguard_streams.workers.inference.discovery import Address, Discovery, resolve_by_system
from safeguard_streams.workers.inference.transport import Transport, session_for

URL = "dns+http://vllm.inference:8000/v1"


class Names:
    """A resolver. found: what it answers, or raises."""

    def __init__(self, *found):
        self.found = found
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append((host, port))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def addressed(*hosts):
    return [Address(f"http://{host}:8000/v1", "vllm.inference:8000") for host in hosts]


async def test_each_address_of_a_name_is_a_server():
    names = Names("10.0.0.2", "10.0.0.1", "10.0.0.2")
    found = Discovery([URL, "http://gpu-1:8000/v1/"], names)
    assert found.dynamic
    assert found.addresses == [Address("http://gpu-1:8000/v1")]
    await found.refresh()
    assert found.addresses == [*addressed("10.0.0.1", "10.0.0.2"), Address("http://gpu-1:8000/v1")]
    assert names.asked == [("vllm.inference", 8000)]
    names.found = ("10.0.0.3",)
    await found.refresh()
    assert found.addresses[0] == addressed("10.0.0.3")[0]


@pytest.mark.parametrize(
    "failure",
    [
        (),
        socket.gaierror(socket.EAI_NONAME, "unknown"),
        socket.gaierror(socket.EAI_AGAIN, "again"),
        OSError(),
    ],
    ids=["nothing", "unknown", "later", "other"],
)
async def test_a_resolution_without_a_result_drops_no_server(failure, caplog):
    names = Names("10.0.0.1")
    found = Discovery([URL], names)
    await found.refresh()
    names.found = failure
    for _ in range(3):
        await found.refresh()
    assert found.addresses == addressed("10.0.0.1")
    assert len(caplog.records) == 1, "it is said once"


async def test_addresses_of_the_newer_protocol_stand_in_brackets():
    found = Discovery([URL], Names("fd00::7"))
    await found.refresh()
    assert [address.url for address in found.addresses] == ["http://[fd00::7]:8000/v1"]


async def test_the_default_port_is_that_of_the_scheme():
    names = Names("10.0.0.1")
    found = Discovery(["dns+https://vllm.inference/v1"], names)
    await found.refresh()
    assert names.asked == [("vllm.inference", 443)]
    (address,) = found.addresses
    assert (address.url, address.host, address.tls_name) == ("https://10.0.0.1/v1", "vllm.inference", "vllm.inference")


async def test_a_server_of_a_name_is_asked_under_the_name():
    seen = []

    async def models(request):
        seen.append(request.headers["Host"])
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.get("/v1/models", models)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.3", 0).start()
    port = runner.addresses[0][1]
    async with session_for(settings.load()) as http:
        for host in ("vllm.inference:8000", ""):
            await Transport(Address(f"http://127.0.0.3:{port}/v1", host), http).send("GET", "models", timeout=5.0)
    await runner.cleanup()
    assert seen == ["vllm.inference:8000", f"127.0.0.3:{port}"]


async def test_the_systems_resolver_finds_this_machine():
    assert "127.0.0.1" in await resolve_by_system("localhost", 80)
