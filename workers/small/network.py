"""The small model's network in training: gpt-oss with compact tables, and embeddings that begin as an encoder's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import GptOssConfig
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssModel

from safeguard_streams.workers.small.weights import VOCABULARY, save_compact

HIDDEN = 128
LAYERS = 3
SENTENCE = 512  # numbers of the encoder's vector of a text


class Vocabulary:
    """Maps token ids of the o200k vocabulary to rows of a compact table. All other tokens share the last row."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = torch.tensor(sorted(ids), dtype=torch.int32)
        self.table = torch.full((VOCABULARY,), len(ids), dtype=torch.long)
        self.table[self.ids.long()] = torch.arange(len(ids))

    def __len__(self) -> int:
        return len(self.ids) + 1

    def rows(self, tokens: list[int]) -> torch.Tensor:
        return self.table[torch.tensor(tokens, dtype=torch.long)]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    **_ignored: Any,
) -> tuple[torch.Tensor, None]:
    """gpt-oss attention with PyTorch's fused kernel and the sinks fixed at zero.

    A sink is one more key with logit 0 and value 0. Keys outside the sliding window are left out.
    """
    mask = attention_mask
    if module.sliding_window is not None:
        reach = query.shape[2] + module.sliding_window
        key, value, mask = key[:, :, -reach:], value[:, :, -reach:], mask[..., -reach:]
    batch, kv_heads, _, width = key.shape
    none = key.new_zeros(batch, kv_heads, 1, width)
    key, value = torch.cat([none, key], dim=2), torch.cat([none, value], dim=2)
    mask = F.pad(mask, (1, 0))
    repeats = module.num_key_value_groups
    out = F.scaled_dot_product_attention(
        query,
        key.repeat_interleave(repeats, dim=1),
        value.repeat_interleave(repeats, dim=1),
        attn_mask=mask,
        scale=module.scaling,
    )
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("zero_sinks", _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("zero_sinks", eager_mask)


class Embedding(torch.nn.Module):
    """Rows of tokens: fixed meanings through one learned projection, plus a learned difference of each token.

    The projection moves all languages alike, and thus what is learned about a word also holds for its translations.
    """

    def __init__(self, meanings: torch.Tensor) -> None:
        super().__init__()
        self.meanings: torch.Tensor
        self.register_buffer("meanings", meanings)
        self.projection = torch.nn.Linear(meanings.shape[1], HIDDEN, bias=False)
        self.difference = torch.nn.Embedding(len(meanings), HIDDEN, sparse=True)
        torch.nn.init.eye_(self.projection.weight)
        torch.nn.init.normal_(self.difference.weight, std=0.05)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        used, position = torch.unique(rows, return_inverse=True)
        table: torch.Tensor = self.projection(self.meanings[used]) + self.difference(used)
        return table[position]

    def folded(self) -> torch.Tensor:
        """The table of an ordinary checkpoint."""
        table: torch.Tensor = self.projection(self.meanings) + self.difference.weight
        return table.detach()


class SmallModel(torch.nn.Module):
    """gpt-oss with a compact embedding and a compact output table, and two heads that only training uses.

    meanings [tokens, HIDDEN]: where the embeddings begin. rules: how many rules each lesson has.
    """

    def __init__(self, meanings: torch.Tensor, outputs: int, rules: dict[str, int]) -> None:
        super().__init__()
        self.config: Any = GptOssConfig(
            vocab_size=8,  # replaced below
            num_hidden_layers=LAYERS,
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            head_dim=32,
            num_attention_heads=HIDDEN // 32,
            num_key_value_heads=HIDDEN // 32,
            num_local_experts=2,
            num_experts_per_tok=1,
            max_position_embeddings=131072,
            attn_implementation="zero_sinks",
            experts_implementation="eager",
        )
        self.model = GptOssModel(self.config)
        self.lm_head = torch.nn.Linear(HIDDEN, outputs, bias=False)
        self.sentence = torch.nn.Linear(HIDDEN, SENTENCE)
        self.rules = torch.nn.ModuleDict({name: torch.nn.Linear(HIDDEN, count) for name, count in rules.items()})
        for name, parameter in self.named_parameters():
            if name.endswith(("bias", "sinks")):
                torch.nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.07 if "gate_up" in name or "lm_head" in name else 0.03)
        for layer in self.model.layers[:-1]:  # a token begins with the mean of what it sees
            for copied in (layer.self_attn.v_proj, layer.self_attn.o_proj):
                copied.weight.data += 0.8 * torch.eye(HIDDEN)
        self.model.embed_tokens = torch.nn.Identity()
        self.embedding = Embedding(meanings)
        # The shared output row represents this many tokens of the full vocabulary.
        self.shared_rows = float(torch.log(torch.tensor(VOCABULARY - outputs + 1.0)))

    def forward(self, suffix: torch.Tensor, prefix: torch.Tensor | None = None) -> torch.Tensor:
        """suffix [batch, tokens], after the prefix [tokens] -> hidden states of the suffix [batch, tokens, HIDDEN]."""
        if prefix is None:
            hidden: torch.Tensor = self.model(inputs_embeds=self.embedding(suffix), use_cache=False).last_hidden_state
            return hidden
        cache = DynamicCache()
        self.model(inputs_embeds=self.embedding(prefix[None]), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(suffix.shape[0])
        embedded = self.embedding(suffix)
        after: torch.Tensor = self.model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)[0]
        return after

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lm_head(hidden)
        return torch.cat([out[..., :-1], out[..., -1:] + self.shared_rows], dim=-1)

    def save(self, inputs: Vocabulary, outputs: Vocabulary, out: Any) -> None:
        """Write the compacted checkpoint, without what only training uses."""
        kept = {n: t for n, t in self.state_dict().items() if n.startswith(("model.", "lm_head."))}
        tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in kept.items()}
        tensors["model.embed_tokens.weight"] = self.embedding.folded()
        config = self.config.to_dict()
        config.update(architectures=["GptOssForCausalLM"], vocab_size=VOCABULARY, dtype="bfloat16")
        for private in ("_name_or_path", "transformers_version"):
            config.pop(private, None)
        save_compact(out, {**tensors, "input_ids": inputs.ids, "output_ids": outputs.ids}, config)
