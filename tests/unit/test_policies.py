import pytest

from policies.document import LIBRARY, load, load_library, parse
from policies.errors import PolicyError

GOOD = (LIBRARY / "fraud-spam" / "policy.md").read_text()


def test_the_library_has_the_policies_in_the_format_of_the_model():
    library = load_library()
    assert set(library) >= {"hate-harassment", "fraud-spam", "prompt-injection"}
    for policy in library.values():
        for heading in ("Instruction", "Definitions", "VIOLATES", "SAFE", "Examples", "Output"):
            assert f"## {heading}\n" in policy.text
        assert policy.violating
        assert policy.safe
        assert not set(policy.violating) & set(policy.safe)


def test_the_version_follows_what_the_model_reads_and_nothing_else():
    policy = parse(GOOD)
    assert parse(GOOD.replace("owner: trust-and-safety", "owner: someone")).version == policy.version
    assert parse(GOOD.replace("asked for:", "wanted:")).version == policy.version
    assert parse(GOOD.replace("Judge what the content", "Judge that the content")).version != policy.version


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("---\nid", "id", "begin with front matter"),
        ("id: fraud-spam", "id: Fraud Spam", "lower-case words"),
        ("id: fraud-spam\n", "", "missing required field `id`"),
        ("effort: low", "effort: none", "effort"),
        ("threshold: 0.", "threshold: 2.", "between 0 and 1"),
        ("threshold: ", "threshold: high #", "gate.threshold"),
        ("labels: [fraud_spam]", "labels: [spam]", "gate.labels"),
        ("sample: 0.01", "samples: 0.01", "samples"),
        ("  FS5:", "  FS6:", "FS5, FS6"),
        ("- FS5:", "- FS4:", "twice"),
        ("## SAFE", "## Safe", "at least one rule"),
        ("title: Spam", "title: [", "front matter"),
    ],
)
def test_a_broken_document_is_refused_with_what_to_change(old, new, message):
    assert old in GOOD
    with pytest.raises(PolicyError, match=message):
        parse(GOOD.replace(old, new, 1), "here.md")


def test_content_that_does_not_say_its_surface_is_not_exempt():
    policy = parse(GOOD.replace("surfaces: []", "surfaces: [chat]").replace("languages: []", "languages: [de]"))
    assert policy.applies("chat", "de")
    assert policy.applies(None, None)
    assert not policy.applies("mail", "de")
    assert not policy.applies("chat", "en")


def test_a_missing_file_and_a_misplaced_one_are_named(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load(tmp_path / "policy.md")
    with pytest.raises(PolicyError, match="no ID/policy.md"):
        load_library(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "policy.md").write_text(GOOD)
    with pytest.raises(PolicyError, match="folder is 'other'"):
        load_library(tmp_path)
