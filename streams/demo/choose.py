"""Selects the demo's texts: python -m safeguard_streams.demo.choose DATA OUT.

DATA has train/, validation/ and manifest.json. All texts are held out from training, and their sources' licences allow
redistribution. The attributes of each event name its source and its licence. They also state its label:
`violates` under the policy `labelled_for`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.contract.records import EVERY_POLICY
from safeguard_streams.policies import labelled


class Quota(NamedTuple):
    """How many texts of one file the demo takes, and the policy that its labels are about (* for everyday texts)."""

    policy: str
    language: str
    violating: int
    safe: int


HATE, FRAUD, INJECTION, EVERYDAY = "hate-harassment", "fraud-spam", "prompt-injection", EVERY_POLICY
QUOTAS = {
    "train/davidson": Quota(HATE, "en", 24, 10),
    "train/hatexplain": Quota(HATE, "en", 10, 24),
    "train/toxic_spans": Quota(HATE, "en", 14, 0),
    "train/sms_spam": Quota(FRAUD, "en", 30, 90),
    "train/youtube_spam": Quota(FRAUD, "en", 24, 24),
    "train/cyberseceval": Quota(INJECTION, "en", 10, 0),
    "train/inthewild_jailbreak": Quota(INJECTION, "en", 16, 0),
    "train/goemotions_benign": Quota(EVERYDAY, "en", 0, 110),
    "train/topical_chat": Quota(EVERYDAY, "en", 0, 70),
    "train/gpteacher": Quota(EVERYDAY, "en", 0, 40),
    "train/banking77": Quota(EVERYDAY, "en", 0, 30),
    "train/cold_zh": Quota(HATE, "zh", 16, 24),
    "train/roman_urdu": Quota(HATE, "ur", 10, 14),
    "train/curse_ko": Quota(HATE, "ko", 8, 12),
    "train/germeval2018_de": Quota(HATE, "de", 8, 16),
    "train/jigsaw_multi": Quota(HATE, "mul", 6, 18),
    "validation/hatecheck": Quota(HATE, "en", 12, 12),
    "validation/deepset_inj_test": Quota(INJECTION, "mul", 14, 14),
    "validation/mhc_spanish": Quota(HATE, "es", 8, 8),
    "validation/mhc_french": Quota(HATE, "fr", 8, 8),
    "validation/xstest": Quota(EVERYDAY, "en", 0, 10),
}
MAX_CHARACTERS = 600


def choose(data: Path, seed: int = 7) -> list[dict[str, object]]:
    """Events without created_at, which the demo sets when it publishes."""
    manifest = {entry["file"]: entry for entry in json.loads((data / "manifest.json").read_text(encoding="utf-8"))}
    draw = random.Random(seed)
    events: list[dict[str, object]] = []
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
                events.append(
                    {"text": row.text, "language": quota.language, "surface": "demo", "attributes": attributes}
                )
    draw.shuffle(events)
    return [{"content_id": f"demo-{number:04}", **event} for number, event in enumerate(events, 1)]


if __name__ == "__main__":
    chosen = choose(Path(sys.argv[1]))
    lines = [json.dumps(event, ensure_ascii=False) for event in chosen]
    Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} events")
