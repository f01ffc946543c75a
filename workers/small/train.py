"""Training of the small model, on a CPU.

Each step judges a batch under one policy: the prompt up to the user's text is run once and its keys and
values are shared by the batch, which makes a step several times cheaper than with whole prompts.
The loss is taken on the answer's tokens only.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import GptOssConfig
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssModel

from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.small.examples import Example, answer, balance, by_lesson, shorten, vary_policy
from safeguard_streams.workers.small.weights import VOCABULARY, save_compact

HIDDEN = 128
LONGEST_TEXT = 400  # characters taught of one text
DECISION_TOKENS = 9  # of the answer: channel, then the words that decide and the rule
WHOLE_ANSWERS = 0.25  # share of batches taught to the end, the rest only up to the decision;
FINISH = 0.8  # from this share of the steps on, all are: form is learned last
UNKNOWN = 0.06  # share of a text's tokens shown as unknown ones, against learning texts by heart
RARE = 4  # a token seen less often than this shares the row of the unknown


EFFORTS = {"low": 0.8, "medium": 0.15, "high": 0.05}  # how often each is asked for: a retry asks for a higher one


class _Batch(NamedTuple):
    policy_text: str
    effort: str
    examples: list[Example]
    whole: bool
    draw: random.Random


class Vocabulary:
    """Token ids of the o200k vocabulary to rows of a compact table; the last row is everything else."""

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
    """gpt-oss attention by PyTorch's fused kernel, with the sinks fixed at zero: a sink is one more key of logit 0
    whose value is 0. Keys that a sliding window can never reach are left out."""
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


class SmallModel(torch.nn.Module):
    """gpt-oss with a compact embedding and a compact output table."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.config: Any = GptOssConfig(
            vocab_size=inputs,
            num_hidden_layers=2,
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            head_dim=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=2,
            num_experts_per_tok=1,
            max_position_embeddings=131072,
            attn_implementation="zero_sinks",
            experts_implementation="eager",
        )
        self.model = GptOssModel(self.config)
        self.lm_head = torch.nn.Linear(HIDDEN, outputs, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith(("bias", "sinks")):
                torch.nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.05 if "embed" in name else 0.08)
        # The shared output row stands for that many tokens of the full vocabulary.
        self.shared_rows = float(torch.log(torch.tensor(VOCABULARY - outputs + 1.0)))

    def forward(self, prefix: torch.Tensor, suffix: torch.Tensor) -> torch.Tensor:
        """prefix [tokens], suffix [batch, tokens] -> hidden states of the suffix [batch, tokens, HIDDEN]."""
        cache = DynamicCache()
        self.model(prefix[None], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(suffix.shape[0])
        hidden: torch.Tensor = self.model(suffix, past_key_values=cache, use_cache=True).last_hidden_state
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lm_head(hidden)
        return torch.cat([out[..., :-1], out[..., -1:] + self.shared_rows], dim=-1)


def _encode(text: str) -> list[int]:
    tokens: list[int] = encoding().encode(text, disallowed_special=())
    return tokens


def _special(text: str) -> list[int]:
    tokens: list[int] = encoding().encode(text, allowed_special="all")
    return tokens


_TURN = "<|end|><|start|>assistant"


def _batches(
    groups: dict[str, list[Example]], policies: dict[str, Policy], size: int, steps: int, seed: int
) -> Iterator[_Batch]:
    """Batches under one policy each, half of the texts violating, all of similar length."""
    draw = random.Random(seed)
    sides = {policy: balance(examples) for policy, examples in groups.items()}
    pools: dict[tuple[str, int], list[Example]] = {}
    weights = {policy: len(examples) ** 0.5 for policy, examples in groups.items()}
    names = list(weights)
    for step in range(steps):
        policy = draw.choices(names, [weights[n] for n in names])[0]
        batch: list[Example] = []
        for side in (0, 1):
            pool = pools.get((policy, side), [])
            if len(pool) < size // 2:
                pool = list(sides[policy][side])
                draw.shuffle(pool)
                # Long and short texts in different batches: less padding. Chunks are then drawn at random.
                chunk = size * 16
                pool = [
                    e
                    for i in range(0, len(pool), chunk)
                    for e in sorted(pool[i : i + chunk], key=lambda e: len(e.text))
                ]
                groups_of = [pool[i : i + size // 2] for i in range(0, len(pool), size // 2)]
                draw.shuffle(groups_of)
                pool = [e for g in groups_of for e in g]
            batch += pool[-(size // 2) :]
            pools[policy, side] = pool[: -(size // 2)]
        yield _Batch(
            policy_text=vary_policy(policies[policy], draw),
            effort=draw.choices(list(EFFORTS), list(EFFORTS.values()))[0],
            examples=batch,
            whole=step >= FINISH * steps or draw.random() < WHOLE_ANSWERS,
            draw=draw,
        )


def _step(model: SmallModel, inputs: Vocabulary, outputs: Vocabulary, batch: _Batch) -> torch.Tensor:
    draw = batch.draw
    turn = _special(_TURN)
    rows: list[list[int]] = []
    answers: list[int] = []
    for example in batch.examples:
        text = shorten(example.text, LONGEST_TEXT, draw.randrange(2**30))
        if draw.random() < 0.15:
            text = text.lower()
        body = [t if draw.random() > UNKNOWN else -1 for t in _encode(text)]
        said = _special(answer(example))
        if not batch.whole:
            said = said[:DECISION_TOKENS]
        rows.append([*body, *turn, *said])
        answers.append(len(said))
    longest = max(map(len, rows))
    suffix = torch.zeros(len(rows), longest, dtype=torch.long)
    target = torch.full((len(rows), longest), -100)
    weight = torch.ones(len(rows), longest)
    for i, (row, length) in enumerate(zip(rows, answers, strict=True)):
        suffix[i, : len(row)] = inputs.rows(row)
        start = len(row) - length
        target[i, start - 1 : len(row) - 1] = outputs.rows(row[start:])
        weight[i, start - 1 : start - 1 + DECISION_TOKENS] = 4.0
    hidden = model(inputs.rows(list(prompt.prefix(batch.policy_text, batch.effort))), suffix)
    chosen = target != -100
    losses = F.cross_entropy(model.logits(hidden[chosen]), target[chosen], reduction="none")
    return (losses * weight[chosen]).sum() / weight[chosen].sum()


def train(
    examples: list[Example],
    policies: dict[str, Policy],
    out: Path,
    *,
    steps: int,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train and write the compacted model to `out`. progress gets the step (from 1) and a running mean of the loss."""
    torch.manual_seed(seed)
    groups = by_lesson(examples)
    counts: Counter[int] = Counter()
    for example in examples:
        counts.update(_encode(example.text[: 4 * LONGEST_TEXT]))
    said = {token for e in {(e.rule, e.confidence): e for e in examples}.values() for token in _special(answer(e))}
    fixed = (
        {token for p in policies.values() for token in prompt.prefix(p.text, p.effort)} | said | set(_special(_TURN))
    )
    inputs = Vocabulary(sorted({t for t, n in counts.items() if n >= RARE} | fixed))
    outputs = Vocabulary(sorted(said))
    model = SmallModel(len(inputs), len(outputs))
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() <= 1 or "embed" in n]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=2e-3,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.05)
    mean = 0.0
    for step, item in enumerate(_batches(groups, policies, batch, steps, seed), 1):
        loss = _step(model, inputs, outputs, item)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch has no type for it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        progress(step, mean)
    _save(model, inputs, outputs, out)


def _save(model: SmallModel, inputs: Vocabulary, outputs: Vocabulary, out: Path) -> None:
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    config.update(architectures=["GptOssForCausalLM"], vocab_size=VOCABULARY, dtype="bfloat16")
    for private in ("_name_or_path", "transformers_version"):
        config.pop(private, None)
    save_compact(out, {**tensors, "input_ids": inputs.ids, "output_ids": outputs.ids}, config)
