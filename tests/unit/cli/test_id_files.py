"""Files of content ids, as people and other programs write them."""

import gzip
import io
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.cli.id_files import ids_in
from safeguard_streams.errors import ConfigurationError


@pytest.fixture
def written(tmp_path):
    def write(data):
        path = tmp_path / "ids.txt"
        path.write_bytes(data)
        return str(path)

    return write


def test_ids_are_read_once_each_in_their_order_whatever_ends_the_lines(written):
    assert ids_in(written(b"\xef\xbb\xbfc2\r\nc1\n\n \t\nc2\rc3")) == ["c2", "c1", "c3"]


def test_an_id_is_taken_as_it_is(written):
    odd = ["https://example.com/ü?a=1&b=2", "a\u2028b\x0bc\x85d", " lead", "[1]", '{"id": 1}', "\x00", "日本", "-"]
    assert ids_in(written("\n".join(odd).encode())) == odd


def test_a_hundred_thousand_lines(written):
    ids = [f"post-{number}" for number in range(100_000)]
    assert ids_in(written(gzip.compress("\n".join([*ids, *ids[:10]]).encode()))) == ids


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "has no content id"),
        (b"\xef\xbb\xbf \r\n", "has no content id"),
        ("c1\n".encode("utf-16"), "is not UTF-8"),
        (b"c1\n\xff\n", "is not UTF-8"),
        (b"c1\n" + b"x" * 513, "line 2: CONTENT_ID: has 513 characters"),
        (b"\x1f\x8bnot gzip", "damaged gzip"),
    ],
)
def test_what_holds_no_ids_is_refused_and_not_quoted(written, data, problem):
    with pytest.raises(ConfigurationError, match=problem) as caught:
        ids_in(written(data))
    assert "xxx" not in str(caught.value)


def test_standard_input_is_a_file_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"c1\nc2\n")))
    assert ids_in("-") == ["c1", "c2"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("decide", "c1", "remove", "--file", "ids"), "name one content item by CONTENT_ID, or many by --file"),
        (("undecide",), "name one content item by CONTENT_ID, or many by --file"),
        (("undecide", "c1", "--file", "ids"), "name one content item by CONTENT_ID, or many by --file"),
        (("decide", "c1", "remove", "--yes"), "--yes and --dry-run go with --file"),
        (("undecide", "c1", "--dry-run"), "--yes and --dry-run go with --file"),
        (("decide", "remove", "--file", "-"), "add --yes or --dry-run"),
        (("undecide", "--file", "-"), "add --yes or --dry-run"),
        (("release", "hate", "--file", "-"), "add --yes or --dry-run"),
        (("decide", "ban", "--file", "ids", "--yes"), "'ban' is not an action"),
        (("decide", "remove", "--file", "/no/such"), "/no/such: cannot be read"),
        (("release", "hate", "--file", "/no/such"), "/no/such: cannot be read"),
    ],
)
def test_wrong_arguments_are_refused_before_a_broker_is_asked(words, problem):
    shown = CliRunner().invoke(app, ["enforce", *words, "--by", "ann", "--bootstrap", "127.0.0.1:1"])
    assert shown.exit_code == 1
    assert problem in str(shown.exception)


def test_an_action_is_needed():
    shown = CliRunner().invoke(app, ["enforce", "decide", "c1", "--by", "ann"])
    assert shown.exit_code == 2
    assert "name the action" in shown.output
