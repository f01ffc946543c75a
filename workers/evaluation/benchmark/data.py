"""Formats of published benchmark data, read into labelled rows.

A file is JSON lines, a JSON array or CSV, in UTF-8, with or without a byte order mark and gzip. Messages name places in
the file, and quote nothing of it.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from safeguard_streams.client import event_files
from safeguard_streams.contract.records import content_sha256
from safeguard_streams.errors import ConfigurationError

POLICIES = Path(__file__).parent / "policies"  # FORMAT/ID/policy.md
_NAMED = 5  # problems that a message names
_TRUE, _FALSE = {"1", "1.0", "true"}, {"0", "0.0", "false"}
_UNKNOWN = {"", "nan", "null", "none"}


class Published(NamedTuple):
    """A file as its makers publish it. sha256: None where this package does not know it."""

    name: str
    rows: int
    sha256: str | None = None


class Reference(NamedTuple):
    """F1 from the technical report of gpt-oss-safeguard, by model. figure: the figure that it is compared with."""

    figure: str
    f1: Mapping[str, float]


class Format(msgspec.Struct, frozen=True):
    """The fields of a published data set. labels: field by policy id; empty where each row names its policies."""

    name: str
    text: str
    labels: Mapping[str, str]
    published: tuple[Published, ...] = ()
    reference: Reference | None = None


UNION = "union"
JSONL = Format("jsonl", "text", {})
FORMATS = {
    "openai-mod": Format(
        "openai-mod",
        "prompt",
        {
            "sexual": "S",
            "hate": "H",
            "violence": "V",
            "harassment": "HR",
            "self-harm": "SH",
            "sexual-minors": "S3",
            "hate-threatening": "H2",
            "violence-graphic": "V2",
        },
        (Published("samples-1680.jsonl.gz", 1680),),
        Reference(UNION, {"gpt-oss-safeguard-120b": 0.829, "gpt-oss-safeguard-20b": 0.829}),
    ),
    "toxicchat": Format(
        "toxicchat",
        "user_input",
        {"toxicity": "toxicity", "jailbreaking": "jailbreaking"},
        (
            Published("toxic-chat_annotation_test.csv (0124)", 5083),
            Published("toxic-chat_annotation_train.csv (0124)", 5082),
        ),
        Reference("toxicity", {"gpt-oss-safeguard-120b": 0.793, "gpt-oss-safeguard-20b": 0.799}),
    ),
    "jsonl": JSONL,
}


class Row(msgspec.Struct, frozen=True):
    """A text with its labels: by policy id, whether it violates. A label that the file lacks is not among them."""

    text: str
    labels: Mapping[str, bool]
    sha256: str


class Dataset(msgspec.Struct, frozen=True):
    """The rows to judge, and what the file has besides.

    rows_in_file: with those without a text or without a label. unmeasured: labels of the file without a policy.
    """

    rows: tuple[Row, ...]
    sha256: str
    rows_in_file: int
    without_text: int
    without_label: int
    unmeasured: tuple[str, ...]


class _Record(NamedTuple):
    """One row of the file: where it is, and its fields. problem: why it has none."""

    where: str
    fields: Mapping[str, Any]
    problem: str = ""


def read(file: Path, layout: Format, policies: Collection[str]) -> Dataset:
    """Read the labels of these policies. Raises ConfigurationError with the first places that are wrong."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
    records = list(_records(file, event_files.decompressed(str(file), data)))
    if not records:
        raise ConfigurationError(f"{file}: has no rows")
    _check_format(file, layout, records)
    rows: list[Row] = []
    problems: list[str] = []
    without_text = without_label = 0
    for record in records:
        try:
            text, labels = _text(record, layout), _labels(record, layout, policies)
        except ValueError as error:
            problems.append(f"{record.where}: {error}")
            continue
        if not text.strip():
            without_text += 1
        elif not labels:
            without_label += 1
        else:
            rows.append(Row(text, labels, content_sha256(text)))
    if problems:
        more = f"; and {len(problems) - _NAMED:,} more" if len(problems) > _NAMED else ""
        raise ConfigurationError(f"{file}: {'; '.join(problems[:_NAMED])}{more}")
    if not rows:
        raise ConfigurationError(f"{file}: no row has a text and a label of {', '.join(sorted(policies))}")
    return Dataset(
        tuple(rows),
        hashlib.sha256(data).hexdigest(),
        len(records),
        without_text,
        without_label,
        tuple(sorted(_label_names(records, layout) - set(policies))),
    )


def _label_names(records: Iterable[_Record], layout: Format) -> set[str]:
    """The policies that the file has labels for."""
    if layout.labels:
        fields = {field for record in records for field in record.fields}
        return {policy for policy, field in layout.labels.items() if field in fields}
    named = (record.fields.get("labels") for record in records)
    return {str(policy) for labels in named if isinstance(labels, dict) for policy in labels}


def identity(dataset: Dataset, layout: Format) -> str:
    """Whether the file is a published one, as far as this package can know."""
    for published in layout.published:
        if published.sha256 == dataset.sha256:
            return f"the file is {published.name}, by its sha256"
    same = [published for published in layout.published if published.rows == dataset.rows_in_file]
    if any(published.sha256 is None for published in same):
        return f"{dataset.rows_in_file:,} rows, as many as {same[0].name}; the sha256 of that file is unknown here"
    known = " or ".join(f"{published.name} ({published.rows:,} rows)" for published in layout.published)
    if known:
        return f"{dataset.rows_in_file:,} rows: not the published {known}; published figures are of other rows"
    return f"{dataset.rows_in_file:,} rows of your own"


def _records(file: Path, data: bytes) -> Iterator[_Record]:
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: is not UTF-8, plain or with gzip; convert it, as with iconv") from None
    first = text.lstrip()[:1]
    if first == "[":
        return _from_array(file, text)
    return _from_lines(text) if first == "{" else _from_csv(file, text)


def _from_lines(text: str) -> Iterator[_Record]:
    for number, line in enumerate(text.split("\n"), 1):  # at newlines only: texts hold other line separators
        if line.strip():
            yield _from_value(f"line {number}", _json(line))


def _from_array(file: Path, text: str) -> Iterator[_Record]:
    values = _json(text)
    if not isinstance(values, list):
        raise ConfigurationError(f"{file}: is not JSON: it begins as an array, and does not end as one")
    return (_from_value(f"element {number}", value) for number, value in enumerate(values, 1))


def _from_value(where: str, value: Any) -> _Record:
    return _Record(where, value) if isinstance(value, dict) else _Record(where, {}, "is no JSON object")


def _json(text: str) -> Any:
    """The value of a JSON text, which may have NaN, as Python writes it; None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_csv(file: Path, text: str) -> Iterator[_Record]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # of the whole process, and therefore only raised
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] = []
    begun = 1
    try:
        for cells in reader:
            where, begun = f"line {begun}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = cells
            elif len(cells) == len(header):
                yield _Record(where, dict(zip(header, cells, strict=True)))
            else:
                yield _Record(where, {}, f"has {len(cells)} cells, the header {len(header)}")
    except csv.Error:
        raise ConfigurationError(f"{file}: is neither JSON nor CSV") from None


def _check_format(file: Path, layout: Format, records: list[_Record]) -> None:
    """Raises ConfigurationError where the rows have fields, and none has the format's one for the text."""
    if any(layout.text in record.fields for record in records) or all(record.problem for record in records):
        return
    fits = [other.name for other in FORMATS.values() if any(other.text in record.fields for record in records)]
    advice = f"; it has the fields of --format {fits[0]}" if fits else ""
    raise ConfigurationError(f"{file}: no row has the field {layout.text} of --format {layout.name}{advice}")


def _text(record: _Record, layout: Format) -> str:
    """The text of a row; empty where it is missing. Raises ValueError for what is no text."""
    if record.problem:
        raise ValueError(record.problem)
    text = record.fields.get(layout.text)
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{layout.text} is no text")  # noqa: TRY004  # becomes one message with the others
    return text.encode("utf-8", "replace").decode()  # halves of surrogate pairs have no tokens


def _labels(record: _Record, layout: Format, policies: Collection[str]) -> dict[str, bool]:
    fields = {policy: layout.labels[policy] for policy in policies} if layout.labels else {}
    given: Mapping[str, Any] = record.fields
    if not layout.labels:
        given = _own_labels(record.fields, policies)
        fields = {policy: policy for policy in policies}
    labels = {policy: _label(field, given.get(field)) for policy, field in fields.items()}
    return {policy: label for policy, label in labels.items() if label is not None}


def _own_labels(fields: Mapping[str, Any], policies: Collection[str]) -> Mapping[str, Any]:
    """The labels of a row in the format jsonl: an object by policy id, or one value where there is one policy."""
    labels = fields.get("labels")
    if labels is None and "violates" in fields:
        if len(policies) > 1:
            raise ValueError('"violates" names no policy: write "labels": {"POLICY-ID": true}')
        return dict.fromkeys(policies, fields["violates"])
    if labels is not None and not isinstance(labels, dict):
        raise ValueError("labels is no object")
    return labels or {}


def _label(field: str, value: Any) -> bool | None:
    """Whether a label is set; None where it is unknown. Raises ValueError for any other value."""
    word = str(value).strip().casefold()
    if value is None or word in _UNKNOWN:
        return None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"the label {field} is neither 0 nor 1")
