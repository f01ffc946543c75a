"""The card of the encoder's harm heads: what the encoder adds to each kind of gate, and how gates do by language.

python -m safeguard_streams.quality.encoder_card TRAIN VALIDATION [FILE]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from safeguard_streams.policies import labelled
from safeguard_streams.policies.distilled import log_odds
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.prefilter.classifier import Classifier, Floats
from safeguard_streams.prefilter.encoder import harm_heads
from safeguard_streams.prefilter.encoder.encoder import Encoder, Vectors
from safeguard_streams.prefilter.encoder.harm_heads import HarmTerm
from safeguard_streams.quality import encoded_labels, threshold, threshold_labels
from safeguard_streams.quality.evaluation import Flags
from safeguard_streams.quality.harm_heads import INVERSE_STRENGTH, MAX_ROWS, WEIGHT, vectors_of
from safeguard_streams.quality.languages import language_of
from safeguard_streams.quality.paired import Paired, markdown, mean, paired
from safeguard_streams.quality.proportions import proportion
from safeguard_streams.quality.scoring import gate_scores

CARD = harm_heads.SHIPPED.with_name("card.md")
MAX_UNSEEN, MAX_HELD_OUT = 1200, 700  # texts of a set
MIN_ROWS = 40  # of a language, for a row in the table
ENCODED = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh", "zh-Hant")
# Languages of sources; those of the mixed ones are detected text by text, and all others are English.
LANGUAGES = {
    "cold_zh": "zh",
    "curse_ko": "ko",
    "gahd_de": "de",
    "germeval2018_de": "de",
    "mhc_arabic": "ar",
    "mhc_dutch": "nl",
    "mhc_french": "fr",
    "mhc_german": "de",
    "mhc_hindi": "hi-Latn",
    "mhc_italian": "it",
    "mhc_mandarin": "zh",
    "mhc_polish": "pl",
    "mhc_portuguese": "pt",
    "mhc_spanish": "es",
    "mlma_ar": "ar",
    "mlma_fr": "fr",
    "roman_urdu": "ur-Latn",
}
MIXED = ("catqa_zh_vi", "jigsaw_multi", "multijail")
DISTILLED = (
    "bias_madlibs",
    "diasafety_val",
    "hatecheck",
    "mhc_arabic",
    "mhc_german",
    "mhc_mandarin",
    "mhc_spanish",
    "xstest",
)
# The policies whose rules the validation sets are about.
ABOUT = {
    "hate-harassment": ("bias_madlibs", "diasafety_val", "hatecheck", *(n for n in LANGUAGES if n.startswith("mhc_"))),
    "prompt-injection": ("deepset_inj_test", "jailbreakbench", "xstest"),
}

FINDINGS = """\
Strength, weight and rows were chosen on the validation sets. An inverse strength of .003 to .3, 350 to 700 texts of a
side and a weight of 1.5 to 3 differ by at most .01. Without intercepts of their own for sources, heads lose .005 to
.015 in other languages. Heads alone are worse than fastText in English (.71) and better elsewhere (.61). A network of
64 hidden units gained .005 more. No policy of the library asks for heads: most texts that a gate of harms leaves open
would be encoded.

The share of any harm in the gates of policies was chosen on the validation sets, too. From 0 to 0.2, escalation for a
recall of 0.95 falls on five of six English sets; more than 0.2 gains no more. Texts like the training data cost up
to .02 more. `fraud-spam` has 0.1 for that reason: for 95% of its golden violating texts, 34% instead of 39% of
held-out benign texts are escalated. Beside the terms of `self-harm` and `biomedical-misinformation`, harms at any
share found at most one more golden text for 5% of the benign texts. These gates therefore have none.

Other ways to distil from 200 labels were tried on 14 validation sets, with five splits of each. None is used. The head
of any harm as one more column lowers the share escalated for a recall of 0.95 by .005 (95% interval over splits .001
to .008). Offsets by the head or the log odds, class weights, kernels, averages of models, and the choice of the
strength by ROC-AUC change it by -.007 to +.003, all heads as columns by +.001 to +.007, vectors whitened by the benign
bank by +.004 to +.011.

Held-out texts of more than 126 pieces, scored by their highest passage instead of their first, have a ROC-AUC of any
harm of .860 instead of .856.
"""


class Texts(NamedTuple):
    """Labelled texts with the vectors of all [texts, 512]."""

    rows: list[Labelled]
    vectors: Vectors

    def take(self, wanted: Callable[[Labelled], bool]) -> Texts:
        """Those that are wanted."""
        chosen = [number for number, row in enumerate(self.rows) if wanted(row)]
        return Texts([self.rows[number] for number in chosen], self.vectors[chosen])

    @property
    def violates(self) -> Flags:
        """Which violate [texts]."""
        return np.array([row.violates for row in self.rows], dtype=bool)


class Scorer(NamedTuple):
    """Scores texts by gates, without and with the encoder."""

    classifier: Classifier

    def scores(self, policy: Policy, texts: Texts) -> tuple[Floats, Floats]:
        """The scores of the policy's gate, and the logits with its harm heads [texts]. A gate without harms scores any
        harm.
        """
        first = gate_scores(policy, self.classifier, [row.text for row in texts.rows])
        term = HarmTerm(harm_heads.shipped(), policy.gate.harms, policy.gate.general)
        return first, log_odds(first) + term.added(texts.vectors)


def general_filter(scorer: Scorer, unseen: Texts) -> list[Paired]:
    """Any harm without and with the heads, on each set with both kinds of texts."""
    policy = encoded_labels.general(load_library()["hate-harassment"])
    sets = []
    for name in sorted({row.source for row in unseen.rows}):
        texts = unseen.take(lambda row, name=name: row.source == name)  # type: ignore[misc]
        if 0 < texts.violates.sum() < len(texts.rows):
            sets.append(paired(name, scorer.scores(policy, texts), texts.violates))
    return with_means(sets)


def gates(scorer: Scorer, unseen: Texts) -> Iterator[tuple[str, list[Paired]]]:
    """The gates of policies: harms alone, with any harm, and with the heads as well; by policy."""
    for name, sources in ABOUT.items():
        policy = load_library()[name]
        alone = msgspec.structs.replace(policy, gate=msgspec.structs.replace(policy.gate, general=0.0))
        sets = []
        for source in sorted(sources):
            texts = unseen.take(lambda row, source=source: row.source == source)  # type: ignore[misc]
            if texts.rows:
                scores = [scorer.scores(alone, texts)[0], *scorer.scores(policy, texts)]
                sets.append(paired(source, scores, texts.violates))
        yield name, with_means(sets)


def with_means(sets: Sequence[Paired]) -> list[Paired]:
    """The sets, and the means over those in English and those in other languages."""
    english = [one for one in sets if one.name not in LANGUAGES]
    other = [one for one in sets if one.name in LANGUAGES]
    means = [mean(f"mean of {len(group)}", group) for group in (english, other) if len(group) > 1]
    return [*english, *means[:1], *other, *means[1:]]


class Operating(NamedTuple):
    """A policy, its thresholds, and the texts by whose labels both have the same recall."""

    policy: Policy
    threshold: float
    with_encoder: float

    @classmethod
    def of(cls, scorer: Scorer, policy: Policy, held_out: Texts) -> Operating:
        """The threshold that the policy has, and the one for the same recall with the encoder."""
        texts = held_out.take(lambda row: not row.violates or row.harm in policy.gate.harms)
        weights = [float(str(label["weight"])) for label in threshold_labels.labels(policy, texts.rows)]
        first, logits = scorer.scores(policy, texts)
        caught = np.average(first[texts.violates] >= policy.gate.threshold, weights=np.array(weights)[texts.violates])
        scores = 1 / (1 + np.exp(-logits))
        return cls(
            policy,
            policy.gate.threshold,
            threshold.calibrate(scores, texts.violates, float(caught), weights).threshold,
        )


def by_language(scorer: Scorer, at: Operating, texts: Texts) -> Iterator[str]:
    """A row of a table for each language."""
    tags = [_language(row) for row in texts.rows]
    for language, count in sorted(Counter(tags).items()):
        if count < MIN_ROWS or language == "und":
            continue
        own = [number for number, tag in enumerate(tags) if tag == language]
        chosen = Texts([texts.rows[number] for number in own], texts.vectors[own])
        first, logits = scorer.scores(at.policy, chosen)
        with_heads = logits >= log_odds(np.array([at.with_encoder]))[0]
        ranked = paired(language, [first, logits], chosen.violates) if 0 < chosen.violates.sum() < len(own) else None
        cells = [language, "yes" if language in ENCODED else "no", f"{count:,}", f"{int(chosen.violates.sum()):,}"]
        for number, reached in enumerate((first >= at.threshold, with_heads)):
            cells += [*_shares(reached, chosen.violates), str(ranked.estimate(0, number)) if ranked else ""]
        yield f"| {' | '.join(cells)} |"


def _shares(reached: Flags, violates: Flags) -> list[str]:
    """Recall, and the share escalated."""
    recall = proportion(int((reached & violates).sum()), int(violates.sum()))
    return [str(recall), str(proportion(int(reached.sum()), len(reached)))]


def _language(row: Labelled) -> str:
    return language_of(row.text) if row.source in MIXED else LANGUAGES.get(row.source, "en")


LANGUAGE_COLUMNS = (
    "| language | encoder's | texts | violating | recall | escalated | ROC-AUC | recall, heads | escalated | ROC-AUC |",
    "| --- | --- |" + " ---: |" * 8,
)


def language_lines(scorer: Scorer, unseen: Texts, held_out: Texts) -> Iterator[str]:
    """The gate of hate-harassment by language, on texts of both kinds of sources."""
    policy = load_library()["hate-harassment"]
    at = Operating.of(scorer, policy, held_out)
    yield f"The gate of `{policy.id}`, at its threshold of {at.threshold:g}. With the heads, the threshold for the same"
    yield f"recall on held-out texts is {at.with_encoder:g}. Recall and escalated are shares with 95% intervals"
    yield "(Wilson). `hi-Latn` and `ur-Latn` are Hindi and Urdu in Latin letters."
    sources = ABOUT[policy.id]
    covered = set()
    for title, texts in (
        (
            "Sources that neither fastText nor the heads were trained on:",
            unseen.take(lambda row: row.source in sources),
        ),
        (
            "Held-out texts of training sources, which flatter both:",
            held_out.take(lambda row: not row.violates or row.harm in policy.gate.harms),
        ),
    ):
        lines = list(by_language(scorer, at, texts))
        covered |= {line.split(" | ")[0].removeprefix("| ") for line in lines}
        yield from ("", title, "", *LANGUAGE_COLUMNS, *lines)
    yield ""
    missing = [name for name in ENCODED if name not in covered]
    yield f"Languages of the encoder for which there are no {MIN_ROWS} texts: {', '.join(missing)}."


def card(train: Path, validation: Path, say: Callable[[str], None]) -> Iterator[str]:
    """The card's lines."""
    encoder, scorer = Encoder(), Scorer(Classifier())
    heads = harm_heads.shipped()
    yield from ("# Card of the encoder's harm heads", "")
    yield f"Heads `{heads.name}` for the encoder `{encoder.name}`: {', '.join(heads.harms)} and any harm;"
    yield f"{harm_heads.SHIPPED.stat().st_size:,} bytes. Trained on at most {MAX_ROWS:,} texts of each side of each"
    yield f"source, with an inverse strength of {INVERSE_STRENGTH:g}, and a weight of {WEIGHT:g} beside fastText's log"
    yield from ("odds. Training data, and its licences: `prefilter/model/card.md`. Made by", "")
    yield "    python -m safeguard_streams.quality.harm_heads TRAIN"
    yield from ("    python -m safeguard_streams.quality.encoder_card TRAIN VALIDATION", "")
    yield f"Measured on at most {MAX_UNSEEN:,} texts of a validation set, and {MAX_HELD_OUT:,} held-out texts"
    yield "of each training source."
    yield "Intervals are 95% bootstrap intervals over the texts of a set; those of means hold for these sets."
    yield from (
        "`escalated for 0.95` is the share of texts that reach the threshold for a recall of 0.95.",
        "",
        FINDINGS,
    )
    rows = [row for path in labelled.files(validation) for row in labelled.read(path)]
    unseen = _texts(encoder, at_most(MAX_UNSEEN, rows), say)
    yield from ("## General filter without labels", "", "1 - P(none) of fastText, without and with the heads.", "")
    yield from markdown(("fastText", "with heads"), general_filter(scorer, unseen))
    yield from ("", "## Gates of policies", "", "On the validation sets that are about them.", "")
    for name, sets in gates(scorer, unseen):
        yield from (f"`{name}`:", "", *markdown(("harms", "with any harm", "with heads"), sets), "")
    rows = [row for path in labelled.files(train) for row in labelled.read(path) if labelled.held_out(row.text)]
    held_out = _texts(encoder, at_most(MAX_HELD_OUT, rows), say)
    yield from ("## Languages", "", *language_lines(scorer, unseen, held_out), "")
    yield from (
        "## Distilled classifiers",
        "",
        "Trained on some texts of a set, and measured on others of the same set.",
    )
    yield f"Sets: {', '.join(DISTILLED)}. Each takes minutes. Many of their texts violate: a perfect score escalates"
    yield "0.95 times the share that violates."
    labels_of = encoded_labels.read_sets(validation, DISTILLED)
    for labels in encoded_labels.SIZES:
        say(f"distilling from {labels} labels")
        measured = list(encoded_labels.measure(labels_of, labels, encoder, scorer.classifier))
        yield from ("", f"{labels} labels:", "", *markdown(encoded_labels.SEEN, with_means(measured)))


def at_most(count: int, rows: Sequence[Labelled]) -> list[Labelled]:
    """At most this many rows of each source, drawn at random."""
    groups: dict[str, list[int]] = {}
    for number in np.random.default_rng(0).permutation(len(rows)).tolist():
        groups.setdefault(rows[number].source, []).append(number)
    return [rows[number] for source in sorted(groups) for number in sorted(groups[source][:count])]


def _texts(encoder: Encoder, rows: list[Labelled], say: Callable[[str], None]) -> Texts:
    say(f"encoding {len(rows):,} texts")
    return Texts(rows, vectors_of(encoder, [row.text for row in rows]))


def main() -> None:
    """Write the card, by default that of the package."""
    train, validation, *out = map(Path, sys.argv[1:])
    path = out[0] if out else CARD
    path.write_text("\n".join(card(train, validation, print)) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
