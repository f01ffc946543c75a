"""Texts judged under a policy that is still being written. The model's side is reached by entry points alone."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from safeguard_streams.runtime.settings import Settings

_GROUP = "safeguard.trials"
ON_TEXT, ON_GOLDEN_SET = "on_text", "on_golden_set"


def missing(settings: Settings) -> str:
    """What this console lacks to judge texts; empty if it lacks nothing."""
    if not settings.servers:
        return (
            "Set SAFEGUARD_SERVERS to an inference server, as in http://gpu-1:8000/v1, to try a policy on a text and "
            "to test it on its golden set."
        )
    if not entry_points(group=_GROUP, name=ON_TEXT):
        return "The package was installed without its entry points: install it again."
    return ""


def load(name: str) -> Any:
    """The coroutine function of an entry point. Raises ImportError where the libraries of the model's side are not."""
    (entry,) = entry_points(group=_GROUP, name=name)
    return entry.load()
