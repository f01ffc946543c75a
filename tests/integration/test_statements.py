"""Statements of reasons on a broker: one for each restriction, and files that the EU's database takes."""

import asyncio
import json
from datetime import UTC, datetime

import jsonschema
import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, ContentEvent, StatementOfReasons, Verdict, content_sha256, encode
from safeguard_streams.enforcement import dsa, dsa_export
from safeguard_streams.enforcement.author_rules import AuthorRules, StrikeRule, Threshold
from safeguard_streams.enforcement.policy_words import KnownPolicies, PolicyVersion
from safeguard_streams.enforcement.rules import EnforcementRule, EnforcementRules
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy
from tests.conftest import enforcing, own_topics, until
from tests.integration.test_authors import keeping

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = load_library()["fraud-spam"]
RULES = EnforcementRules((EnforcementRule("all", "remove"),))
REASON, AUTHOR, TEXT = "the author wrote plugh", "author-xyzzy", "call 0900 plugh now"
ITEMS, DATED = 230, 225


def verdict(number, decision="violates", name="v", version=POLICY.version):
    return Verdict(
        verdict_id=f"{name}{number}",
        content_id=f"item-{number}",
        content_sha256=content_sha256(TEXT),
        policy_id=POLICY.id,
        policy_version=version,
        decision=decision,
        stage="reasoner",
        lane="live",
        model="m",
        decided_at=WHEN,
        rule_ids=("FS2",) if decision == "violates" else ("FS4",),
        reason=REASON,
        author_id=AUTHOR,
        language="de" if number % 2 else "en",
        created_at=WHEN if number < DATED else None,
        origin="0@0" if number == DATED else None,
    )


async def publish(current, topic, *records):
    async with kafka_bus.producer(current) as producer:
        for record in records:
            partition = 0 if isinstance(record, ContentEvent) else None
            key, value = record.content_id.encode(), encode(record)
            await producer.send(current.prefix + topic, key=key, value=value, partition=partition)
        await producer.flush()


async def read(current, topic, kind):
    return [one async for _, one in kafka_bus.read_decoded(current, [topic], kind)]


async def stated(current, state):
    found = await read(current, topics.STATEMENTS, StatementOfReasons)
    return [one for one in found if one.state == state]


async def test_each_restriction_has_one_statement_and_is_exported_once(embedded_address, monkeypatch, tmp_path):
    broker = own_topics(embedded_address)
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [POLICY], ChangedBy("test"))
    await publish(broker, topics.EVENTS, ContentEvent(f"item-{DATED}", TEXT, WHEN))
    verdicts = [verdict(number) for number in range(ITEMS)]

    async def followed(count):
        done = {one.verdict_id for one in await read(broker, topics.ACTIONS, Action)}
        return len(done) == count

    async with enforcing(broker, RULES):
        await publish(broker, topics.VERDICTS, *verdicts)
        await until(lambda: followed(ITEMS))
    async with enforcing(broker, RULES):
        await publish(broker, topics.VERDICTS, *verdicts, *(verdict(number, "safe", "s") for number in range(3)))
        await until(lambda: followed(ITEMS + 3))
    issued, withdrawn = await stated(broker, "issued"), await stated(broker, "withdrawn")
    ids = {one.content_id: one.statement_id for one in issued}
    assert len(issued) == len(ids) == len(set(ids.values())) == ITEMS
    assert {one.statement_id for one in withdrawn} == {ids[f"item-{number}"] for number in range(3)}
    assert {(one.language, one.explanation) for one in issued} == {
        ("en", POLICY.notes["FS2"]),
        ("de", POLICY.statements["FS2"].notes["de"]),
    }

    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)

    async def exported(*more):
        words = ["export", "statements", "--format", "dsa", "--to", str(tmp_path / "dsa"), "--json", *more]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    said = await exported("--since", "1d")
    wanted = {"statements": DATED + 1, "files": 3, "exported_before": 0, "invalid": {}}
    assert said == {**wanted, "left_out": {dsa_export.UNDATED: ITEMS - DATED - 1}}
    files = sorted((tmp_path / "dsa").iterdir())
    for file in files:
        jsonschema.validate(json.loads(file.read_bytes()), dsa.schema())
        assert not any(word in file.read_text() for word in ("plugh", AUTHOR, "item-"))
    rows = [row for file in files for row in json.loads(file.read_bytes())["statements"]]
    assert sorted(row["puid"] for row in rows) == sorted(ids[f"item-{number}"] for number in range(DATED + 1))
    assert sum("end_date_visibility_restriction" in row for row in rows) == 3

    assert (await exported())["statements"] == 0
    files[1].unlink()  # as if the run had been killed before it
    again = await exported()
    assert (again["statements"], again["files"], again["exported_before"]) == (100, 1, DATED + 1 - 100)
    rows = [row["puid"] for file in (tmp_path / "dsa").iterdir() for row in json.loads(file.read_bytes())["statements"]]
    assert len(rows) == len(set(rows)) == DATED + 1
    assert (await exported("--until", "2026-01-01"))["statements"] == 0
    files[0].write_text("{}")
    with pytest.raises(ConfigurationError, match="no batch of statements"):
        await dsa_export.export(broker, tmp_path / "dsa", dsa_export.Period())


async def test_a_suspended_account_has_one_statement_from_verdicts_to_the_databases_file(embedded_address, tmp_path):
    """The strikes carry the facts about their texts and the policy's version to another stage and its next owner."""
    broker = own_topics(embedded_address)
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [POLICY], ChangedBy("test"))
    threshold = Threshold(name="third", action="suspend", weight=3)
    rules = EnforcementRules(RULES.rule, authors=AuthorRules(strike=(StrikeRule("any"),), threshold=(threshold,)))
    verdicts = [verdict(number) for number in (1, 3, 5)]

    async def about_account(state):
        return [one for one in await stated(broker, state) if one.content_id is None] or None

    async with enforcing(broker, rules), keeping(broker, rules):
        await publish(broker, topics.VERDICTS, *verdicts)
        await until(lambda: about_account("issued"))
    async with enforcing(broker, rules), keeping(broker, rules):  # others take over
        await publish(broker, topics.VERDICTS, *verdicts, verdict(1, "safe", "s"))
        await until(lambda: about_account("withdrawn"))
    (said,), (gone,) = await about_account("issued"), await about_account("withdrawn")
    assert said.statement_id == gone.statement_id
    assert (said.account_action, said.author_id, said.language) == ("suspend", AUTHOR, "de")
    assert (said.policy_version, said.explanation) == (POLICY.version, POLICY.statements["FS2"].notes["de"])
    assert (said.content_created_at, len(said.strike_ids)) == (WHEN, 3)
    done = await dsa_export.export(broker, tmp_path, dsa_export.Period())
    assert (done.statements, done.invalid) == (4, {})
    rows = [row for file in tmp_path.iterdir() for row in json.loads(file.read_bytes())["statements"]]
    (row,) = [row for row in rows if "decision_account" in row]
    assert (row["puid"], row["decision_account"]) == (said.statement_id, "DECISION_ACCOUNT_SUSPENDED")
    assert row["end_date_account_restriction"] == str(gone.stated_at.date())
    assert not any(word in str(rows) + said.text for word in ("plugh", AUTHOR, "item-"))


async def test_a_version_that_was_replaced_is_stated_in_its_own_words(embedded_address):
    broker = own_topics(embedded_address)
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [POLICY], ChangedBy("test"))
    newer = parse(POLICY.document.replace(POLICY.notes["FS2"], "No lures.").replace("## SAFE", "\n## SAFE"))
    assert newer.version != POLICY.version
    await operator.release(broker, [newer], ChangedBy("test"))
    known = KnownPolicies()
    versions = [PolicyVersion(POLICY.id, one) for one in (POLICY.version, newer.version, "none")]
    await known.fetch(broker, versions)
    assert [known[one] and known[one].note("FS2", "en") for one in versions] == [POLICY.notes["FS2"], "No lures.", None]
    known.add(newer)
    assert known[versions[2]].note("FS2", "en") == "No lures.", "the words in force stand in for those of no release"
