"""Text of others in terminals: shown as it is, and never interpreted."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer import BadParameter

from safeguard_streams import cli
from safeguard_streams.cli import options, output, replay_status
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.replay import promotion
from safeguard_streams.replay.promotion import PromotionPlan
from safeguard_streams.runtime import counts
from safeguard_streams.workers import cli as workers_cli

HOSTILE = [
    "[/x]",
    "[bold]a[/bold]",
    "[link=http://e]",
    "\x1b[2J\x1b]0;title\x07",
    "two\nlines",
    "a\rb",
    "\u202eabc\u2066",
    "\x9b31m",
]
FOLDERS = (Path(output.__file__).parent, Path(workers_cli.__file__).parent)


def shown(*cells):
    table = output.Table("a", "b", box=None)
    table.add_row(*cells)
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system="truecolor")
    console.print(table)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # the header's own style


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_are_plain_text(text):
    heading, row, _ = shown(text, 7).split("\n")
    assert heading.split() == ["a", "b"]
    assert row.split()[-1] == "7"
    assert output.plain(text) in row
    assert "\x1b" not in row


@given(st.text(st.characters(), max_size=60))
def test_a_text_is_one_printable_line_whatever_it_holds(text):
    line = output.plain(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", line)
    assert line.splitlines() in ([line], [])
    assert output.plain(line) == line, "what was escaped stays as it is"
    line.encode()


@pytest.mark.parametrize("text", ["plain", "Grüße, 你好, مرحبا", "👩\u200d💻", "می\u200cخواهم", "a\u00a0b"])
def test_ordinary_text_stays_as_it_is(text):
    assert output.plain(text) == text


def test_rows_and_lines_are_plain(capsys):
    options.show_rows([{"why": "[/x]\n\x1b[2J"}], "none", as_json=False)
    output.say("reason: \u202eevil\nreleased by root")
    printed = capsys.readouterr().out
    assert "[/x]\\n\\x1b[2J" in printed
    assert "reason: \\u202eevil\\nreleased by root\n" in printed


def test_an_errors_notes_are_printed_line_by_line_as_plain_text(monkeypatch, capsys):
    def fails(**_):
        error = SafeguardError("the reasoner was not ready; its log ends with:")
        error.add_note("no model")
        error.add_note("\x1b[2J")
        raise error

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as ended:
        cli._run()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "safeguard: the reasoner was not ready; its log ends with:",
        "   no model",
        "   \\x1b[2J",
    ]


def test_every_command_prints_tables_and_lines_through_this_module():
    for path in (path for folder in FOLDERS for path in folder.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path.name != "output.py":
            assert "rich.table" not in source, path
            assert not re.search(r"(?<![\w.])print\(\s*f\"(?!\\n)", source), f"{path}: say() shows text of others"


def test_a_user_without_a_name_is_told_to_give_one(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: nobody())
    with pytest.raises(ConfigurationError, match="--by"):
        options.changed_by("why", None)
    assert options.changed_by("why", "ann").by == "ann"


def test_ids_and_times_stay_whole_at_80_columns_and_nothing_is_cut():
    rows = [
        ("2026-01-31T12:00:00+00:00", f"biomedical-misinformation-{n}", "a reason of several words, " * 4) for n in "12"
    ]
    table = output.Table("at", "id", "why", box=None)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    shown = console.file.getvalue()
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(at in shown and name in shown for at, name, _ in rows)
    assert shown.count("reason") == 8


def test_a_word_of_any_length_leaves_room_for_the_other_columns():
    table = output.Table("content", "decision", box=None)
    table.add_row("x" * 500, "violates")
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert console.file.getvalue().count("x") == 500
    assert "violates" in console.file.getvalue()


ID, MOMENT = "post-0123456789abcdef-0123", "2026-11-26T07:00:00+00:00"


@pytest.mark.parametrize("width", [60, 80, 100, 150])
def test_ids_and_times_are_whole_at_any_width(width):
    table = output.Table("content item", "at", "policy", "why", box=None)
    table.add_row(ID, MOMENT, "hate-harassment", "a reason that is prose, and long enough to need a second line")
    table.add_row("p2", MOMENT, "fraud-spam", "")
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    printed = console.file.getvalue()
    words = printed.split()
    assert ID in words
    assert words.count(MOMENT) == 2
    assert {"hate-harassment", "fraud-spam", "second"} <= set(words)
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed


def test_a_row_is_one_whole_line_in_a_pipe(capsys):
    options.show_rows([{"content_id": ID, "why": "word " * 100}], "none", as_json=False)
    heading, row = capsys.readouterr().out.rstrip().splitlines()
    assert heading.split() == ["content", "id", "why"]
    assert row.count("word") == 100


def test_keys_of_json_are_for_programs(capsys):
    options.show_rows([{"content_id": ID}], "none", as_json=True)
    assert capsys.readouterr().out == f'[{{"content_id":"{ID}"}}]\n'


@pytest.mark.parametrize("name", ["nosuch/file", ".", "/proc/nosuch/file"])
def test_a_file_that_cannot_be_written_is_refused(name):
    with pytest.raises(BadParameter):
        options.output_file(name)


def test_an_empty_result_is_one_line(capsys):
    """Before, it was the padded heading of a table without rows."""
    options.show_rows([], "no actions are held", as_json=False)
    options.show_rows([], "", as_json=False)
    assert capsys.readouterr().out == "no actions are held\n"
    options.show_rows([], "no actions are held", as_json=True)
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("number", "line"), [(0, "0 items were moved"), (1, "1 item was moved"), (1204, "1,204 items were moved")]
)
def test_a_count_agrees_with_its_noun(number, line):
    assert counts.counted(number, "item was moved", "items were moved") == line


@pytest.mark.parametrize("outcome", promotion.LEFT_OUT)
def test_the_reason_for_which_items_are_left_out_fits_one_item_and_several(outcome, capsys):
    """Before, a diff said that a promotion leaves out 1 item because they were erased."""
    plan = PromotionPlan("promote", [], 1, {outcome: 1})
    status = SimpleNamespace(counts=SimpleNamespace(escalated=1, done=1))
    replay_status.show_plan(promotion.Prepared(status, None, plan))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert line.endswith(": 1")
    assert not re.search(r"\b(they|it|were)\b", line)


COUNTED = re.compile(r"\{(?:[^{}\"']*:,|len\([^{}]*\)|\w*count)\} (?:[a-z]+ )?(\w+s)\b")
NO_NOUNS = {"cached", "less", "others", "prompts", "as"}


def test_every_count_with_a_noun_goes_through_one_helper():
    """Before, commands printed 1 items, 1 records and 1 variables."""
    folder = Path(options.__file__).parent
    files = [*folder.glob("*.py"), folder.parent / "replay/headline.py", folder.parent / "bus/kafka/reading.py"]
    found = {
        (path.name, match[0])
        for path in files
        for match in COUNTED.finditer(path.read_text(encoding="utf-8"))
        if match[1] not in NO_NOUNS
    }
    assert not found
