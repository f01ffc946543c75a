"""Reported items are labels of what the gates missed, and change no estimate."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from safeguard_streams.cli import prefilter_tables
from safeguard_streams.contract.records import PrefilterResult, Verdict
from safeguard_streams.quality import gate_recall
from safeguard_streams.quality.verdict_labels import from_verdicts
from safeguard_streams.runtime import metrics
from safeguard_streams.workers.judging import judge

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def verdict(number, decision, gate, minutes=0, **more):
    result = PrefilterResult(gate, "hate", 0.4, 0.3, **more)
    lane = "audit" if gate == "audit" else "live"
    at = WHEN + timedelta(minutes=minutes)
    return Verdict(
        f"v{number}-{gate}-{minutes}",
        f"c{number}",
        "sha",
        "p",
        "1",
        decision,
        "reasoner",
        lane,
        "m",
        at,
        prefilter=result,
    )


BY_GATES = [
    *(verdict(n, "violates", "label") for n in range(20)),
    *(verdict(n, "safe", "label") for n in range(20, 40)),
    *(verdict(n, "violates" if n < 44 else "safe", "audit", rate=0.1, stratum="far") for n in range(40, 100)),
]
REPORTS = [
    verdict(0, "safe", "report", 9, live=True),  # later than the gates' own verdict on the same text
    verdict(50, "violates", "report", 9, live=False),
    *(verdict(n, "violates", "report", live=False) for n in range(200, 210)),
    verdict(210, "violates", "report", live=True),
    verdict(211, "undetermined", "report", live=False),
    verdict(212, "violates", "report", 1, live=False),
    verdict(212, "safe", "report", 2, live=False),
]


def test_reports_change_no_estimate_whenever_they_come():
    without = from_verdicts(BY_GATES, "p")
    for verdicts in ([*BY_GATES, *REPORTS], [*REPORTS, *BY_GATES]):
        labels = from_verdicts(verdicts, "p")
        assert sorted(map(msgspec.json.encode, labels.rows)) == sorted(map(msgspec.json.encode, without.rows))
        assert gate_recall.from_labels(labels) == gate_recall.from_labels(without)


def test_reported_items_are_counted_apart_and_each_text_once():
    found = gate_recall.reported([*BY_GATES, *REPORTS, *REPORTS], "p")
    assert found == gate_recall.ReportedItems(judged=14, violating=12, missed=11)
    assert gate_recall.reported(REPORTS, "another") == gate_recall.ReportedItems()


@pytest.mark.parametrize(("gate", "found_by"), [("report", "report"), ("label", "gate")])
def test_a_violation_that_was_reported_is_no_catch_of_the_gates(monkeypatch, gate, found_by):
    counted = []

    class Counter:
        def add(self, _, labels):
            counted.append(labels.get("found_by"))

    monkeypatch.setattr(metrics, "VIOLATIONS", Counter())
    judge._count(verdict(1, "violates", gate))
    assert counted == [found_by]


def test_the_report_of_the_recall_names_them_apart(capsys):
    found = gate_recall.from_labels(from_verdicts([*BY_GATES, *REPORTS], "p"))
    prefilter_tables.show_recall({"p": msgspec.structs.replace(found, reported=gate_recall.reported(REPORTS, "p"))})
    shown = capsys.readouterr().out
    assert (
        "reports, in none of these figures: 14 texts were judged, 12 violating, of which the gates missed 11" in shown
    )
    prefilter_tables.show_recall({"p": found})
    assert "reports" not in capsys.readouterr().out
