"""Random draws that depend only on ids, so that every process and every rerun draws the same content items."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def hashed(name: str) -> int:
    """64 bits of a hash of the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def is_drawn(content_id: str, draw: str, share: float) -> bool:
    """Whether a draw takes an item. At a larger share, it takes all items that it takes at a smaller one, and more."""
    names = (np.array([hashed(name)], dtype=np.uint64) for name in (content_id, draw))
    return bool(drawn(*names)[0, 0] < share)


def drawn(items: NDArray[np.uint64], policies: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number from 0 to 1 for each pair [items, policies], from the hashes of both ids.

    The numbers of one item under two policies are independent.
    """
    mixed = items[:, None] ^ policies[None, :]
    for factor in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93):
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
