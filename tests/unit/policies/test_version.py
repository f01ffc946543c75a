"""The version of a policy changes with everything that decides, and with nothing else."""

import pytest

from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.policies.version import what_decides

POLICY = load_library()["hate-harassment"]
MAP = {"slope": 0.5, "intercept": -1.0}


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("judging", {"samples": 3}),
        ("judging", {"agreement": 0.9}),
        ("judging", {"score_map": MAP}),
        ("judging", {"bundle": "all"}),
        ("judging", {"output": {"BAD": "violates", "GOOD": "safe"}}),
        ("judging", {"answer": "rules"}),
        ("gate", {"threshold": 0.123}),
        ("gate", {"terms": ["another"]}),
        ("gate", {"patterns": ["another"]}),
        ("gate", {"sample": 0.5}),
        ("gate", {"everything": True}),
        ("gate", {"harms": ["hate"]}),
        ("applies_to", {"languages": ["de"]}),
        ("applies_to", {"surfaces": ["chat"]}),
    ],
)
def test_what_decides_changes_the_version(section, changes):
    assert parse(with_changes(POLICY.document, section, **changes)).version != POLICY.version


def test_text_and_effort_change_the_version():
    effort = POLICY.document.replace("effort: low", "effort: high")
    text = POLICY.document.replace("## Instruction\n", "## Instruction\nRead slowly. ", 1)
    assert len({parse(document).version for document in (POLICY.document, effort, text)}) == 3


def test_what_only_readers_see_leaves_the_version_unchanged():
    same = [
        POLICY.document.replace(f"title: {POLICY.title}", "title: Another"),
        POLICY.document.replace(f"owner: {POLICY.owner}", "owner: someone"),
        with_changes(POLICY.document, "gate", calibration={"source": "verdicts", "rows": 5}),
    ]
    same.append(with_changes(POLICY.document, "judging", answer="full"))
    assert len({POLICY.document, *same}) == 5
    assert {parse(document).version for document in same} == {POLICY.version}
    mapped = [{**MAP, "fitted": {"rows": rows}} for rows in (5, 500)]
    assert len({parse(with_changes(POLICY.document, "judging", score_map=one)).version for one in mapped}) == 1


def test_equal_documents_have_equal_versions_however_they_are_written():
    one = with_changes(with_changes(POLICY.document, "judging", samples=3, agreement=0.9), "gate", sample=0.5)
    other = with_changes(with_changes(POLICY.document, "gate", sample=0.5), "judging", agreement=0.9, samples=3)
    assert parse(one).version == parse(other).version
    assert len(POLICY.version) == 12


def test_a_policy_without_its_own_words_keeps_the_version_that_it_had_before_there_were_any():
    decides = what_decides(
        POLICY.text, POLICY.rules, POLICY.effort, POLICY.judging, POLICY.gate, POLICY.applies_to
    )  # fmt: skip
    assert "output" not in decides["judging"]
