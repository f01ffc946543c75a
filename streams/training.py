"""Training of the prefilter's classifier, with a model card that says on what and how well."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import fasttext
import numpy as np

from policies import labelled
from policies.labelled import Labelled
from streams.classifier import NONE, Classifier
from streams.errors import ConfigurationError
from streams.normalise import tokens

RECIPE: dict[str, Any] = {
    "lr": 0.5,
    "epoch": 4,
    "dim": 16,
    "wordNgrams": 1,
    "minn": 3,
    "maxn": 5,
    "minCount": 5,
    "bucket": 100_000,
    "loss": "softmax",
    "thread": 1,  # more threads would make each training differ
}
QUANTISE: dict[str, Any] = {"qnorm": True, "dsub": 2}
ESCALATED = (0.05, 0.10, 0.20, 0.30, 0.50)


def read_folder(
    folder: Path, progress: Callable[[str], None] = lambda line: None
) -> tuple[list[Labelled], list[Labelled]]:
    """All rows of a folder: those to train on, and those that are kept from all training."""
    train: list[Labelled] = []
    held: list[Labelled] = []
    for path in labelled.files(folder):
        before = len(train), len(held)
        for row in labelled.read(path):
            (held if labelled.held_out(row.text) else train).append(row)
        progress(f"{path.name}: {len(train) - before[0]} rows to train on, {len(held) - before[1]} held out")
    return train, held


def fit(rows: Sequence[Labelled], out: Path, seed: int = 0) -> None:
    """Train on the rows' harms and write a quantised model; equal rows and seed give an equal model."""
    if len({row.harm for row in rows}) < 2 or NONE not in {row.harm for row in rows}:
        raise ConfigurationError("training needs rows of at least one harm and rows that violate nothing")
    order = np.random.default_rng(seed).permutation(len(rows))
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "train.txt"
        with lines.open("w", encoding="utf-8") as file:
            for i in order:
                words = " ".join(tokens(rows[i].text))
                if words:
                    file.write(f"__label__{rows[i].harm} {words}\n")
        model = fasttext.train_supervised(str(lines), **RECIPE, seed=seed, verbose=0)
        model.quantize(**QUANTISE)
        model.save_model(str(out))


def roc_auc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Area under the ROC curve, ties counted half; None when one side is empty."""
    s, y = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if y.all() or not y.any():
        return None
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    up, down = int(y.sum()), int((~y).sum())
    return float((ranks[y].sum() - up * (up + 1) / 2) / (up * down))


def recall_when_escalating(scores: Sequence[float], positive: Sequence[bool], share: float) -> float | None:
    """Share of the violating texts among the `share` of texts with the highest scores."""
    y = np.asarray(positive, dtype=bool)
    if not y.any():
        return None
    top = np.argsort(-np.asarray(scores, dtype=float), kind="stable")[: max(1, round(share * len(y)))]
    return float(y[top].sum() / y.sum())


def figures(classifier: Classifier, rows: Iterable[Labelled]) -> dict[str, dict[str, Any]]:
    """By source: rows, violating, ROC-AUC, and recall at some shares escalated; score = 1 - P(none)."""
    by_source: dict[str, list[Labelled]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    table: dict[str, dict[str, Any]] = {}
    for source, group in sorted(by_source.items()):
        scores = [1 - s[NONE] for s in classifier.score([row.text for row in group])]
        positive = [row.violates for row in group]
        auc = roc_auc(scores, positive)
        table[source] = {
            "rows": len(group),
            "violating": sum(positive),
            "roc_auc": None if auc is None else round(auc, 3),
            **{
                f"recall_at_{round(share * 100)}%": None if recall is None else round(recall, 3)
                for share in ESCALATED
                for recall in [recall_when_escalating(scores, positive, share)]
            },
        }
    return table


def _licences(folder: Path) -> dict[str, dict[str, str]]:
    """Source and licence of each file, from the manifest.json in the folder or above it, when there is one."""
    for place in (folder / "manifest.json", folder.parent / "manifest.json"):
        if place.is_file():
            entries = json.loads(place.read_text(encoding="utf-8"))
            return {Path(e["file"]).name: {"source": e["source"], "licence": e["licence"]} for e in entries}
    return {}


def card(
    folder: Path, validation: Path | None, model: Path, train: Sequence[Labelled], held: Sequence[Labelled], seed: int
) -> str:
    """The model card, in Markdown: data with licences and sha256, recipe, figures on texts that were not trained on."""
    classifier = Classifier(model)
    licences = _licences(folder)
    rows = Counter(row.source for row in train)
    lines = [
        "# Prefilter model card",
        "",
        f"Model `{classifier.name}`, {model.stat().st_size:,} bytes, labels {', '.join(classifier.labels)} and none.",
        "It decides what a reasoning model looks at; it decides about nobody's content by itself.",
        "",
        f"Recipe: {json.dumps(RECIPE | QUANTISE | {'seed': seed})}. Text is normalised by `streams.normalise`;",
        "a text is scored by its worst window of 20 tokens.",
        "",
        "One text in ten, chosen by a hash, was kept from training; the first table is measured on those.",
        "Figures on a source whose other rows were trained on flatter the model; the second table is nearer to what",
        "new content will see.",
        "",
    ]
    tables = [("Held-out texts of the training sources", figures(classifier, held))]
    if validation is not None:
        unseen = [row for path in labelled.files(validation) for row in labelled.read(path)]
        tables.append(("Sources that were not trained on", figures(classifier, unseen)))
    for title, table in tables:
        columns = list(next(iter(table.values())))
        lines += [f"## {title}", "", f"| source | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
        lines += [
            f"| {source} | {' | '.join('' if v is None else str(v) for v in row.values())} |"
            for source, row in table.items()
        ]
        known = [row["roc_auc"] for row in table.values() if row["roc_auc"] is not None]
        lines += ["", f"Mean ROC-AUC over sources with both sides: {sum(known) / len(known):.3f}.", ""]
    lines += [
        "## Training data",
        "",
        "| file | rows used | source | licence | sha256 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for path in labelled.files(folder):
        known_as = licences.get(path.name, {})
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        source, licence = known_as.get("source", "not stated"), known_as.get("licence", "not stated")
        lines.append(f"| {path.name} | {rows[name]} | {source} | {licence} | {digest} |")
    return "\n".join(lines) + "\n"
