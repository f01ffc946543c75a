"""Labels for the thresholds of the library's gates, from texts that are held out from all training.

    python -m safeguard_streams.quality.threshold_labels FOLDER OUT

Writes OUT/POLICY.jsonl for each policy whose gate has harms, as `safeguard prefilter calibrate --labels` reads them.
Texts of the gate's harms violate, and texts that violate nothing are safe; other texts are left out. All sources of
texts have the same weight, whatever their size.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from safeguard_streams.policies import labelled
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.labelled import Labelled


def labels(policy: Policy, held_out: Sequence[Labelled]) -> Iterable[dict[str, object]]:
    """Labels {text, violates, weight} under a policy with harms. The mean weight is 1."""
    rows = [row for row in held_out if not row.violates or row.harm in policy.gate.harms]
    sizes = Counter(row.source for row in rows)
    for row in rows:
        weight = len(rows) / (len(sizes) * sizes[row.source])
        yield {"text": row.text, "violates": row.violates, "weight": round(weight, 4)}


def main() -> None:
    """Write the labels of all policies."""
    folder, out = map(Path, sys.argv[1:])
    rows = [row for path in labelled.files(folder) for row in labelled.read(path) if labelled.held_out(row.text)]
    out.mkdir(parents=True, exist_ok=True)
    for policy in load_library().values():
        if policy.gate.harms:
            lines = [orjson.dumps(line) + b"\n" for line in labels(policy, rows)]
            (out / f"{policy.id}.jsonl").write_bytes(b"".join(lines))
            print(f"{policy.id}: {len(lines):,} texts")


if __name__ == "__main__":
    main()
