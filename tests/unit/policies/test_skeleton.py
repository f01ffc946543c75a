"""The skeleton of a new policy: whatever was answered, it passes the check once its blanks are filled in."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.policies.check import check
from safeguard_streams.policies.document import ANSWER_FIELDS
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import POLICY_ID
from safeguard_streams.policies.skeleton import Outline, blanks, skeleton

ANSWERS = [
    "Asks to write elsewhere",
    "yes",
    "null",
    "12:30",
    "- a list: of # things",
    "{a} [b] &c *d !e %f @g `h`",
    "says \"no\" and 'never'",
    "  Ends   with a point.\n",
    "谁也不许",
    "“quoted” – déjà",
]
answers = st.lists(st.sampled_from(ANSWERS), max_size=4, unique=True).map(tuple)
ids = st.from_regex(POLICY_ID.pattern.replace(r"\Z", ""), fullmatch=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


def filled(document):
    numbers = iter(range(1000))
    return re.sub(r"\[FILL IN: [^\]]+\]", lambda _: f"answer {next(numbers)} of the author", document)


@given(ids, st.sampled_from(["", *ANSWERS]), answers, answers, st.sampled_from([(), ("whatsapp", "5g", "便宜货")]))
def test_a_skeleton_passes_the_check_once_it_is_filled_in(folder, policy_id, title, violates, safe, terms):
    safe = tuple(answer for answer in safe if answer not in violates)
    document = skeleton(Outline(policy_id, title, "my team", violates, safe, terms, ("chat",), ("en", "pt-BR")))
    path = folder / "policy.md"
    path.write_text(document, encoding="utf-8")
    found = [(problem.line, problem.message) for problem in check(path).errors]
    assert found == [(blank.line, f"fill in: {blank.what}") for blank in blanks(document)] != []
    path.write_text(filled(document), encoding="utf-8")
    checked = check(path)
    assert checked.errors == []
    policy = checked.policy
    assert (policy.id, policy.gate.terms, policy.applies_to.languages) == (policy_id, terms, ("en", "pt-BR"))
    assert (len(policy.violating), len(policy.safe)) == (max(1, len(violates)), max(1, len(safe)) + 1)


@pytest.mark.parametrize(
    ("policy_id", "first"),
    [
        ("ticket-touting", "TT1"),
        ("spam", "SP1"),
        ("a-b-c-d-e-f", "ABCD1"),
        ("4chan", "CH1"),
        ("7", "XX1"),
        ("x1", "XX1"),
    ],
)
def test_rule_ids_are_the_initials_of_the_policy(policy_id, first):
    assert f"\n- {first}: " in skeleton(Outline(policy_id))


def test_a_skeleton_has_the_librarys_format():
    text = skeleton(Outline("ticket-touting"))
    for policy in load_library().values():
        assert re.findall(r"^## .+", policy.text, re.MULTILINE) == re.findall(r"^## .+", text, re.MULTILINE)
        assert policy.text.rstrip().endswith(text[text.index("\n## Output") :].rstrip())
    assert all(f'"{field}"' in text for field in ANSWER_FIELDS["full"])
    assert set(string.ascii_letters) & set(blanks(text)[0].what)
