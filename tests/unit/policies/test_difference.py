"""What differs between two versions: everything that decides and nothing else makes another version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.policies.difference import difference
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse

POLICY = load_library()["hate-harassment"]
MAP = {"slope": 0.5, "intercept": -1.0}
EDITS = [
    ("judging", {"samples": 3}),
    ("judging", {"score_map": MAP}),
    ("judging", {"score_map": {**MAP, "fitted": {"rows": 5}}}),
    ("judging", {"bundle": "all"}),
    ("gate", {"threshold": 0.123}),
    ("gate", {"terms": ["another", "one"]}),
    ("gate", {"terms": ["one", "another"]}),
    ("gate", {"terms": ["one", "one", "another"]}),
    ("gate", {"sample": 0.5}),
    ("gate", {"calibration": {"rows": 5, "recall": [0.9, 0.8, 1.0]}}),
]
REPLACED = [
    ("effort: low", "effort: high"),
    (f"title: {POLICY.title}", "title: Another"),
    ("## Instruction\n", "## Instruction\nRead\u2028slowly. "),
    ("## Instruction\n", "## Instruction\nRead\nslowly. "),
    ("surfaces: []", "surfaces: [chat]"),
    ("rules:\n", "rules: # in order\n"),
]


def edited(edits, replaced):
    document = POLICY.document
    for old, new in replaced:
        document = document.replace(old, new, 1)
    for section, changes in edits:
        document = with_changes(document, section, **changes)
    return parse(document)


policies = st.builds(
    edited, st.lists(st.sampled_from(EDITS), max_size=3), st.lists(st.sampled_from(REPLACED), max_size=2)
)


@given(policies, policies)
def test_versions_differ_exactly_if_what_decides_does(before, after):
    differs = difference(before, after)
    assert bool(differs.decides or differs.text) == (before.version != after.version)


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (EDITS[0], "judging.samples: 1 -> 3"),
        (EDITS[1], "judging.score_map.slope: not set -> 0.5"),
        (EDITS[5], "gate.terms: added another, one"),
    ],
)
def test_a_change_is_shown_with_both_values(edit, shown):
    assert shown in map(str, difference(POLICY, edited([edit], [])).decides)


def test_lists_show_what_came_and_went_and_a_new_order():
    one, other, twice = (edited([EDITS[number]], []) for number in (5, 6, 7))
    (changed,) = difference(one, other).decides
    assert str(changed) == "gate.terms: in another order, or repeated"
    (changed,) = difference(other, twice).decides
    assert str(changed) == "gate.terms: in another order, or repeated"
    (changed,) = difference(one, edited([("gate", {"terms": ["one", "more"]})], [])).decides
    assert str(changed) == "gate.terms: added more; removed another"


def test_the_text_is_compared_by_line_and_what_readers_see_is_apart():
    differs = difference(POLICY, edited([], [REPLACED[1], REPLACED[3]]))
    assert [line[:5] for line in differs.text] == ["@@ -4", "-You ", "+Read", "+slow"]
    assert [changed.field for changed in differs.describes] == ["title"]
    assert differs.decides == ()
