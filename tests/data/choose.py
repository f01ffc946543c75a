"""Choose the labelled texts of the tests: python tests/data/choose.py DATA, a folder with train/ and manifest.json.

It takes only texts that were held out of all training, from sources with a licence that permits redistribution. Each
text names its source and its licence.
"""

import json
import random
import sys
from pathlib import Path

from safeguard_streams.policies import labelled

COUNTS = {  # file: (violating texts, others)
    "davidson": (170, 40),
    "edos": (90, 210),
    "toxic_spans": (170, 0),
    "sms_spam": (30, 200),
    "youtube_spam": (40, 40),
    "goemotions_benign": (0, 300),
    "banking77": (0, 110),
    "gpteacher": (0, 100),
}


def choose(data):
    manifest = {entry["file"]: entry for entry in json.loads((data / "manifest.json").read_text(encoding="utf-8"))}
    draw = random.Random(3)
    for name, counts in COUNTS.items():
        entry = manifest[f"train/{name}.jsonl.gz"]
        rows = [r for r in labelled.read(data / entry["file"]) if 12 < len(r.text) <= 300 and labelled.held_out(r.text)]
        draw.shuffle(rows)
        for violates, count in zip((True, False), counts, strict=True):
            for row in [r for r in rows if r.violates is violates][:count]:
                yield {
                    "text": row.text,
                    "violates": row.violates,
                    "harm": row.harm,
                    "source": entry["source"],
                    "licence": entry["licence"],
                }


if __name__ == "__main__":
    lines = [json.dumps(row, ensure_ascii=False) for row in choose(Path(sys.argv[1]))]
    Path(__file__).with_name("labelled.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(len(lines))
