"""The console that the demo leaves behind: filled with what the topics hold, for this machine alone."""

import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import encode
from safeguard_streams.demo import pipeline
from tests import projected
from tests.conftest import TIMEOUT, own_topics


def page(address, path):
    with urllib.request.urlopen(urllib.parse.urljoin(address, path), timeout=TIMEOUT) as response:
        return response.read().decode()


async def test_it_shows_what_the_topics_hold_to_one_local_user(embedded_address, tmp_path, monkeypatch):
    current, said = own_topics(embedded_address), []
    monkeypatch.setenv("SAFEGUARD_PREFIX", current.prefix)
    monkeypatch.setenv("SAFEGUARD_PARTITIONS", str(current.partitions))
    monkeypatch.setenv("SAFEGUARD_HOST", "0.0.0.0")
    monkeypatch.setenv("SAFEGUARD_CONSOLE_OIDC_ISSUER", "https://login.example.com")
    monkeypatch.setenv("SAFEGUARD_CONSOLE_PROXY_SECRET", "of another console")
    monkeypatch.setenv("SAFEGUARD_CONSOLE_DATABASE", "postgresql://nobody@127.0.0.1:1/none")
    await kafka_bus.create_topics(current)
    async with kafka_bus.producer(current) as producer:
        for number in range(300):
            verdict = projected.verdict(number, f"post-{number}")
            await producer.send(current.prefix + topics.VERDICTS, encode(verdict), key=verdict.content_id.encode())
        await producer.flush()
    async with pipeline.console(current, tmp_path, said.append) as address:
        assert address is not None, said
        assert "post-299" in page(address, "/search")
        assert "post-7" in page(address, "/item?id=post-7")
        assert "everybody on this machine" in page(address, "/")
    with pytest.raises(urllib.error.URLError):
        page(address, "/")
    assert (tmp_path / "console.db").stat().st_mode & 0o077 == 0, "it holds content"


async def test_a_console_that_cannot_run_says_why_and_ends_nothing_else(tmp_path, monkeypatch):
    program, said = tmp_path / "safeguard", []
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit(\"pip install 'safeguard-streams[console]'\")\n")
    program.chmod(0o755)
    monkeypatch.setattr(pipeline, "command", lambda: str(program))
    async with pipeline.console(own_topics("127.0.0.1:1"), tmp_path, said.append) as address:
        assert address is None
    assert "pip install 'safeguard-streams[console]'" in said[-1]
