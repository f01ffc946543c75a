"""A bank of benign texts, which stand for ordinary content where a policy has no labels yet.

    python -m safeguard_streams.quality.benign_bank DATA

builds `benign_bank.jsonl.gz` and its notice from labelled texts with a manifest.json. The texts are real, from public
data sets with licences that allow it, in eight languages. All are held out from training: the shipped classifier has
not seen them, and its scores on them are those of new texts.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from safeguard_streams.policies import labelled
from safeguard_streams.policies.golden import canonical

BANK = Path(__file__).parent / "benign_bank.jsonl.gz"
NOTICE = Path(__file__).parent / "benign_bank.NOTICE.md"
MIN_CHARACTERS, MAX_CHARACTERS = 8, 300


class Benign(msgspec.Struct, frozen=True):
    """A text of the bank, its language and the data set that it is from."""

    text: str
    language: str
    source: str


class _Source(NamedTuple):
    """A data set: the language of its texts (None: its categories name it), how many to take, and its address."""

    language: str | None
    texts: int
    project: str


_SOURCES = {
    "goemotions_benign": _Source(
        "en", 280, "https://github.com/google-research/google-research/tree/master/goemotions"
    ),
    "context_toxicity": _Source("en", 280, "https://github.com/ipavlopoulos/context_toxicity"),
    "clinc_oos": _Source("en", 160, "https://github.com/clinc/oos-eval"),
    "sms_spam": _Source("en", 130, "https://archive.ics.uci.edu/dataset/228/sms+spam+collection"),
    "youtube_spam": _Source("en", 60, "https://archive.ics.uci.edu/dataset/380/youtube+spam+collection"),
    "banking77": _Source("en", 80, "https://github.com/PolyAI-LDN/task-specific-datasets"),
    "medquad": _Source("en", 80, "https://github.com/abachaa/MedQuAD"),
    "nlu_eval": _Source("en", 80, "https://github.com/xliuhw/NLU-Evaluation-Data"),
    "assistant_benign": _Source(
        "en", 60, "https://github.com/yizhongw/self-instruct, https://github.com/lm-sys/FastChat"
    ),
    "germeval2018_de": _Source("de", 200, "https://github.com/uds-lsv/GermEval-2018-Data"),
    "jigsaw_multi": _Source(None, 260, "https://www.kaggle.com/c/jigsaw-multilingual-toxic-comment-classification"),
    "cold_zh": _Source("zh", 160, "https://github.com/thu-coai/COLDataset"),
    "curse_ko": _Source("ko", 160, "https://github.com/2runo/Curse-detection-data"),
    "roman_urdu": _Source("ur", 120, "https://github.com/haroonshakeel/roman_urdu_hate_speech"),
}
_HANDLE = re.compile(r"@\w+")
_PERSONAL = re.compile(r"https?:|www\.|\w@\w|\d{6}|\d{3}[-. ]\d{3,4}")  # addresses and numbers of people


def load() -> list[Benign]:
    """The texts of the bank."""
    lines = gzip.decompress(BANK.read_bytes()).splitlines()
    return [msgspec.json.decode(line, type=Benign) for line in lines]


def choose(folder: Path, shown: set[str]) -> list[Benign]:
    """Texts of each source, chosen by a hash of the text. shown: texts to leave out, in canonical form."""
    chosen: list[Benign] = []
    for name, source in _SOURCES.items():
        path = next(path for path in labelled.files(folder) if path.name.split(".")[0] == name)
        texts = {canonical(benign.text): benign for benign in _candidates(path, source)}
        fresh = [form for form in texts if form not in shown]
        fresh.sort(key=lambda form: hashlib.sha256(form.encode("utf-8", "surrogatepass")).digest())
        chosen += [texts[form] for form in fresh[: source.texts]]
    return chosen


def _candidates(path: Path, source: _Source) -> Iterator[Benign]:
    for row in labelled.read(path):
        text = " ".join(_HANDLE.sub("@user", row.text).split())
        fits = MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS and not _PERSONAL.search(text)
        if fits and not row.violates and labelled.held_out(row.text):
            yield Benign(text, source.language or row.category, row.source)


def write(texts: list[Benign]) -> None:
    """Write the bank. Equal texts give equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.writelines(msgspec.json.encode(text) + b"\n" for text in texts)
    BANK.write_bytes(packed.getvalue())


def notice(texts: list[Benign], manifest: Path) -> str:
    """Sources and licences of the texts, in Markdown."""
    licences = {Path(entry["file"]).name.split(".")[0]: entry for entry in json.loads(manifest.read_text("utf-8"))}
    counts = Counter((text.source, text.language) for text in texts)
    lines = [
        "# Texts of the benign bank",
        "",
        "`benign_bank.jsonl.gz` holds texts of public data sets that their authors marked as harmless. Changes: it is",
        "a selection, white space is one blank, names of accounts are `@user`, and texts with addresses or long",
        "numbers are left out.",
        "",
        "| source | project | licence | language | texts |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for (name, language), count in counts.items():
        source, licence = (licences[name][key].split(" (")[0].split(":")[0] for key in ("source", "licence"))
        lines.append(f"| {source} | {_SOURCES[name].project} | {licence} | {language} | {count} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Build the bank from DATA/train and DATA/manifest.json. It has no text of the demo and of the golden sets."""
    from safeguard_streams.policies import golden
    from safeguard_streams.policies.files import LIBRARY

    data = Path(sys.argv[1])
    demo = Path(__file__).parents[1] / "demo" / "events.jsonl"
    shown = {canonical(json.loads(line)["text"]) for line in demo.read_text("utf-8").splitlines()}
    shown |= {canonical(g.text) for path in LIBRARY.glob("*/golden.jsonl") for g in golden.load(path)}
    texts = choose(data / "train", shown)
    write(texts)
    NOTICE.write_text(notice(texts, data / "manifest.json"), "utf-8")


if __name__ == "__main__":
    main()
