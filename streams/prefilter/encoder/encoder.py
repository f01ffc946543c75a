"""Texts to vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.prefilter.encoder import files, passages
from safeguard_streams.prefilter.encoder.passages import Passages, PassageVectors
from safeguard_streams.prefilter.encoder.tokens import Batch, batches, pieces

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


class Encoder:
    """The encoder. A text's vector depends on the text alone. Safe in several threads.

    Raises ConfigurationError when the extra `encoder` is not installed, or a file is not the one it was built with.
    """

    name = files.NAME
    width = files.WIDTH

    def __init__(self) -> None:
        onnxruntime, sentencepiece = _library("onnxruntime"), _library("sentencepiece")
        pieces_model = files.checked(files.published("sp.model"))
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_proto=pieces_model, num_threads=1)
        self._embeddings = files.embeddings()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # callers decide how many threads encode
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(files.checked(files.GRAPH), options, ["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1 for the beginnings of normalised texts [texts, 512]: see `tokens.undisguised`."""
        return self._vectors(self.pieces(texts))

    def encode_passages(self, texts: Sequence[str]) -> PassageVectors:
        """Vectors of length 1 for all passages of normalised texts."""
        found = self.passages(texts)
        return PassageVectors(self._vectors(found.pieces), found.text)

    def _vectors(self, ids: Sequence[Sequence[int]]) -> Vectors:
        parts = [self.encode_batch(batch) for batch in batches(ids)]
        return np.concatenate([np.zeros((0, self.width), dtype=np.float32), *parts])

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of the pieces of each text's beginning."""
        return pieces(self._tokenizer, texts)

    def passages(self, texts: Sequence[str]) -> Passages:
        """The numbers of the pieces of each passage."""
        return passages.cut(self._tokenizer, texts)

    def encode_batch(self, batch: Batch) -> Vectors:
        """Vectors of the texts of one batch [texts, 512]."""
        (vectors,) = self._session.run(
            None,
            {
                "codes": self._embeddings[batch.pieces],
                "chunk": batch.pieces % files.CHUNKS,
                "window": batch.window,
                "text": batch.text[:, None],
                "length": batch.lengths[:, None].astype(np.float32),
            },
        )
        result: Vectors = vectors
        return result


@cache
def at_hand() -> Encoder | None:
    """The encoder, loaded once in a process. None where it does not load: a line in the log says why."""
    try:
        encoder = Encoder()
    except Exception as error:  # no release may end the process
        log.warning("encoder not loaded, distilled classifiers use no vectors error=%s", error)  # no content in it
        return None
    log.info("encoder loaded name=%s", encoder.name)
    return encoder


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{name} is not installed here: pip install 'safeguard-streams[encoder]'") from error
