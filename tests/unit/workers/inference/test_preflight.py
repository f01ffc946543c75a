"""Before a model is loaded, an error names what is missing and what to do."""

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.workers.inference import harmony, preflight


@pytest.fixture
def folder(tmp_path):
    """A model with 13 GiB of weights, in a sparse file."""
    with (tmp_path / "model-00001.safetensors").open("wb") as file:
        file.truncate(13 * preflight.GIB)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(("total", "share", "devices"), [(16, 0.9, 1), (80, 0.9, 1), (8, 0.9, 2)])
def test_weights_that_fit(folder, total, share, devices):
    preflight.check_memory(folder, total * preflight.GIB, share, devices, "GPU")


@pytest.mark.parametrize(("total", "share", "devices"), [(12, 0.9, 1), (16, 0.8, 1), (24, 0.2, 2)])
def test_weights_that_do_not_fit_are_reported_with_the_numbers(folder, total, share, devices):
    with pytest.raises(ConfigurationError, match=rf"{13 / devices:.1f} GiB of weights.* of the GPU's {total}.0"):
        preflight.check_memory(folder, total * preflight.GIB, share, devices, "GPU")


def test_a_model_folder_is_located_and_anything_else_is_reported(folder, tmp_path):
    assert preflight.locate(str(folder)) == (folder, folder.name)
    with pytest.raises(ConfigurationError, match="no such model folder"):
        preflight.locate(str(tmp_path / "none"))
    (folder / "config.json").unlink()
    with pytest.raises(ConfigurationError, match=r"the folder has no config.json"):
        preflight.locate(str(folder))
    with pytest.raises(ConfigurationError, match="neither a folder nor a hub name"):
        preflight.locate("not//a name")


def test_an_unreachable_hub_is_reported(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    with pytest.raises(ConfigurationError, match="not in the cache, and the hub cannot be reached"):
        preflight.locate("nobody/nothing-of-this-name")


def test_a_missing_gpu_is_reported():
    class Nothing:
        def is_unspecified(self):
            return True

    with pytest.raises(ConfigurationError, match="vLLM sees no GPU: check nvidia-smi"):
        preflight.check_platform(Nothing())


def test_a_vocabulary_that_cannot_be_loaded_is_reported(monkeypatch):
    def unreachable():
        raise OSError("no network")

    monkeypatch.setattr(harmony, "encoding", unreachable)
    with pytest.raises(ConfigurationError, match="install oss-harmony"):
        harmony.check_vocabulary()
