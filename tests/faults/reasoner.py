"""The reasoning worker with a stand-in for the model, which answers in the harmony format after a random time.

These suites test the delivery. A real model on a CPU would need an hour for what they send in a minute.
Each call is one line in the file named by the first argument: the time it began and the digest of the text.
"""

import asyncio
import hashlib
import json
import random
import sys
import time

from safeguard_streams.policies.harmony import encoding
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.process import configure_logging
from safeguard_streams.workers import app
from safeguard_streams.workers.inference.interface import Completion

FINAL = json.dumps({"violation": 0, "rule_ids": ["HH5"], "confidence": "high", "reason": "It attacks nobody."})
TOKENS = encoding().encode(
    f"Nothing.<|end|><|start|>assistant<|channel|>final<|message|>{FINAL}<|return|>",
    allowed_special="all",
)


class Quick:
    model = "stand-in"
    max_model_tokens = 16_384
    concurrency = 64
    cache_tokens = None
    revision = None
    continues = False
    healthy = True

    def __init__(self, calls):
        self._calls = calls

    async def generate(self, question):
        tokens = question.prompt
        digest = hashlib.sha256(json.dumps(list(question.user)).encode()).hexdigest()[:16]
        self._calls.write(f"{time.time():.2f} {digest}\n")
        self._calls.flush()
        await asyncio.sleep(random.expovariate(1 / 0.03))
        return Completion(TOKENS, len(tokens), 0)

    async def close(self):
        return


async def start(_):
    return Quick(open(sys.argv[1], "a"))  # noqa: ASYNC230, PTH123  (once, and open to the end)


if __name__ == "__main__":
    configure_logging()
    asyncio.run(app.run(settings.load(), start))
