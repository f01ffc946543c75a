"""Which weights a model has: stable for the same ones wherever they are, another for others of the same sizes."""

import os
import shutil

import pytest

from safeguard_streams.workers.inference import revision
from safeguard_streams.workers.inference.remote import ServerBackend
from tests.unit.workers.inference.test_remote import Server, backend, completion

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    """A model of a few MB, more than is read of it."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"layers": 2}')
    (path / "model-1.safetensors").write_bytes(bytes(range(256)) * 12_000)
    (path / "model-2.safetensors").write_bytes(b"")
    return path


def test_a_folder_that_is_copied_later_keeps_its_revision(folder, tmp_path):
    first = revision.of_folder(folder)
    copy = tmp_path / "elsewhere" / "other-name"
    shutil.copytree(folder, copy)
    os.utime(copy / "config.json", (0, 0))
    (copy / "README.md").write_text("words")
    assert revision.of_folder(copy) == first
    assert len(first) == 12


def tune(folder):
    path = folder / "model-1.safetensors"
    path.write_bytes(bytes(255 - one for one in path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        tune,
        lambda folder: (folder / "config.json").write_text('{"layers": 3}'),
        lambda folder: (folder / "model-2.safetensors").write_bytes(b"x"),
        lambda folder: (folder / "model-2.safetensors").rename(folder / "model-3.safetensors"),
        lambda folder: (folder / "model-2.safetensors").unlink(),
    ],
)
def test_other_weights_or_another_configuration_have_another_revision(folder, change):
    first = revision.of_folder(folder)
    change(folder)
    assert revision.of_folder(folder) != first


def test_a_folder_of_the_hubs_cache_has_its_commit(tmp_path):
    path = tmp_path / "models--openai--gpt-oss" / "snapshots" / COMMIT
    path.mkdir(parents=True)
    assert revision.of_folder(path) == COMMIT[:12]


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ({"id": "m"}, None),
        ({"id": "m", "created": 1_700_000_000}, None),
        ({"id": "m", "revision": "v2"}, "v2"),
        ({"id": "m", "revision": "v2", "root": "/models/other"}, "v2"),
        ({"id": "m", "revision": 7}, None),
        ({"id": "m", "revision": "two words\x1b[2J"}, None),
        ({"id": "m", "revision": "x" * 900}, "x" * revision.LONGEST),
        ({"id": "m", "root": "m"}, None),
        ({"id": "openai/m", "root": "/models/m/"}, None),
        ({"id": "m", "root": "/models/m-tuned-3"}, "m-tuned-3"),
        ({"id": "m", "root": f"/cache/models--openai--m/snapshots/{COMMIT}"}, COMMIT[:12]),
        ({"id": "m", "root": None}, None),
        ({"id": "m", "root": ["m"]}, None),
        ({"id": "m", "root": ""}, None),
    ],
)
def test_what_a_server_tells_about_its_weights(listed, told):
    assert revision.of_listing(listed) == told


async def test_servers_that_differ_have_no_revision():
    one, other = Server(completion()), Server(completion())
    one.models["data"][0]["root"] = "/models/safeguard-1"
    other.models["data"][0]["root"] = "/models/safeguard-2"
    async with one.running() as first, other.running() as second:
        async with backend(first) as alone:
            assert isinstance(alone, ServerBackend)
            assert alone.revision == "safeguard-1"
        async with backend(first, second) as both:
            assert both.revision is None
