"""Which weights a model has, beside its name: a commit of the hub, a fingerprint of a folder, what a server tells."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LONGEST = 64  # characters
_HASH_DIGITS = 12
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_CONFIGURATION = ("config.json", "generation_config.json", "model.safetensors.index.json")
_SAMPLES, _SAMPLE_BYTES = 16, 4096  # of each file of weights: a fine-tuned model has files of the same sizes
_COMMIT = re.compile(r"(?:^|/)snapshots/([0-9a-f]{40})(?:/|$)")  # in the hub's cache
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")


def of_folder(folder: Path) -> str:
    """The commit of a folder in the hub's cache; of any other, a fingerprint of its configuration and weights.

    The fingerprint reads samples of the weights, whose files are too large to read whole. It does not depend on where
    the folder is, or on when it was copied.
    """
    if commit := _COMMIT.search(folder.as_posix()):
        return commit[1][:_HASH_DIGITS]
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in _CONFIGURATION:
            _add(digest, path.name.encode(), path.read_bytes())
        elif path.suffix in _WEIGHTS:
            _add(digest, path.name.encode(), str(path.stat().st_size).encode(), *_samples(path))
    return digest.hexdigest()[:_HASH_DIGITS]


def _add(digest: Any, *parts: bytes) -> None:
    """Each part with its length, lest two that are cut differently look the same."""
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)


def _samples(path: Path) -> Iterator[bytes]:
    """Samples of a file from its beginning to its end."""
    last = max(0, path.stat().st_size - _SAMPLE_BYTES)
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(last * number // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def of_listing(model: Mapping[str, Any]) -> str | None:
    """What a server's /v1/models tells about the weights of one of its models; None if it tells nothing.

    Some servers name a revision. vLLM's `root` is what was loaded, and has another name than the model where the
    server gives it one. `created` says when the server answered, or started.
    """
    stated = model.get("revision")
    if isinstance(stated, str) and (name := _short(stated)):
        return name
    root = model.get("root")
    if not isinstance(root, str):
        return None
    if commit := _COMMIT.search(root):
        return commit[1][:_HASH_DIGITS]
    name = _short(root.rstrip("/").rpartition("/")[2])
    return None if name == str(model.get("id")).rpartition("/")[2] else name


def _short(stated: str) -> str | None:
    """A name as verdicts may hold it; None for anything else that a server wrote there."""
    return stated[:LONGEST] if _NAME.match(stated) else None
