"""Selects the demo's texts: python -m safeguard_streams.demo.choose DATA OUT.

DATA has train/, validation/ and manifest.json. All texts are held out from training, and their sources' licences allow
redistribution. The attributes of each event name its source and its licence. They also state its label:
`violates` under the policy `labelled_for`, and the `rule` of this policy that fits the label of a violating text.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.contract.records import EVERY_POLICY
from safeguard_streams.policies import labelled
from safeguard_streams.policies.labelled import Labelled


class Quota(NamedTuple):
    """How many texts of one file the demo takes, and the policy that its labels are about (* for everyday texts)."""

    policy: str
    language: str
    violating: int
    safe: int


HATE, FRAUD, INJECTION, EVERYDAY = "hate-harassment", "fraud-spam", "prompt-injection", EVERY_POLICY
# As a stream of user content is: more than nine texts in ten are harmless, most of them in no way suspicious. The
# prefilter clears three in four, with what its samples escalate counted as escalated.
QUOTAS = {
    "train/topical_chat": Quota(EVERYDAY, "en", 0, 205),
    "train/goemotions_benign": Quota(EVERYDAY, "en", 0, 55),
    "train/banking77": Quota(EVERYDAY, "en", 0, 240),
    "train/taskmaster": Quota(EVERYDAY, "en", 0, 160),
    "train/clinc_oos": Quota(EVERYDAY, "en", 0, 230),
    "train/gpteacher": Quota(EVERYDAY, "en", 0, 24),
    "train/sms_spam": Quota(FRAUD, "en", 16, 30),
    "train/youtube_spam": Quota(FRAUD, "en", 10, 12),
    "train/davidson": Quota(HATE, "en", 12, 4),
    "train/hatexplain": Quota(HATE, "en", 4, 4),
    "train/toxic_spans": Quota(HATE, "en", 5, 0),
    "train/cyberseceval": Quota(INJECTION, "en", 7, 0),
    "train/inthewild_jailbreak": Quota(INJECTION, "en", 13, 0),
    "validation/deepset_inj_test": Quota(INJECTION, "mul", 10, 12),
    "train/cold_zh": Quota(HATE, "zh", 4, 14),
    "validation/mhc_mandarin": Quota(HATE, "zh", 0, 8),
    "train/curse_ko": Quota(HATE, "ko", 2, 50),
    "train/roman_urdu": Quota(HATE, "ur", 2, 4),
    "train/germeval2018_de": Quota(HATE, "de", 3, 8),
    "validation/mhc_german": Quota(HATE, "de", 3, 3),
    "validation/mhc_spanish": Quota(HATE, "es", 4, 4),
    "validation/mhc_french": Quota(HATE, "fr", 4, 4),
    "train/jigsaw_multi": Quota(HATE, "mul", 1, 8),
    "train/nlu_eval": Quota(EVERYDAY, "en", 0, 150),
}
MAX_CHARACTERS = 600
HATE_RULES = {"hate": "HH1", "harassment": "HH2", "violence": "HH3"}
_LURE = re.compile(
    r"\b(?:won|win|winner|prize|award|claim|free|guaranteed|ringtones?|txt|per ?min|p/min|£|1\.50)\b|£", re.IGNORECASE
)
_PERSONA = re.compile(
    r"\b(?:DAN|act as|role ?play|pretend|persona|character|from now on|mode|you are going to)\b", re.IGNORECASE
)


def _rule(name: str, row: Labelled) -> str | None:
    """The rule that fits the label of a violating row, where its data set says enough."""
    if QUOTAS[name].policy == HATE:
        unclear = name == "train/hatexplain" and row.category != "hate"  # its annotators disagree about the others
        return None if unclear else HATE_RULES.get(row.harm)
    if name == "train/sms_spam":
        return "FS2" if _LURE.search(row.text) else "FS3"
    if name == "train/cyberseceval":
        return "PI2" if _PERSONA.search(row.text) else "PI1"
    return {"train/youtube_spam": "FS3", "train/inthewild_jailbreak": "PI2"}.get(name)


def choose(data: Path, seed: int = 7) -> list[dict[str, object]]:
    """Events without created_at, which the demo sets when it publishes."""
    manifest = {entry["file"]: entry for entry in json.loads((data / "manifest.json").read_text(encoding="utf-8"))}
    draw = random.Random(seed)
    groups: dict[tuple[str, bool], list[dict[str, object]]] = defaultdict(list)
    for name, quota in QUOTAS.items():
        entry = manifest[f"{name}.jsonl.gz"]
        rows = [r for r in labelled.read(data / entry["file"]) if 3 < len(r.text) <= MAX_CHARACTERS]
        if name.startswith("train/"):
            rows = [r for r in rows if labelled.held_out(r.text)]
        draw.shuffle(rows)
        for violates, count in ((True, quota.violating), (False, quota.safe)):
            for row in [r for r in rows if r.violates is violates][:count]:
                attributes = {
                    "source": entry["source"],
                    "licence": entry["licence"],
                    "labelled_as": row.category,
                    "labelled_for": quota.policy,
                    "violates": row.violates,
                }
                rule = _rule(name, row) if row.violates else None
                if rule is not None:
                    attributes["rule"] = rule
                groups[quota.policy, violates].append(
                    {"text": row.text, "language": quota.language, "surface": "demo", "attributes": attributes}
                )
    mixed = _mixed(groups.values(), draw)
    return [{"content_id": f"demo-{number:04}", **event} for number, event in enumerate(mixed, 1)]


def _mixed(groups: Iterable[list[dict[str, object]]], draw: random.Random) -> list[dict[str, object]]:
    """The events in random order, such that the first ones, however many, are mixed as all of them are."""
    placed: list[tuple[float, dict[str, object]]] = []
    for group in groups:
        draw.shuffle(group)
        placed += [((number + draw.random()) / len(group), event) for number, event in enumerate(group)]
    return [event for _, event in sorted(placed, key=lambda pair: pair[0])]


if __name__ == "__main__":
    chosen = choose(Path(sys.argv[1]))
    lines = [json.dumps(event, ensure_ascii=False) for event in chosen]
    Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} events")
