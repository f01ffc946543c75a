"""Figures of golden sets, from given outcomes."""

import pytest

from safeguard_streams.contract.records import Tokens
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.golden import Golden
from safeguard_streams.policies.parsing import parse
from safeguard_streams.workers.evaluation import golden_eval
from safeguard_streams.workers.evaluation.golden_eval import GoldenOutcome
from safeguard_streams.workers.judging.judgement import Finding, Judgement
from safeguard_streams.workers.judging.parse import Answer

POLICY = load_library()["hate-harassment"]
GOLDEN = [
    Golden("one", "violates", "HH1", "clear"),
    Golden("two", "violates", "HH2", "boundary"),
    Golden("three", "safe", "HH5", "clear"),
    Golden("four", "safe", "HH4", "quotation"),
]


def outcome(decision, *rules, rationale="because"):
    return GoldenOutcome(decision, rules, 0.9, "short", rationale, Tokens(100, 80, 20))


FIRST = [outcome("violates", "HH1"), outcome("safe", "HH5"), outcome("violates", "HH1"), outcome("undetermined")]
SECOND = [outcome("violates", "HH1"), outcome("violates", "HH2"), outcome("violates", "HH1"), outcome("undetermined")]


def test_every_figure_of_a_report():
    report = golden_eval.report(POLICY, "model", GOLDEN, [FIRST, SECOND])
    assert report.confusion == {
        "violates": {"violates": 1, "safe": 1},
        "safe": {"violates": 1, "undetermined": 1},
    }
    assert report.f1 == (0.5, 0.8)
    assert (report.precision.count, report.precision.of, report.recall.count, report.recall.of) == (1, 2, 1, 2)
    assert (report.accuracy.count, report.accuracy.of) == (1, 4)
    assert (report.rules["HH1"].recall.of, report.rules["HH1"].precision.of) == (1, 2)
    assert report.rules["HH3"].recall.value is None
    assert {kind: (s.count, s.of) for kind, s in report.kinds.items()} == {
        "boundary": (0, 1),
        "clear": (1, 2),
        "quotation": (0, 1),
    }
    assert (report.noise.count, report.noise.of) == (1, 4)
    assert report.tokens == Tokens(800, 640, 160)
    assert [(d.golden.text, d.runs) for d in report.disagreements] == [("two", 1), ("three", 2), ("four", 2)]


def test_one_run_has_no_noise_floor_and_no_true_positive_gives_an_f1_of_zero():
    report = golden_eval.report(POLICY, "model", GOLDEN, [[outcome("safe", "HH5")] * 4])
    assert report.noise is None
    assert report.f1 == (0.0,)
    assert report.precision.value is None


def test_a_golden_set_that_contradicts_its_policy_disagrees_on_each_text():
    right = [outcome(g.decision, g.rule) for g in GOLDEN]
    turned = [Golden(g.text, "safe" if g.decision == "violates" else "violates", g.rule, g.kind) for g in GOLDEN]
    assert golden_eval.report(POLICY, "m", GOLDEN, [right]).disagreements == []
    assert len(golden_eval.report(POLICY, "m", turned, [right]).disagreements) == 4


class ScriptedJudge:
    """Judges by the text, and records the order of the texts."""

    def __init__(self):
        self.orders = []

    async def judge(self, policy, texts, title):
        self.orders.append(list(texts))
        answers = {"one": Answer(True, ("HH1",), "high", "r"), "two": None}
        judged = [answers.get(text, Answer(False, ("HH5",), "high", "r")) for text in texts]
        return [
            Judgement({policy.id: Finding("low", answer, 0.5, "" if answer else "no answer")}, (), Tokens(10, 5, 1))
            for answer in judged
        ]


async def test_runs_differ_in_their_order_and_outcomes_stay_with_their_texts():
    judge = ScriptedJudge()
    golden = [*GOLDEN, *(Golden(f"more {n}", "safe", "HH5", "clear") for n in range(20))]
    runs = await golden_eval.run(judge, POLICY, golden, 3)
    assert judge.orders[0] == [g.text for g in golden]
    assert sorted(judge.orders[1]) == sorted(judge.orders[0])
    assert len({tuple(order) for order in judge.orders}) == 3
    for outcomes in runs:
        assert [o.decision for o in outcomes[:3]] == ["violates", "undetermined", "safe"]
        assert outcomes[1].reason == "no answer"


def test_flips_are_steady_if_they_happen_in_every_run():
    (flip,) = golden_eval.flips(GOLDEN, [FIRST, FIRST], [[FIRST[0], SECOND[1], *FIRST[2:]], FIRST])
    assert (flip.golden.text, flip.before.decision, flip.after.decision) == ("two", "safe", "violates")
    assert not flip.steady
    assert golden_eval.flips(GOLDEN, [FIRST, FIRST], [SECOND, SECOND])[0].steady


def test_a_difference_names_the_rules_that_were_added_and_removed():
    changed = parse(POLICY.document.replace("HH2", "HH9"))
    difference = golden_eval.difference(POLICY, changed, ("now", "next"))
    assert (difference.rules_removed, difference.rules_added) == (("HH2",), ("HH9",))
    assert difference.text[0] == f"--- now {POLICY.version}"
    assert any(line.startswith("+- HH9:") for line in difference.text)
    assert golden_eval.difference(POLICY, POLICY).text == ()


@pytest.mark.parametrize("golden", [GOLDEN[:0]])
def test_an_empty_golden_set_does_not_divide_by_zero(golden):
    report = golden_eval.report(POLICY, "m", golden, [[]])
    assert (report.f1, report.accuracy.value) == ((0.0,), None)


def test_a_rule_counts_its_sub_rules_and_a_label_above_a_rule_leaves_it_open():
    policy = parse(POLICY.document.replace("HH2", "HH1.a").replace("HH3", "HH1.b"))
    golden = [
        Golden("one", "violates", "HH1", "clear"),
        Golden("two", "violates", "HH1.a", "clear"),
        Golden("three", "violates", "HH1.b", "clear"),
    ]
    outcomes = [outcome("violates", "HH1.a"), outcome("violates", "HH1.a"), outcome("violates", "HH1.a")]
    rules = golden_eval.report(policy, "model", golden, [outcomes]).rules
    assert (rules["HH1"].recall.count, rules["HH1"].recall.of) == (3, 3)
    assert (rules["HH1"].precision.count, rules["HH1"].precision.of) == (3, 3)
    assert (rules["HH1.a"].recall.count, rules["HH1.a"].recall.of) == (1, 1)
    assert (rules["HH1.a"].precision.count, rules["HH1.a"].precision.of) == (1, 2)
    assert (rules["HH1.b"].recall.count, rules["HH1.b"].recall.of) == (0, 1)
