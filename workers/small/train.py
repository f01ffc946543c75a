"""Training of the small model on a CPU, in two stages.

- Reading: the model learns what texts mean. From a text alone, it answers the encoder's vector of the text and the rule
  that decides it under the policy it was drawn for.
- Judging: the model learns to answer real prompts. Each step judges a batch under one policy. The prompt up to the
  user's text runs once, and the batch shares its keys and values. The loss covers only the answer's tokens. Where
  labels are noisy, the wanted decision lies between the label and a second opinion.

The stages end by the clock, and training continues from its last checkpoint after an interruption.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic as clock
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel

from safeguard_streams.policies.document import Policy
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.small import batches, meanings, opinions
from safeguard_streams.workers.small.batches import AFTER, BEFORE, LONG_TEXT, Drawn, Source, judged, padded, tokens_of
from safeguard_streams.workers.small.examples import LESSONS, Example, answer, by_lesson
from safeguard_streams.workers.small.network import SmallModel, Vocabulary

ROWS = 100_000  # tokens with their own embedding
READING = 0.2  # share of the time
READING_BATCH, JUDGING_BATCH, LONG_BATCH = 128, 96, 12
WHOLE_ANSWERS = 0.2  # share of batches with whole answers; the other answers end after the decision
FINISH = 0.72  # from this share of the time on, WHOLE_AT_END, because the form is learned last
WHOLE_AT_END = 0.6
AVERAGED = 0.75  # from this share of the time on, the model is the mean of its checkpoints, which generalises better
OPINION = 0.5  # weight of a second opinion beside a noisy label
LONG = 0.04  # share of batches with long texts
RATE = 7e-4
SLOWER = 0.3  # the differences of single tokens learn at this share of the rate
ENCODED = 4  # one in this many texts of data sets is encoded, and every second one of the project's own
FITTED = 40  # batches for the first heads
LOGITS, RIDGE = 5.0, 0.02
CHECKPOINT_SECONDS = 180
DECISIONS = (" violates", " is")  # what an answer says after "It", of a violation and of a safe text
CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"


class Trained(NamedTuple):
    """What a training took."""

    steps: int
    seconds: float


def train(
    examples: list[Example],
    policies: dict[str, Policy],
    out: Path,
    *,
    seconds: float,
    seed: int = 0,
    on_step: Callable[[float, str], None] = lambda share, detail: None,
) -> Trained:
    """Train for some time, and write the compacted model to `out`. A folder beside it keeps what is needed to go on.

    on_step gets the share of the time that has passed, and running means of the losses. The preparations before the
    first step take some minutes, which do not count.
    """
    torch.set_num_threads(1)  # batches this small gain nothing from a second one
    on_step(0.0, "encoding tokens")
    trainer = Trainer(examples, policies, out.with_suffix(".training"), seconds, seed)
    trainer.run(on_step)
    shutil.copyfile(trainer.folder / MODEL, out)
    return Trained(trainer.step, trainer.spent)


class Trainer:
    """One training. folder: of its checkpoint and of vectors that were computed once."""

    def __init__(
        self, examples: list[Example], policies: dict[str, Policy], folder: Path, seconds: float, seed: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seconds, self.seed, self.policies = folder, seconds, seed, policies
        self.examples = examples
        different = {(e.rule, e.confidence): e for e in examples}.values()
        answers = {token for example in different for token in harmony.encode_markup(answer(example))}
        prompts = {t for p in policies.values() for effort in batches.EFFORTS for t in harmony.prefix(p.text, effort)}
        self.outputs = Vocabulary(sorted(answers))
        self.inputs = Vocabulary(self._input_tokens(prompts | answers | {*BEFORE, *AFTER, *batches.TURN}))
        torch.manual_seed(seed)
        rules: dict[str, set[str]] = {}
        for example in examples:
            rules.setdefault(example.lesson, set()).add(example.rule)
        self.rules = {lesson: sorted(of) for lesson, of in rules.items()}
        heads = {_slug(lesson): len(rules) for lesson, rules in self.rules.items()}
        self.model = SmallModel(self._meanings(), len(self.outputs), heads)
        sparse = [self.model.embedding.difference.weight]
        dense = [p for n, p in self.model.named_parameters() if "difference" not in n and p.requires_grad]
        self.dense = dense
        self.optimisers: list[Any] = [
            torch.optim.AdamW(
                [
                    {"params": [p for p in dense if p.dim() > 1], "weight_decay": 0.05},
                    {"params": [p for p in dense if p.dim() <= 1], "weight_decay": 0.0},
                ],
                lr=RATE,
                betas=(0.9, 0.98),
                fused=True,
            ),
            torch.optim.SparseAdam(sparse, lr=RATE, betas=(0.9, 0.98)),
        ]
        # The rows of the output's tokens that decide: of a violation, and of a safe text.
        self.deciding = [int(self.outputs.rows([harmony.encode_markup(word)[0]])) for word in DECISIONS]
        self.mean = AveragedModel(self.model)
        self.step, self.spent = 0, 0.0
        self._load()

    def _input_tokens(self, needed: set[int]) -> list[int]:
        """The tokens with an embedding: needed ones, then those of the examples by count, then common ones."""
        counts: Counter[int] = Counter()
        for example in {e.text: e for e in self.examples}.values():
            counts.update(set(harmony.encode_text(example.text[: 2 * batches.MAX_TEXT])))
        ids = dict.fromkeys(needed)
        ids |= dict.fromkeys(t for t, n in counts.most_common() if n > 1)
        ids |= dict.fromkeys(range(100_000))  # lower ids are more frequent in text
        return sorted(list(ids)[:ROWS])

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        path = self.folder / name
        if not path.exists():
            value = make()
            torch.save(value, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        return torch.load(path, weights_only=False)

    def _meanings(self) -> torch.Tensor:
        of: torch.Tensor = self._cached("tokens.pt", lambda: meanings.of_tokens(self.inputs.ids.tolist()))
        return of

    def _sentences(self) -> dict[str, np.ndarray]:
        def make() -> Any:
            own = {e.text for e in self.examples if e.source.startswith("sentences")}
            data = {e.text for e in self.examples} - own
            texts = sorted(own)[::2] + sorted(data)[::ENCODED]
            return texts, meanings.vectors([t[:600] for t in texts])

        texts, vectors = self._cached("texts.pt", make)
        self.centre = torch.from_numpy(vectors[::7].astype(np.float32).mean(axis=0))
        return {text: vectors[i] for i, text in enumerate(texts)}

    def _opinions(self) -> dict[str, dict[str, float]]:
        """Second opinions by lesson and text, of the texts of data sets in lessons with noisy labels."""

        def make() -> Any:
            lessons = by_lesson(self.examples)
            found = {lesson: opinions.opinions(of) for lesson, of in lessons.items() if LESSONS[lesson].noisy}
            own = {e.text for e in self.examples if e.source.startswith("sentences")}
            return {lesson: {t: p for t, p in of.items() if t not in own} for lesson, of in found.items()}

        of: dict[str, dict[str, float]] = self._cached("opinions.pt", make)
        return of

    def run(self, on_step: Callable[[float, str], None]) -> None:
        on_step(0.0, "encoding texts")
        self.vectors = self._sentences()
        on_step(0.0, "asking for second opinions")
        self.opinions = self._opinions()
        mean: dict[str, float] = {}
        began, saved = clock() - self.spent, clock()
        source = Source(self.examples, self.seed * 1_000_003 + self.step)
        self.draw = random.Random(self.seed * 7 + self.step)
        if self.step == 0:
            self._fit_heads(source)
        while (spent := clock() - began) < self.seconds:
            progress = spent / self.seconds
            self._rate(progress)
            stage = "reading" if progress < READING else "judging"
            loss = self._read(source) if stage == "reading" else self._judge(source, progress)
            for optimiser in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch does not annotate it
            torch.nn.utils.clip_grad_norm_(self.dense, 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
            self.step += 1
            for name, value in self.parts.items():
                mean[name] = 0.97 * mean.get(name, value) + 0.03 * value
            on_step(progress, f"step {self.step} {stage} " + " ".join(f"{n} {v:.3f}" for n, v in mean.items()))
            if clock() - saved > CHECKPOINT_SECONDS:
                self.spent, saved = clock() - began, clock()
                self._save()
        self.spent = self.seconds
        self._save()

    def _rate(self, progress: float) -> None:
        """Warm-up at the beginning of each stage, and a linear fall to almost nothing at the end."""
        since = progress if progress < READING else progress - READING
        rate = RATE * min(1.0, since / 0.015 + 0.02) * (1.0 - 0.97 * max(0.0, progress - 0.15) / 0.85)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * (SLOWER if isinstance(optimiser, torch.optim.SparseAdam) else 1.0)

    @torch.no_grad()
    def _fit_heads(self, source: Source) -> None:
        """Begin with the heads that fit the untrained network best, by least squares."""
        seen = [(drawn, self._last(drawn)) for drawn in (source.next(READING_BATCH) for _ in range(FITTED))]
        every = torch.cat([last for _, last in seen])
        examples = [e for drawn, _ in seen for e in drawn.examples]
        known = [i for i, e in enumerate(examples) if e.text in self.vectors]
        wanted = torch.from_numpy(np.stack([self.vectors[examples[i].text] for i in known])).float() - self.centre
        _fit(self.model.sentence, every[known], wanted)
        for lesson, rules in self.rules.items():
            of = [(drawn, last) for drawn, last in seen if drawn.lesson == lesson]
            if of:
                numbers = torch.tensor([rules.index(e.rule) for drawn, _ in of for e in drawn.examples])
                one_hot = F.one_hot(numbers, len(rules)).float() * LOGITS
                _fit(self.model.rules[_slug(lesson)], torch.cat([last for _, last in of]), one_hot)

    def _last(self, drawn: Drawn) -> torch.Tensor:
        """What the network knows at the end of each text."""
        rows = [[*BEFORE, *tokens_of(e.text, self.draw), *AFTER] for e in drawn.examples]
        hidden = self.model(padded(rows, self.inputs))
        last: torch.Tensor = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        return last

    def _read(self, source: Source) -> torch.Tensor:
        drawn = source.next(READING_BATCH)
        last = self._last(drawn)
        loss = self._rule(last, drawn)
        near = self._near(last, drawn.examples)
        self.parts = {"rule": loss.item(), "near": near.item()}
        return loss + 2.0 * (1.0 - near)

    def _near(self, hidden: torch.Tensor, examples: list[Example]) -> torch.Tensor:
        """Mean cosine between the predicted and the encoder's vectors, about the centre of all texts."""
        known = [i for i, example in enumerate(examples) if example.text in self.vectors]
        if not known:
            return torch.ones(())
        wanted = torch.from_numpy(np.stack([self.vectors[examples[i].text] for i in known])).float() - self.centre
        return F.cosine_similarity(self.model.sentence(hidden[known]), wanted, dim=1).mean()

    def _rule(self, hidden: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """The loss of the rule that decides each text."""
        rules = self.rules[drawn.lesson]
        target = torch.tensor([rules.index(e.rule) for e in drawn.examples])
        return F.cross_entropy(self.model.rules[_slug(drawn.lesson)](hidden), target)

    def _judge(self, source: Source, progress: float) -> torch.Tensor:
        whole = self.draw.random() < (WHOLE_AT_END if progress > FINISH else WHOLE_ANSWERS)
        long = self.draw.random() < LONG
        drawn = source.next(
            LONG_BATCH if long else JUDGING_BATCH // (2 if whole else 1), LONG_TEXT if long else batches.MAX_TEXT
        )
        batch = judged(
            drawn,
            self.policies,
            self.inputs,
            self.outputs,
            self.draw,
            whole=whole,
            max_characters=LONG_TEXT if long else batches.MAX_TEXT,
        )
        hidden = self.model(batch.suffix, batch.prefix)
        chosen = batch.target != -100
        logits, target, weight = self.model.logits(hidden[chosen]), batch.target[chosen], batch.weight[chosen]
        losses = F.cross_entropy(logits, target, reduction="none")
        deciding = weight > 5
        if drawn.lesson in self.opinions:
            losses = losses.masked_scatter(deciding, self._decision(logits[deciding], drawn))
        at = (batch.weight > 5).nonzero()[:, 1]
        last = hidden[torch.arange(len(drawn.examples)), at]
        near, rule = self._near(last, drawn.examples), self._rule(last, drawn)
        self.parts = {
            "decision": losses[deciding].mean().item(),
            "answer": losses.mean().item(),
            "near2": near.item(),
            "rule2": rule.item(),
        }
        return (losses * weight).sum() / weight.sum() + 0.3 * (1.0 - near) + 0.2 * rule

    def _decision(self, logits: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """The losses of the decisions [texts], each of which should lie between the label and the opinion."""
        known = self.opinions[drawn.lesson]
        wanted = torch.tensor(
            [(1 - OPINION) * e.violates + OPINION * known.get(e.text, float(e.violates)) for e in drawn.examples]
        )
        violates, safe = F.log_softmax(logits, dim=1)[:, self.deciding].unbind(dim=1)
        return -(wanted * violates + (1 - wanted) * safe)

    def _save(self) -> None:
        path = self.folder / CHECKPOINT
        if self.spent >= AVERAGED * self.seconds:
            self.mean.update_parameters(self.model)
        averaged = int(self.mean.n_averaged) > 0
        state = {
            "model": _kept(self.model),
            "mean": _kept(self.mean) if averaged else {},
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step,
            "spent": self.spent,
            "seconds": self.seconds,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        written = cast("SmallModel", self.mean.module) if averaged else self.model
        written.save(self.inputs, self.outputs, self.folder / MODEL)

    def _load(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"], strict=False)
        self.mean.load_state_dict(state["mean"], strict=False)
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.spent = state["step"], state["spent"]


def _kept(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint has of a model: all but the meanings of tokens, which are computed once."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("embedding.meanings")}


def _fit(head: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """Set a head to the solution of ridge regression."""
    mean_in, mean_out = inputs.mean(dim=0), outputs.mean(dim=0)
    x, y = inputs - mean_in, outputs - mean_out
    covariance = x.T @ x / len(x)
    solved = torch.linalg.solve(covariance + RIDGE * torch.eye(len(covariance)), x.T @ y / len(x)).T
    head.weight.copy_(solved)
    head.bias.copy_(mean_out - solved @ mean_in)


def _slug(lesson: str) -> str:
    return lesson.replace(",", "").replace(" ", "-")
