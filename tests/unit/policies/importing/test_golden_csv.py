"""Golden sets in CSV: encodings, delimiters, headers of several names, labels, and rows that are left out."""

from pathlib import Path

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.importing import golden_csv, reader
from safeguard_streams.policies.importing.settle import settle

HERE = Path(__file__).parent


@pytest.fixture
def outline():
    found = reader.read((HERE / "levels.txt").read_text(), "TT")
    settle(found, lambda question: question.default)
    return found


def read(tmp_path, outline, text, ask=lambda question: question.default):
    file = tmp_path / "golden.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return golden_csv.read(file, outline, ask)


def labels(found):
    return [(row.text, row.decision, row.rule) for row in found.rows]


def test_a_set_in_groups_is_labelled_by_its_groups_and_not_by_a_models_answers(outline):
    found = golden_csv.read(HERE / "levels.csv", outline, lambda question: question.default)
    assert len(found.rows) == 98
    assert [sum(row.rule == rule for row in found.rows) for rule in ("TT0", "TT2", "TT3", "TT4")] == [36, 22, 20, 20]
    assert {row.rule: row.decision for row in found.rows} == {
        "TT0": "safe", "TT2": "violates", "TT3": "violates", "TT4": "violates"
    }  # fmt: skip
    assert found.notes == (
        "98 rows are labelled by the rule in the row above their group",
        "3 rows (lines 43, 50, 72) with another rule in the column of labels, which is taken for a model's answer",
    )
    assert "Send me your card number,\nand I will send the seats" in {row.text for row in found.rows}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,label\nhello,TT0\nbye,TT2.a\n", [("hello", "safe", "TT0"), ("bye", "violates", "TT2.a")]),
        ('text,label\n"a ""b"", c",TT0\n"two\nlines",TT3\n',
         [('a "b", c', "safe", "TT0"), ("two\nlines", "violates", "TT3")]),
        ("text;label\nhallo, du;TT0\nciao, tu;TT4\n", [("hallo, du", "safe", "TT0"), ("ciao, tu", "violates", "TT4")]),
        ("Content\tExpected\nx, y\tTT0\nz\ttt4\n", [("x, y", "safe", "TT0"), ("z", "violates", "TT4")]),
        ("text,label\nhé,TT0\nà,TT3\n".encode("utf-16"), [("hé", "safe", "TT0"), ("à", "violates", "TT3")]),
        ("text,label\nhé “q”,TT0\nà,TT3\n".encode("cp1252"), [("hé “q”", "safe", "TT0"), ("à", "violates", "TT3")]),
        ("text,label\r\nhello,TT0\r\nbye,TT3\r\n".encode("utf-8-sig"),
         [("hello", "safe", "TT0"), ("bye", "violates", "TT3")]),
        ("hello there,TT0\nbye there,TT2\n", [("hello there", "safe", "TT0"), ("bye there", "violates", "TT2")]),
        ("text,is_violation\na a,1\nb b,0\n", [("a a", "violates", "TT2"), ("b b", "safe", "TT0")]),
        ("text,is_safe\na a,1\nb b,false\n", [("a a", "safe", "TT0"), ("b b", "violates", "TT2")]),
        ("text,label,rule\na a,INVALID,TT2.a\nb b,VALID,\nc c,invalid,TT0.a\n",
         [("a a", "violates", "TT2.a"), ("b b", "safe", "TT0"), ("c c", "violates", "TT2")]),
        ('text,label\nx x,D-TT2 R-TT0\ny y,"D-T0, R-T4"\nz z,TT3 (strong)\n',
         [("x x", "violates", "TT2"), ("y y", "violates", "TT4"), ("z z", "violates", "TT3")]),
        ("a note,,,\nexample,classification,Responses,Response Label\nq1,TT0,a1,TT2\nq2,TT3,a2,TT0\n",
         [("q1", "safe", "TT0"), ("q2", "violates", "TT3"), ("a1", "violates", "TT2"), ("a2", "safe", "TT0")]),
        ("test_id,test_name,test_content,gpt-oss-safeguard classification\n1,TT0 - 1,some text,TT0\n2,,more text,TT2\n",
         [("some text", "safe", "TT0"), ("more text", "violates", "TT2")]),
    ],
)  # fmt: skip
def test_texts_and_labels_are_found_by_header_content_and_policy(tmp_path, outline, text, expected):
    assert labels(read(tmp_path, outline, text)) == expected


def test_rows_that_cannot_be_used_are_left_out_and_named(tmp_path, outline):
    text = (
        "text,label\na text,TT0\nb text,SPAMMY\nc text,\nA  TEXT,TT0\n,TT2\nd text,TT0\nd text,TT3\ne text,INVALID\n"
        "f text,TT9\n"
    )
    found = read(tmp_path, outline, text)
    assert labels(found) == [("a text", "safe", "TT0"), ("e text", "violates", "TT2")]
    assert found.notes == (
        "1 row (line 9) with no rule: each counts for the first level of VIOLATES or the last of SAFE",
        "1 row (line 3) with an unknown label, 'SPAMMY': left out",
        "1 row (line 10) with an unknown label, 'TT9': left out",
        "1 row (line 4) with no label: left out",
        "1 row (line 5) with a text that an earlier row has: left out",
        "1 row (line 8) with the text of an earlier row with another decision: both are left out",
    )


@pytest.mark.parametrize(
    ("header", "label"),
    [
        ("text,label,gold", "TT2"),
        ("text,gold,label", "TT2"),
        ("text,model_output,expected", "TT3"),
        ("text,predicted label,verdict", "TT3"),
        ("text,Answer,ground truth", "TT3"),
    ],
)
def test_of_two_columns_of_labels_one_is_read_and_the_other_named(tmp_path, outline, header, label):
    found = read(tmp_path, outline, f"{header}\nseats here,TT2,TT3\nhello,TT0,TT0\n")
    assert labels(found) == [("seats here", "violates", label), ("hello", "safe", "TT0")]
    names = [name.replace("_", " ") for name in header.split(",")]
    read_one, other = names[1:] if label == "TT2" else names[:0:-1]
    assert found.notes == (f"the column {read_one!r} has the labels; not read: {other!r}",)


def test_an_unknown_label_is_asked_for_once(tmp_path, outline):
    asked = []

    def answer(question):
        asked.append(question.text)
        return "TT3.b" if "SPAMMY" in question.text else "safe"

    found = read(tmp_path, outline, "text,label\na,SPAMMY\nb,SPAMMY\nc,HAMMY\nd,TT2\n", answer)
    assert labels(found)[:3] == [("a", "violates", "TT3.b"), ("b", "violates", "TT3.b"), ("c", "safe", "TT0")]
    assert len(asked) == 2


def test_a_column_that_holds_no_labels_asks_a_bounded_number_of_questions(tmp_path, outline):
    asked = []

    def skip(question):
        asked.append(question.text)
        return question.default

    rows = "".join(f"text {n},thought number {n} about it\n" for n in range(5_000))
    found = read(tmp_path, outline, f"text,label\nfine,TT0\n{rows}", skip)
    assert len(asked) == 20
    assert len(found.notes) == 21
    assert found.notes[-1].startswith("4980 rows (lines 23, 24, 25, 26, 27, ...) with other unknown labels: left out")


def test_languages_are_kept_where_they_are_tags(tmp_path, outline):
    found = read(tmp_path, outline, "text,label,language\na,TT0,de\nb,TT0,pt-BR\nc,TT2,German!\n")
    assert [row.language for row in found.rows] == ["de", "pt-BR", "en"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04\x00\x00", "is not text"),
        (b"text,label\na\x00,TT0\n", "is not text"),
        (b"text,author\nhello,me\nbye,you\n", "no column of labels or of texts"),
        (b"label\nTT0\nTT2\n", "no column of labels or of texts"),
        (b"text,label\n", "there are no rows"),
        (b'text,label\n"never closed,TT0\nb,TT2\n', ":2: a quotation mark is not closed"),
        (b'text,label\nfine,TT0\n"seats,TT2\nmore,TT2\n', ":3: a quotation mark is not closed"),
        (b"x,TT0\n" * 4_000_000, "has more than 20,000,000 bytes"),
    ],
)
def test_what_is_no_golden_set_is_refused_with_what_to_do(tmp_path, outline, text, problem):
    with pytest.raises(ConfigurationError, match=problem):
        read(tmp_path, outline, text)


def test_labels_without_a_text_are_no_groups(tmp_path, outline):
    found = read(tmp_path, outline, "text,label\n,TT2\n,TT3\ngood seats at face value,TT0\n")
    assert labels(found) == [("good seats at face value", "safe", "TT0")]
