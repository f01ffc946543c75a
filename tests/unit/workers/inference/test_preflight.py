"""Before a model is loaded, an error names what is missing and what to do."""

import base64
import hashlib
import sys

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


@pytest.mark.parametrize(("total", "share", "devices"), [(16, 0.96, 1), (24, 0.9, 1), (80, 0.9, 1), (10, 0.9, 2)])
def test_weights_that_fit(folder, total, share, devices):
    preflight.check_memory(folder, total * preflight.GIB, share, devices, "GPU")


@pytest.mark.parametrize(("total", "share", "devices"), [(12, 0.9, 1), (16, 0.8, 1), (24, 0.2, 2), (8, 0.9, 2)])
def test_weights_that_do_not_fit_are_reported_with_the_numbers(folder, total, share, devices):
    loaded = rf"needs {1.09 * 13 / devices:.1f} GiB for its weights.* of the GPU's {total}.0"
    with pytest.raises(ConfigurationError, match=loaded):
        preflight.check_memory(folder, total * preflight.GIB, share, devices, "GPU")


@pytest.fixture
def largest(tmp_path):
    """A folder with as many GiB of weights as gpt-oss-120b has."""
    with (tmp_path / "model-00001.safetensors").open("wb") as file:
        file.truncate(int(60.8 * preflight.GIB))
    return tmp_path


@pytest.mark.parametrize(
    ("memory", "share", "devices"), [(79.2, 0.95, 1), (95.0, 0.9, 1), (139.8, 0.9, 1), (47.5, 0.9, 2)]
)
def test_the_largest_model_fits_one_card_of_96_gb_two_of_48_and_80_gb_with_tight_settings(
    largest, memory, share, devices
):
    preflight.check_memory(largest, int(memory * preflight.GIB), share, devices, "GPU")


def test_the_largest_model_on_one_card_of_80_gb_is_refused_with_the_settings_that_work(largest):
    total = int(79.6 * preflight.GIB)
    with pytest.raises(ConfigurationError, match="66.3 GiB for its weights") as refused:
        preflight.check_memory(largest, total, 0.9, 1, "GPU")
    assert "set SAFEGUARD_GPU_MEMORY=0.95" in str(refused.value)
    assert "SAFEGUARD_TENSOR_PARALLEL=2" in str(refused.value)
    preflight.check_memory(largest, total, 0.95, 1, "GPU")
    with pytest.raises(ConfigurationError) as refused:
        preflight.check_memory(largest, 24 * preflight.GIB, 0.9, 2, "GPU")
    assert "SAFEGUARD_TENSOR_PARALLEL=4" in str(refused.value)
    assert "SAFEGUARD_GPU_MEMORY" not in str(refused.value), "no share of it suffices"


H100 = preflight.GpuFacts("NVIDIA H100", (9, 0), "580.65.06", (13, 0), (13, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"needed": (13, 2)}, None),  # a driver of the same major version suffices
        ({"driver": "595.10", "supported": (13, 2)}, None),
        ({"driver": "610.5", "supported": (14, 0)}, None),
        ({"driver": "535.104.05", "supported": (12, 2), "needed": (12, 9)}, None),
        ({"capability": (8, 0)}, None),
        ({"capability": (12, 0)}, None),
        (
            {"driver": "575.57.08", "supported": (12, 9)},
            "CUDA 12.9, and this vLLM is built for CUDA 13.0: install a driver for CUDA 13 (580 or newer) on the host",
        ),
        ({"needed": (14, 1)}, "install a driver for CUDA 14 on the host"),
        (
            {"name": "Tesla T4", "capability": (7, 5)},
            "Tesla T4 has compute capability 7.5, and bfloat16 and MXFP4 weights need 8.0: use a GPU of the Ampere",
        ),
    ],
)
def test_a_driver_and_a_gpu_that_are_too_old_are_reported(change, message):
    gpu = H100._replace(**change)
    if message is None:
        preflight.check_gpu(gpu)
        return
    with pytest.raises(ConfigurationError) as refused:
        preflight.check_gpu(gpu)
    assert message in str(refused.value)


def test_a_gpu_of_another_maker_has_no_such_limits():
    preflight.check_gpu(None)


def installed(site, name, module, text):
    """Install a distribution whose one file is a module's, as pip does."""
    folder = site / "openai_harmony"
    folder.mkdir(exist_ok=True)
    (folder / module).write_text(text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"openai_harmony/{module},sha256={digest},{len(text)}\n{info.name}/RECORD,,\n")


def test_a_module_that_another_distribution_has_overwritten_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    installed(tmp_path, "our-harmony", "__init__.py", "ours")
    preflight.check_harmony("our-harmony")
    installed(tmp_path, "their-harmony", "__init__.py", "theirs")
    with pytest.raises(ConfigurationError) as refused:
        preflight.check_harmony("our-harmony")
    assert str(refused.value) == (
        "the module openai_harmony is not the one of our-harmony: their-harmony has overwritten it; run "
        "pip uninstall their-harmony, then pip install --force-reinstall --no-deps our-harmony"
    )


def test_a_module_that_another_distribution_took_away_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    installed(tmp_path, "our-harmony", "__init__.py", "ours")
    (tmp_path / "openai_harmony" / "__init__.py").unlink()  # as an uninstallation of the other one does
    with pytest.raises(ConfigurationError, match="run pip install --force-reinstall --no-deps our-harmony"):
        preflight.check_harmony("our-harmony")


def test_the_installed_module_is_the_right_one():
    preflight.check_harmony()
    preflight.check_harmony("a-distribution-that-is-not-installed")


def test_a_model_folder_is_located_and_anything_else_is_reported(folder, tmp_path):
    assert preflight.locate(str(folder)) == (folder, folder.name)
    with pytest.raises(ConfigurationError, match="no such model folder"):
        preflight.locate(str(tmp_path / "none"))
    (folder / "config.json").unlink()
    with pytest.raises(ConfigurationError, match=r"the folder has no config.json"):
        preflight.locate(str(folder))
    with pytest.raises(ConfigurationError, match="neither a folder nor a hub name"):
        preflight.locate("not//a name")
    with pytest.raises(ConfigurationError, match=r"hub names have the form OWNER/MODEL.* also set SAFEGUARD_SERVERS"):
        preflight.locate("gpt-oss-safeguard-20b")


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
