"""Exports hold exactly the records of a topic, typed, by day, whatever the topic holds and however runs are ended."""

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaProducer

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    ContentReport,
    ErasureRequest,
    StatementOfReasons,
    Verdict,
    decode,
    encode,
)
from safeguard_streams.exporting import export as exporting
from safeguard_streams.exporting import manifest as manifests
from safeguard_streams.exporting.export import Target, export
from safeguard_streams.exporting.kinds import KINDS
from safeguard_streams.runtime.security import client_options
from tests import projected
from tests.conftest import own_topics
from tests.unit.cli.invoking import invoke

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = "=1+1\n\x00 \u202e 猫 \U0001f600,\";'"


@pytest.fixture
async def place(embedded_address):
    current = own_topics(embedded_address)
    await kafka_bus.create_topics(current)
    return current


def verdict(number, **fields):
    at = WHEN + timedelta(hours=number)
    given = {"policy_id": "hate", "policy_version": "v1", "decision": "violates", "stage": "reasoner", "lane": "live"}
    given |= {"model": "m", "decided_at": at, "content_sha256": "0" * 64}
    return Verdict(**{"verdict_id": f"v{number}", "content_id": f"c{number}", **given, **fields})


def milliseconds(moment):
    return int(moment.timestamp() * 1000)


async def write(current, records, topic=topics.VERDICTS):
    """Write records: those of the contract at their own times, and bytes or None at WHEN; two partitions in turn."""
    partitions = len(await kafka_bus.partitions_of(current, topic))
    async with kafka_bus.producer(current) as producer:
        sent = []
        for number, one in enumerate(records):
            value = one if one is None or isinstance(one, bytes) else encode(one)
            at = getattr(one, "decided_at", WHEN)
            send = producer.send(current.prefix + topic, value, b"k", number % partitions, milliseconds(at))
            sent.append(await send)
        for one in sent:
            await one


async def erase(current, content_id, at):
    async with kafka_bus.producer(current) as producer:
        value = encode(ErasureRequest(content_id, at, "kim"))
        await producer.send_and_wait(current.prefix + topics.ERASURES, value, key=content_id.encode(), partition=0)


async def on_topic(current, kind="verdicts"):
    """The places of all records that a topic holds and that are of this kind, with their records."""
    table = KINDS[kind]
    found = {}
    async for record, one in kafka_bus.read_decoded(current, [table.topic], table.record):
        found[record.partition, record.offset] = one
    return found


def rows_of(folder):
    """The rows of a folder's Parquet files, after a check that they are those of its manifest."""
    manifest = manifests.load(folder)
    files = sorted(folder.glob("day=*/*"))
    assert files == sorted(folder / file.path for file in manifest.files)
    assert not list(folder.glob(".*"))
    rows = [{**row, "path": str(file)} for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    assert manifest.records == len(rows)
    return rows


def places_of(rows):
    return [(row["kafka_partition"], row["kafka_offset"]) for row in rows]


async def exported(current, folder, kind="verdicts", form="parquet", **bounds):
    return await export(current, Target(kind, folder, form, **bounds))


def all_logs():
    """Records of every kind of a small deployment, by kind."""
    made = {}
    for (topic, _), log in projected.deployment().items():
        for name, kind in KINDS.items():
            if kind.topic == topic:
                made.setdefault(name, []).extend(record.value for record in log)
    event = ContentEvent("c1", HOSTILE, WHEN, attributes={"a": [1, {"b": None}]})
    report = encode(ContentReport("r1", event, "user", WHEN, HOSTILE))
    said = StatementOfReasons("s1", "issued", "a1", WHEN, "en", HOSTILE, content_id="c1")
    made["statements"] = [encode(said), encode(said), encode(msgspec.structs.replace(said, state="withdrawn")), None]
    made["reports"] = [report, report, report.replace(b'"r1"', b'"r2\\ud800"'), b"{}", None]
    return made


@pytest.mark.parametrize("kind", KINDS)
async def test_all_records_of_each_kind_are_exported_once_and_equal(place, tmp_path, kind):
    await write(place, all_logs()[kind], KINDS[kind].topic)
    held = [record async for record in kafka_bus.read_all(place, [KINDS[kind].topic])]
    done = await exported(place, tmp_path, kind)
    rows = rows_of(tmp_path / kind)
    assert done.records == len(rows) > 0
    assert len(set(places_of(rows))) == len(rows)
    assert len(rows) + sum(done.manifest.left_out.values()) == len(held)
    by_place = {(record.partition, record.offset): record.value for record in held}
    for row in rows:
        if kind == "reports":
            assert row["event"]["text"] == HOSTILE
            assert json.loads(row["event"]["attributes"]) == {"a": [1, {"b": None}]}
            continue
        record = decode(by_place[row["kafka_partition"], row["kafka_offset"]], KINDS[kind].record)
        for name in record.__struct_fields__:
            plain = getattr(record, name)
            if isinstance(plain, (str, int, float, datetime)) or plain is None:
                assert row[name] == plain, name
    if kind == "reports":  # one of them has half a character, which the intake replaces
        assert sorted(row["report_id"] for row in rows) == ["r1", "r1", "r2\ufffd"]
        assert done.manifest.left_out == {"tombstone": 1, "no ContentReport": 1}


async def test_days_are_those_of_the_records_in_utc_and_times_keep_microseconds(place, tmp_path):
    late = datetime(2026, 1, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    await write(place, [verdict(0, decided_at=late), verdict(1, decided_at=late + timedelta(microseconds=1))])
    await exported(place, tmp_path)
    rows = {row["verdict_id"]: row for row in rows_of(tmp_path / "verdicts")}
    assert "/day=2026-01-01/" in rows["v0"]["path"]
    assert "/day=2026-01-02/" in rows["v1"]["path"]
    assert rows["v0"]["decided_at"] == late
    assert rows["v0"]["kafka_topic"] == place.prefix + topics.VERDICTS
    assert rows["v0"]["score"] is None
    assert rows["v0"]["rule_ids"] == []
    assert pq.read_schema(rows["v0"]["path"]) == pq.read_schema(rows["v1"]["path"])


async def test_csv_has_the_same_records_and_no_formula(place, tmp_path):
    made = [verdict(0, reason=HOSTILE, rule_ids=("H1", "H2"), latency={"reason": 2.5}), verdict(1), None]
    await write(place, made)
    done = await exported(place, tmp_path, form="csv")
    (path,) = (tmp_path / "verdicts").glob("day=2026-01-01/*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["verdict_id"]: row for row in csv.DictReader(file)}
    assert done.manifest.records == 2
    assert rows["v0"]["reason"] == "'" + HOSTILE
    assert json.loads(rows["v0"]["rule_ids"]) == ["H1", "H2"]
    assert json.loads(rows["v0"]["latency"]) == {"reason": 2.5}
    assert rows["v0"]["decided_at"] == "2026-01-01T12:00:00.000000Z"
    assert (rows["v1"]["score"], rows["v1"]["cached"], rows["v1"]["tokens"]) == ("", "false", "")


async def test_a_second_run_adds_newer_records_and_nothing_else(place, tmp_path):
    await write(place, [verdict(number) for number in range(5)])
    first = await exported(place, tmp_path)
    again = await exported(place, tmp_path)
    assert (first.records, again.records, again.files) == (5, 0, 0)
    await write(place, [b"no verdict", *(verdict(number) for number in range(5, 9))])
    third = await exported(place, tmp_path)
    fourth = await exported(place, tmp_path)
    assert (third.records, third.manifest.records, fourth.records) == (4, 9, 0)
    assert fourth.manifest.left_out == {"no Verdict": 1}
    assert sorted(places_of(rows_of(tmp_path / "verdicts"))) == sorted(await on_topic(place))


async def test_since_and_until_bound_the_records_also_in_later_runs(kafka, tmp_path):
    """The embedded broker does not look records up by time."""
    await kafka_bus.create_topics(kafka)
    await write(kafka, [verdict(number) for number in range(0, 48, 2)])
    bounds = {"since": WHEN + timedelta(hours=10), "until": WHEN + timedelta(hours=20)}
    await exported(kafka, tmp_path, **bounds)
    rows = rows_of(tmp_path / "verdicts")
    assert sorted(row["kafka_timestamp"] for row in rows) == [WHEN + timedelta(hours=n) for n in range(10, 20, 2)]
    await exported(kafka, tmp_path)
    rows = rows_of(tmp_path / "verdicts")
    assert sorted(row["kafka_timestamp"] for row in rows) == [WHEN + timedelta(hours=n) for n in range(10, 48, 2)]


async def test_erased_items_are_left_out_from_the_erasure_on(place, tmp_path):
    made = [verdict(0), verdict(1), verdict(2, content_id="c1"), verdict(30, content_id="c1")]
    await write(place, made)
    await erase(place, "c1", WHEN + timedelta(hours=10))
    done = await exported(place, tmp_path)
    assert sorted(row["verdict_id"] for row in rows_of(tmp_path / "verdicts")) == ["v0", "v30"]  # v30 came later
    assert done.manifest.erased == 2
    report = ContentReport("r1", ContentEvent("c1", "a text", WHEN), "user", WHEN, "a claim")
    await write(place, [report], topics.REPORTS)
    assert (await exported(place, tmp_path, "reports")).manifest.erased == 1


async def test_a_folder_takes_nothing_that_does_not_fit(place, tmp_path, embedded_address):
    await write(place, [verdict(0)])
    await exported(place, tmp_path, since=WHEN)
    earlier = {"since": WHEN - timedelta(hours=1)}
    for current, form, bounds, reason in (
        (place, "csv", {}, "holds parquet files"),
        (place, "parquet", earlier, "holds records since 2026-01-01T12:00:00Z"),
        (own_topics(embedded_address), "parquet", {}, "holds " + place.prefix),
    ):
        await kafka_bus.create_topics(current)
        with pytest.raises(exporting.ConfigurationError, match=reason):
            await exported(current, tmp_path, form=form, **bounds)
    with manifests.locked(tmp_path / "verdicts"), pytest.raises(exporting.ConfigurationError, match="another process"):
        await exported(place, tmp_path)
    manifest = manifests.load(tmp_path / "verdicts")
    beyond = exporting.msgspec.structs.replace(manifest, positions={"0": 10**6})
    manifests.save(tmp_path / "verdicts", beyond)
    with pytest.raises(exporting.ConfigurationError, match="was created again"):
        await exported(place, tmp_path)
    (tmp_path / "verdicts" / manifests.MANIFEST).write_text("{")
    with pytest.raises(exporting.ConfigurationError, match="is no manifest"):
        await exported(place, tmp_path)


async def test_large_records_are_written_in_smaller_groups(place, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ROW_GROUP_BYTES", 100_000)
    await write(place, [verdict(0, verdict_id=f"v{number}", reason="x" * 40_000) for number in range(12)])
    await exported(place, tmp_path)
    (file,) = (tmp_path / "verdicts").glob("day=*/*")
    assert pq.ParquetFile(file).metadata.num_row_groups == 4


async def test_memory_holds_a_row_group_and_a_folder_no_more_open_files(place, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "ROW_GROUP", 10)
    monkeypatch.setattr(exporting, "COMMIT", 60)
    monkeypatch.setattr(exporting, "OPEN_FILES", 5)
    states = []
    save = manifests.save
    monkeypatch.setattr(manifests, "save", lambda folder, one: (states.append(one.records), save(folder, one)))
    await write(place, [verdict(number) for number in range(300)])  # 13 days
    await exported(place, tmp_path)
    rows = rows_of(tmp_path / "verdicts")
    assert sorted(places_of(rows)) == sorted(await on_topic(place))
    assert len(states) > 3
    groups = [pq.ParquetFile(file).metadata for file in (tmp_path / "verdicts").glob("day=*/*")]
    assert max(one.row_group(n).num_rows for one in groups for n in range(one.num_row_groups)) <= 10


SLOWED = """
import sys, time
from safeguard_streams.exporting import export, manifest
export.ROW_GROUP, export.COMMIT = 50, 200
put = manifest.put
def slow(path, final):
    time.sleep(0.02)
    put(path, final)
    time.sleep(0.02)
manifest.put = slow
from safeguard_streams.__main__ import main
main()
"""


async def test_a_run_after_kills_holds_each_record_once(place, tmp_path):
    """Killed after states of the manifest, and between the names of files and the manifest that names them."""
    await write(place, [verdict(number % 100, verdict_id=f"v{number}") for number in range(4000)])
    words = ["export", "verdicts", "--to", str(tmp_path), "--bootstrap", place.bootstrap]
    environment = {**os.environ, "SAFEGUARD_PREFIX": place.prefix}
    folder = tmp_path / "verdicts"
    states = set()
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", SLOWED, *words], env=environment, stderr=subprocess.DEVNULL)
        before = manifests.load(folder).records if folder.exists() and manifests.load(folder) else 0
        while process.poll() is None:
            now = manifests.load(folder) if folder.exists() else None
            # Odd kills come when a file of the next state has its name already.
            named = 0 if now is None else len(now.files)
            if now and now.records > before and (kill % 2 == 0 or len(list(folder.glob("day=*/*"))) > named):
                break
            await asyncio.sleep(0.001)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        states.add(manifests.load(folder).records)
    assert len(states) == 3
    done = subprocess.run(
        [sys.executable, "-m", "safeguard_streams", *words, "--json"], env=environment, capture_output=True, check=True
    )
    printed = json.loads(done.stdout)
    rows = rows_of(folder)
    assert printed["total"] == len(rows) == 4000
    assert 0 < printed["records"] < 4000
    assert sorted(places_of(rows)) == sorted(await on_topic(place))


async def test_a_run_says_what_it_left_out(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEGUARD_PREFIX", place.prefix)
    await write(place, [verdict(0), None, verdict(1)])
    await erase(place, "c0", WHEN + timedelta(days=2))
    words = ["export", "verdicts", "--to", tmp_path, "--bootstrap", place.bootstrap]

    def run(*more):
        with ThreadPoolExecutor(1) as pool:  # the command has a loop of its own
            return pool.submit(invoke, *words, *more).result()

    shown = run()
    assert f"exported 1 record in 1 file\n{tmp_path}/verdicts holds 1 record of {place.prefix}" in shown.stdout
    assert "1 record about erased items left out" in shown.stdout
    assert "1 tombstone on moderation.verdicts" in shown.stderr
    printed = json.loads(run("--json").stdout)
    assert (printed["records"], printed["total"], printed["erased"], printed["left_out"]) == (0, 1, 1, {"tombstone": 1})


async def test_aborted_transactions_are_in_no_export(kafka, tmp_path):
    await kafka_bus.create_topics(kafka)
    await write(kafka, [verdict(0)])
    producer = AIOKafkaProducer(**client_options(kafka), transactional_id=f"{kafka.prefix}t")
    await producer.start()
    try:
        for number, commit in ((1, False), (2, True), (3, False)):
            await producer.begin_transaction()
            await producer.send_and_wait(kafka.prefix + topics.VERDICTS, encode(verdict(number)), partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()
    await exported(kafka, tmp_path)
    assert sorted(row["verdict_id"] for row in rows_of(tmp_path / "verdicts")) == ["v0", "v2"]
    assert (await exported(kafka, tmp_path)).records == 0
    assert manifests.load(tmp_path / "verdicts").topic_id
