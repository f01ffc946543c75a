"""What verdicts say about an item, folded by policy as enforcement does it."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_streams import ItemVerdicts, decode, encode
from safeguard_streams.enforcement.rules import EnforcementRule, EnforcementRules
from tests.unit.enforcement.test_edits import KIND, LONGER, THREAT, cleared, judged
from tests.unit.enforcement.test_transform import Enforced


def folded(*verdicts):
    item = ItemVerdicts("c1")
    for verdict in verdicts:
        item = item.after(verdict)
    return item


def violated(*verdicts):
    return folded(*verdicts).violated


def test_that_one_policy_finds_an_item_safe_says_nothing_about_another():
    assert violated(judged(1, THREAT, 1), judged(2, THREAT, 1, None, "fraud")) == ("hate",)
    assert violated(judged(1, THREAT, 1), judged(2, THREAT, 1, policy="fraud")) == ("fraud", "hate")


def test_a_newer_verdict_of_the_same_policy_replaces_the_one_before():
    assert violated(judged(1, THREAT, 1), judged(2, THREAT, 1, None)) == ()
    assert violated(judged(1, THREAT, 1, None), judged(2, THREAT, 1)) == ("hate",)


def test_an_undetermined_verdict_replaces_no_violation():
    unknown = msgspec.structs.replace(judged(2, THREAT, 1), decision="undetermined")
    assert violated(judged(1, THREAT, 1), unknown) == ("hate",)
    assert folded(judged(1, THREAT, 1, None), unknown).policies["hate"].decision == "undetermined"


def test_an_edit_ends_the_violation_of_the_text_before():
    assert violated(judged(1, THREAT, 1), cleared(2, "c1", KIND, 2)) == ()
    assert violated(judged(1, THREAT, 1), judged(2, KIND, 2, None, "fraud", under=("fraud",))) == ()
    assert violated(judged(1, THREAT, 1), judged(2, KIND, 2, None, "fraud", under=("fraud", "hate"))) == ("hate",)
    assert violated(judged(1, THREAT, 1), judged(2, KIND, 2, None, "fraud")) == ("hate",), "unknown who judges"


def test_a_verdict_on_an_earlier_text_changes_nothing():
    assert violated(judged(1, LONGER, 3, None), judged(2, THREAT, 2)) == ()
    assert violated(judged(1, THREAT, 3), cleared(2, "c1", KIND, 2)) == ("hate",)
    assert violated(judged(1, THREAT, 3), cleared(2, "c1", THREAT, 4)) == ("hate",), "the gate overrules no judgement"


def test_a_place_that_is_unknown_replaces_none_of_the_same_text():
    again = msgspec.structs.replace(judged(2, LONGER, 5, None, "fraud"), origin=None)
    assert violated(judged(1, LONGER, 5, None), again, judged(3, THREAT, 2)) == ()
    elsewhere = msgspec.structs.replace(cleared(2, "c1", KIND, 9), origin="1@9")
    assert violated(judged(1, THREAT, 5), elsewhere) == ("hate",), "the order of two partitions is unknown"


def test_it_is_stored_as_json():
    item = folded(judged(1, THREAT, 1), judged(2, THREAT, 1, None, "fraud"))
    assert decode(encode(item), ItemVerdicts) == item


verdicts = st.lists(
    st.tuples(st.sampled_from(["hate", "fraud", "*"]), st.sampled_from([THREAT, LONGER]), st.booleans()),
    max_size=12,
)


@settings(max_examples=80)
@given(verdicts, st.randoms())
def test_it_folds_as_the_enforcement_agent_does(made, chance):
    """Whatever texts an item has had, and whatever the order in which its verdicts come."""
    given_ = [
        cleared(number, "c1", KIND, number)  # a gate that judged a text once does not pass it later
        if policy == "*"
        else judged(
            number,
            text,
            number,
            "HH3" if bad else None,
            policy,
            under=chance.choice([(), (policy,), ("hate", "fraud")]),
        )
        for number, (policy, text, bad) in enumerate(made)
    ]
    chance.shuffle(given_)
    run = Enforced(EnforcementRules((EnforcementRule("all", "remove"),)))
    for number, verdict in enumerate(given_, 1):
        run(verdict)
        for one in given_[:number]:  # cleared ones come again while something stands
            if one.clears:
                run(one)
    policies = {one.policy_id for one in run.state["c1"].policies if one.action == "remove"}
    assert policies == set(violated(*given_))
