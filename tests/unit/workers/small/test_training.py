"""The training of the small model, on a few texts."""

import itertools
import json
import random
from collections import Counter

import msgspec
import pytest

pytest.importorskip("vllm")

import numpy as np
import torch
from safetensors import safe_open

from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.small import batches, meanings, train
from safeguard_streams.workers.small.batches import Source, judged
from safeguard_streams.workers.small.examples import LESSONS, Example, answer, taught_policies
from safeguard_streams.workers.small.network import HIDDEN, LAYERS, Vocabulary

POLICIES = {name: taught_policies()[name] for name in ("self-harm", "fraud-spam")}
RULES = {"self-harm": ("SH1", "SH5"), "fraud-spam": ("FS2", "FS4")}
EXAMPLES = [
    Example(lesson, source, f"{word} text number {n}", violates, RULES[lesson][not violates], "high")
    for lesson in POLICIES
    for violates, word in ((True, "bad"), (False, "good"))
    for source in ("sentences en", "a set")
    for n in range(20)
]


@pytest.fixture
def small(monkeypatch):
    """Without the encoder, and with few tokens and texts."""
    monkeypatch.setattr(meanings, "of_tokens", lambda ids: torch.randn(len(ids) + 1, HIDDEN) * 0.5)
    random_ = np.random.default_rng(0)
    monkeypatch.setattr(meanings, "vectors", lambda texts: random_.normal(size=(len(texts), 512)).astype(np.float16))
    for name, value in {"ROWS": 3000, "READING_BATCH": 8, "JUDGING_BATCH": 4, "LONG_BATCH": 4, "FITTED": 4}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(batches, "CHUNK", 1)
    ticks = itertools.count()
    monkeypatch.setattr(train, "clock", lambda: float(next(ticks)))


def test_batches_have_one_lesson_and_both_sides():
    source = Source(EXAMPLES, seed=0)
    for _ in range(20):
        drawn = source.next(8)
        assert {example.lesson for example in drawn.examples} == {drawn.lesson}
    both = [example.violates for _ in range(batches.CHUNK * 4) for example in source.next(8).examples]
    assert 0.4 < sum(both) / len(both) < 0.6


def test_lessons_come_by_their_shares_and_large_sets_nearly_as_often_as_their_texts():
    source = Source([one for one in EXAMPLES if one.source == "a set" for _ in range(9)] + EXAMPLES, seed=0)
    lessons = Counter(source.next(8).lesson for _ in range(2000))
    wanted = LESSONS["self-harm"].share / LESSONS["fraud-spam"].share
    assert lessons["self-harm"] / lessons["fraud-spam"] == pytest.approx(wanted, rel=0.15)
    few = [msgspec.structs.replace(one, source="a small set") for one in EXAMPLES if one.source == "a set"]
    sets = [one for one in EXAMPLES if one.source == "a set" for _ in range(10)] + few
    sources = Counter(example.source for _ in range(500) for example in Source(sets, seed=_).next(8).examples)
    assert sources["a set"] / sources["a small set"] == pytest.approx(10**batches.SIZE_EXPONENT, rel=0.2)


@pytest.mark.parametrize("whole", [True, False])
def test_the_loss_covers_the_answer_with_its_header_and_weighs_the_decision_most(whole):
    drawn = Source(EXAMPLES, seed=0).next(6)
    ids = sorted({t for e in EXAMPLES for t in (*harmony.encode_text(e.text), *harmony.encode_markup(answer(e)))})
    inputs = outputs = Vocabulary(ids)
    batch = judged(drawn, POLICIES, inputs, outputs, random.Random(0), whole=whole)
    said = {int(inputs.table[harmony.encode_markup(word)[0]]) for word in (" violates", " is")}
    for row, example in enumerate(drawn.examples):
        wanted = harmony.encode_markup(answer(example))
        wanted = wanted if whole else wanted[: len(harmony.encode_markup(batches.OPENED)) + batches.DECISION]
        covered = batch.target[row][batch.target[row] >= 0].tolist()
        assert covered == outputs.rows(wanted).tolist()
        (heaviest,) = (batch.weight[row] > 5).nonzero().flatten().tolist()
        assert int(batch.target[row][heaviest]) in said


def test_a_training_goes_on_from_its_checkpoint_and_writes_a_model_that_vllm_can_load(small, tmp_path):
    out = tmp_path / "model.safetensors"
    said = []
    first = train.train(EXAMPLES, POLICIES, out, seconds=12, on_step=lambda _, detail: said.append(detail))
    assert said[:3] == ["encoding tokens", "encoding texts", "asking for second opinions"]
    stages = [detail.split()[2] for detail in said[3:]]
    assert stages == sorted(stages, reverse=True), "reading, then judging"
    assert set(stages) == {"reading", "judging"}
    assert first.steps == len(stages)
    again = train.train(EXAMPLES, POLICIES, out, seconds=18)
    assert first.steps < again.steps < 2 * first.steps
    with safe_open(out, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        names = set(file.keys())
        assert file.get_tensor("embed_rows").shape == (len(file.get_tensor("input_ids")) + 1, HIDDEN)
    assert (config["num_hidden_layers"], config["hidden_size"]) == (LAYERS, HIDDEN)
    tables = {"embed_rows", "embed_scales", "input_ids", "output_ids"}
    assert {name for name in names if not name.startswith(("model.", "lm_head."))} == tables, (
        "no head of training alone"
    )


def test_the_model_is_the_mean_of_the_last_checkpoints_also_after_an_interruption(small, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 1)
    monkeypatch.setattr(train, "RATE", 0.1)  # so that checkpoints differ by more than the rounding of a written model
    out = tmp_path / "model.safetensors"
    seen = []
    update = train.AveragedModel.update_parameters

    def noted(mean, model):
        seen.append(model.embedding.folded().clone())
        update(mean, model)

    monkeypatch.setattr(train.AveragedModel, "update_parameters", noted)
    train.train(EXAMPLES, POLICIES, out, seconds=20)
    before = len(seen)
    train.train(EXAMPLES, POLICIES, out, seconds=30)
    assert 1 < before < len(seen)
    with safe_open(out, framework="pt") as file:
        scales = file.get_tensor("embed_scales")
        rows = file.get_tensor("embed_rows").float() * scales
    assert ((rows - torch.stack(seen).mean(dim=0)).abs() <= 0.51 * scales).all()
    assert ((rows - seen[-1]).abs() > 2 * scales).any()


def test_a_decision_lies_between_a_noisy_label_and_the_second_opinion(small, tmp_path):
    trainer = train.Trainer(EXAMPLES, POLICIES, tmp_path / "training", 10, 0)
    violating, safe = (
        next(e for e in EXAMPLES if e.lesson == "self-harm" and e.violates is side) for side in (True, False)
    )
    trainer.opinions = {"self-harm": {violating.text: 0.2}}  # nobody was asked about the other one
    logits = torch.zeros(2, len(trainer.outputs), requires_grad=True)
    trainer._decision(logits, batches.Drawn("self-harm", [violating, safe])).sum().backward()
    deciding = trainer.outputs.rows([harmony.encode_markup(word)[0] for word in (" violates", " is")])
    wanted = (logits.softmax(dim=1) - logits.grad)[:, deciding]
    assert wanted.flatten().tolist() == pytest.approx([0.6, 0.4, 0.0, 1.0], abs=1e-6)


def test_only_opinions_that_differ_from_labels_change_the_loss_of_the_decisions(small, tmp_path):
    trainer = train.Trainer(EXAMPLES, POLICIES, tmp_path / "training", 10, 0)
    trainer.vectors = {}

    def decision(opinions):
        trainer.opinions, trainer.draw = opinions, random.Random(0)
        trainer._judge(Source(EXAMPLES, seed=0), 0.5)
        return trainer.parts["decision"]

    same, opposite = (
        {lesson: {e.text: float(e.violates is side) for e in EXAMPLES} for lesson in POLICIES} for side in (True, False)
    )
    assert decision(same) == pytest.approx(decision({}), rel=1e-4)
    assert decision(opposite) != pytest.approx(decision({}), rel=1e-4)


def test_opinions_are_asked_about_noisy_lessons_and_never_about_the_projects_own_sentences(
    small, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        train.opinions, "opinions", lambda examples: asked.append(examples) or {e.text: 0.5 for e in examples}
    )
    rules = {True: "HH1", False: "HH5"}
    noisy = [
        Example("hate-harassment", source, f"{source} {n}", n % 2 == 0, rules[n % 2 == 0], "high")
        for source in ("sentences en", "a set")
        for n in range(8)
    ]
    policies = {**POLICIES, "hate-harassment": taught_policies()["hate-harassment"]}
    train.train([*EXAMPLES, *noisy], policies, tmp_path / "model.safetensors", seconds=12)
    assert asked == [noisy]
    found = torch.load(tmp_path / "model.training" / "opinions.pt", weights_only=False)
    assert found == {"hate-harassment": {f"a set {n}": 0.5 for n in range(8)}}
