"""Checks before a model is loaded. Each error says what is missing and what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.small_model import SMALL
from safeguard_streams.workers.small.weights import expand

GIB = 2**30
MIN_CACHE = 0.03  # share of the memory that vLLM may take, left for the KV cache beside the weights
_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*"]
_OTHER_FORMATS = ["original/*", "metal/*"]


class LocatedModel(NamedTuple):
    """The folder to load, and the name that verdicts show."""

    folder: Path
    name: str


def locate(model: str) -> LocatedModel:
    """Find the model named by 'small', a folder, or a hub name. A hub name is downloaded unless it is cached.

    Raises ConfigurationError with what to do.
    """
    if model == SMALL:
        folder = expand()
        return LocatedModel(folder, folder.name)
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigurationError(
                f"{model}: the folder has no config.json; give the folder of a model in Hugging Face's format"
            )
        return LocatedModel(path, path.resolve().name)
    if path.exists() or model.startswith((".", "/")):
        raise ConfigurationError(f"{model}: no such model folder; give a folder with config.json, or a hub name")
    return LocatedModel(_from_hub(model), model)


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns: dict[str, Any] = {"allow_patterns": _FILES, "ignore_patterns": _OTHER_FORMATS}
    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
        return Path(snapshot_download(model, local_files_only=True, **patterns))
    try:
        return Path(snapshot_download(model, **patterns))
    except HFValidationError as error:
        raise ConfigurationError(f"{model}: neither a folder nor a hub name (OWNER/MODEL)") from error
    except HfHubHTTPError as error:
        raise ConfigurationError(
            f"{model}: the hub refused the download (HTTP {error.response.status_code}): correct the name, or set "
            "HF_TOKEN if the model is not public"
        ) from error
    except Exception as error:  # without a network, the hub's client raises errors of several libraries
        raise ConfigurationError(
            f"{model}: not in the cache, and the hub cannot be reached ({type(error).__name__}): download the model "
            "on a machine with a network (hf download) and give the folder with --model"
        ) from error


def check_memory(folder: Path, total: int, share: float, devices: int, where: str) -> None:
    """Raises ConfigurationError when the weights leave no room for a KV cache.

    total: memory of each device in bytes. share: of it that vLLM may take, 0 to 1.
    """
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / devices
    allowed = total * share
    if weights > allowed * (1 - MIN_CACHE):
        on_each = f" on each of {devices} devices" if devices > 1 else ""
        raise ConfigurationError(
            f"{folder.name} has {weights / GIB:.1f} GiB of weights{on_each}, and may take {allowed / GIB:.1f} GiB of "
            f"the {where}'s {total / GIB:.1f}: use a smaller model or a larger device, spread the model over several "
            "(SAFEGUARD_TENSOR_PARALLEL), or allow more (SAFEGUARD_GPU_MEMORY)"
        )


def check_platform(platform: Any) -> None:
    """Raises ConfigurationError when vLLM found no device to run on."""
    if platform.is_unspecified():
        raise ConfigurationError(
            "vLLM sees no GPU: check nvidia-smi and the driver, and give a container its GPU (--gpus all). "
            "Without a GPU, install the [cpu] extra and use --model small, or use a server with --server URL"
        )
