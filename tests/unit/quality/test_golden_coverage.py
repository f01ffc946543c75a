"""What a check says of a gate that would miss golden texts, and the terms that it proposes."""

import json
import re

import pytest

from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import LIBRARY, load_library, with_changes
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.quality import golden_coverage
from safeguard_streams.quality.golden_coverage import proposed_terms, with_coverage
from tests.unit.cli.invoking import invoke

DOCUMENT = load_library()["self-harm"].document


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


def written(folder, texts, safe=("the weather is fine",), **gate):
    """A policy with this golden set, and a gate without patterns."""
    changes = {"terms": ["noose"], "patterns": [], "sample": 0.02, "calibration": None, "accepted_misses": None, **gate}
    (folder / "policy.md").write_text(with_changes(DOCUMENT, "gate", **changes), encoding="utf-8")
    rows = [{"text": text, "decision": "violates", "rule": "SH1", "kind": "clear"} for text in texts]
    rows += [{"text": text, "decision": "safe", "rule": "SH5", "kind": "clear"} for text in safe]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "golden.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "policy.md"


def warnings(path, classifier):
    (result,) = with_coverage([check(path)], lambda: classifier)
    return [problem for problem in result.problems if problem.code == "gate-recall"]


TEXTS = [
    *(f"take a noose number {n}" for n in range(8)),
    "die Rasierklinge liegt bereit",
    "nimm die rasierklinge, 喝农药",
]


def test_a_gate_that_would_miss_a_tenth_is_warned_of_with_lines_and_terms_that_find_them(tmp_path, classifier):
    (problem,) = warnings(written(tmp_path, TEXTS), classifier)
    assert problem.severity == "warning"
    assert "would miss 2 of 10 violating golden texts, in lines 9-10;" in problem.message
    document = (tmp_path / "policy.md").read_text(encoding="utf-8").splitlines()
    assert document[problem.line - 1].startswith("gate:")
    terms = re.search(r"some of them: (.*)", problem.message)[1].split(", ")
    assert "rasierklinge" in terms
    assert warnings(written(tmp_path, TEXTS, terms=["noose", *terms]), classifier) == []


def test_a_gate_that_misses_no_more_than_a_tenth_is_fit(tmp_path, classifier):
    assert warnings(written(tmp_path, [*TEXTS[:9], "noose"]), classifier) == []
    assert warnings(written(tmp_path, TEXTS, everything=True, terms=[], sample=0.0), classifier) == []
    assert warnings(written(tmp_path, TEXTS[-9:]), classifier) == [], "too few texts to say"


def test_misses_that_the_author_accepts_are_not_warned_of_and_one_more_is(tmp_path, classifier):
    accepted = {"texts": 2, "reason": "words of everyday use"}
    assert warnings(written(tmp_path, TEXTS, accepted_misses=accepted), classifier) == []
    (problem,) = warnings(written(tmp_path, [*TEXTS, "喝农药"], accepted_misses=accepted), classifier)
    assert "would miss 3 of 11" in problem.message


def test_accepted_misses_need_a_number_and_a_reason_and_leave_the_version_alone(tmp_path):
    path = written(tmp_path, TEXTS, accepted_misses={"texts": 2, "reason": "words of everyday use"})
    accepted, plain = check(path).policy, check(written(tmp_path, TEXTS)).policy
    assert accepted is not None
    assert plain is not None
    assert accepted.gate.accepted_misses is not None
    assert accepted.version == plain.version
    for wrong in ({"texts": 0, "reason": "x"}, {"texts": 2}, {"texts": 2, "reason": ""}):
        assert check(written(tmp_path, TEXTS, accepted_misses=wrong)).errors


@pytest.mark.parametrize("policy", sorted(load_library()))
def test_no_gate_of_the_library_is_warned_of(policy, classifier):
    assert warnings(LIBRARY / policy / "policy.md", classifier) == []


def test_a_label_gate_is_tried_too(tmp_path, classifier):
    attacks = [f"i will kill you, you worthless idiot {n}" for n in range(10)]
    label = {"harms": ["violence", "harassment", "hate"], "terms": [], "threshold": 0.2}
    assert warnings(written(tmp_path, attacks, **label), classifier) == []
    quiet = [f"the weather is fine on day {n}" for n in range(10)]
    (problem,) = warnings(written(tmp_path, quiet, **label), classifier)
    assert "10 of 10" in problem.message


def test_proposed_terms_are_in_no_text_that_should_pass():
    missed = ["where is the absinthia clinic", "absinthia by post"]
    assert proposed_terms(missed, [], [])[0].startswith("absinthia")
    assert not [term for term in proposed_terms(missed, ["absinthia is a plant"], []) if term == "absinthia"]
    assert proposed_terms(["what is the time", "so it is", ""], [], []) == [], "words of any text say nothing"
    assert proposed_terms(["喝农药 吧"], [], ["喝农药"])[:1] == ["喝农药"]


def test_a_large_golden_set_is_named_in_short_and_few_phrases_are_tried_as_terms(tmp_path, classifier, monkeypatch):
    tried = []
    found = golden_coverage.trial.is_found
    monkeypatch.setattr(golden_coverage.trial, "is_found", lambda phrase: tried.append(phrase) or found(phrase))
    texts = [f"{'noose' if n % 3 == 0 else 'pebble'} alpha{n} beta{n} gamma{n}" for n in range(300)]
    (problem,) = warnings(written(tmp_path, texts), classifier)
    assert "200 of 300" in problem.message
    assert "in lines 2-3, 5-6, 8-9," in problem.message
    assert "119-120, and later ones; gate.terms" in problem.message
    assert len(tried) < 50


def test_a_check_without_golden_texts_needs_no_classifier(tmp_path):
    def never():
        raise AssertionError

    path = written(tmp_path, TEXTS[:5])
    assert with_coverage([check(path), check(tmp_path / "none.md")], never)


def test_the_command_prints_the_warning_and_strict_fails_on_it(tmp_path):
    path = written(tmp_path, TEXTS)
    shown = invoke("policy", "check", path)
    assert shown.exit_code == 0
    assert "[gate-recall]" in shown.stdout
    assert invoke("policy", "check", "--strict", path).exit_code == 1
    (row,) = json.loads(invoke("policy", "check", "--json", path).stdout)
    assert "gate-recall" in {problem["code"] for problem in row["problems"]}
