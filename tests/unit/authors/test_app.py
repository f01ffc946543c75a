"""The ledger's process: what it waits for before it follows strikes."""

import asyncio

import pytest
from typer.testing import CliRunner

from safeguard_streams import cli
from safeguard_streams.authors import app
from safeguard_streams.enforcement import rules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings


@pytest.fixture
def process(monkeypatch):
    """A process whose engines note that they run, and end. `known` has the events of what it looks up."""
    made = app.LedgerProcess(settings.load(bootstrap="127.0.0.1:1"), rules.load(rules.SHIPPED), 1)
    made.ran, made.known = [], []

    async def follow(_settings, known):
        made.known.append(known)
        await asyncio.Event().wait()

    async def run_engines(_stop):
        made.ran.append(True)

    for one in (made._policies, made._erasures):
        monkeypatch.setattr(one, "follow", follow)
    monkeypatch.setattr(made, "_run_engines", run_engines)
    return made


@pytest.mark.parametrize("last", [0, 1])
async def test_no_strike_is_followed_before_policies_and_erased_items_are_known(process, last):
    running = asyncio.create_task(process.run(asyncio.Event()))
    while len(process.known) < 2:
        await asyncio.sleep(0)
    process.known[1 - last].set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert process.ran == []
    process.known[last].set()
    await running
    assert process.ran == [True]


async def test_a_process_that_is_stopped_while_it_waits_ends(process):
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(stop))
    while len(process.known) < 2:
        await asyncio.sleep(0)
    stop.set()
    await running


def test_rules_that_say_nothing_about_authors_are_refused_with_what_to_add():
    done = CliRunner().invoke(cli.app, ["authors", "run", "--port", "0"])
    assert isinstance(done.exception, ConfigurationError)
    assert "add [[authors.strike]] or [[authors.rate]]" in str(done.exception)


@pytest.mark.parametrize("gives", ["strike", "rate"])
def test_rules_without_thresholds_count_strikes(gives, tmp_path, monkeypatch):
    """Rules about content look at strikes, and people decide by them."""
    file, ran = tmp_path / "rules.toml", []

    async def run(_settings, found, name):
        ran.append((found.authors.gives_strikes, name))

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr("safeguard_streams.cli.authors.configure_logging", lambda **_: None)
    file.write_text(f'[[authors.{gives}]]\nname = "any"\n' + ('posts = 3\nwithin = "1h"\n' if gives == "rate" else ""))
    done = CliRunner().invoke(cli.app, ["authors", "run", str(file), "--port", "0"])
    assert (done.exit_code, ran) == (0, [(True, str(file))])
