"""Published benchmark files as they arrive: nulls, odd rows, gzip, marks, duplicates, wrong formats."""

import csv
import gzip
import io
import json

import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.check import check_library
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.workers.evaluation.benchmark import data, run

MOD, CHAT, OWN = (data.FORMATS[name] for name in ("openai-mod", "toxicchat", "jsonl"))
SECRET = "sesame-text"


@pytest.fixture
def read(tmp_path):
    def read(content, layout=MOD, policies=("sexual", "hate")):
        file = tmp_path / "data"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return data.read(file, layout, policies)

    return read


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(*rows, header=("conv_id", "user_input", "model_output", "human_annotation", "toxicity", "jailbreaking")):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


def labels(dataset):
    return [(row.text, dict(row.labels)) for row in dataset.rows]


def test_labels_that_are_missing_or_null_are_unknown_and_not_safe(read):
    found = read(
        lines(
            {"prompt": "a", "S": 1, "H": 0},
            {"prompt": "b", "S": None, "H": 1},
            {"prompt": "c", "H": 0.0, "V": 1},
            {"prompt": "d", "S": float("nan"), "V": 1},
            {"prompt": "e", "S": True, "H": "0"},
        )
    )
    assert labels(found) == [
        ("a", {"sexual": True, "hate": False}),
        ("b", {"hate": True}),
        ("c", {"hate": False}),
        ("e", {"sexual": True, "hate": False}),
    ]
    assert (found.rows_in_file, found.without_label, found.unmeasured) == (5, 1, ("violence",))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_is_the_same_with_gzip_a_mark_and_any_line_ends(read, mark, pack, end):
    rows = [json.dumps({"prompt": f"日本 {n}\u2028x", "S": n}, ensure_ascii=False).encode() for n in (0, 1)]
    found = read(pack(mark + end.join(rows) + end + end))
    assert labels(found) == [("日本 0\u2028x", {"sexual": False}), ("日本 1\u2028x", {"sexual": True})]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_toxicchat_is_read_as_csv_as_lines_and_as_an_array(read, mark):
    names = ("user_input", "toxicity", "jailbreaking", "human_annotation")
    rows = [('two\nlines, "quoted"', 1, 0, True), ("fine", 0, 1, False)]
    as_csv = mark + table(*((f"id{n}", t, "", h, x, j) for n, (t, x, j, h) in enumerate(rows)))
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    read_as = [
        labels(read(content, CHAT, ["toxicity", "jailbreaking"]))
        for content in (as_csv, mark + lines(*objects), mark + json.dumps(objects, indent=1))
    ]
    assert (
        read_as
        == [
            [
                ('two\nlines, "quoted"', {"toxicity": True, "jailbreaking": False}),
                ("fine", {"toxicity": False, "jailbreaking": True}),
            ]
        ]
        * 3
    )


def test_rows_without_a_text_are_counted_and_equal_texts_are_all_rows(read):
    found = read(lines(*({"prompt": text, "S": 1} for text in ("a", " ", "", None, "a"))))
    assert [row.text for row in found.rows] == ["a", "a"]
    assert found.rows[0].sha256 == found.rows[1].sha256
    assert (found.rows_in_file, found.without_text) == (5, 3)


def test_half_a_surrogate_pair_has_a_hash_and_can_be_encoded(read):
    (row,) = read('{"prompt": "a\\ud800b", "S": 1}\n').rows
    assert row.text == "a?b"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        (gzip.compress(b"", mtime=0), "has no rows"),
        (lines({"prompt": SECRET, "S": 1}, {"prompt": SECRET, "S": 0.5}), "line 2: the label S is neither 0 nor 1"),
        (lines({"prompt": SECRET, "S": [1]}), "line 1: the label S"),
        (lines({"prompt": [SECRET], "S": 1}), "line 1: prompt is no text"),
        (lines({"prompt": 3.5, "S": 1}), "line 1: prompt is no text"),
        (f'prompt,S\n"{SECRET},1\n', "line 2: has 1 cells, the header 2"),
        (
            lines({"prompt": SECRET, "S": 1}) + "[1]\n" + f'{{"{SECRET}\n',
            "line 2: is no JSON object; line 3: is no JSON",
        ),
        (lines(*[{"prompt": SECRET, "S": 7}] * 9), "and 4 more"),
        ("[1, 2", "is not JSON"),
        (lines({"user_input": SECRET, "toxicity": 1}), "it has the fields of --format toxicchat"),
        (lines({"post": SECRET}), "no row has the field prompt"),
        (SECRET, "has no rows"),
        (lines({"prompt": SECRET, "V": 1}), "no row has a text and a label of hate, sexual"),
        ("\N{SNOWMAN}".encode("utf-16"), "is not UTF-8"),
        (b"\x1f\x8b broken", "damaged gzip"),
        (gzip.compress(lines({"prompt": SECRET}).encode(), mtime=0)[:-9], "ends too early"),
    ],
)
def test_what_is_wrong_is_said_by_place_and_quotes_no_text(read, content, said):
    with pytest.raises(ConfigurationError) as raised:
        read(content)
    assert said in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_csv_row_with_other_cells_than_its_header_is_named_by_its_line(read):
    with pytest.raises(ConfigurationError, match="line 4: has 2 cells, the header 6"):
        read(table(("1", "a\nb", "", "True", "1", "0"), ("2", SECRET)), CHAT, ["toxicity"])


def test_own_lines_name_their_policies_or_have_one(read):
    found = read(lines({"text": "a", "labels": {"x": True, "y": None, "z": 1}}, {"text": "b"}), OWN, ["x", "y"])
    assert labels(found) == [("a", {"x": True})]
    assert (found.without_label, found.unmeasured) == (1, ("z",))
    assert labels(read(lines({"text": "a", "violates": 0}), OWN, ["x"])) == [("a", {"x": False})]
    with pytest.raises(ConfigurationError, match='"violates" names no policy'):
        read(lines({"text": "a", "violates": 0}), OWN, ["x", "y"])
    with pytest.raises(ConfigurationError, match="labels is no object"):
        read(lines({"text": "a", "labels": "x"}), OWN, ["x"])


def test_whether_the_file_is_the_published_one_is_said_only_as_far_as_it_is_known(read):
    one = lines({"prompt": "a", "S": 1})
    assert "not the published samples-1680.jsonl.gz (1,680 rows)" in data.identity(read(one), MOD)
    many = read(one * 1680)
    assert "as many as samples-1680.jsonl.gz; the sha256 of that file is unknown" in data.identity(many, MOD)
    known = data.Format("m", "prompt", MOD.labels, (data.Published("p.gz", 1680, many.sha256),))
    assert data.identity(many, known) == "the file is p.gz, by its sha256"
    assert "not the published p.gz" in data.identity(read(one * 1679 + lines({"prompt": "b", "S": 1})), known)
    assert data.identity(read(lines({"text": "a", "violates": 1}), OWN, ["x"]), OWN) == "1 rows of your own"


@pytest.mark.parametrize("name", ["openai-mod", "toxicchat"])
def test_the_policies_of_the_package_are_fit_and_no_part_of_the_library(name):
    checked = check_library(data.POLICIES / name)
    assert {problem.code for one in checked for problem in one.problems} <= {"golden"}
    ids = {one.policy.id for one in checked}
    assert ids == (set(MOD.labels) if name == "openai-mod" else {"toxicity"})
    assert not data.POLICIES.is_relative_to(LIBRARY)


def test_a_policy_without_a_label_is_named(tmp_path):
    folder = tmp_path / "hatred"
    folder.mkdir()
    text = (data.POLICIES / "openai-mod/hate/policy.md").read_text(encoding="utf-8")
    (folder / "policy.md").write_text(text.replace("id: hate", "id: hatred", 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no label for the policy hatred"):
        run.load_policies(tmp_path, MOD)
    assert [policy.id for policy in run.load_policies(tmp_path, OWN)] == ["hatred"]
