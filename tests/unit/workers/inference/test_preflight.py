"""What is missing is said before a model is loaded, with what to do."""

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.workers.inference import preflight
from safeguard_streams.workers.judging import prompt


@pytest.fixture
def folder(tmp_path):
    """A model with 13 GiB of weights that take no place."""
    with (tmp_path / "model-00001.safetensors").open("wb") as file:
        file.truncate(13 * preflight.GIB)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(("total", "share", "devices"), [(16, 0.9, 1), (80, 0.9, 1), (8, 0.9, 2)])
def test_weights_that_fit(folder, total, share, devices):
    preflight.check_memory(folder, total * preflight.GIB, share, devices, "GPU")


@pytest.mark.parametrize(("total", "share", "devices"), [(12, 0.9, 1), (16, 0.8, 1), (24, 0.2, 2)])
def test_weights_that_do_not_fit_are_told_with_the_numbers(folder, total, share, devices):
    with pytest.raises(ConfigurationError, match=rf"{13 / devices:.1f} GiB of weights.* of the GPU's {total}.0"):
        preflight.check_memory(folder, total * preflight.GIB, share, devices, "GPU")


def test_a_folder_is_found_and_what_is_none_is_told(folder, tmp_path):
    assert preflight.locate(str(folder)) == (folder, folder.name)
    with pytest.raises(ConfigurationError, match="no such model folder"):
        preflight.locate(str(tmp_path / "none"))
    (folder / "config.json").unlink()
    with pytest.raises(ConfigurationError, match=r"no config.json in it"):
        preflight.locate(str(folder))
    with pytest.raises(ConfigurationError, match="neither a folder nor a hub name"):
        preflight.locate("not//a name")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    with pytest.raises(ConfigurationError, match="neither in the cache nor can the hub be reached"):
        preflight.locate("nobody/nothing-of-this-name")


def test_no_gpu_is_told():
    class Nothing:
        def is_unspecified(self):
            return True

    with pytest.raises(ConfigurationError, match="vLLM sees no GPU: check nvidia-smi"):
        preflight.check_platform(Nothing())


def test_a_vocabulary_that_cannot_be_loaded_is_told(monkeypatch):
    def unreachable():
        raise OSError("no network")

    monkeypatch.setattr(prompt, "encoding", unreachable)
    with pytest.raises(ConfigurationError, match="install oss-harmony"):
        prompt.check_vocabulary()
