"""The small model on disk: compacted for shipping, expanded for vLLM.

Compacted: embedding and output rows only for token ids that were trained, one shared row for all others;
embedding rows as int8 with a scale each.
Expanded: an ordinary gpt-oss checkpoint folder with all 201,088 rows, as vLLM loads it, and a tokenizer that can turn
tokens into text, as vLLM's server needs one. It cannot do the reverse: prompts are made by the harmony encoding.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.parse import FIRST_SPECIAL

SHIPPED = Path(__file__).parent / "model.safetensors"
VOCABULARY = 201_088
LAYOUT = "layout-2"  # of the folder: what an older release expanded is not taken for a whole one
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save_compact(path: Path, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """Write a checkpoint whose two tables have the rows of `input_ids` and `output_ids`, and last the shared row."""
    from safetensors.torch import save_file

    rows = tensors.pop(_EMBED).float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
    tensors |= {"embed_rows": (rows / scales).round().char(), "embed_scales": scales}
    save_file(tensors, path, metadata={"config": json.dumps(config, sort_keys=True)})


def cache_folder() -> Path:
    """Where expanded models are kept: $XDG_CACHE_HOME or ~/.cache, in safeguard-streams."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safeguard-streams"


def expand(compact: Path = SHIPPED, cache: Path | None = None) -> Path:
    """The folder of the expanded model, made on first use; concurrent first uses do not disturb each other."""
    digest = hashlib.sha256(compact.read_bytes()).hexdigest()[:12]
    folder = (cache or cache_folder() / LAYOUT) / f"small-gpt-oss-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".small-", dir=folder.parent))
    try:
        _write(compact, making)
        making.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first, and its folder is as good
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _write(compact: Path, folder: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(compact, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    tensors[_EMBED] = tensors.pop("embed_rows").float() * tensors.pop("embed_scales")
    for name, ids in ((_EMBED, tensors.pop("input_ids")), (_HEAD, tensors.pop("output_ids"))):
        rows = tensors[name]
        table = rows[-1].repeat(VOCABULARY, 1)
        table[ids.long()] = rows[:-1]
        tensors[name] = table.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary: dict[str, int] = {}
    special = []
    for token in range(VOCABULARY):
        try:
            text = prompt.decode([token])
        except Exception:  # ids that the encoding leaves unused
            text = ""
        if token >= FIRST_SPECIAL:
            text = text or f"<|reserved_{token}|>"
            special.append(text)
            vocabulary[text] = token
        else:
            # Parts of characters have no text of their own: they all read as U+FFFD, whatever they are called here.
            written = "".join(
                piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text)
            )
            vocabulary[written if written not in vocabulary else f"{written}{token}"] = token
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|return|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about) + "\n")
