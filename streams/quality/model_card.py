"""The model card of the prefilter's classifier: its recipe, its figures on unseen texts, and its training data."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import fasttext
import msgspec
import numpy as np

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import golden, labelled
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import STRIDE, WINDOW, Classifier
from safeguard_streams.quality import golden_gate, training
from safeguard_streams.quality.evaluation import (
    Figures,
    by_harm,
    by_set,
    figures,
    markdown,
    mean_roc_auc,
    plot,
    scored_sets,
)
from safeguard_streams.quality.golden_corpus import corpus
from safeguard_streams.quality.scoring import Score, harm_scores
from safeguard_streams.quality.training import TrainingData

MIN_ROWS_PER_SIDE = 15  # violating and other rows, for a left-out source to be measured
MAX_MEASURED = 4000  # texts of a left-out source

FINDINGS = """\
## What helped and what did not

Candidates were compared by leaving out one source at a time (mean ROC-AUC over nine to fifteen sources). The
validation sets served as a second check.

- Classes for each source in training, with the directions from none to harm averaged afterwards: +.02 to +.03 on
  left-out sources. Used alone, they lose .05 on the English validation sets, which resemble no single source.
- That model joined with one of plain classes, logits added: +.027 on left-out sources and +.006 on the English
  validation sets. This is the recipe. Weights from 1 to 3 for the averaged part trade one gain for the other; 1.5 is
  in between.
- Both kinds of classes in one model: half the gain. More epochs (8 instead of 4): -.004. Fewer dimensions (8 to 12
  instead of 16) lose the gain on the validation sets.
- Normalisation against evasion costs nothing on ordinary texts, and keeps recall within 5 points under 19 evasions.
  Texts without any spaces remain weak (about 11 points).
- Quantising: see below. The shipped model is small because it has fewer buckets and words.
- The model is near chance on languages that the training data lacks (see the mhc sets). For those languages use
  terms, a sample, and a classifier distilled from verdicts. `../encoder/card.md` has figures by language, and what the
  encoder adds.
"""


class CardInputs(msgspec.Struct, frozen=True):
    """What a card is written about: the model's file, its training data with the folder it came from, and the seed.

    validation is a folder of sources that are only measured on. leave_one_out also trains once without each source.
    """

    model: Path
    folder: Path
    data: TrainingData
    seed: int
    validation: Path | None = None
    leave_one_out: bool = False


def card(inputs: CardInputs, on_progress: Callable[[str], None] = lambda line: None) -> str:
    """The card in Markdown. Draws recall.svg beside the model where there are validation sources."""
    lines = [*_recipe_lines(inputs), FINDINGS, *_held_out_lines(inputs)]
    if inputs.validation is not None:
        on_progress(f"measuring on {inputs.validation}")
        unseen = [row for path in labelled.files(inputs.validation) for row in labelled.read(path)]
        lines += _validation_lines(inputs, unseen)
        on_progress("comparing with a model of unrestricted size and with a quantised one")
        lines += ["## Size", "", *_size_lines(inputs, unseen), ""]
    if inputs.leave_one_out:
        lines += [
            "## Each source left out in turn",
            "",
            "Each source is measured by a model that was trained on all others. These figures come closest to what a",
            "deployment's own content will give.",
            "",
            *markdown(by_left_out_source([*inputs.data.train, *inputs.data.held_out], inputs.seed, on_progress)),
            "",
        ]
    on_progress("learning golden gates")
    return "\n".join([*lines, *_golden_lines(inputs.model), *_data_lines(inputs.folder, inputs.data.train)]) + "\n"


def _golden_lines(model: Path) -> list[str]:
    """Golden gates of the library, beside its present gates with this classifier."""
    try:
        vectors = golden_gate.shared_vectors()
    except ConfigurationError:
        return []  # without the encoder
    fitted = [
        golden_gate.learn(policy, corpus(policy, golden.load(LIBRARY / name / golden.NAME)), Classifier(model), vectors)
        for name, policy in load_library().items()
    ]
    return [
        "## Gates of the library, and golden gates",
        "",
        "A golden gate is learned from a policy's golden set, by the vectors of the encoder. Its figures are by",
        "cross-validation, with 95% intervals, and optimistic. Shares are those escalated at each gate's threshold.",
        "Benign texts are those of `streams/quality/benign_bank.jsonl.gz`, which the classifier was not trained on.",
        "`safeguard policy gate` prints the same table.",
        "",
        *golden_gate.table_lines(fitted),
        "",
    ]


def _score(model: Path) -> Score:
    return partial(harm_scores, Classifier(model))


def _recipe_lines(inputs: CardInputs) -> list[str]:
    classifier = Classifier(inputs.model)
    size = f"{inputs.model.stat().st_size:,}"
    return [
        "# Prefilter model card",
        "",
        f"Model `{classifier.name}`, {size} bytes, harms {', '.join(classifier.harms)} and none.",
        "It selects content for a reasoning model. It never decides about content on its own.",
        "",
        f"Recipe: {json.dumps(training.RECIPE | {'seed': inputs.seed})}.",
        "Text is normalised by `safeguard_streams.prefilter.normalise`. A text's score is 1 - P(none) in its worst",
        f"window of {WINDOW} pieces between spaces; a window starts every {STRIDE} pieces.",
        "Intervals are 95% bootstrap intervals over the texts of a set.",
        "",
    ]


def _held_out_lines(inputs: CardInputs) -> list[str]:
    rows, score = inputs.data.held_out, _score(inputs.model)
    return [
        "## Held-out texts of the training sources",
        "",
        "One text in ten, chosen by a hash, was held out from training. The model has seen other texts of these",
        "sources, which makes these figures optimistic.",
        "",
        *markdown(by_set(rows, score)),
        "",
        "By harm, against all held-out texts that do not violate:",
        "",
        *markdown(by_harm(rows, score([row.text for row in rows]))),
        "",
    ]


def _validation_lines(inputs: CardInputs, unseen: Sequence[Labelled]) -> list[str]:
    sets = scored_sets(unseen, _score(inputs.model))
    title = f"Recall of {Classifier(inputs.model).name} on sources that it was not trained on"
    plot(sets, inputs.model.with_name("recall.svg"), title)
    table = markdown([figures(one) for one in sets])
    return ["## Sources not trained on", "", *table, "", "![recall against the share escalated](recall.svg)", ""]


def by_left_out_source(rows: Sequence[Labelled], seed: int, on_progress: Callable[[str], None]) -> list[Figures]:
    """Figures of each source with enough rows of both sides, by a model that was trained without it."""
    by_source: dict[str, list[Labelled]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    table = []
    for source, group in sorted(by_source.items()):
        violating = sum(row.violates for row in group)
        if min(violating, len(group) - violating) < MIN_ROWS_PER_SIDE:
            continue
        on_progress(f"leaving out {source}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "without.bin"
            training.fit([row for row in rows if row.source != source], path, seed)
            chosen = group
            if len(group) > MAX_MEASURED:
                picks = np.random.default_rng(seed).choice(len(group), MAX_MEASURED, replace=False)
                chosen = [group[i] for i in picks]
            table += by_set(chosen, _score(path))
    return table


def _size_lines(inputs: CardInputs, unseen: Sequence[Labelled]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder) / "full.bin", Path(folder) / "small.ftz"
        training.fit(inputs.data.train, full, inputs.seed, training.FULL)
        quantised = fasttext.load_model(str(inputs.model))
        quantised.quantize(qnorm=True, dsub=2)
        quantised.save_model(str(small))
        lines = ["| model | bytes | mean ROC-AUC on these sources |", "| --- | ---: | ---: |"]
        for name, path in (("unrestricted size", full), ("this model", inputs.model), ("quantised", small)):
            auc = mean_roc_auc(by_set(unseen, _score(path)))
            lines.append(f"| {name} | {path.stat().st_size:,} | {auc:.4f} |")
    return lines


def _licences(folder: Path) -> dict[str, dict[str, str]]:
    """Source and licence of each file, from a manifest.json in the folder or above it."""
    for place in (folder / "manifest.json", folder.parent / "manifest.json"):
        if place.is_file():
            entries = json.loads(place.read_text(encoding="utf-8"))
            return {Path(e["file"]).name: {"source": e["source"], "licence": e["licence"]} for e in entries}
    return {}


def _data_lines(folder: Path, train: Iterable[Labelled]) -> list[str]:
    licences = _licences(folder)
    rows = Counter(row.source for row in train)
    lines = [
        "## Training data",
        "",
        "| file | rows used | source | licence | sha256 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for path in labelled.files(folder):
        about = licences.get(path.name, {})
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        source, licence = about.get("source", "not stated"), about.get("licence", "not stated")
        lines.append(f"| {path.name} | {rows[name]} | {source} | {licence} | {digest} |")
    return lines
