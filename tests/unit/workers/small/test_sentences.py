"""The project's own sentences: parallel in all languages, apart from the golden sets, and held out by frame."""

import re

import pytest

from safeguard_streams.policies import golden
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.policies.golden import canonical
from safeguard_streams.workers.small.sentences import LANGUAGES, rules, sentences

RULES = {rule for policy in load_library().values() for rule in (*policy.violating, *policy.safe)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_rule_has_sentences_in_each_language(language):
    assert rules(language) == RULES
    for rule in sorted(RULES):
        found = list(sentences(rule, language, 40))
        assert len(found) == 40
        assert len({sentence.text for sentence in found}) == 40
        assert any(not sentence.held_out for sentence in found)
        assert not any(re.search(r"[{}|]", sentence.text) for sentence in found), "a slot was not filled"


def test_the_seed_fixes_the_order():
    assert list(sentences("SH2", "de", 20)) == list(sentences("SH2", "de", 20))
    assert list(sentences("SH2", "de", 20)) != list(sentences("SH2", "de", 20, seed=1))


def test_both_sides_of_each_policy_have_frames_that_training_never_sees():
    for policy in load_library().values():
        for side in (policy.violating, policy.safe):
            assert any(s.held_out for rule in side for s in sentences(rule, "en", 200)), policy.id


def test_no_golden_set_contains_any_of_them():
    golden_texts = {
        _letters(row.golden.text) for path in LIBRARY.glob(f"*/{golden.NAME}") for row in golden.read(path).rows
    }
    assert len(golden_texts) > 300
    for language in LANGUAGES:
        for rule in sorted(RULES):
            own = {_letters(sentence.text) for sentence in sentences(rule, language, 500)}
            assert not own & golden_texts, (rule, language)


def _letters(text):
    return "".join(filter(str.isalnum, canonical(text)))
