"""What labels and headings say of content. A wrong side would turn a policy's meaning around without a word."""

import pytest

from safeguard_streams.policies.importing.labels import side_of_heading, side_of_label


@pytest.mark.parametrize(
    ("heading", "side"),
    [
        ("Violations", "violates"),
        ("Not allowed", "violates"),
        ("Content we remove", "violates"),
        ("Allowed content", "safe"),
        ("Exceptions to prohibited content", "safe"),
        ("Common exceptions (not violations)", "safe"),
        ("What does not count as a violation", "safe"),
        ("Content that isn’t prohibited", "safe"),
        ("Never a violation", "safe"),
        ("Permitted uses of banned words", None),
        ("Allowed even if harmful", None),
        ("Prohibited, no exceptions", None),
        ("No harmful content", None),
    ],
)
def test_a_heading_of_exceptions_is_safe_and_one_that_says_both_is_asked_about(heading, side):
    assert side_of_heading(heading) == side


@pytest.mark.parametrize(
    ("label", "side"),
    [
        ("INVALID + ESCALATE", "violates"),
        ("valid (no harm, no spam)", "safe"),
        ("violation: no", "safe"),
        ("is_violation = 1", "violates"),
        ("unsafe: FALSE", "safe"),
        ("safe: no", "violates"),
        ("label: safe", "safe"),
        ("NOT_ALLOWED", "violates"),
        ("non-compliant", "violates"),
        ("not a violation", "safe"),
        ("INVALID (not safe)", "violates"),
        ("violation not found", None),
        ("OK to remove", None),
        ("No weapons may be sold", None),
        ("spam: yes", None),
    ],
)
def test_a_label_with_its_field_or_a_denial_says_what_it_says(label, side):
    assert side_of_label(label) == side
