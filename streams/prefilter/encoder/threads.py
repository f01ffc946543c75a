"""The encoder beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np

from safeguard_streams.prefilter.encoder.encoder import Encoder
from safeguard_streams.prefilter.encoder.passages import PassageVectors
from safeguard_streams.prefilter.encoder.tokens import batches


class EncoderThreads:
    """Encodes in threads, one batch at a time in each. ONNX Runtime and the tokenizer release the interpreter.

    `async with` ends them after their current batch.
    """

    def __init__(self, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(threads, "encoder")

    async def __aenter__(self) -> EncoderThreads:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

    async def encode(self, encoder: Encoder, texts: Sequence[str]) -> PassageVectors:
        """As Encoder.encode_passages. The vectors do not depend on the number of threads."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._executor, encoder.passages, texts)
        parts = [loop.run_in_executor(self._executor, encoder.encode_batch, batch) for batch in batches(found.pieces)]
        vectors = np.concatenate([np.zeros((0, encoder.width), dtype=np.float32), *await asyncio.gather(*parts)])
        return PassageVectors(vectors, found.text)
