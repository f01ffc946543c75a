"""Chooses the demo's texts: python -m safeguard_streams.demo.choose DATA OUT, where DATA has train/, validation/, manifest.json.

Only texts that were kept from all training, from sources whose licence allows passing them on; each event names
both in its attributes.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from safeguard_streams.policies import labelled

# file: (language, violating texts, others)
WANTED = {
    "train/davidson": ("en", 24, 10),
    "train/hatexplain": ("en", 10, 24),
    "train/toxic_spans": ("en", 14, 0),
    "train/sms_spam": ("en", 30, 90),
    "train/youtube_spam": ("en", 24, 24),
    "train/cyberseceval": ("en", 10, 0),
    "train/inthewild_jailbreak": ("en", 16, 0),
    "train/goemotions_benign": ("en", 0, 110),
    "train/topical_chat": ("en", 0, 70),
    "train/gpteacher": ("en", 0, 40),
    "train/banking77": ("en", 0, 30),
    "train/cold_zh": ("zh", 16, 24),
    "train/roman_urdu": ("ur", 10, 14),
    "train/curse_ko": ("ko", 8, 12),
    "train/germeval2018_de": ("de", 8, 16),
    "train/jigsaw_multi": ("mul", 6, 18),
    "validation/hatecheck": ("en", 12, 12),
    "validation/deepset_inj_test": ("mul", 14, 14),
    "validation/mhc_spanish": ("es", 8, 8),
    "validation/mhc_french": ("fr", 8, 8),
    "validation/xstest": ("en", 0, 10),
}
LONGEST = 600  # characters


def choose(data: Path, seed: int = 7) -> list[dict[str, object]]:
    """Events without created_at, which is the moment of publishing."""
    manifest = {entry["file"]: entry for entry in json.loads((data / "manifest.json").read_text(encoding="utf-8"))}
    draw = random.Random(seed)
    events: list[dict[str, object]] = []
    for name, (language, violating, others) in WANTED.items():
        entry = manifest[f"{name}.jsonl.gz"]
        rows = [r for r in labelled.read(data / entry["file"]) if 3 < len(r.text) <= LONGEST]
        if name.startswith("train/"):
            rows = [r for r in rows if labelled.held_out(r.text)]
        draw.shuffle(rows)
        for violates, count in ((True, violating), (False, others)):
            for row in [r for r in rows if r.violates is violates][:count]:
                attributes = {
                    "source": entry["source"],
                    "licence": entry["licence"],
                    "labelled_as": row.category,
                    "violates": row.violates,
                }
                events.append({"text": row.text, "language": language, "surface": "demo", "attributes": attributes})
    draw.shuffle(events)
    return [{"content_id": f"demo-{number:04}", **event} for number, event in enumerate(events, 1)]


if __name__ == "__main__":
    chosen = choose(Path(sys.argv[1]))
    lines = [json.dumps(event, ensure_ascii=False) for event in chosen]
    Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} events")
