"""Dialects: the published prompts and answers of judges that are not gpt-oss, and which one a model speaks.

- `interface`: the protocol `Dialect`, prompts, labels, and the score of a label.
- `cope`, `shieldstral`: judges that follow a policy and answer in one token.
- `guards`: guards with fixed classes.

gpt-oss, safeguard or base, has the dialect `gpt-oss`. It reasons before it answers, and its prompts are token ids:
`workers.inference.harmony` renders them, and `workers.judging.parse` reads the answers.

## Design decisions

- **A prompt has the published form, to the byte.** These models were tuned to one prompt, and judge worse by another. A
  dialect is here only if the form is published by the model's maker.
- **The server encodes the text.** Each model has its own vocabulary. What looks like one of their control tokens is
  parted by a space, and content that imitates a part of the prompt is not judged.
- **Only an answer in the published form is one.** Some published examples take the first digit or word that they find,
  or take anything else for safe. Here it is malformed.
"""

from __future__ import annotations

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.workers.inference.dialects.cope import CopeA, CopeB
from safeguard_streams.workers.inference.dialects.guards import LlamaGuard, Qwen3Guard, ShieldGemma
from safeguard_streams.workers.inference.dialects.interface import Dialect
from safeguard_streams.workers.inference.dialects.shieldstral import Shieldstral

GPT_OSS = "gpt-oss"
_ALL: tuple[Dialect, ...] = (CopeA(), CopeB(), Shieldstral(), Qwen3Guard(), LlamaGuard(), ShieldGemma())
DIALECTS = {dialect.name: dialect for dialect in _ALL}
NAMES = (GPT_OSS, *DIALECTS)


def dialect_of(model: str, chosen: str | None) -> Dialect | None:
    """The dialect of a model: the chosen one, or else that which its name shows. None for gpt-oss.

    Of a path or a hub name, the last part counts. A name that shows none is of gpt-oss: names of servers and of
    fine-tuned models are free.
    Raises ConfigurationError for a chosen one that does not exist.
    """
    if chosen is None:
        name = model.rstrip("/").rpartition("/")[2]
        return next((dialect for dialect in _ALL if dialect.models.search(name)), None)
    if chosen not in NAMES:
        raise ConfigurationError(f"SAFEGUARD_DIALECT: there is no dialect {chosen!r}; known: {', '.join(NAMES)}")
    return DIALECTS.get(chosen)
