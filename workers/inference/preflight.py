"""Checks before a model is loaded. Each error says what is missing and what to do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.small_model import SMALL
from safeguard_streams.workers.small.weights import expand

GIB = 2**30
# MXFP4 weights grow when vLLM loads them: the files of gpt-oss-120b have 60.8 GiB, and it loaded 65.97 GiB.
LOADED = 1.09
# Share of a device's memory for activations, sampling and CUDA graphs, with the least KV cache that is of use.
WORKING = 0.07
MOST_SHARE = 0.95  # of a GPU's memory; above it, vLLM runs out of memory outside of its share
MIN_CAPABILITY = (8, 0)  # bfloat16 and the MXFP4 kernels
_MIN_DRIVER = {12: 525, 13: 580}  # NVIDIA driver by the major version of CUDA
_HARMONY = "oss-harmony"  # the distribution whose module openai_harmony this project uses
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
    if "/" not in model:  # answered at once: without a network, the hub's client retries for minutes
        raise ConfigurationError(
            f"{model}: no folder here, and hub names have the form OWNER/MODEL, as in openai/gpt-oss-safeguard-20b; "
            "for a name on a server, also set SAFEGUARD_SERVERS"
        )
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
    """Raises ConfigurationError when the loaded weights leave no room to work in.

    total: memory of each device in bytes. share: of it that vLLM may take, 0 to 1.
    """
    loaded = sum(file.stat().st_size for file in folder.glob("*.safetensors")) * LOADED / devices
    working = total * WORKING
    if loaded + working <= total * share:
        return
    on_each = f" on each of {devices} devices" if devices > 1 else ""
    raise ConfigurationError(
        f"{folder.name} needs {loaded / GIB:.1f} GiB for its weights{on_each} and {working / GIB:.1f} GiB to work in, "
        f"and may take {total * share / GIB:.1f} GiB of the {where}'s {total / GIB:.1f}: "
        + _more_memory((loaded + working) / total, devices)
    )


def _more_memory(share: float, devices: int) -> str:
    """What to do. share: of each device's memory, what would suffice."""
    more = f"use a larger device, or spread the model over {2 * devices} (SAFEGUARD_TENSOR_PARALLEL={2 * devices})"
    if share > MOST_SHARE:
        return f"{more}, or use a smaller model"
    return f"{more}, or set SAFEGUARD_GPU_MEMORY={MOST_SHARE}, which leaves a small KV cache"


def check_platform(platform: Any) -> None:
    """Raises ConfigurationError when vLLM found no device to run on."""
    if platform.is_unspecified():
        raise ConfigurationError(
            "vLLM sees no GPU: check nvidia-smi and the driver, and give a container its GPU (--gpus all). "
            "Without a GPU, install the [cpu] extra and use --model small, or use a server with --server URL"
        )


class GpuFacts(NamedTuple):
    """An NVIDIA GPU and its driver.

    capability: compute capability, major and minor. driver: its version. supported: the newest CUDA that the driver
    supports, major and minor. needed: the CUDA that vLLM was built for.
    """

    name: str
    capability: tuple[int, int]
    driver: str
    supported: tuple[int, int]
    needed: tuple[int, int]


def facts_of_gpu(platform: Any) -> GpuFacts | None:
    """Facts of the first GPU, from its driver; None if the GPU is not NVIDIA's. platform: vLLM's current platform."""
    import torch
    from vllm.utils.import_utils import import_pynvml

    if not platform.is_cuda() or torch.version.cuda is None:
        return None
    nvml, capability = import_pynvml(), platform.get_device_capability()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # boards without NVML, such as Jetson
        return None
    try:
        driver, supported = nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetCudaDriverVersion_v2()
    finally:
        nvml.nvmlShutdown()
    major, minor = torch.version.cuda.split(".")[:2]
    return GpuFacts(
        name=platform.get_device_name(),
        capability=(capability.major, capability.minor),
        driver=driver,
        supported=(supported // 1000, supported % 1000 // 10),
        needed=(int(major), int(minor)),
    )


def check_gpu(gpu: GpuFacts | None) -> None:
    """Raises ConfigurationError when the driver or the GPU is too old for this build of vLLM."""
    if gpu is None:
        return
    needed = gpu.needed[0]
    # Within a major version of CUDA, an older driver runs what was built for a newer minor version.
    if gpu.supported[0] < needed:
        least = f" ({_MIN_DRIVER[needed]} or newer)" if needed in _MIN_DRIVER else ""
        raise ConfigurationError(
            f"the NVIDIA driver {gpu.driver} supports CUDA {_dotted(gpu.supported)}, and this vLLM is built for CUDA "
            f"{_dotted(gpu.needed)}: install a driver for CUDA {needed}{least} on the host"
        )
    if gpu.capability < MIN_CAPABILITY:
        raise ConfigurationError(
            f"{gpu.name} has compute capability {_dotted(gpu.capability)}, and bfloat16 and MXFP4 weights need "
            f"{_dotted(MIN_CAPABILITY)}: use a GPU of the Ampere generation or newer, or a server with --server URL"
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def check_harmony(distribution: str = _HARMONY) -> None:
    """Raises ConfigurationError when another distribution has overwritten the module openai_harmony."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return  # the project runs from a checkout; harmony.check_vocabulary tries the module itself
    if all(_unchanged(file) for file in files if file.parts[0] == "openai_harmony"):
        return
    others = set(metadata.packages_distributions().get("openai_harmony", ())) - {distribution}
    remove = f"pip uninstall {' '.join(sorted(others))}, then " if others else ""
    raise ConfigurationError(
        f"the module openai_harmony is not the one of {distribution}: {', '.join(sorted(others)) or 'something'} has "
        f"overwritten it; run {remove}pip install --force-reinstall --no-deps {distribution}"
    )


def _unchanged(file: metadata.PackagePath) -> bool:
    """Whether an installed file is the one that its distribution brought."""
    if file.hash is None:
        return True
    path = Path(str(file.locate()))
    if not path.is_file():
        return False
    digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value
