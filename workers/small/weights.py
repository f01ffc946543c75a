"""The small model on disk: compacted for shipping, expanded for vLLM.

- Compacted: embedding and output rows only for token ids that were trained, and one shared row for all others. Each
  embedding row is int8 with a scale.
- Expanded: an ordinary gpt-oss checkpoint folder with all 201,088 rows, as vLLM loads it. Its tokenizer turns tokens
  into text, which vLLM's server needs. It cannot encode text; the harmony encoding renders the prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import FIRST_SPECIAL

SHIPPED = Path(__file__).parent / "model.safetensors"
VOCABULARY = 201_088
LAYOUT = "layout-2"  # of the folder: a folder that an older release expanded may lack files
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save_compact(path: Path, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    """Write a checkpoint whose two tables have the rows of `input_ids` and `output_ids`, then the shared row."""
    from safetensors.torch import save_file

    rows = tensors.pop(_EMBED).float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
    tensors |= {"embed_rows": (rows / scales).round().char(), "embed_scales": scales}
    save_file(tensors, path, metadata={"config": json.dumps(config, sort_keys=True)})


def cache_folder() -> Path:
    """The folder of expanded models: safeguard-streams in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safeguard-streams"


def expand(compact: Path = SHIPPED, cache: Path | None = None) -> Path:
    """The folder of the expanded model. The first use writes it; concurrent first uses are safe."""
    digest = hashlib.sha256(compact.read_bytes()).hexdigest()[:12]
    folder = (cache or cache_folder() / LAYOUT) / f"small-gpt-oss-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".small-", dir=folder.parent))
    try:
        _write(compact, temporary)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process wrote the same folder first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(compact: Path, folder: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(compact, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is not a mapping)
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
            text = harmony.decode_tokens([token])
        except Exception:  # ids that the encoding does not use
            text = ""
        if token >= FIRST_SPECIAL:
            text = text or f"<|reserved_{token}|>"
            special.append(text)
            vocabulary[text] = token
        else:
            # Parts of characters all decode to U+FFFD, so their names here only have to be unique.
            name = "".join(
                piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text)
            )
            vocabulary[name if name not in vocabulary else f"{name}{token}"] = token
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|return|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
