"""A year's figures equal SQL over an export of the same records, and the page says what is not recorded."""

import csv
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from itertools import chain

import msgspec
import pytest

from safeguard_streams.contract.records import ContentEvent, ContentReport, PrefilterResult, Verdict
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.exporting import manifest as manifests
from safeguard_streams.exporting.transparency import counting, page
from safeguard_streams.exporting.transparency.notices import Judgement, Notice, in_time
from safeguard_streams.exporting.transparency.source import Source
from tests import exported
from tests.exported import YEAR
from tests.unit.cli.invoking import invoke

WHEN = datetime(YEAR, 5, 1, 12, tzinfo=UTC)
# The agent's actions that did something, each once, numbered as they follow each other.
VIEWS = f"""
CREATE VIEW acts AS
SELECT *, strftime('%Y', acted_at) = '{YEAR}' AS of_year, CAST(kafka_offset AS INTEGER) AS place FROM actions
WHERE sequence IS NOT NULL AND dry_run = 'false' AND state = 'applied';
CREATE VIEW notices AS
SELECT DISTINCT report_id, json_extract(event, '$.content_id') AS content_id, reporter, reported_at AS at FROM reports;
CREATE VIEW judged AS SELECT DISTINCT verdict_id, content_id, policy_id, decision, decided_at, stage, lane, prefilter
FROM verdicts WHERE lane IN ('live', 'audit') AND stage = 'reasoner';
CREATE VIEW measures AS
SELECT *, EXISTS (SELECT 1 FROM notices n WHERE n.content_id = a.content_id AND n.at <= a.acted_at) AS reported
FROM acts a
WHERE of_year AND action IN ('label', 'limit', 'remove') AND action <> previous AND withdraws IS NULL;
CREATE VIEW decisions AS SELECT * FROM acts
WHERE withdraws IS NULL AND (policy_id IS NULL OR outcome IN ('upheld', 'overturned'))
AND action_id NOT IN (SELECT withdraws FROM acts WHERE withdraws IS NOT NULL);
CREATE VIEW checks AS
SELECT d.of_year, d.action = 'allow' AS allowed, a.policy_id, a.action <> 'review' AS restricted,
    ROW_NUMBER() OVER (PARTITION BY a.action_id ORDER BY d.place DESC) AS newest
FROM decisions d JOIN acts a ON a.content_id = d.content_id AND a.place < d.place
    AND a.policy_id IS NOT NULL AND a.outcome IS NULL AND a.withdraws IS NULL AND a.decision = 'violates'
WHERE NOT EXISTS (SELECT 1 FROM acts b WHERE b.content_id = a.content_id AND b.policy_id = a.policy_id
    AND b.outcome IS NULL AND b.withdraws IS NULL AND b.place > a.place AND b.place < d.place);
CREATE VIEW named AS
SELECT DISTINCT content_id, appellant, created_at, action_id, verdict_id, appeal_id AS id FROM appeals;
CREATE VIEW ends AS
SELECT n.*, e.outcome, e.acted_at AS ended, e.of_year, (
    SELECT a.acted_at || ' ' || a.policy_id || ' ' || (a.by IS NULL) FROM acts a
    WHERE a.content_id = n.content_id AND a.place < e.place
        AND (a.action_id = n.action_id OR n.action_id IS NULL AND a.verdict_id = n.verdict_id)
    ORDER BY a.place LIMIT 1) AS about
FROM named n JOIN acts e ON e.appeal_id = n.id AND e.outcome IS NOT NULL;
CREATE VIEW places AS
SELECT n.*, coalesce((SELECT effective FROM acts a WHERE a.content_id = n.content_id AND a.acted_at < n.at
        ORDER BY place DESC LIMIT 1), 'allow') AS standing,
    (SELECT min(acted_at) FROM acts a WHERE a.content_id = n.content_id AND a.acted_at >= n.at
        AND effective IN ('label', 'limit', 'remove')) AS restricted,
    (SELECT min(acted_at) FROM acts a WHERE a.content_id = n.content_id AND a.acted_at >= n.at
        AND policy_id IS NULL AND withdraws IS NULL AND effective = 'allow') AS allowed,
    (SELECT max(decided_at) FROM judged v WHERE v.content_id = n.content_id
        AND json_extract(prefilter, '$.gate') = 'report' HAVING count(*) = sum(decision = 'safe')) AS safe,
    (SELECT effective FROM acts a WHERE a.content_id = n.content_id AND a.acted_at >= n.at
        ORDER BY place DESC LIMIT 1) AS last
FROM notices n WHERE strftime('%Y', at) = '{YEAR}';
CREATE VIEW outcomes AS
SELECT reporter, at, safe, allowed, restricted, CASE
    WHEN standing IN ('label', 'limit', 'remove')
        THEN CASE WHEN allowed IS NULL THEN 'already_restricted' ELSE 'not_restricted' END
    WHEN restricted IS NULL AND allowed IS NULL AND safe < at THEN 'not_restricted'
    WHEN restricted <= coalesce(allowed, '9') AND restricted <= coalesce(iif(safe >= at, safe, NULL), '9')
        THEN 'restricted'
    WHEN allowed IS NOT NULL OR safe >= at THEN 'not_restricted'
    WHEN coalesce(last, standing) = 'review' THEN 'in_review' ELSE 'undecided' END AS outcome
FROM places;
"""


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    """The figures of a year, and a database with the same records from CSV."""
    folder, database = tmp_path_factory.mktemp("year"), sqlite3.connect(":memory:")
    made = exported.Year(items=600)
    for kind, records in made.records.items():
        exported.write(folder / "parquet", kind, records)
        exported.write(folder / "csv", kind, records, "csv")
        load(database, kind, sorted((folder / "csv" / kind).glob("day=*/*.csv")))
    database.executescript(VIEWS)
    yield counting.count(Source(folder / "parquet"), YEAR), database
    database.close()


def load(database, kind, paths):
    """Load the files of an export into a table; an empty cell is null."""
    rows = chain.from_iterable(csv.DictReader(path.open(encoding="utf-8", newline="")) for path in paths)
    for number, row in enumerate(rows):
        if not number:
            database.execute(f"CREATE TABLE {kind} ({', '.join(row)})")
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO {kind} VALUES ({marks})", [value or None for value in row.values()])


def counts(database, query):
    """The rows of a query whose last column is a number, by the others."""
    return {row[0] if len(row) == 2 else row[:-1]: row[-1] for row in database.execute(query)}


def median(database, spans):
    """The median of a query for pairs of times, in hours."""
    query = f"""
        WITH spans AS (SELECT (julianday(b) - julianday(a)) * 24 AS hours FROM ({spans})),
        numbered AS (SELECT hours, ROW_NUMBER() OVER (ORDER BY hours) AS n, COUNT(*) OVER () AS c FROM spans)
        SELECT AVG(hours) FROM numbered WHERE n IN ((c + 1) / 2, (c + 2) / 2)"""
    return database.execute(query).fetchone()[0]


def near(hours):
    return pytest.approx(hours, abs=0.006)


def test_notices_and_orders_equal_sql(year):
    figures, database = year
    by_reporter = {**figures.notices, "authority": figures.orders}
    received = counts(database, f"SELECT reporter, COUNT(*) FROM notices WHERE at LIKE '{YEAR}%' GROUP BY 1")
    assert {name: one.received for name, one in by_reporter.items()} == received
    for name, one in by_reporter.items():
        mine = f"FROM outcomes WHERE reporter = '{name}'"
        found = counts(database, f"SELECT outcome, COUNT(*) {mine} GROUP BY 1")
        assert {outcome: count for outcome, count in one.outcomes.items() if count} == found
        assert one.received == sum(one.outcomes.values())
        restricted = f"SELECT at AS a, restricted AS b {mine} AND outcome = 'restricted'"
        assert one.median_hours_to_restriction == near(median(database, restricted))
        left = f"""{restricted} UNION ALL
            SELECT at, min(coalesce(allowed, '9'), coalesce(iif(safe >= at, safe, NULL), '9')) AS b {mine}
            AND outcome = 'not_restricted' AND (allowed IS NOT NULL OR safe >= at)"""
        assert one.median_hours_to_decision == near(median(database, left))
    assert all(sum(one.outcomes[name] for one in by_reporter.values()) for name in figures.orders.outcomes)


def test_restrictions_equal_sql(year):
    figures, database = year
    for told, measures in ((0, figures.own_initiative), (1, figures.after_notices)):
        found = counts(
            database,
            f"SELECT coalesce(policy_id, cited_policy, ''), action, COUNT(*) FROM measures WHERE reported = {told} "
            "GROUP BY 1, 2",
        )
        shown = {(p, kind): n for p, kinds in measures.by_policy.items() for kind, n in kinds.items() if n}
        assert shown == found
        means = counts(database, f"SELECT by IS NULL, COUNT(*) FROM measures WHERE reported = {told} GROUP BY 1")
        assert measures.by_means == {"automated": means[1], "people": means[0]}
    months = counts(database, "SELECT CAST(substr(acted_at, 6, 2) AS INTEGER), COUNT(*) FROM measures GROUP BY 1")
    assert {n: sum(one.values()) for n, one in enumerate(figures.measures.by_month, 1)} == months
    assert figures.measures.total == figures.own_initiative.total + figures.after_notices.total


def test_rates_of_error_equal_sql(year):
    figures, database = year
    query = "SELECT policy_id, COUNT(*), SUM(allowed), SUM(restricted), SUM(restricted AND allowed) FROM checks"
    found = {row[0]: row[1:] for row in database.execute(f"{query} WHERE newest = 1 AND of_year GROUP BY 1")}
    assert set(found) == set(exported.POLICIES)
    for policy, means in figures.means.items():
        shown = (means.overruled.of, means.overruled.count, means.reversed.of, means.reversed.count)
        assert shown == found[policy]
        assert means.overruled.low < means.overruled.value < means.overruled.high
    appealed = """SELECT substr(about, instr(about, ' ') + 1, length(about) - instr(about, ' ') - 2), COUNT(*),
        SUM(outcome = 'overturned') FROM ends WHERE of_year AND appellant = 'author'
        AND outcome IN ('upheld', 'overturned') AND about LIKE '% 1' GROUP BY 1"""
    shown = {
        policy: (one.appeals_overturned.of, one.appeals_overturned.count)
        for policy, one in figures.means.items()
        if one.appeals_overturned.of
    }
    assert shown == {row[0]: row[1:] for row in database.execute(appealed)}
    verdicts = counts(
        database, f"SELECT policy_id, decision, COUNT(*) FROM judged WHERE decided_at LIKE '{YEAR}%' GROUP BY 1, 2"
    )
    assert {(p, d): n for p, one in figures.means.items() for d, n in one.verdicts.items() if n} == verdicts


def test_the_recall_equals_sql(year):
    """An audited item stands for 5, and the determined ones for the undetermined ones, too."""
    figures, database = year
    query = f"""
        SELECT policy_id, json_extract(prefilter, '$.gate') AS gate, COUNT(*) * 1.0, SUM(decision = 'violates'),
            SUM(decision <> 'undetermined')
        FROM judged WHERE decided_at LIKE '{YEAR}%' AND gate <> 'report' GROUP BY 1, 2"""
    weighted = {(row[0], row[1]): row[3] * row[2] / row[4] for row in database.execute(query)}
    for policy, means in figures.means.items():
        caught, missed = weighted[policy, "label"], 5 * weighted[policy, "audit"]
        assert means.recall.recall == pytest.approx(caught / (caught + missed))
        assert means.recall.low < means.recall.recall < means.recall.high


def test_appeals_equal_sql(year):
    figures, database = year
    for name, one in figures.appeals.items():
        mine = f"FROM ends WHERE of_year AND appellant = '{name}'"
        received = f"SELECT COUNT(*) FROM named WHERE created_at LIKE '{YEAR}%' AND appellant = '{name}'"
        assert one.received == database.execute(received).fetchone()[0] > 0
        waiting = f"{received} AND id NOT IN (SELECT id FROM ends)"
        assert one.open == database.execute(waiting).fetchone()[0]
        found = counts(database, f"SELECT outcome, COUNT(*) {mine} GROUP BY 1")
        assert {outcome: count for outcome, count in one.outcomes.items() if count} == found
        assert one.overturned.of == found.get("upheld", 0) + found.get("overturned", 0)
        decided = f"{mine} AND outcome IN ('upheld', 'overturned')"
        assert one.median_hours_to_outcome == near(median(database, f"SELECT created_at AS a, ended AS b {decided}"))
        acted = f"SELECT substr(about, 1, instr(about, ' ') - 1) AS a, ended AS b {decided}"
        assert one.median_hours_from_action_to_outcome == near(median(database, acted))


def test_statements_equal_sql(year):
    figures, database = year
    query = f"""SELECT coalesce(category, ''), iif(reporter IS NULL, 'own_initiative', 'after_notice'), COUNT(*)
        FROM statements WHERE state = 'issued' AND stated_at LIKE '{YEAR}%' GROUP BY 1, 2"""
    shown = {(c, f): n for c, found in figures.statements.by_category.items() for f, n in found.items() if n}
    assert shown == counts(database, query)
    assert figures.statements.issued == sum(shown.values()) == sum(figures.statements.by_ground.values())
    accounts = f"""SELECT account_action, COUNT(*) FROM statements
        WHERE state = 'issued' AND stated_at LIKE '{YEAR}%' AND account_action IS NOT NULL GROUP BY 1"""
    assert figures.statements.accounts == dict(database.execute(accounts).fetchall())
    assert set(figures.statements.accounts) == {"limit", "suspend"}
    withdrawn = f"SELECT COUNT(*) FROM statements WHERE state = 'withdrawn' AND stated_at LIKE '{YEAR}%'"
    assert figures.statements.withdrawn == database.execute(withdrawn).fetchone()[0] > 0


# ---------------------------------------------------------------------- the page and the command


def test_the_page_shows_the_figures_and_loads_nothing(year):
    figures, _ = year
    shown = page.render(figures, "A <b>Forum</b>")
    assert "A &lt;b&gt;Forum&lt;/b&gt;" in shown
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", shown)
    assert f"<b>{figures.measures.total:,}</b>restrictions" in shown
    own = figures.own_initiative.by_policy["hate"]
    assert f'<th scope="row">hate</th><td class="n">{own["label"]}</td><td class="n">{own["limit"]}</td>' in shown
    assert "Illegal or harmful speech" in shown
    overruled = figures.means["hate"].overruled
    assert f"<small>{overruled.count:,} of {overruled.of:,}<br>" in shown
    assert shown.count("<svg") == shown.count("</svg>") == 8


def test_a_name_with_markup_stays_text(tmp_path):
    hostile = "<script>alert(1)</script>\"'\u202e"
    made = exported.Year(items=0)
    action = made.action("c1", "remove", WHEN, policy_id=hostile, decision="violates")
    exported.write(tmp_path, "actions", [action])
    shown = page.render(counting.count(Source(tmp_path), YEAR), hostile)
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)" in shown


def test_what_is_not_exported_is_null_and_said_never_zero(tmp_path):
    exported.write(tmp_path, "verdicts", exported.Year(items=30).records["verdicts"])
    figures = counting.count(Source(tmp_path), YEAR)
    plain = json.loads(msgspec.json.encode(figures))
    missing = {name for name, value in plain.items() if value is None}
    assert missing == set(plain) - {"year", "counted_at", "records"}
    shown = page.render(figures, "")
    cards = re.findall(r'<div class="card"><b>(.*?)</b>', shown)
    assert cards == ["not recorded"] * 4
    assert "<svg" not in shown
    assert "The export holds no reports." in shown
    only = {**dict.fromkeys(counting.SOURCES), "verdicts": plain["records"]["verdicts"]}
    assert plain["records"] == only


def test_a_notice_is_no_later_than_the_verdict_that_it_led_to_whatever_its_clock_said(tmp_path):
    made = exported.Year(items=0)
    ahead = WHEN + timedelta(hours=1)
    made.report("c1", ahead)
    made.records["verdicts"] = [verdict_on("c1", "violates"), verdict_on("c2", "safe")]
    done = made.action("c1", "remove", WHEN + timedelta(seconds=2), policy_id="hate", decision="violates")
    event = ContentEvent("c2", "text", WHEN)
    later = [ContentReport(f"c2-{n}", event, "user", ahead + timedelta(days=n), "") for n in (0, 1)]
    for kind, records in {**made.records, "actions": [done], "reports": [*made.records["reports"][:1], *later]}.items():
        exported.write(tmp_path, kind, records)
    figures = counting.count(Source(tmp_path), YEAR)
    kinds = [figures.orders, *figures.notices.values()]
    assert sum(one.outcomes["restricted"] for one in kinds) == 1
    assert (figures.after_notices.total, figures.own_initiative.total) == (1, 0)
    assert figures.notices["user"].outcomes["not_restricted"] >= 2, "a later notice of what was judged stays later"


@pytest.mark.parametrize(("late", "moved"), [(timedelta(hours=23), True), (timedelta(days=2), False)])
def test_a_notice_of_another_day_is_not_the_one_that_led_to_the_verdict(late, moved):
    """The export may lack the report that did."""
    (found,) = in_time([Notice("r1", "c1", "user", WHEN + late)], [Judgement(WHEN, "violates")])
    assert found.at == (WHEN if moved else WHEN + late)


def verdict_on(content_id, decision):
    kind = ("hate", "v1", decision, "reasoner", "live", "gpt-oss", WHEN)
    return Verdict(f"{content_id}-hate", content_id, "0" * 64, *kind, prefilter=PrefilterResult("report"))


def test_without_reports_nothing_is_taken_for_own_initiative(tmp_path):
    exported.write(tmp_path, "actions", exported.Year(items=100).records["actions"])
    figures = counting.count(Source(tmp_path), YEAR)
    assert figures.measures.total > 0
    assert (figures.own_initiative, figures.after_notices, figures.notices, figures.orders) == (None, None, None, None)
    assert all(one.recall is None and one.verdicts is None for one in figures.means.values())
    assert all(one.appeals_overturned is None for one in figures.means.values())


def test_the_page_says_which_time_of_the_year_the_export_holds(tmp_path):
    march = datetime(YEAR, 3, 1, tzinfo=UTC)
    late = [one for one in exported.Year(items=100).records["actions"] if one.acted_at >= march]
    exported.write(tmp_path, "actions", late, until=datetime(YEAR, 11, 3, tzinfo=UTC))
    manifest = manifests.load(tmp_path / "actions")
    manifests.save(tmp_path / "actions", msgspec.structs.replace(manifest, expired=7))
    shown = page.render(counting.count(Source(tmp_path), YEAR), "")
    assert f"The first actions in the export: {YEAR}-03-01." in shown
    assert f"The export of actions ends on {YEAR}-11-03." in shown
    assert "Up to 7 actions expired on their topic before they were exported." in shown


def test_another_year_has_only_its_own_figures(tmp_path):
    made = exported.Year(items=100)
    for kind, records in made.records.items():
        exported.write(tmp_path, kind, records)
    figures = counting.count(Source(tmp_path), YEAR - 3)
    assert figures.measures.total == 0
    assert sum(one.received for one in figures.notices.values()) == 0
    assert figures.notices["user"].median_hours_to_decision is None
    assert figures.appeals["author"].overturned.value is None
    assert "None was checked" in page.render(figures, "")


def test_an_export_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="holds no export"):
        Source(tmp_path)
    exported.write(tmp_path, "actions", [], "csv")
    with pytest.raises(ConfigurationError, match="holds csv files"):
        counting.count(Source(tmp_path), YEAR)
    manifest = manifests.load(tmp_path / "actions")
    unended = msgspec.structs.replace(manifest, format="parquet", until=None)
    manifests.save(tmp_path / "actions", unended)
    with pytest.raises(ConfigurationError, match="has not ended"):
        counting.count(Source(tmp_path), YEAR)


@pytest.mark.parametrize("left", [None, b"", b"PAR1" * 9], ids=["deleted", "empty", "damaged"])
def test_a_file_that_was_deleted_or_damaged_is_named(tmp_path, left):
    exported.write(tmp_path, "actions", exported.Year(items=5).records["actions"])
    file = next(tmp_path.glob("actions/day=*/*"))
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    with pytest.raises(ConfigurationError, match="records-00000000.parquet: is no file of this export"):
        counting.count(Source(tmp_path), YEAR)


@pytest.mark.parametrize(
    "change",
    [
        {"positions": {"first": 1}},
        {"files": [{"path": "../../etc/passwd", "records": 1, "bytes": 1}]},
        {"files": [{"path": "/etc/passwd", "records": 1, "bytes": 1}]},
        {"files": [{"path": "day=2026-99-01/records-1.csv", "records": 1, "bytes": 1}]},
    ],
)
def test_a_manifest_of_another_form_is_named_and_leads_nowhere(tmp_path, change):
    (tmp_path / manifests.MANIFEST).write_text(json.dumps({"kind": "actions", "topic": "t", "format": "csv", **change}))
    with pytest.raises(ConfigurationError, match="is no manifest of an export"):
        manifests.load(tmp_path)


def test_the_command_writes_the_page_and_prints_the_figures(tmp_path):
    exported.write(tmp_path / "from", "reports", exported.Year(items=50).records["reports"])
    out = tmp_path / "report.html"
    words = ["report", "transparency", "--year", YEAR, "--from", tmp_path / "from", "--out", out]
    printed = json.loads(invoke(*words, "--json").stdout)
    received = sum(one["received"] for one in printed["notices"].values()) + printed["orders"]["received"]
    assert received > 0
    assert "Transparency report 2025" in out.read_text(encoding="utf-8")
    shown = invoke(*words)
    assert shown.stdout == f"wrote {out}\n"
    assert "holds no such export: verdicts, actions, appeals, statements" in shown.stderr
    assert invoke(*words[:-1], tmp_path / "none" / "x.html").exit_code == 2
