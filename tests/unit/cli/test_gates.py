"""What `safeguard gates` shows and asks, within 80 columns; a wrong name, and what rules out taking."""

import json

import msgspec
import pytest

from safeguard_streams.cli import gate_advice_tables, gates
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import LIBRARY, PolicyFiles, load
from safeguard_streams.quality import gate_evidence, gate_taking
from safeguard_streams.quality.gate_advice import Advice, Advised, LabelCount
from safeguard_streams.quality.gate_choice import Choice
from safeguard_streams.quality.gate_cost import GpuCost
from safeguard_streams.quality.gate_curve import CurvePoint
from safeguard_streams.quality.gate_evidence import ReadEvidence
from safeguard_streams.quality.gate_recall import GateRecall
from safeguard_streams.quality.gate_rungs import Gate, MeasuredGate
from safeguard_streams.quality.weighted import Estimate
from safeguard_streams.releases.operator import PlannedRelease
from tests.unit.cli.invoking import invoke
from tests.unit.quality.gate_cases import evidence, policy, rows

NOW = policy(harms=["fraud_spam"], threshold=0.3)
NEXT = policy(harms=["fraud_spam"], threshold=0.2)
CURVE = [CurvePoint(r, Estimate(s, s - 0.1, s + 0.1)) for r, s in ((0.5, 0.2), (0.8, 0.3), (0.9, 0.4), (0.95, 0.6))]
LOWER = [
    CurvePoint(p.recall, Estimate(*(x / 2 for x in (p.escalated.value, p.escalated.low, p.escalated.high))))
    for p in CURVE
]


def measured(rung, low, curve, threshold=0.3):
    return MeasuredGate(rung, threshold, Estimate(0.96, low, 0.98), Estimate(0.3, 0.25, 0.35), 200, 60, curve)


def advice(**changes):
    live = GateRecall(900.0, 40.0, 0.957, 0.951, 0.98, True, "", 0.3, [], [])
    labels = LabelCount(60, 140, 3, 200, 200, 60, 55.0, 480.0)
    given = Advice(
        policy_id=NOW.id,
        version=NOW.version,
        revision=3,
        target_recall=0.95,
        rung="label",
        vectors=False,
        shadow=None,
        action="take",
        why="distilled: escalates 30.0% of content for recall 0.95, the gate in force 60.0%: better, beyond chance",
        live=live,
        labels=labels,
        cost=GpuCost(10_000.0, 3_000.0, 210.0, 1.5, "latency", 64),
        gpu_hours_a_day=1.25,
        present=measured("label", 0.9, CURVE),
        proposed=measured("distilled", 0.96, LOWER, 0.2),
        choices=[Choice("distilled", "general classifier", 0.95, Estimate(-0.3, -0.4, -0.2), 0)],
        saved_gpu_hours_a_day=0.5,
        notes=["vectors were not compared: the extra encoder is not installed here"],
    )
    return msgspec.structs.replace(given, **changes)


@pytest.fixture
def advised(monkeypatch):
    """The advice that the commands find, and what they release."""
    case = {"advice": advice(), "files": PolicyFiles(NEXT.document, None), "released": []}
    given = evidence(NOW, rows(120))

    def found(_request, policies):
        one = case["advice"]
        gate = Gate("label", None, None, 0.2, case["files"]) if one.action == "take" else None
        return gates._Answer({NOW.id: Advised(one, gate)}, {NOW.id: given}, {})

    async def release(_settings, policies, changed_by, *, shadow, review, golden=None):
        review([PlannedRelease(one, given.state.release, unchanged=False) for one in policies])
        case["released"] += [(changed_by.by, changed_by.why, shadow)]
        record = msgspec.structs.replace(given.state.release, version=NEXT.version, revision=4, shadow=shadow)
        return [record]

    monkeypatch.setattr(gates, "_advice", found)
    monkeypatch.setattr(gate_taking.operator, "release", release)
    monkeypatch.setenv("COLUMNS", "80")
    return case


def test_advice_fits_80_columns_with_both_curves(advised):
    shown = invoke("gates", "advise").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80, lines
    assert f"{NOW.id}: general classifier, version {NOW.version}, revision 3" in lines
    whole = " ".join(shown.split())
    for text in (
        "live recall 0.957 (0.951-0.980)",
        "1.2 GPU hours a day: 3,000 judgements, 1.50 GPU seconds each, by latency, 64 at once",
        "60 violating, 140 safe, 3 undetermined; text known of 200",
        "next distilled: escalates 30.0% of content",
        "proposed recall 0.960 (0.960-0.980), escalates 0.300 (0.250-0.350) at threshold 0.2",
        "saves 0.5 GPU hours a day",
        f"take with safeguard gates take {NOW.id} --library DIR",
    ):
        assert text in whole, whole
    (row,) = [line for line in lines if line.strip().startswith("0.95 ")]
    assert row.split()[2:] == ["0.60", "(0.50-0.70)", "0.30", "(0.25-0.35)"]
    bar = row.split()[1]
    assert "share escalated, 0 to 0.8" in shown, "the axis ends above all intervals"
    assert (bar.index("*"), bar.index("o")) == (int(0.3 / 0.8 * len(bar)), int(0.6 / 0.8 * len(bar)))
    assert bar.count("-") > 4


def test_a_gate_without_a_score_has_no_curve_and_that_is_said(advised):
    advised["advice"] = advice(rung="terms", present=measured("terms", 0.3, [], None))
    shown = invoke("gates", "advise").stdout
    assert "the gate in force has no score, and therefore no curve" in shown
    (row,) = [line for line in shown.splitlines() if line.strip().startswith("0.95 ")]
    assert row.split()[2:] == ["0.30", "(0.25-0.35)"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"action": "collect", "more_labels": 120, "days": 6.0, "why": "w"},
            "collect labels, about 120 more (6 days at",
        ),
        ({"action": "collect", "more_labels": 1200, "days": 0.25, "why": "w"}, "about 1,200 more (6 hours at"),
        (
            {"action": "collect", "more_labels": None, "why": "none of 150 labels is safe"},
            "collect labels: none of 150",
        ),
        ({"action": "keep", "why": "no other gate is better"}, "keep this gate: no other gate is better"),
        ({"action": "compare", "why": "a shadow runs"}, "a shadow runs"),
    ],
)
def test_what_to_do_is_named(changes, text):
    assert text in gate_advice_tables.reason(advice(**changes))


def test_what_is_not_known_is_said(advised):
    nothing = LabelCount(0, 0, 0, 0, 0, 0, 0.0, None)
    advised["advice"] = advice(
        live=None, cost=None, labels=nothing, present=None, proposed=None, action="collect", saved_gpu_hours_a_day=None
    )
    whole = " ".join(invoke("gates", "advise").stdout.split())
    assert "live recall nothing was judged under this version yet" in whole
    assert "cost not known: its verdicts span less than 10 minutes" in whole
    assert "share escalated" not in whole


def test_json_has_everything(advised):
    said = json.loads(invoke("gates", "advise", "--json").stdout)["policies"][NOW.id]
    assert said["proposed"]["curve"][-1] == {"recall": 0.95, "escalated": {"value": 0.3, "low": 0.25, "high": 0.35}}
    assert said["choices"][0]["more_labels"] == 0
    assert said["labels"]["violating"] == 60
    assert said["cost"]["gpu_seconds"] == 1.5


def test_without_policies_in_force_the_command_says_what_to_do(monkeypatch):
    async def read(*_):
        return ReadEvidence({}, {"broken": "its release no longer parses: x"})

    monkeypatch.setattr(gate_evidence, "read", read)
    assert "broken: left out, its release no longer parses" in invoke("gates", "advise").stdout
    with pytest.raises(ConfigurationError, match="broken: its release no longer parses"):
        invoke("gates", "take", "broken", "--library", "tests", "--by", "ann")

    async def none(*_):
        return ReadEvidence({}, {})

    monkeypatch.setattr(gate_evidence, "read", none)
    assert "no policy is in force; release some" in invoke("gates", "advise").stdout


def test_a_plot_without_curves_is_refused(advised, tmp_path):
    with pytest.raises(ConfigurationError, match="there are no curves yet"):
        invoke("gates", "advise", "--plot", tmp_path / "x.svg")


def test_taking_writes_and_releases_with_the_reason_of_the_advice(advised, tmp_path):
    shown = invoke("gates", "take", NOW.id, "--library", tmp_path, "--by", "ann")
    assert advised["released"] == [("ann", advice().why, None)]
    assert load(tmp_path / NOW.id / "policy.md").version == NEXT.version
    assert f"released {NOW.id} version {NEXT.version} revision 4" in shown.stdout
    assert "gate.threshold: 0.3 -> 0.2" in shown.stdout


def test_a_shadow_comes_first_if_wanted(advised, tmp_path):
    shown = invoke("gates", "take", NOW.id, "--library", tmp_path, "--shadow", "0.1", "--by", "ann", "--why", "try")
    assert advised["released"] == [("ann", "try", 0.1)]
    assert f"safeguard policy compare {NOW.id}" in shown.stdout


def test_taking_prints_json(advised, tmp_path):
    said = json.loads(invoke("gates", "take", NOW.id, "--library", tmp_path, "--by", "ann", "--json").stdout)
    assert (said["policy"], said["version"], said["revision"]) == (NOW.id, NEXT.version, 4)
    assert said["advice"]["action"] == "take"


RISKY = advice(proposed=measured("distilled", 0.91, LOWER, 0.2))


@pytest.mark.parametrize(
    ("given", "options", "taken"), [("n\n", [], 0), ("", [], 0), ("y\n", [], 1), ("", ["--yes"], 1)]
)
def test_recall_below_the_target_is_said_and_asked_about(advised, tmp_path, given, options, taken):
    advised["advice"] = RISKY
    shown = invoke("gates", "take", NOW.id, "--library", tmp_path, "--by", "ann", *options, given=given)
    assert "lower bound of recall, which is 0.951 now, would be 0.910: below the target of 0.95" in shown.output
    assert (len(advised["released"]), shown.exit_code) == (taken, 1 - taken)
    assert (tmp_path / NOW.id).exists() == bool(taken)


def test_a_shadow_that_may_miss_more_asks_nothing(advised, tmp_path):
    advised["advice"] = RISKY
    assert invoke("gates", "take", NOW.id, "--library", tmp_path, "--shadow", "0.1", "--by", "ann").exit_code == 0
    assert advised["released"]


def test_where_nothing_is_proposed_nothing_is_taken(advised, tmp_path):
    advised["advice"] = advice(action="collect", more_labels=120, why="60 labels: 100 are needed")
    with pytest.raises(ConfigurationError, match="has no gate to take: collect labels, about 120 more: 60 labels"):
        invoke("gates", "take", NOW.id, "--library", tmp_path, "--by", "ann")


def test_a_wrong_library_ends_the_command_before_it_reads(monkeypatch):
    monkeypatch.setattr(gates, "_advice", lambda *_: pytest.fail("it read"))
    for library in (LIBRARY, "no/such/folder"):
        with pytest.raises(ConfigurationError, match="--library"):
            invoke("gates", "take", NOW.id, "--library", library, "--by", "ann")
