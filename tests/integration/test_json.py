"""`--json` of every command that prints data, on the embedded broker: one JSON document, or one on each line."""

import asyncio
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    AuthorDecision,
    AuthorStanding,
    Canary,
    ContentEvent,
    PolicyStanding,
    Standing,
    Strike,
    Verdict,
    content_sha256,
    encode,
)
from safeguard_streams.enforcement import moderators
from safeguard_streams.errors import RecordError
from safeguard_streams.infra import brokers
from safeguard_streams.policies.files import LIBRARY, load, load_library
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.cli.test_every_command import LEAVES

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
SPAM = load_library()["fraud-spam"]
TEXT = "Send me your card number and win"

# Print no data: they run until they are stopped, write files, or print a script or a document.
WITHOUT = {
    ("completion",),
    ("topics", "asyncapi"),
    ("prefilter", "run"),
    ("prefilter", "train"),
    ("console", "project"),
    ("console", "serve"),
    ("enforce", "run"),
    ("authors", "run"),
    ("reason", "run"),
    ("reason", "canary"),
    ("reason", "train-small"),
    ("model", "scripted"),
}
# Need a model, a data set or a benchmark, or run until Ctrl-C. The test beside each parses what it prints.
ELSEWHERE = {
    ("demo",): "tests/unit/demo",
    ("broker",): "tests/unit/demo/test_broker.py",
    ("reports", "publish"): "tests/unit/cli/test_reports.py",
    ("export", "statements"): "tests/integration/test_statements.py",
    ("appeals", "publish"): "tests/unit/cli/test_appeals.py",
    **{("appeals", name): "tests/integration/test_appeals.py" for name in ("add", "list", "show", "decide", "rejudge")},
    ("appeals", "summary"): "tests/integration/test_appeals.py",
    **{("referrals", name): "tests/integration/test_appeals.py" for name in ("list", "hold", "release", "purge")},
    ("policy", "import"): "tests/unit/cli/test_policy_import.py",
    ("policy", "gate"): "tests/integration/test_golden_release.py",
    ("policy", "test"): "tests/integration/test_model_commands.py",
    ("policy", "diff"): "tests/integration/test_model_commands.py",
    ("reason", "calibrate"): "tests/integration/test_servers.py",
    ("model", "check"): "tests/integration/test_model_commands.py",
    ("bench", "model"): "tests/unit/workers/evaluation/test_bench_model.py",
    ("prefilter", "evaluate"): "tests/integration/test_commands.py",
    ("prefilter", "calibrate"): "tests/integration/test_commands.py",
    ("prefilter", "recall"): "tests/integration/test_commands.py",
    ("prefilter", "distill"): "tests/integration/test_commands.py",
    ("gates", "take"): "tests/unit/cli/test_gates.py",
    **{
        ("export", name): "tests/integration/test_export.py"
        for name in ("verdicts", "actions", "reports", "policies", "appeals")
    },
    ("report", "transparency"): "tests/unit/exporting/test_transparency.py",
    **{("bench", name): "tests/integration/test_benchmarks.py" for name in ("prefilter", "pipeline", "telemetry")},
    **{("bench", name): "tests/integration/test_benchmarks.py" for name in ("release", "texts", "reason")},
    ("bench", "console"): "tests/integration/test_benchmarks.py",
    ("console", "rebuild"): "tests/integration/test_projection.py",
    ("console", "labels"): "tests/unit/console/test_labels.py",
}
# The commands in an order in which each finds what it prints; some need ids that others printed.
RUNS = [
    "topics create",
    "topics list",
    "topics acls",
    "policy new my-policy --library {folder} --title Mine --violates Harm",
    "policy list",
    "policy check fraud-spam",
    "policy show fraud-spam",
    "policy release fraud-spam hate-harassment --why first",
    "policy release {changed} --shadow 0.5",
    "policy history",
    "publish -",
    "verdicts tail --exit",
    "policy compare fraud-spam",
    "policy compare --by model",
    "gates advise",
    "policy golden add {changed} c0 --label violates --rule FS1",
    "reports add c0 --reason seen",
    "content show c0",
    "status",
    "doctor",
    "replay start {changed} --yes",
    "replay list",
    "replay show {replay}",
    "replay pause {replay}",
    "replay resume {replay}",
    "replay diff {replay}",
    "replay promote {replay} --yes",
    "replay revert {replay} --yes",
    "replay cancel {replay}",
    "enforce check",
    "enforce held",
    "enforce review",
    "enforce standing",
    "enforce release fraud-spam --yes",
    "enforce decide c1 remove --why seen",
    "enforce undecide c1",
    "enforce decide allow --file {ids} --yes",
    "enforce undecide --file {ids} --yes",
    "enforce release fraud-spam --file {ids} --dry-run",
    "enforce show c1",
    "enforce deliveries",
    "enforce repartition",
    "authors show u1",
    "authors forgive u1 s1 --why seen",
    "authors decide u1 warn",
    "authors undecide u1",
    "authors forget u1 --yes",
    "authors repartition",
    "authors recount {rules} --yes",
    "dead-letters list",
    "dead-letters show {letter}",
    "dead-letters retry {letter}",
    "dead-letters discard --all --why mistaken",
    "policy retire fraud-spam --shadow",
    "policy release {changed} --why second",
    "policy rollback fraud-spam",
    "policy retire hate-harassment",
    "erase c0",
    "capacity --rate 100 --prefilter-rate 1000 --gpu-tokens 10000",
]
FAILING = {("doctor",)}  # there are no processes: it prints what fails, and exits with status 1
LINES = {("verdicts", "tail"), ("dead-letters", "list"), ("enforce", "review")}  # one document for each record
EMPTY = {("enforce", "deliveries")}


def words_of(run):
    words = tuple(run.split())
    return next(words[:length] for length in (3, 2, 1) if words[:length] in LEAVES)


def verdict(name, content_id, version, decision="violates", lane="live", **more):
    return Verdict(
        name, content_id, content_sha256(TEXT), "fraud-spam", version, decision, "reasoner", lane, "m", WHEN, **more
    )


async def write(current, changed):
    """What a pipeline leaves behind: verdicts of two versions, a held action, a dead letter."""
    held = Action("a1", "c1", "remove", WHEN, policy_id="fraud-spam", verdict_id="v1", state="held", rule="spam")
    standing = Standing("c1", "allow", 2, (PolicyStanding("fraud-spam", ("v1",), held=held),))
    strike = Strike("s1", "u1", "given", WHEN, weight=1, expires_at=WHEN)
    author = AuthorStanding("u1", 2, (strike,), decision=AuthorDecision("warn", "d1", WHEN))
    letter = StoredRecord(current.prefix + topics.EVENTS, 0, 0, 0, b"c9", b"x", [])
    shadow = verdict("s0", "c0", changed.version, "safe", lane="shadow")
    canary = verdict("n0", "c0", SPAM.version, "safe", lane="canary", origin="0@0", canary=Canary("try", 1.0))
    records = [
        (topics.VERDICTS, b"c0", encode(verdict("v0", "c0", SPAM.version, rule_ids=("FS1",), origin="0@0"))),
        (topics.REPLAYS, b"c0", encode(shadow)),
        (topics.REPLAYS, b"c0", encode(canary)),
        (topics.STANDING, b"c1", encode(standing)),
        (topics.ACTIONS, b"c1", encode(held)),
        (topics.AUTHOR_STANDING, b"u1", encode(author)),
        (
            topics.DEAD_LETTERS,
            b"c9",
            dead_letter(letter, RecordError("record", "is not JSON"), stage="prefilter", attempts=1).value,
        ),
    ]
    async with kafka_bus.producer(current) as producer:
        for topic, key, value in records:
            await producer.send_and_wait(current.prefix + topic, value, key=key, partition=0)


def changed_policy(folder):
    """Another version of the policy, in a folder with its golden set."""
    shutil.copytree(LIBRARY / "fraud-spam", folder)
    path = folder / "policy.md"
    path.write_text(path.read_text("utf-8").replace("effort: low", "effort: medium", 1), "utf-8")
    return load(path)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command of RUNS printed."""
    folder = tmp_path_factory.mktemp("json")
    changed = changed_policy(folder / "changed")
    (folder / "ids.txt").write_text("c1\n")
    (folder / "rules.toml").write_text('[[authors.threshold]]\nname = "first"\naction = "warn"\n')
    event = encode(ContentEvent("c0", TEXT, datetime.now(UTC))).decode()
    found, ids = {}, {"folder": folder, "changed": folder / "changed" / "policy.md", "ids": folder / "ids.txt"}
    ids["rules"] = folder / "rules.toml"
    with brokers.embedded() as address, pytest.MonkeyPatch.context() as patched:
        patched.setattr(moderators, "FOLLOW_SECONDS", 0.2)  # there is no agent
        runner = CliRunner(env={"SAFEGUARD_BOOTSTRAP": address, "SAFEGUARD_PARTITIONS": "2"})
        for run in RUNS:
            words = words_of(run)
            given = [word.format(**ids) for word in run.split()]
            found[run] = shown = runner.invoke(app, [*given, "--json"], input=f"{event}\n")
            if words == ("publish",):
                asyncio.run(write(settings.load(bootstrap=address), changed))
            elif words == ("replay", "start") and shown.exit_code == 0:
                ids["replay"] = json.loads(shown.stdout)["replay_id"]
            elif words == ("dead-letters", "list") and shown.exit_code == 0:
                ids["letter"] = json.loads(shown.stdout)["id"]
    return found


@pytest.mark.parametrize("run", RUNS)
def test_it_prints_json(run, printed):
    shown, words = printed[run], words_of(run)
    assert shown.exit_code == (words in FAILING), (shown.output, shown.exception)
    documents = [json.loads(one) for one in (shown.stdout.splitlines() if words in LINES else [shown.stdout])]
    assert documents
    for one in documents:
        assert isinstance(one, (dict, list)), one
        assert one or words in EMPTY
        for row in one if isinstance(one, list) else [one]:
            assert all(" " not in key and key == key.lower() for key in row), "keys for machines"


def test_every_command_that_prints_data_is_covered():
    with_json = {words for words, command in LEAVES.items() if any("--json" in one.opts for one in command.params)}
    covered = {words_of(run) for run in RUNS}
    assert set(LEAVES) - with_json <= WITHOUT
    assert with_json <= covered | set(ELSEWHERE)
    for path in ELSEWHERE.values():
        assert Path(path).exists()
