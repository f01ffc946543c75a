"""A stand-in for the model in this process, for tests of what happens around it."""

from safeguard_streams.policies.harmony import encoding
from safeguard_streams.workers.inference.interface import Completion


class StandIn:
    """What the worker asks of a backend, but for `generate`."""

    model = "stand-in"
    max_model_tokens = 16_384
    concurrency = 8
    cache_tokens = None
    revision = None
    continues = False
    healthy = True

    async def close(self):
        return


def completion(analysis, final, prompt_tokens=100):
    """An answer in the harmony format. final: its final message."""
    text = f"{analysis}<|end|><|start|>assistant<|channel|>final<|message|>{final}<|return|>"
    return Completion(encoding().encode(text, allowed_special="all"), prompt_tokens, 0)
