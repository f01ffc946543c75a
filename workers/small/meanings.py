"""Where the small model's embeddings begin: each token of the vocabulary through the multilingual sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.prefilter.encoder.tokens import undisguised
from safeguard_streams.prefilter.normalise import read
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import FIRST_SPECIAL
from safeguard_streams.workers.small.network import HIDDEN

SCALE = 0.5  # standard deviation of an embedding's numbers


def vectors(texts: Sequence[str], on_progress: Callable[[int], None] = lambda done: None) -> NDArray[np.float16]:
    """The encoder's vectors of texts [texts, 512]; texts of similar length are encoded together."""
    encoder = Encoder()
    texts = undisguised(read(texts), range(len(texts)))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.zeros((len(texts), encoder.width), dtype=np.float16)
    for start in range(0, len(order), 4096):
        part = order[start : start + 4096]
        found[part] = encoder.encode([texts[i] for i in part])
        on_progress(start + len(part))
    return found


def _word(token: int) -> str:
    """What a token stands for as a word; nothing for control tokens and parts of characters."""
    text = harmony.decode_tokens([token]) if token < FIRST_SPECIAL else ""
    return "" if "\ufffd" in text else text.strip().lower()


def of_tokens(ids: Sequence[int], on_progress: Callable[[int], None] = lambda done: None) -> torch.Tensor:
    """Meanings of tokens [tokens + 1, HIDDEN], the last for all tokens without a row.

    The principal components of the encoder's vectors, halfway to equal variance. Tokens without a word get zeros.
    """
    words = [_word(token) for token in ids]
    distinct = sorted(set(words) - {""})
    encoded = torch.from_numpy(vectors(distinct, on_progress)).float()
    encoded -= encoded.mean(dim=0)
    spread, directions = torch.linalg.eigh(encoded.T @ encoded / len(encoded))
    kept = torch.argsort(spread, descending=True)[:HIDDEN]
    projected = encoded @ directions[:, kept] / spread[kept].clamp(min=1e-8) ** 0.25
    projected *= SCALE / projected.std()
    position = {word: i for i, word in enumerate(distinct)}
    meanings = torch.zeros(len(ids) + 1, HIDDEN)
    for row, word in enumerate(words):
        if word:
            meanings[row] = projected[position[word]]
    return meanings
