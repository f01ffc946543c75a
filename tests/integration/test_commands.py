"""The commands of operators, on both brokers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Verdict,
    content_sha256,
    decode,
    encode,
    now,
)
from safeguard_streams.policies.files import load_library
from tests.conftest import TIMEOUT

pytestmark = pytest.mark.slow
SAFEGUARD = Path(sys.executable).with_name("safeguard")


@pytest.fixture
def environment(broker):
    return {
        **os.environ,
        "SAFEGUARD_PREFIX": broker.prefix,
        "SAFEGUARD_BOOTSTRAP": broker.bootstrap,
        "SAFEGUARD_PARTITIONS": "2",
    }


@pytest.fixture
def safeguard(environment):
    def run(*arguments, given=None, code=0):
        command = [SAFEGUARD, *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


async def test_topics_are_created_once(safeguard):
    assert set(json.loads(safeguard("topics", "create", "--json")).values()) == {True}
    assert set(json.loads(safeguard("topics", "create", "--json")).values()) == {False}


async def test_releases_are_counted_and_listed(safeguard):
    safeguard("topics", "create")
    assert "fraud-spam" in safeguard("policy", "release", "fraud-spam", "--why", "first")
    safeguard("policy", "release", "--all-new", "--why", "all")
    listed = {row["id"]: row for row in json.loads(safeguard("policy", "list", "--released", "--json"))}
    assert set(listed) == set(load_library())
    assert {row["revision"] for row in listed.values()} == {1}
    assert (listed["fraud-spam"]["why"], listed["hate-harassment"]["why"]) == ("first", "all")


async def test_lines_are_published_unchanged(broker, safeguard):
    safeguard("topics", "create")
    lines = [encode(ContentEvent("a", "x\u2028y", now())).decode(), "not an event"]
    said = json.loads(safeguard("publish", "-", "--json", given="\n".join(lines) + "\n\n", code=1))
    assert (said["published"], said["events"], said["invalid"][0]["line"]) == (2, 1, 2)
    events = [r async for r in kafka_bus.read_all(broker, [topics.EVENTS])]
    assert sorted((r.key, r.value.decode()) for r in events if r.key) == [(b"a", lines[0])]
    assert [r.value for r in events if not r.key] == [b"not an event"]


async def test_verdicts_are_followed_with_filters(broker, safeguard, environment):
    safeguard("topics", "create")
    safeguard("policy", "release", "fraud-spam")
    async with kafka_bus.producer(broker) as producer:
        given = [("fraud-spam", "safe"), ("q", "violates"), ("fraud-spam", "violates")]
        for number, (policy, decision) in enumerate(given):
            verdict = Verdict(f"v{number}", f"c{number}", "s", policy, "1", decision, "reasoner", "live", "m", now())
            await producer.send_and_wait(broker.prefix + topics.VERDICTS, encode(verdict), key=b"c", partition=0)
    words = ["verdicts", "tail", "--from-beginning", "--policy", "fraud-spam", "--decision", "violates", "--json"]
    with subprocess.Popen([SAFEGUARD, *words], stdout=subprocess.PIPE, text=True, env=environment) as process:
        verdict = decode(process.stdout.readline().encode(), Verdict)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
    assert verdict.verdict_id == "v2"


ROWS = [json.loads(line) for line in Path("tests/data/labelled.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("broker_address", ["kafka"], indirect=True)
async def test_gates_are_calibrated_distilled_and_audited_from_the_verdicts_on_kafka(broker, safeguard, tmp_path):
    safeguard("topics", "create")
    safeguard("policy", "release", "hate-harassment", "--no-golden")
    version = load_library()["hate-harassment"].version
    async with kafka_bus.producer(broker) as producer:
        for number, row in enumerate(ROWS[:900:2] + ROWS[900::2]):
            event = ContentEvent(f"c{number}", row["text"], now())
            # What scores low was drawn: one in ten, near the threshold or far from it.
            score = 0.9 if row["violates"] and number % 4 else 0.05
            result = PrefilterResult("label", "hate", score, 0.2)
            if score < 0.2:
                result = PrefilterResult("audit", "hate", score, 0.2, 0.1, "far")
            lane = "audit" if result.gate == "audit" else "live"
            escalation = Escalation(event, "hate-harassment", version, 1, result, lane, now())
            decision = "violates" if row["violates"] else "safe"
            verdict = Verdict(
                f"v{number}",
                f"c{number}",
                content_sha256(event.text),
                "hate-harassment",
                version,
                decision,
                "reasoner",
                lane,
                "m",
                now(),
                prefilter=result,
            )
            key = f"c{number}".encode()
            await producer.send(broker.prefix + topics.LANES[lane], encode(escalation), key=key)
            await producer.send(broker.prefix + topics.VERDICTS, encode(verdict), key=key)
        await producer.flush()

    found = json.loads(safeguard("prefilter", "recall", "--json"))["hate-harassment"]
    violating = sum(row["violates"] for row in ROWS[:900:2] + ROWS[900::2])
    assert found["caught"] + found["missed"] / 10 == pytest.approx(violating)
    assert found["low"] < found["recall"] < found["high"]
    assert "95% interval" in safeguard("prefilter", "recall", "hate-harassment")

    policy = tmp_path / "hate-harassment" / "policy.md"
    policy.parent.mkdir()
    policy.write_text(load_library()["hate-harassment"].document, encoding="utf-8")
    result = json.loads(safeguard("prefilter", "calibrate", str(policy), "--target-recall", "0.2", "--write", "--json"))
    assert 0.8999 <= result["threshold"] <= 0.9
    written = load_library(tmp_path)["hate-harassment"].gate
    assert written.threshold == result["threshold"]
    assert written.calibration["source"] == "verdicts"

    out, plot = tmp_path / "proposal" / "hate-harassment", tmp_path / "curves.svg"
    said = json.loads(safeguard("prefilter", "distill", str(policy), "--out", str(out), "--plot", str(plot), "--json"))
    assert said["rows"] == len(ROWS) // 2
    assert said["after"]["roc_auc"]["value"] > 0.8
    assert plot.read_text().startswith("<?xml")
    proposed = load_library(out.parent)["hate-harassment"]
    assert proposed.distilled is not None
    assert proposed.text == load_library()["hate-harassment"].text
    safeguard("policy", "release", str(out / "policy.md"))


def test_sets_are_evaluated_and_classifiers_distilled_from_files(tmp_path):
    def safeguard(*arguments):
        return subprocess.run(
            [SAFEGUARD, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=True
        ).stdout

    labels = tmp_path / "sets" / "mine.jsonl"
    labels.parent.mkdir()
    labels.write_text("\n".join(json.dumps(row) for row in ROWS[::3]) + "\n", encoding="utf-8")
    said = json.loads(safeguard("prefilter", "evaluate", "--data", str(labels.parent), "--json"))
    assert said["sets"][0]["name"] == "mine"
    assert said["sets"][0]["roc_auc"]["low"] > 0.8
    assert {harm["name"] for harm in said["harms"]} >= {"hate", "harassment", "fraud_spam"}
    out = tmp_path / "proposal"
    safeguard("prefilter", "distill", "hate-harassment", "--labels", str(labels), "--out", str(out))
    again = json.loads(
        safeguard("prefilter", "evaluate", "--data", str(labels.parent), "--policy", str(out / "policy.md"), "--json")
    )
    assert again["sets"][0]["roc_auc"]["value"] > said["sets"][0]["roc_auc"]["value"]
    table = safeguard("prefilter", "evaluate", "--data", str(labels.parent), "--plot", str(tmp_path / "recall.png"))
    assert "| mine | 500 |" in table
    assert "threshold" in safeguard("prefilter", "calibrate", "hate-harassment", "--labels", str(labels))
