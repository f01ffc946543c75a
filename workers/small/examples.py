"""What the small model is taught: a text, a policy of the library, and the answer in the real model's form."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import orjson

from policies import labelled
from policies.document import Policy
from policies.labelled import Labelled

REASONS = {
    "HH1": "It attacks or degrades people for who they are.",
    "HH2": "It insults or demeans a person.",
    "HH3": "It threatens or calls for harm.",
    "HH5": "It attacks nobody.",
    "FS1": "It tries to obtain money or data by deceit.",
    "FS2": "It lures the reader with a prize or a paid service.",
    "FS3": "It is promotion that nobody asked for.",
    "FS4": "It is ordinary conversation.",
    "PI1": "It tries to override or reveal an assistant's instructions.",
    "PI2": "It sets up a persona without limits.",
    "PI3": "It plants instructions for an assistant in other content.",
    "PI4": "It is an ordinary request or text.",
}

_HATE = {"hate": "HH1", "harassment": "HH2", "violence": "HH3"}
_HATE_SOURCES = {
    # source: most rows taken of each side. Sets whose labels need the conversation around them, or were written to
    # deceive classifiers, are left out: a model this small learns noise from them.
    "davidson": 12000,
    "hatexplain": 5000,
    "toxic_spans": 5000,
    "wiki_toxicity": 2000,
    "convabuse": 2000,
    "context_toxicity": 5000,
    "synthetic_templates": 300,
    "cold_zh": 7000,
    "roman_urdu": 4000,
    "curse_ko": 2000,
    "germeval2018_de": 1500,
    "topical_chat": 6000,
    "goemotions_benign": 8000,
    "clinc_oos": 500,
    "sms_spam": 1000,
    "gpteacher": 500,
    "medquad": 300,
}
_SPAM_SOURCES = {
    "sms_spam": 5000,
    "youtube_spam": 2000,
    "synthetic_templates": 500,
    "goemotions_benign": 2500,
    "topical_chat": 1500,
    "banking77": 500,
    "clinc_oos": 500,
    "davidson": 500,
    "hatexplain": 500,
    "taskmaster": 300,
    "context_toxicity": 500,
}
_INJECTION_SOURCES = {
    "inthewild_jailbreak": 1000,
    "deepset_inj_train": 1000,
    "giskard_inj": 100,
    "bastioncorpus": 300,
    "bipia_email": 300,
    "cyberseceval": 2000,
    "gptfuzz": 100,
    "gpteacher": 3000,
    "assistant_benign": 1000,
    "gsm8k": 500,
    "human_eval_code": 200,
    "nlu_eval": 500,
    "topical_chat": 800,
    "goemotions_benign": 800,
    "taskmaster": 200,
    "davidson": 300,
    "sms_spam": 300,
    "advbench": 300,
    "do_not_answer": 300,
    "red_instruct": 500,
    "medquad": 300,
}
_PRIZE = re.compile(
    r"\b(?:won|win|winner|prize|award|claim|free|guaranteed|ringtones?|txt|per ?min|p/min|£|1\.50)\b|£", re.I
)
_DECEIT = re.compile(r"\b(?:account|bank|password|verify|invest|profit|crypto|bitcoin|loan|refund|card number)\b", re.I)
_PERSONA = re.compile(
    r"\b(?:DAN|act as|role ?play|pretend|persona|character|from now on|mode|you are going to|jailbreak)\b", re.I
)


class Example(msgspec.Struct, frozen=True):
    policy_id: str
    source: str
    text: str
    violates: bool
    rule: str
    confidence: str


def _hate(row: Labelled) -> tuple[str, str] | None:
    if row.source == "hatexplain" and row.category not in {"hate", "normal"}:
        return None  # its annotators did not agree on these
    if not row.violates:
        return "HH5", "high"
    rule = None if row.source == "context_toxicity" else _HATE.get(row.harm)
    return (rule, "medium" if row.category in {"offensive", "nospan"} else "high") if rule else None


def _spam(row: Labelled) -> tuple[str, str] | None:
    if row.harm != "fraud_spam":
        return ("FS4", "high") if row.harm in {"none", "hate", "harassment"} else None
    if row.source == "youtube_spam":
        return "FS3", "high"
    if row.source == "sms_spam":
        return ("FS2", "high") if _PRIZE.search(row.text) else ("FS3", "medium")
    return "FS1" if _DECEIT.search(row.text) else "FS3", "medium"


def _injection(row: Labelled) -> tuple[str, str] | None:
    if row.harm == "injection":
        if row.source == "bipia_email" or row.category == "indirect_injection":
            return "PI3", "high"
        if row.source in {"inthewild_jailbreak", "gptfuzz"} or _PERSONA.search(row.text):
            return "PI2", "high"
        return "PI1", "high"
    # Asking for harm outright is another policy's concern: here it is an ordinary request.
    return "PI4", "high" if row.harm == "none" else "medium"


_TASKS = {
    "hate-harassment": (_HATE_SOURCES, _hate),
    "fraud-spam": (_SPAM_SOURCES, _spam),
    "prompt-injection": (_INJECTION_SOURCES, _injection),
}
TAUGHT = {policy: sources for policy, (sources, _) in _TASKS.items()}


def collect(folder: Path, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Examples to train on and examples held out, from a folder of labelled texts.

    Held-out texts are held out for every policy. A source that the folder lacks is left out.
    """
    train: list[Example] = []
    held: list[Example] = []
    order = random.Random(seed)
    for path in labelled.files(folder):
        source = path.name.removesuffix(".gz").removesuffix(".jsonl")
        wanted = {policy: task for policy, task in _TASKS.items() if source in task[0]}
        if not wanted:
            continue
        rows = list(labelled.read(path))
        order.shuffle(rows)
        for policy, (sources, rule_of) in wanted.items():
            taken = {True: 0, False: 0}
            for row in rows:
                found = rule_of(row)
                if found is None or not row.text.strip():
                    continue
                violates = found[0] not in {"HH5", "FS4", "PI4"}
                if taken[violates] >= sources[source]:
                    continue
                taken[violates] += 1
                example = Example(policy, source, row.text, violates, *found)
                (held if labelled.held_out(row.text) else train).append(example)
    return train, held


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


def shorten(text: str, longest: int, seed: int) -> str:
    """A window of at most `longest` characters; long texts are taught by their beginnings, ends and middles."""
    if len(text) <= longest:
        return text
    start = random.Random(seed).choice(
        [0, 0, len(text) - longest, random.Random(seed + 1).randrange(len(text) - longest)]
    )
    return text[start : start + longest]


def vary_policy(policy: Policy, draw: random.Random) -> str:
    """The policy's text as it is half of the time, else with a line or two left out, so that a small edit
    by an operator does not leave the model without an answer."""
    if draw.random() < 0.5:
        return policy.text
    lines = policy.text.splitlines()
    removable = [i for i, line in enumerate(lines) if line.startswith("- ") and not line[2:5].isupper()]
    gone = set(draw.sample(removable, min(len(removable), draw.randint(1, 3))))
    return "\n".join(line for i, line in enumerate(lines) if i not in gone) + "\n"


def by_policy(examples: Iterable[Example]) -> dict[str, list[Example]]:
    grouped: dict[str, list[Example]] = {}
    for example in examples:
        grouped.setdefault(example.policy_id, []).append(example)
    return grouped


def balance(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Violating and safe apart: training draws equally from both."""
    return [e for e in examples if e.violates], [e for e in examples if not e.violates]
