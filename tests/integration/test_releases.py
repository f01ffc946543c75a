"""Releases on a broker: history, rollback, shadows, retirement, and a release under load."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safeguard_streams.bench import release as measurement
from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, Verdict, decode, encode, now
from safeguard_streams.errors import BusError, ConfigurationError, PolicyError
from safeguard_streams.policies.files import LIBRARY, load, load_library
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.quality import shadow_comparison
from safeguard_streams.releases import operator
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.releases.operator import ChangedBy
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.workers.judging.judge import Judge
from safeguard_streams.workers.judging.reasoner import InferenceBudget
from tests.conftest import TIMEOUT, feed_of, own_topics
from tests.stand_in_model import StandIn, completion

pytestmark = pytest.mark.slow
NAME = "self-harm"
SCRIPTED = Path(__file__).parents[1] / "faults" / "reasoner.py"


def command_line(settings, monkeypatch):
    """Runs `safeguard policy` on these settings; returns standard output, raises what the command raises."""
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", settings.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", settings.prefix)
    asyncio.run(kafka_bus.create_topics(settings))

    def invoke(*words):
        result = CliRunner().invoke(app, ["policy", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    return invoke


@pytest.fixture
def run(broker, monkeypatch):
    """The command line under a topic prefix of this test's own, on both brokers."""
    return command_line(broker, monkeypatch)


@pytest.fixture
def run_once(embedded_address, monkeypatch):
    """The same on the embedded broker only."""
    return command_line(own_topics(embedded_address), monkeypatch)


async def followed(settings):
    """The policies in force for a process that reads the topic from its beginning."""
    feed, caught_up = PolicyFeed(), asyncio.Event()
    task = asyncio.create_task(feed.follow(settings, caught_up))
    await asyncio.wait_for(caught_up.wait(), TIMEOUT)
    task.cancel()
    await asyncio.wait({task})  # its consumer is closed by then
    return feed.policies


def test_a_policys_life_from_its_release_to_its_retirement(run, broker, tmp_path):
    shutil.copytree(LIBRARY / NAME, tmp_path / NAME)
    edited = tmp_path / NAME / "policy.md"
    first = load(edited)
    edited.write_text(first.document.replace("sadness alone never violates", "sadness never violates"))
    second = load(edited)

    assert f"released {NAME} version {first.version} revision 1" in run(
        "release", NAME, "--why", "begin", "--by", "ann"
    )
    assert "revision 2" in run("release", str(edited), "--why", "shorter", "--by", "ben")
    edited.write_text(second.document.replace("- SH5: ", "- SH6: "))
    with pytest.raises(PolicyError, match=r"policy\.md:11: error: SH5 has no line"):
        run("release", str(edited), "--why", "broken")
    assert f"to version {first.version}, now revision 3" in run("rollback", NAME, "--why", "ben was wrong")
    edited.write_text(second.document)
    assert "as a shadow on 10.00% of content" in run("release", str(edited), "--shadow", "0.1", "--by", "ben")
    in_force = json.loads(run("list", "--released", "--json"))
    assert [(r["version"], r["revision"], r["shadow"]) for r in in_force] == [
        (first.version, 3, ""),
        (second.version, 4, "0.1"),
    ]
    policies = asyncio.run(followed(broker))
    assert policies.released[NAME].revision == 3
    assert (policies.shadows[NAME].revision, policies.shadows[NAME].share) == (4, 0.1)

    run("release", str(edited), "--why", "the shadow was right")
    assert asyncio.run(followed(broker)).shadows == {}
    run("rollback", NAME, "--to", "1", "--why", "once more")
    run("retire", NAME, "--why", "replaced")
    assert json.loads(run("list", "--released", "--json")) == []
    assert asyncio.run(followed(broker)).released == {}
    with pytest.raises(ConfigurationError, match="is not in force"):
        run("retire", NAME)
    assert "revision 7" in run("release", NAME, "--why", "back again"), "a revision is never given twice"

    history = json.loads(run("history", NAME, "--json"))
    assert [(e["action"], e["revision"]) for e in history] == [
        *(("release", 1), ("release", 2), ("rollback", 3), ("shadow", 4), ("release", 5), ("end-shadow", "")),
        *(("rollback", 6), ("retire", ""), ("release", 7)),
    ]
    assert [e["by"] for e in history[:2]] == ["ann", "ben"]
    assert [e["why"] for e in history[:3]] == ["begin", "shorter", "ben was wrong"]
    assert NAME in run("history")
    for which in ("live", "7", "1", first.version[:6]):
        assert asyncio.run(operator.history(broker)).find(NAME, which).version == first.version
    shown = run("diff", f"{NAME}@{second.version}", f"{NAME}@live", "--text-only")
    assert "+You review user content about suicide" in shown
    assert "sadness never violates" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rollback", NAME), "no policy 'self-harm' was ever released; available: none"),
        (("rollback", NAME, "--to", "9"), "was ever released"),
        (("retire", NAME), "is not in force; available: none"),
        (("history", NAME), "policy 'self-harm' has no history; available: none"),
        (("compare", NAME), "no policy 'self-harm' was ever released"),
        (("compare", NAME, "--version", "abc"), "no shadow of self-harm judged under version abc; available: none"),
        (("diff", f"{NAME}@live", NAME, "--text-only"), "was ever released"),
        (("release", "nonsense"), "no policy 'nonsense'"),
        (("release",), "name the policies to release, or give --all-new.*fraud-spam"),
        (("release", NAME, "--all-new"), "name the policies to release, or give --all-new"),
        (("release", NAME, NAME), "self-harm is named twice"),
    ],
)
def test_an_impossible_request_is_refused_with_a_reason(run_once, words, message):
    with pytest.raises(ConfigurationError, match=message):
        run_once(*words)


@pytest.fixture
def mine(tmp_path):
    """A policy of one's own under an id of the package's library."""
    shutil.copytree(LIBRARY / NAME, tmp_path / NAME)
    path = tmp_path / NAME / "policy.md"
    path.write_text(path.read_text().replace("sadness alone never violates", "sadness never violates"))
    return path


def history_of(run, name=NAME):
    return [(e["action"], e["revision"], e["by"], e["why"]) for e in json.loads(run("history", name, "--json"))]


def test_a_release_at_each_start_keeps_what_was_ever_released(run_once, mine):
    """A policy of one's own, a shadow and a retired policy each stay as they are."""
    run_once("release", str(mine), "--why", "mine", "--by", "ann")
    run_once("release", "fraud-spam", "--shadow", "0.1", "--why", "try", "--by", "ann")
    run_once("release", "gaming-conduct", "--why", "a month", "--by", "ann")
    run_once("retire", "gaming-conduct", "--why", "over", "--by", "ben")
    out = run_once("release", "--all-new", "--why", "start", "--by", "compose")
    assert out.count("\nreleased ") == 3
    assert "nothing to release" in run_once("release", "--all-new", "--why", "start", "--by", "compose")
    rows = {(row["id"], row["shadow"]): row for row in json.loads(run_once("list", "--released", "--json"))}
    assert rows[NAME, ""]["version"] == load(mine).version
    assert ("fraud-spam", "") not in rows
    assert ("gaming-conduct", "") not in rows
    assert len(rows) == 5
    assert history_of(run_once) == [("release", 1, "ann", "mine")]
    assert history_of(run_once, "gaming-conduct") == [("release", 1, "ann", "a month"), ("retire", "", "ben", "over")]


def test_a_release_shows_what_changes_and_writes_only_what_does(run_once, mine):
    first = load_library()[NAME]
    run_once("release", NAME, "--by", "ann")
    again = run_once("release", NAME, "--by", "ann")
    assert again == f"{NAME}: unchanged, version {first.version} is in force already\n"
    with pytest.raises(ConfigurationError, match="no shadow of self-harm has judged anything yet; start one with"):
        run_once("compare", NAME)
    dry = run_once("release", str(mine), "--dry-run")
    assert f"version {first.version} in force -> {load(mine).version}" in dry
    assert "  +You review user content about suicide" in dry
    assert "dry run: nothing was released" in dry
    assert history_of(run_once) == [("release", 1, "ann", "")]

    mine.write_text(first.document.replace("  sample: 0.02", "  sample: 0.05").replace("owner: ", "owner: my "))
    out = run_once("release", str(mine), "--by", "ann", "--why", "more")
    assert "gate.sample: 0.02 -> 0.05" in out
    assert "(for readers only)" in out
    assert out.index("gate.sample") < out.index(f"released {NAME} version {load(mine).version} revision 2")
    (row,) = json.loads(run_once("release", NAME, "--dry-run", "--json"))
    row.pop("golden")  # one is learned where the extra encoder is installed
    assert [row] == [
        {
            "id": NAME,
            "encoder": None,
            "version": first.version,
            "in_force": load(mine).version,
            "unchanged": False,
            "revision": None,
            "difference": {
                "decides": [{"field": "gate.sample", "before": 0.05, "after": 0.02}],
                "text": [],
                "describes": [{"field": "owner", "before": "my trust-and-safety", "after": "trust-and-safety"}],
                "enforces": [],
            },
        }
    ]


def test_a_shadow_and_a_rollback_record_author_and_reason_and_repeat_nothing(run_once, mine):
    run_once("release", NAME, "--by", "ann", "--why", "first")
    for _ in range(2):
        out = run_once("release", str(mine), "--shadow", "0.1", "--by", "ben", "--why", "try")
    assert out == f"{NAME}: unchanged, version {load(mine).version} is in shadow already\n"
    run_once("release", str(mine), "--shadow", "0.2", "--by", "ben", "--why", "more of it")
    run_once("release", str(mine), "--by", "cyd", "--why", "it was right")
    run_once("rollback", NAME, "--by", "dan", "--why", "it was not")
    with pytest.raises(ConfigurationError, match="in force already, as revision 5"):
        run_once("rollback", NAME, "--to", "1", "--by", "dan")
    assert history_of(run_once) == [
        *(("release", 1, "ann", "first"), ("shadow", 2, "ben", "try"), ("shadow", 3, "ben", "more of it")),
        *(("release", 4, "cyd", "it was right"), ("end-shadow", "", "cyd", "it was right")),
        ("rollback", 5, "dan", "it was not"),
    ]
    *_, line = run_once("history", NAME).splitlines()
    assert line.endswith(f"  {NAME}  rollback revision 5, version {load_library()[NAME].version}, by dan: it was not")


async def test_concurrent_operators_never_assign_a_revision_twice(kafka):
    await kafka_bus.create_topics(kafka)
    policy = load_library()[NAME]

    async def one(name):
        try:
            return await operator.release(kafka, [policy], ChangedBy("at once", name))
        except BusError as error:
            assert "another process holds" in str(error)
            return []

    made = [r.revision for found in await asyncio.gather(*(one(f"operator {n}") for n in range(4))) for r in found]
    assert made
    assert len(set(made)) == len(made)
    assert [change.release.revision for change in (await operator.history(kafka)).changes] == sorted(made)


async def test_malformed_records_between_releases_are_ignored(broker):
    await kafka_bus.create_topics(broker)
    await operator.release(broker, [load_library()[NAME]], ChangedBy("test"))
    async with kafka_bus.producer(broker) as producer:
        for value in (b"not json", b"{}", b'{"policy_id": "self-harm", "version": "x"}', b"\xff" * 2000, b"[" * 9000):
            await producer.send_and_wait(broker.prefix + topics.POLICIES, value=value, key=NAME.encode())
            await producer.send_and_wait(broker.prefix + topics.POLICIES_HISTORY, value=value, key=NAME.encode())
    await operator.release(broker, [load_library()["fraud-spam"]], ChangedBy("test"))
    policies = await followed(broker)
    assert set(policies.released) == {NAME, "fraud-spam"}
    assert [change.policy_id for change in (await operator.history(broker)).changes] == [NAME, "fraud-spam"]


async def test_a_release_under_load_loses_no_event_and_mixes_no_versions(kafka_address, tmp_path):
    reasoner = [sys.executable, str(SCRIPTED), str(tmp_path / "calls")]
    found = await measurement.release(kafka_address, 1000, 9, 30, tmp_path, lambda line: None, reasoner)
    counts = found["counts"]
    assert counts["events"] == counts["answered"] == 9000
    wrong = {name for name in counts if name.startswith("verdicts_by")} | {
        *("unanswered", "answered_twice", "dead_letters", "undetermined"),
    }
    assert {name: counts[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert counts["verdicts"] > 100
    for row in found["variants"].values():
        assert None not in (row["first_cleared_s"], row["first_verdict_s"])


class StrictModel(StandIn):
    """Finds that everything violates a policy which says "sadness violates", and that nothing violates any other."""

    async def generate(self, question):
        final = {"violation": 0, "rule_ids": ["SH5"], "confidence": "high", "reason": "It encourages nobody."}
        if "sadness violates" in question.policy_text:
            final |= {"violation": 1, "rule_ids": ["SH1"], "reason": "It is sad."}
        return completion("So.", json.dumps(final))


async def test_a_shadow_is_judged_beside_the_version_in_force_and_compared(broker, monkeypatch):
    """From the release through both stages to the command that compares, over a broker's topics."""
    await kafka_bus.create_topics(broker)
    document = load_library()[NAME].document
    stern = parse(
        document.replace("sadness alone never violates", "sadness violates").replace("[suicide,", "[sad, suicide,")
    )
    await operator.release(broker, [load_library()[NAME]], ChangedBy("test"))
    await operator.release(broker, [stern], ChangedBy("test"), shadow=1.0)
    feed = await feed_of(broker)
    texts = [*["a talk on suicide prevention"] * 6, *["i am so sad today"] * 3, "the bus was late"]
    events = [
        StoredRecord(topics.EVENTS, 0, n, 0, f"c{n}".encode(), encode(ContentEvent(f"c{n}", text, now())))
        for n, text in enumerate(texts)
    ]
    judge = Judge(StrictModel(), feed, InferenceBudget(500))
    async with kafka_bus.producer(broker) as producer:
        for event in events:
            await producer.send_and_wait(broker.prefix + topics.EVENTS, event.value, key=event.key, partition=0)
        for output in Prefilter(Classifier(), feed, AuditRates(0, 0)).decide(events):
            made = [output]
            if output.topic in (topics.ESCALATIONS, topics.ESCALATIONS_SHADOW):
                made += await judge.judge(StoredRecord(output.topic, 0, 0, 0, output.key, output.value))
            for one in made:
                await producer.send_and_wait(broker.prefix + one.topic, value=one.value, key=one.key)
    enforced = [decode(r.value, Verdict) async for r in kafka_bus.read_all(broker, [topics.VERDICTS])]
    assert {(v.policy_version, v.decision) for v in enforced} == {(load_library()[NAME].version, "safe")}
    found = await shadow_comparison.from_kafka(broker, NAME)
    assert (found.both, found.to_violates.count, found.agree.count) == (6, 6, 0)
    assert (found.only_shadow.count, found.only_shadow.of, found.waiting) == (3, 3, 0)
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", broker.bootstrap)
    monkeypatch.setenv("SAFEGUARD_PREFIX", broker.prefix)
    shown = (await asyncio.to_thread(CliRunner().invoke, app, ["policy", "compare", NAME])).stdout
    assert f"beside shadow {stern.version}" in shown
    assert "It is sad." in shown
    assert "  text        a talk on suicide prevention\n  in force    safe" in shown
    words = ["policy", "compare", NAME, "--no-texts"]
    assert "a talk on" not in (await asyncio.to_thread(CliRunner().invoke, app, words)).stdout
    examples = json.loads((await asyncio.to_thread(CliRunner().invoke, app, [*words[:3], "--json"])).stdout)["examples"]
    assert {one["text"] for one in examples} == {"a talk on suicide prevention"}
