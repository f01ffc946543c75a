"""What people decided becomes labels that the commands read; what does not stand is left out, and counted."""

from datetime import timedelta
from itertools import count

import orjson
import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.console.database import engine_of
from safeguard_streams.console.labels import Wanted, write
from safeguard_streams.console.migrations import upgrade
from safeguard_streams.console.schema import actions, items, policy_releases, reviews, verdicts
from safeguard_streams.contract.records import content_sha256, now
from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies import golden
from safeguard_streams.policies.files import load_library
from safeguard_streams.quality import verdict_labels

POLICY = load_library()["fraud-spam"]
NUMBERS = count()


def add(engine, table, **values):
    with engine.begin() as connection:
        connection.execute(insert(table).values(**values))


def item(engine, text="some text", *, gate="label", rate=None, verdict="violates", present=None):
    """An item with a verdict, and the text that people read; `present` is the newest one."""
    content_id = f"c{next(NUMBERS):03d}"
    sha = content_sha256(present if present is not None else text) if text is not None else "0"
    add(engine, items, content_id=content_id, text=text, language="en", content_sha256=sha)
    made = {"policy_id": POLICY.id, "policy_version": "0", "lane": "live", "stage": "reasoner", "model": "m"}
    made |= {"rule_ids": [], "truncated": False, "cached": False, "latency": {}, "malformed": 0, "decided_at": now()}
    made |= {"verdict_id": f"v{content_id}", "content_id": content_id, "decision": verdict}
    add(engine, verdicts, **made, gate=gate, gate_rate=rate)
    return content_id


def decided(engine, content_id, decision, text="some text", **more):
    """Somebody decided about it; without an action_id, it was a second look."""
    row = {"who": "mia", "policy_id": POLICY.id, "rule": None, "blind": False, "golden": False, "second": False}
    row |= {"content_id": content_id, "content_sha256": content_sha256(text), "verdict_id": f"v{content_id}"}
    row |= {"decision": decision, "at": now(), "action_id": f"a{next(NUMBERS)}"}
    add(engine, reviews, **{**row, **more})
    return {**row, **more}["action_id"]


def take_back(engine, content_id, action_id):
    made = {"action_id": f"w{action_id}", "content_id": content_id, "action": "allow", "acted_at": now()}
    made |= {"state": "applied", "previous": "remove", "rule_ids": [], "alert": False, "dry_run": False}
    add(engine, actions, **made, any_text=False, withdraws=action_id)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    engine = engine_of(f"sqlite:///{tmp_path_factory.mktemp('labels')}/console.db")
    yield ready(engine)
    engine.dispose()


@pytest.fixture
def database(made):
    """An SQLite database in which nobody decided yet, and the policy is in force."""
    with made.begin() as connection:
        for table in (actions, items, reviews, verdicts):
            connection.execute(table.delete())
        connection.execute(policy_releases.update().values(place="in-force", document=POLICY.document))
    return made


def ready(engine):
    upgrade(engine)
    released = {"key": POLICY.id, "place": "in-force", "version": POLICY.version, "revision": 1, "why": "first"}
    released |= {"policy_id": POLICY.id, "document": POLICY.document, "released_at": now(), "released_by": "mia"}
    add(engine, policy_releases, **released, distilled=False)
    return engine


def labels(engine, tmp_path, **wanted):
    """The labels by their text, and what was left out."""
    out = tmp_path / "labels.jsonl"
    counts = write(engine, Wanted(POLICY.id, **wanted), out)
    rows = verdict_labels.from_file(out).rows
    assert counts.written.total() == len(rows)
    return {row.text: row for row in rows}, {why: number for why, number in counts.left_out.items() if number}


def test_labels_are_what_calibration_and_distillation_read(engine, tmp_path):
    database = ready(engine)
    for text, decision, gate, rate in (
        ("send gift cards 🎁\u2028now", "violates", "label", None),
        ("hello", "safe", "sample", 0.01),
        ("hi", "safe", "audit", 0.25),
        ("reported", "violates", "report", None),
        ("odd", "violates", "sample", 0.0),
    ):
        decided(database, item(database, text, gate=gate, rate=rate), decision, text)
    rows, left_out = labels(database, tmp_path)
    assert {text: (row.violates, row.weight) for text, row in rows.items()} == {
        "send gift cards 🎁\u2028now": (True, 1.0),
        "hello": (False, 100.0),
        "hi": (False, 4.0),
        "reported": (True, 1.0),
        "odd": (True, 1.0),
    }
    assert left_out == {}
    assert (tmp_path / "labels.jsonl").stat().st_mode & 0o777 == 0o600, "it holds texts of users"


def test_what_does_not_stand_is_left_out_and_counted(database, tmp_path):
    withdrawn, once_more = item(database), item(database, "decided once more")
    take_back(database, withdrawn, decided(database, withdrawn, "violates"))
    take_back(database, once_more, decided(database, once_more, "violates", "decided once more"))
    decided(database, once_more, "safe", "decided once more")
    decided(database, item(database), "undetermined")
    edited = item(database, "new", present="new")
    decided(database, edited, "violates", "old")
    gone = item(database)
    decided(database, gone, "violates")
    with database.begin() as connection:
        connection.execute(items.update().where(items.c.content_id == gone).values(text=None))
    decided(database, item(database, "a golden one"), "violates", "a golden one", golden=True, action_id=None)
    rows, left_out = labels(database, tmp_path)
    assert {text: row.violates for text, row in rows.items()} == {"decided once more": False}
    assert left_out == {"withdrawn": 1, "passed_on": 1, "edited": 1, "text_gone": 1}


def test_a_second_look_that_differs_is_a_dispute_until_somebody_decides_once_more(database, tmp_path):
    look = {"who": "bob", "blind": True, "second": True, "action_id": None}
    agreed, disputed, settled = (item(database, text) for text in ("agreed", "disputed", "settled"))
    for content_id, text, second in ((agreed, "agreed", "safe"), (disputed, "disputed", "violates")):
        decided(database, content_id, "safe", text)
        decided(database, content_id, second, text, **look)
    decided(database, settled, "safe", "settled")
    decided(database, settled, "violates", "settled", **look)
    decided(database, settled, "violates", "settled", who="lea")
    rows, left_out = labels(database, tmp_path)
    assert {text: row.violates for text, row in rows.items()} == {"agreed": False, "settled": True}
    assert left_out == {"disputed": 1}
    rows, left_out = labels(database, tmp_path, blind_only=True)
    assert {text: row.violates for text, row in rows.items()} == {"agreed": False, "settled": True}


def test_only_blind_and_only_late_decisions(database, tmp_path):
    old = now() - timedelta(days=9)
    decided(database, item(database, "blind"), "safe", "blind", blind=True)
    decided(database, item(database, "seen"), "safe", "seen")
    decided(database, item(database, "old"), "safe", "old", blind=True, at=old)
    rows, left_out = labels(database, tmp_path, blind_only=True, since=now() - timedelta(days=1))
    assert set(rows) == {"blind"}
    assert left_out == {"not_blind": 1}


def test_rows_of_a_golden_set_are_read_as_one(database, tmp_path):
    decided(database, item(database, "Win a prize"), "violates", "Win a prize", rule="FS2")
    decided(database, item(database, "win  a PRIZE"), "violates", "win  a PRIZE", rule="FS2")
    decided(database, item(database, "they warn"), "safe", "they warn", rule="FS5")
    decided(database, item(database, "no rule"), "safe", "no rule")
    decided(database, item(database, "other side"), "safe", "other side", rule="FS1")
    out = tmp_path / "golden.jsonl"
    counts = write(database, Wanted(POLICY.id, as_golden=True), out)
    assert [(row.text, row.decision, row.rule, row.kind) for row in golden.load(out)] == [
        ("Win a prize", "violates", "FS2", "clear"),
        ("they warn", "safe", "FS5", "boundary"),  # the model says that it violates
    ]
    assert counts.left_out == {"twice": 1, "no_rule": 2}
    assert [row.violates for row in verdict_labels.from_file(out).rows] == [True, False]


def test_a_policy_with_a_distilled_classifier_has_its_rules(database, tmp_path):
    with database.begin() as connection:
        changed = POLICY.document.replace("gate:\n", "gate:\n  distilled: 0123456789ab\n", 1)
        assert changed != POLICY.document
        connection.execute(policy_releases.update().values(document=changed))
    decided(database, item(database, "Win"), "violates", "Win", rule="FS2")
    out = tmp_path / "golden.jsonl"
    assert write(database, Wanted(POLICY.id, as_golden=True), out).written == {"violates": 1}


def test_a_wrong_name_writes_nothing(database, tmp_path):
    out = tmp_path / "labels.jsonl"
    decided(database, item(database), "violates")
    with pytest.raises(ConfigurationError, match="fraud-spam"):
        write(database, Wanted("fraud-span"), out)
    with database.begin() as connection:
        connection.execute(policy_releases.update().values(place="shadow"))
    with pytest.raises(PolicyError, match="needs the rules"):
        write(database, Wanted(POLICY.id, as_golden=True), out)
    assert list(tmp_path.glob(".labels*")) == []
    assert not out.exists()


def test_the_command_says_what_it_wrote_and_left_out(database, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_CONSOLE_DATABASE", str(database.url))
    decided(database, item(database), "violates")
    decided(database, item(database), "undetermined")
    out = tmp_path / "labels.jsonl"
    given = ["console", "labels", "--policy", POLICY.id, "--out", str(out)]
    said = CliRunner().invoke(app, given)
    assert said.exit_code == 0
    assert "wrote 1 label" in said.output
    assert "left out: 1 passed on to a colleague" in said.output
    report = orjson.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert (report["labels"], report["violates"], report["left_out"]["passed_on"]) == (1, 1, 1)
    assert isinstance(CliRunner().invoke(app, [*given, "--since", "soon"]).exception, ConfigurationError)
