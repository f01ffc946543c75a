"""What can be known to be missing before a model is loaded, said with what to do about it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.workers.small.weights import expand

SMALL = "small"
GIB = 2**30
LEAST_CACHE = 0.03  # of the memory that the engine may take, beside the weights
_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*"]
_OTHER_FORMATS = ["original/*", "metal/*"]


def locate(model: str) -> tuple[Path, str]:
    """The folder to load, and the name that verdicts give, of 'small', a folder, or a hub name, which is downloaded.

    Raises ConfigurationError with what to do.
    """
    if model == SMALL:
        folder = expand()
        return folder, folder.name
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigurationError(
                f"{model}: no config.json in it; give the folder of a model in Hugging Face's format"
            )
        return path, path.resolve().name
    if path.exists() or model.startswith((".", "/")):
        raise ConfigurationError(f"{model}: no such model folder; give a folder with config.json, or a hub name")
    return _from_hub(model), model


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
            f"{model}: the hub does not give it (HTTP {error.response.status_code}): correct the name, or set HF_TOKEN if "
            "the model is not open to everyone"
        ) from error
    except Exception as error:  # whatever its client raises where there is no network
        raise ConfigurationError(
            f"{model}: neither in the cache nor can the hub be reached ({type(error).__name__}): download it where there "
            "is a network (hf download) and give the folder with --model"
        ) from error


def check_memory(folder: Path, total: int, share: float, devices: int, where: str) -> None:
    """Raises ConfigurationError when the weights leave no room for a cache. total is of each device, in bytes."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / devices
    allowed = total * share
    if weights > allowed * (1 - LEAST_CACHE):
        raise ConfigurationError(
            f"{folder.name} has {weights / GIB:.1f} GiB of weights{f' on each of {devices} devices' if devices > 1 else ''}, "
            f"and may take {allowed / GIB:.1f} GiB of the {where}'s {total / GIB:.1f}: take a smaller model or a larger "
            "device, spread it over several (SAFEGUARD_TENSOR_PARALLEL), or allow more (SAFEGUARD_GPU_MEMORY)"
        )


def check_platform(platform: Any) -> None:
    """Raises ConfigurationError when vLLM found nothing to run on."""
    if platform.is_unspecified():
        raise ConfigurationError(
            "vLLM sees no GPU: check nvidia-smi and the driver, and in a container that it is given one (--gpus all); "
            "without a GPU install the [cpu] extra and use --model small, or ask a server with --server URL"
        )
