"""Training examples of the small model: a text, a policy of the library, and the answer in the real model's format."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson

from safeguard_streams.policies import labelled
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load, load_library
from safeguard_streams.policies.labelled import Labelled
from safeguard_streams.workers.small.sentences import LANGUAGES, sentences

REASONS = {
    "HH1": "It attacks or degrades people for who they are.",
    "HH2": "It insults or demeans a person.",
    "HH3": "It threatens or calls for harm.",
    "HH4": "It speaks about abuse without sharing in it.",
    "HH5": "It attacks nobody for who they are.",
    "FS1": "It tries to obtain money or data by deceit.",
    "FS2": "It lures the reader with a prize or a paid service.",
    "FS3": "It is promotion that nobody asked for.",
    "FS4": "It is ordinary conversation.",
    "FS5": "It warns of a scam or asks about one.",
    "PI1": "It tries to override or reveal an assistant's instructions.",
    "PI2": "It sets up a persona without limits.",
    "PI3": "It plants instructions for an assistant in other content.",
    "PI4": "It is an ordinary request or text.",
    "PI5": "It discusses an attack without performing it.",
    "SH1": "It encourages people to hurt themselves.",
    "SH2": "It gives or asks for methods of self-harm.",
    "SH3": "It may be written by someone in danger.",
    "SH4": "It speaks of pain, recovery or support.",
    "SH5": "It encourages nobody to hurt themselves.",
    "BM1": "It claims a cure that evidence contradicts.",
    "BM2": "It turns people from care that works.",
    "BM3": "It denies what is known about a disease.",
    "BM4": "It is information, experience or opinion.",
    "BM5": "It reports or corrects a false claim.",
    "GC1": "It attacks players for who they are.",
    "GC2": "It degrades or harasses a player.",
    "GC3": "It threatens or exposes a player outside the game.",
    "GC4": "It offers cheating, accounts or a scam.",
    "GC5": "It is play, banter or strong language at nobody.",
    "GC6": "It reports or discusses conduct.",
}
SAFE = {"HH4", "HH5", "FS4", "FS5", "PI4", "PI5", "SH4", "SH5", "BM4", "BM5", "GC5", "GC6"}
SENTENCES = 500  # the project's own for each rule and language, if frames and slots give so many

_HATE = {"hate": "HH1", "harassment": "HH2", "violence": "HH3"}
_HATE_SOURCES = {
    # source: maximum number of rows of each side. Sets whose labels depend on the conversation, or that were written to
    # deceive classifiers, are left out: a model this small learns noise from them.
    "davidson": 10000,
    "hatexplain": 6000,
    "toxic_spans": 5000,
    "wiki_toxicity": 1300,
    "convabuse": 2200,
    "context_toxicity": 4000,
    "synthetic_templates": 300,
    "cold_zh": 6000,
    "roman_urdu": 4000,
    "curse_ko": 2500,
    "germeval2018_de": 6000,
    "gahd_de": 5000,
    "mlma_fr": 3200,
    "jigsaw_multi": 5000,
    "toxigen_prompts": 420,
    "topical_chat": 3000,
    "goemotions_benign": 5000,
    "clinc_oos": 600,
    "sms_spam": 800,
    "gpteacher": 500,
    "medquad": 300,
    "edos": 3000,
}
_SPAM_SOURCES = {
    "sms_spam": 5000,
    "youtube_spam": 2000,
    "synthetic_templates": 500,
    "goemotions_benign": 2500,
    "topical_chat": 1500,
    "banking77": 500,
    "clinc_oos": 500,
    "davidson": 300,
    "hatexplain": 300,
    "taskmaster": 300,
    "context_toxicity": 300,
    "germeval2018_de": 600,
    "jigsaw_multi": 600,
}
_INJECTION_SOURCES = {
    "inthewild_jailbreak": 1000,
    "deepset_inj_train": 1000,
    "giskard_inj": 100,
    "bastioncorpus": 300,
    "bipia_email": 300,
    "cyberseceval": 2000,
    "gptfuzz": 100,
    "gpteacher": 3500,
    "assistant_benign": 800,
    "gsm8k": 500,
    "human_eval_code": 200,
    "nlu_eval": 400,
    "topical_chat": 800,
    "goemotions_benign": 800,
    "taskmaster": 200,
    "davidson": 200,
    "sms_spam": 200,
    "advbench": 300,
    "do_not_answer": 300,
    "red_instruct": 400,
    "medquad": 200,
    "germeval2018_de": 200,
    "jigsaw_multi": 300,
}
_LENIENT_SOURCES = {
    "davidson": 10000,
    "hatexplain": 6000,
    "toxic_spans": 3000,
    "cold_zh": 5000,
    "germeval2018_de": 5000,
    "gahd_de": 4000,
    "goemotions_benign": 3000,
    "topical_chat": 1500,
    "sms_spam": 300,
    "synthetic_templates": 300,
    "edos": 2000,
}
_SELF_HARM_SOURCES = {
    "synthetic_templates": 300,
    "multijail": 300,
    "navirocker_redteam": 100,
    "catqa_zh_vi": 100,
    "goemotions_benign": 3000,
    "topical_chat": 1500,
    "medquad": 800,
    "davidson": 1200,
    "sms_spam": 400,
    "clinc_oos": 300,
    "germeval2018_de": 800,
    "jigsaw_multi": 600,
}
_BIOMEDICAL_SOURCES = {
    "medquad": 3500,
    "goemotions_benign": 2000,
    "topical_chat": 1500,
    "sms_spam": 400,
    "davidson": 500,
    "cold_zh": 300,
    "clinc_oos": 300,
    "germeval2018_de": 600,
    "jigsaw_multi": 500,
}
_GAMING_SOURCES = {
    "davidson": 8000,
    "hatexplain": 4000,
    "toxic_spans": 4000,
    "goemotions_benign": 4000,
    "topical_chat": 1500,
    "sms_spam": 500,
    "youtube_spam": 500,
    "germeval2018_de": 3000,
    "gahd_de": 1500,
    "synthetic_templates": 300,
    "jigsaw_multi": 1500,
    "convabuse": 800,
}
_PRIZE = re.compile(
    r"\b(?:won|win|winner|prize|award|claim|free|guaranteed|ringtones?|txt|per ?min|p/min|£|1\.50)\b|£", re.I
)
_DECEIT = re.compile(r"\b(?:account|bank|password|verify|invest|profit|crypto|bitcoin|loan|refund|card number)\b", re.I)
_PERSONA = re.compile(
    r"\b(?:DAN|act as|role ?play|pretend|persona|character|from now on|mode|you are going to|jailbreak)\b", re.I
)


class Example(msgspec.Struct, frozen=True):
    """A text with its label. lesson: the name of the policy document that judges it."""

    lesson: str
    source: str
    text: str
    violates: bool
    rule: str
    confidence: str


class _RuleLabel(NamedTuple):
    """The rule that decides a row, and the confidence of the answer."""

    rule: str
    confidence: str


def _hate(row: Labelled) -> _RuleLabel | None:
    if row.source == "hatexplain" and row.category not in {"hate", "normal"}:
        return None  # the annotators disagree about these
    if not row.violates:
        return _RuleLabel("HH5", "high")
    rule = None if row.source == "context_toxicity" else _HATE.get(row.harm)
    return _RuleLabel(rule, "medium" if row.category in {"offensive", "nospan"} else "high") if rule else None


def _spam(row: Labelled) -> _RuleLabel | None:
    if row.harm != "fraud_spam":
        return _RuleLabel("FS4", "high") if row.harm in {"none", "hate", "harassment"} else None
    if row.source == "youtube_spam":
        return _RuleLabel("FS3", "high")
    if row.source == "sms_spam":
        return _RuleLabel("FS2", "high") if _PRIZE.search(row.text) else _RuleLabel("FS3", "medium")
    return _RuleLabel("FS1" if _DECEIT.search(row.text) else "FS3", "medium")


def _injection(row: Labelled) -> _RuleLabel | None:
    if row.harm == "injection":
        if row.source == "bipia_email" or row.category == "indirect_injection":
            return _RuleLabel("PI3", "high")
        if row.source in {"inthewild_jailbreak", "gptfuzz"} or _PERSONA.search(row.text):
            return _RuleLabel("PI2", "high")
        return _RuleLabel("PI1", "high")
    # An open request for harm is a matter of other policies. Under this one it is an ordinary request.
    return _RuleLabel("PI4", "high" if row.harm == "none" else "medium")


def _lenient(row: Labelled) -> _RuleLabel | None:
    """Under the policy that tolerates insults, only hate and threats violate."""
    label = _hate(row)
    if label is None or label.rule != "HH2":
        return label
    return _RuleLabel("HH5", "high")


def _self_harm(row: Labelled) -> _RuleLabel | None:
    if row.harm == "self_harm":
        # Questions about methods come from the sets of requests. The templates are mostly statements of intent.
        intent = row.category.startswith("template") and "how" not in row.text.lower()
        return _RuleLabel("SH3" if intent else "SH2", "high")
    return None if row.source in {"multijail", "navirocker_redteam"} else _RuleLabel("SH5", "high")


def _biomedical(_: Labelled) -> _RuleLabel | None:
    return _RuleLabel("BM4", "high")


def _gaming(row: Labelled) -> _RuleLabel | None:
    if row.harm == "fraud_spam":
        return _RuleLabel("GC4", "medium")
    label = _hate(row)
    return _RuleLabel(_GAMING[label.rule], label.confidence) if label else None


_GAMING = {"HH1": "GC1", "HH2": "GC2", "HH3": "GC3", "HH5": "GC5"}


class Lesson(msgspec.Struct, frozen=True):
    """The training material for one policy document.

    sources: data sets, with the maximum number of rows of each side.
    rule_of: the label of a row; None to leave it out.
    share: of the batches. Lessons whose data sets are large and noisy need more.
    rules: rules that the project's own sentences cover.
    own: the rule that decides such sentences, where it is not the one that they were made for.
    noisy: whether labels of its data sets contradict each other, so that training asks for second opinions.
    """

    sources: Mapping[str, int]
    rule_of: Callable[[Labelled], _RuleLabel | None]
    share: float
    rules: tuple[str, ...] = ()
    own: Mapping[str, str] = {}
    noisy: bool = False

    @property
    def foreign(self) -> tuple[str, ...]:
        """Rules of other lessons whose sentences are harmless here."""
        return tuple(rule for rule, here in self.own.items() if rule not in self.rules)


def _harmless(rule: str, *others: str) -> dict[str, str]:
    """Rules of other lessons that this rule decides. A name of two letters means all of that lesson."""
    return {other: rule for name in others for other in REASONS if other.startswith(name)}


class TrainingData(NamedTuple):
    """Examples to train on, and examples to measure on."""

    train: list[Example]
    held_out: list[Example]


LENIENT = (
    "hate-harassment, lenient"  # the same policy, changed to tolerate insults, so that the model must read the text
)
LESSONS = {
    "hate-harassment": Lesson(
        _HATE_SOURCES,
        _hate,
        0.26,
        ("HH1", "HH2", "HH3", "HH4", "HH5"),
        _harmless("HH5", "FS", "BM", "PI", "SH3", "SH4", "SH5", "GC4", "GC5"),
        noisy=True,
    ),
    LENIENT: Lesson(
        _LENIENT_SOURCES,
        _lenient,
        0.12,
        ("HH1", "HH2", "HH3", "HH4", "HH5"),
        {"HH2": "HH5", **_harmless("HH5", "FS", "BM", "PI", "SH3", "SH4", "SH5", "GC4", "GC5")},
    ),
    "fraud-spam": Lesson(
        _SPAM_SOURCES,
        _spam,
        0.08,
        ("FS1", "FS2", "FS3", "FS4", "FS5"),
        _harmless("FS4", "HH", "BM2", "BM3", "BM4", "BM5", "PI4", "SH", "GC1", "GC2", "GC5"),
    ),
    "prompt-injection": Lesson(
        _INJECTION_SOURCES,
        _injection,
        0.09,
        ("PI1", "PI2", "PI3", "PI4", "PI5"),
        _harmless("PI4", "HH", "FS", "BM", "SH", "GC"),
    ),
    "self-harm": Lesson(
        _SELF_HARM_SOURCES,
        _self_harm,
        0.12,
        ("SH1", "SH2", "SH3", "SH4", "SH5"),
        _harmless("SH5", "HH1", "HH4", "HH5", "FS", "BM", "PI", "GC3", "GC4", "GC5"),
    ),
    "biomedical-misinformation": Lesson(
        _BIOMEDICAL_SOURCES,
        _biomedical,
        0.09,
        ("BM1", "BM2", "BM3", "BM4", "BM5"),
        _harmless("BM4", "HH", "FS", "PI", "SH", "GC"),
    ),
    "gaming-conduct": Lesson(
        _GAMING_SOURCES,
        _gaming,
        0.24,
        ("GC1", "GC2", "GC3", "GC4", "GC5", "GC6"),
        _harmless("GC5", "BM", "PI", "SH3", "SH4", "SH5", "FS4", "HH5"),
        noisy=True,
    ),
}


def taught_policies() -> dict[str, Policy]:
    """The policy documents of all lessons, by name."""
    with as_file(files("safeguard_streams.demo").joinpath("lenient/policy.md")) as path:
        return {**{name: p for name, p in load_library().items() if name in LESSONS}, LENIENT: load(path)}


def collect(folder: Path, seed: int = 0) -> TrainingData:
    """Examples from a folder of labelled texts and from the project's own sentences.

    Texts are held out for every policy alike. Sources that the folder lacks are skipped.
    """
    train: list[Example] = []
    held_out: list[Example] = []
    order = random.Random(seed)
    for path in labelled.files(folder):
        source = path.name.removesuffix(".gz").removesuffix(".jsonl")
        lessons = {name: lesson for name, lesson in LESSONS.items() if source in lesson.sources}
        if not lessons:
            continue
        rows = list(labelled.read(path))
        order.shuffle(rows)
        for name, lesson in lessons.items():
            taken = {True: 0, False: 0}
            for row in rows:
                label = lesson.rule_of(row)
                if label is None or not row.text.strip():
                    continue
                violates = label.rule not in SAFE
                if taken[violates] >= lesson.sources[source]:
                    continue
                taken[violates] += 1
                example = Example(name, source, row.text, violates, *label)
                (held_out if labelled.held_out(row.text) else train).append(example)
    for name, lesson in LESSONS.items():
        for language in LANGUAGES:
            own = _own(name, lesson, language, seed)
            train += own.train
            held_out += own.held_out
    return TrainingData(train, held_out)


def _own(name: str, lesson: Lesson, language: str, seed: int) -> TrainingData:
    """The project's own sentences for a lesson. Whole frames are held out, because their sentences are alike.

    Sentences that were made for rules of other lessons are harmless under this one.
    """
    data = TrainingData([], [])
    foreign = dict.fromkeys(lesson.foreign, SENTENCES // 8)
    for rule, count in (dict.fromkeys(lesson.rules, SENTENCES) | foreign).items():
        decides = lesson.own.get(rule, rule)
        source = f"sentences {language}{', other rules' if rule in foreign else ''}"
        for sentence in sentences(rule, language, count, seed):
            example = Example(name, source, sentence.text, decides not in SAFE, decides, "high")
            if not sentence.held_out and not labelled.held_out(sentence.text):
                data.train.append(example)
            elif sentence.held_out and rule not in foreign:
                data.held_out.append(msgspec.structs.replace(example, source=f"new {source}"))
    return data


def answer(example: Example) -> str:
    """The completion, from the analysis channel to the end of the final message, as harmony text."""
    verdict = "It violates" if example.violates else "It is safe under"
    reason = REASONS[example.rule]
    final = orjson.dumps(
        {
            "violation": int(example.violates),
            "rule_ids": [example.rule],
            "confidence": example.confidence,
            "reason": reason,
        }
    ).decode()
    return (
        f"<|channel|>analysis<|message|>{verdict} {example.rule}. {reason}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{final}<|return|>"
    )


def shorten(text: str, max_length: int, seed: int) -> str:
    """A window of at most `max_length` characters: the beginning, the end or somewhere between, at random."""
    if len(text) <= max_length:
        return text
    start = random.Random(seed).choice(
        [0, 0, len(text) - max_length, random.Random(seed + 1).randrange(len(text) - max_length)]
    )
    return text[start : start + max_length]


def vary_policy(policy: Policy, draw: random.Random) -> str:
    """The policy's text, half of the time without one to three of its lines.

    The model then still answers when an operator makes a small edit.
    """
    if draw.random() < 0.5:
        return policy.text
    lines = policy.text.splitlines()
    removable = [i for i, line in enumerate(lines) if line.startswith("- ") and not line[2:5].isupper()]
    removed = set(draw.sample(removable, min(len(removable), draw.randint(1, 3))))
    return "\n".join(line for i, line in enumerate(lines) if i not in removed) + "\n"


def by_lesson(examples: Iterable[Example]) -> dict[str, list[Example]]:
    grouped: dict[str, list[Example]] = {}
    for example in examples:
        grouped.setdefault(example.lesson, []).append(example)
    return grouped


def balance(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Violating and safe examples apart; training draws equally from both."""
    return [e for e in examples if e.violates], [e for e in examples if not e.violates]
