"""`safeguard reports publish`: what it says about a file of reports, without a broker."""

import json
from datetime import UTC, datetime

import pytest

from safeguard_streams.contract.records import ContentEvent, ContentReport, encode
from tests.unit.cli.invoking import invoke

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = encode(ContentReport("r1", ContentEvent("c1", "a text", WHEN), "user", WHEN, "a claim")).decode()


def test_a_file_of_reports_is_checked_and_counted():
    done = invoke("reports", "publish", "-", "--check", "--json", given=f"{GOOD}\n\n{GOOD}\n")
    assert json.loads(done.stdout) == {"published": 0, "reports": 2, "invalid": []}
    assert invoke("reports", "publish", "-", "--check", given=GOOD).stdout == "1 report\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD.replace('"text":"a text",', ""), "event.text: is missing"),
        (GOOD.replace('"user"', '"nobody"'), "reporter: is not one of the values that the field takes"),
        (GOOD.replace('"r1"', '""'), "report_id: "),
        (GOOD[:-1] + ',"origin":"x"}', "origin: is no place; write partition and offset, as 3@1042"),
    ],
)
def test_a_line_that_is_no_report_is_named_and_nothing_is_published(line, reason):
    done = invoke("reports", "publish", "-", "--json", given=f"{GOOD}\n{line}\n")  # no broker: nothing is sent
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert printed["published"] == 0
    assert printed["reports"] == 1
    ((number, why),) = [(one["line"], one["reason"]) for one in printed["invalid"]]
    assert (number, why.startswith(reason)) == (2, True), why
    assert "a claim" not in done.stderr
    assert "line 2: no report: " in done.stderr


def test_another_reporter_than_there_are_is_refused_with_those_that_there_are():
    done = invoke("reports", "add", "c1", "--reporter", "police")
    assert done.exit_code == 2
    assert "authority, trusted_flagger, user" in done.stderr
