"""Selects the demo's texts: python -m safeguard_streams.demo.choose DATA OUT.

DATA has train/, validation/ and manifest.json. All texts are held out from training, and their sources' licences allow
redistribution. Each event names its source and licence in its attributes.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.policies import labelled


class Quota(NamedTuple):
    """How many texts of one file the demo takes."""

    language: str
    violating: int
    safe: int


QUOTAS = {
    "train/davidson": Quota("en", 24, 10),
    "train/hatexplain": Quota("en", 10, 24),
    "train/toxic_spans": Quota("en", 14, 0),
    "train/sms_spam": Quota("en", 30, 90),
    "train/youtube_spam": Quota("en", 24, 24),
    "train/cyberseceval": Quota("en", 10, 0),
    "train/inthewild_jailbreak": Quota("en", 16, 0),
    "train/goemotions_benign": Quota("en", 0, 110),
    "train/topical_chat": Quota("en", 0, 70),
    "train/gpteacher": Quota("en", 0, 40),
    "train/banking77": Quota("en", 0, 30),
    "train/cold_zh": Quota("zh", 16, 24),
    "train/roman_urdu": Quota("ur", 10, 14),
    "train/curse_ko": Quota("ko", 8, 12),
    "train/germeval2018_de": Quota("de", 8, 16),
    "train/jigsaw_multi": Quota("mul", 6, 18),
    "validation/hatecheck": Quota("en", 12, 12),
    "validation/deepset_inj_test": Quota("mul", 14, 14),
    "validation/mhc_spanish": Quota("es", 8, 8),
    "validation/mhc_french": Quota("fr", 8, 8),
    "validation/xstest": Quota("en", 0, 10),
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
