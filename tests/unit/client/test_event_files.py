"""Files of events: each encoding is read, or refused with what to do before anything is sent."""

import gzip
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.client import event_files
from safeguard_streams.client.event_files import Line, checked, lines_of, meant
from safeguard_streams.contract import limits
from safeguard_streams.errors import ConfigurationError

EVENT = json.dumps({"content_id": "a", "text": "Grüße, 你好", "created_at": "2026-01-01T00:00:00Z"}, ensure_ascii=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("events")


def read(folder, data):
    path = folder / "events.jsonl"
    path.write_bytes(data)
    return [line.value.decode() for line in lines_of(str(path))]


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=5),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    last=st.booleans(),
    compressed=st.booleans(),
)
def test_every_form_of_utf8_gives_the_same_lines(folder, texts, encoding, end, last, compressed):
    events = [json.dumps({"content_id": text, "text": text}, ensure_ascii=False) for text in texts]
    data = (end.join(events) + (end if last else "")).encode(encoding)
    if compressed:  # in two members
        data = gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
    assert read(folder, data) == events


@given(texts=st.lists(TEXTS, min_size=1, max_size=5), encoding=st.sampled_from(["utf-16", "utf-32"]))
@pytest.mark.parametrize("order", ["", "-le", "-be"])
def test_no_form_of_utf16_is_published(folder, order, texts, encoding):
    events = [json.dumps({"content_id": "a", "text": text}) for text in texts]
    with pytest.raises(ConfigurationError, match=r"iconv|UTF-8"):
        read(folder, "\n".join(events).encode(encoding + order))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x28\xb5\x2f\xfd rest", "zstd -d"),
        (b"\xfd7zXZ\x00 rest", "xz -d"),
        (b"BZh91AY", "bzip2 -d"),
        (b"PK\x03\x04", "unzip -p"),
        (b'  [{"content_id": "a"}]', "jq -c"),
        (gzip.compress(EVENT.encode(), mtime=0)[:-9], "ends too early"),
        (gzip.compress(EVENT.encode(), mtime=0)[:10] + b"\x07" * 40, "damaged gzip"),
        (gzip.compress(EVENT.encode(), mtime=0) + b"more", "damaged gzip"),
        (EVENT.encode() + b"\n{\0}\n", "line 2: NUL bytes.*Nothing was published"),
        (bytes(range(1, 256)) * 3, "no line is a JSON object"),
        (b"<html>\n<body>", "no line is a JSON object"),
    ],
)
def test_what_is_no_utf8_is_refused_with_what_to_do(folder, data, problem):
    with pytest.raises(ConfigurationError, match=problem):
        read(folder, data)


def test_lines_that_are_too_large_are_named_before_anything_is_sent(folder):
    large = b'{"text": "' + b"x" * limits.EVENT_BYTES + b'"}'
    with pytest.raises(
        ConfigurationError, match=r"lines 2, 4: larger than an event may be, 12,582,912.*Nothing was published"
    ):
        read(folder, b"\n".join([EVENT.encode(), large, EVENT.encode(), large]))
    assert len(read(folder, b"\n".join([EVENT.encode()] * 3))) == 3


def test_many_members_take_linear_time(folder):
    members = gzip.compress(b"") * 300_000  # a quadratic step would exceed the time limit of the suite
    assert read(folder, members + gzip.compress(EVENT.encode())) == [EVENT]


def test_a_gzip_bomb_is_refused(folder, monkeypatch):
    monkeypatch.setattr(event_files, "MAX_BYTES", 10_000)
    with pytest.raises(ConfigurationError, match="more than 10,000 bytes"):
        read(folder, gzip.compress(b"\n" * 100_000))
    with pytest.raises(ConfigurationError, match="more than 10,000 bytes"):
        read(folder, gzip.compress(b"\n" * 9_000) * 2)


def test_an_invalid_line_among_events_is_sent_and_an_empty_file_has_no_lines(folder):
    assert read(folder, (EVENT + "\nnot an event").encode()) == [EVENT, "not an event"]
    assert read(folder, b"") == read(folder, b"\n\r\n \n") == read(folder, b"\xef\xbb\xbf") == []


def test_what_cannot_be_read_is_said(tmp_path):
    for name in (tmp_path / "absent", tmp_path, f"{tmp_path}/\0"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            lines_of(str(name))
    if os.getuid():
        (tmp_path / "secret").write_bytes(b"{}")
        (tmp_path / "secret").chmod(0)
        with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
            lines_of(str(tmp_path / "secret"))


def event(**changes):
    return json.dumps({"content_id": "a", "text": "private words", "created_at": "2026-01-01T00:00:00Z"} | changes)


LINES = [
    event(),
    event(txt="x", surface="chat"),
    '{"id": "a", "text": "private words"}',
    event(context=[{"rol": "user", "text": "x"}], attributes={"any": {"thing": 1}}),
    "not an event",
    "[1]",
    event(context="private words"),
    event(TXT=None),
]


def test_lines_that_are_no_events_and_fields_that_no_event_has_are_found():
    found = checked([Line(number, line.encode()) for number, line in enumerate(LINES, 1)])
    assert [(one.line.number, one.reason.partition(":")[0]) for one in found.invalid] == [
        (3, "content_id"),
        (4, "context[0].role"),
        (5, "record"),
        (6, "record"),
        (7, "context"),
    ]
    unknown = {name: [line.number for line in where] for name, where in found.unknown.items()}
    assert unknown == {"txt": [2], "id": [3], "context[].rol": [4], "TXT": [8]}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("txt", "text"),
        ("Content_ID", "content_id"),
        ("createdAt", "created_at"),
        ("id", "content_id"),
        ("body", "text"),
        ("context[].rol", "context[].role"),
        ("context[].created_at", None),
        ("zzz", None),
        ("", None),
    ],
)
def test_a_field_is_suggested_where_one_was_meant(name, field):
    assert meant(name) == field


def check(tmp_path, *lines, words=()):
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return CliRunner().invoke(app, ["publish", str(path), "--check", "--bootstrap", "127.0.0.1:1", *words])


def test_a_file_is_checked_without_a_broker_and_nothing_of_it_is_quoted(tmp_path):
    done = check(tmp_path, *LINES)
    assert done.exit_code == 1
    assert done.stdout == "3 content events\n"
    assert "line 3: no content event: content_id: is missing" in done.stderr
    assert "line 2: no event has a field 'txt', which is ignored, did you mean text?" in done.stderr
    assert "5 of 8 lines are no content events: lines 3, 4, 5, 6, 7" in done.stderr
    assert "private words" not in done.output
    done = check(tmp_path, event(), event(mine=1))
    assert (done.exit_code, done.stdout) == (0, "2 content events\n"), "an unknown field is no error"


def test_what_the_check_finds_is_there_for_programs(tmp_path):
    said = json.loads(check(tmp_path, *LINES, words=["--json"]).stdout)
    assert (said["published"], said["events"]) == (0, 3)
    assert [one["line"] for one in said["invalid"]] == [3, 4, 5, 6, 7]
    assert said["unknown_fields"]["txt"] == [2]


def test_names_of_fields_cannot_draw_in_a_terminal(tmp_path):
    done = check(tmp_path, event(**{"\x1b[2J" + "x" * 500: 1}))
    assert "\x1b" not in done.output
    assert len(done.stderr) < 300


def test_unknown_fields_are_named_in_the_order_of_the_file():
    names = [f"field_{number}" for number in range(20)]
    found = checked([Line(1, event(**dict.fromkeys(names, 1)).encode())])
    assert list(found.unknown) == names
