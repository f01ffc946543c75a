"""The training data: what is held out, and which rule decides."""

import gzip

import orjson
import pytest

from safeguard_streams.policies import labelled
from safeguard_streams.policies.files import load_library
from safeguard_streams.workers.small import examples
from safeguard_streams.workers.small.examples import LENIENT, LESSONS, SAFE, collect


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [{"text": f"win prize {n}", "violates": True, "category": "spam", "harm": "fraud_spam"} for n in range(50)]
    with gzip.open(folder / "sms_spam.jsonl.gz", "wb") as out:
        out.write(b"\n".join(map(orjson.dumps, rows)))
    return collect(folder)


def test_training_never_sees_what_is_held_out(data):
    train = {example.text for example in data.train}
    assert not any(labelled.held_out(text) for text in train)
    held_out = [e for e in data.held_out if e.source.startswith("new sentences")]
    assert held_out
    assert {e.source for e in data.held_out} == {"sms_spam", *(e.source for e in held_out)}
    assert not train & {e.text for e in held_out}


def test_each_lesson_has_both_sides_in_each_language(data):
    for lesson in LESSONS:
        for source in ("sentences en", "sentences de", "sentences es", "sentences fr"):
            assert {e.violates for e in data.train if (e.lesson, e.source) == (lesson, source)} == {True, False}


def test_rules_are_those_of_the_policy_and_decide_the_side(data):
    library = load_library()
    for example in data.train:
        policy = library[example.lesson.removesuffix(", lenient")]
        assert example.rule in (policy.violating if example.violates else policy.safe)
        assert example.violates is (example.rule not in SAFE)


def test_an_insult_is_tolerated_by_the_lenient_policy_alone():
    own = examples.LESSONS[LENIENT].own
    assert own["HH2"] == "HH5"
    assert "HH2" not in examples.LESSONS["hate-harassment"].own


def test_sentences_for_another_policys_rules_are_harmless(data):
    foreign = [e for e in data.train if e.source.endswith("other rules")]
    assert foreign
    assert not any(example.violates for example in foreign)
