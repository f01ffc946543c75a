"""The documentation is true: snippets run, shown output is current, the compose file is valid."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
import threading
import time
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract import asyncapi, topics
from safeguard_streams.contract.records import Appeal, ContentEvent, ContentReport, Verdict, decode, encode
from safeguard_streams.demo import labels
from safeguard_streams.infra import brokers
from safeguard_streams.policies.check import check
from safeguard_streams.policies.files import load_library
from safeguard_streams.runtime import settings as settings_module
from tests.conftest import TIMEOUT

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs"
CAPACITY = SITE / "guides/capacity.md"
# Every document that people read; the reference pages are generated from the code.
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "infra/telemetry/RUNBOOK.md", *sorted(SITE.rglob("*.md"))]
EXAMPLES = ROOT / "streams/client/examples"
BIN = Path(sys.executable).parent


def block(marker):
    """The only code block after this marker, in any document."""
    pattern = re.compile(rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)```\n", re.DOTALL)
    (found,) = [text for path in DOCUMENTS for text in pattern.findall(path.read_text(encoding="utf-8"))]
    return found


def capacities():
    """The output of the example. To renew it, run .venv/bin/python -m tests.integration.test_documentation."""
    found = CliRunner(env={"COLUMNS": "110"}).invoke(app, shlex.split(block("capacity command"))[1:])
    assert found.exit_code == 0, found.output
    return "\n".join(row.rstrip() for row in found.stdout.splitlines()) + "\n"


def test_the_capacities_are_the_output_of_the_command():
    assert block("capacity") == capacities()


def test_the_demo_output_in_the_readme_agrees_with_the_events_and_the_policies_of_the_demo():
    shown = block("demo")
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    published, cleared, escalated = (int(number) for number in re.findall(r"^ +(\d+)  \w", shown, re.MULTILINE))
    assert published == cleared + escalated == len(lines)
    assert f"in         {published} events\n   out        {published} answered, 0 unanswered, 0 answered twice" in shown
    figures = labels.figures(labels.read(lines), [])
    counts = re.findall(r"^ +([a-z-]+) +\d+ of (\d+) .* (\d+) of (\d+) ", shown, re.MULTILINE)
    assert {(policy, int(found), int(harmless)) for policy, found, _, harmless in counts} == {
        (policy, one.found.of, one.left_alone.of)
        for policy, one in {**figures, "all": labels.total(figures.values())}.items()
    }
    (text,) = re.findall(r'text +"(.*?)"\n +gate', shown, re.DOTALL)
    assert " ".join(text.split()) in {" ".join(event.text.split()) for event in labels.read(lines).values()}
    assert load_library()["prompt-injection"].rules["PI1"] in " ".join(shown.split())


def test_the_guides_policy_and_golden_texts_are_fit_for_release(tmp_path):
    (tmp_path / "policy.md").write_text(block("policy"))
    (tmp_path / "golden.jsonl").write_text(block("golden"))
    checked = check(tmp_path / "policy.md")
    assert checked.errors == []
    assert {problem.code for problem in checked.problems} <= {"golden", "tokens"}
    assert checked.golden == 2


def test_the_output_that_the_guide_shows_under_its_check_is_the_commands(tmp_path, monkeypatch):
    folder = tmp_path / "my/ticket-touting"
    folder.mkdir(parents=True)
    (folder / "policy.md").write_text(block("policy"))
    (folder / "golden.jsonl").write_text(block("golden"))
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["policy", "check", "my/ticket-touting/policy.md"])
    assert found.exit_code == 0
    assert sorted(found.output.splitlines()) == sorted(block("output: policy check").splitlines())


def script(tmp_path, name, address):
    path = tmp_path / f"{name}.py"
    text = block(f"snippet: {name}")
    assert "127.0.0.1:9092" in text
    path.write_text(text.replace("127.0.0.1:9092", address))
    return path


@pytest.fixture
def address(broker_address):
    """A broker with the topics under the names that the guides use."""
    made = settings_module.load(bootstrap=broker_address, partitions=2)
    subprocess.run(
        [BIN / "safeguard", "topics", "create", "--bootstrap", broker_address], check=True, capture_output=True
    )
    return made.bootstrap


async def last(address, topic, kind):
    from safeguard_streams.bus import kafka

    found = [decode(r.value, kind) async for r in kafka.read_all(settings_module.load(bootstrap=address), [topic])]
    return found[-1]


async def test_the_snippet_that_publishes(address, tmp_path):
    subprocess.run([sys.executable, script(tmp_path, "publish", address)], check=True, timeout=TIMEOUT)
    event = await last(address, topics.EVENTS, ContentEvent)
    assert event.content_id == "post-1"


async def test_the_snippet_that_reports(address, tmp_path):
    subprocess.run([sys.executable, script(tmp_path, "report", address)], check=True, timeout=TIMEOUT)
    report = await last(address, topics.REPORTS, ContentReport)
    assert (report.report_id, report.event.content_id) == ("report-1", "post-9")


async def test_the_snippet_that_appeals(address, tmp_path):
    subprocess.run([sys.executable, script(tmp_path, "appeal", address)], check=True, timeout=TIMEOUT)
    appeal = await last(address, topics.APPEALS, Appeal)
    assert (appeal.identity, appeal.content_id, appeal.appellant) == ("appeal-1", "post-1", "author")


@pytest.mark.parametrize("name", ["first", "follow", "faust"])
async def test_the_snippets_that_follow_verdicts(address, tmp_path, name):
    from safeguard_streams.bus import kafka

    current = settings_module.load(bootstrap=address)
    moment = settings_module.Settings.__name__ + str(time.time_ns())
    verdict = Verdict(moment, moment, "s", "fraud-spam", "1", "violates", "reasoner", "live", "m", _now(), ("FS2",))
    async with kafka.producer(current) as producer:
        await producer.send_and_wait(topics.VERDICTS, encode(verdict), key=moment.encode())
    path = script(tmp_path, name, address)
    command = [sys.executable, "-u", str(path)]
    if name == "faust":
        command = [sys.executable, "-m", "faust", "-A", name, "worker", "--without-web", "-l", "warn"]
        # The module may not be called as the library is.
        path.rename(tmp_path / "verdicts.py")
        command[4] = "verdicts"
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if moment in line:
                    break
            else:
                pytest.fail("the snippet ended without printing the verdict")
        finally:
            timer.cancel()
            process.kill()
    assert "fraud-spam violates" in line


async def test_the_example_in_java_follows_verdicts(kafka_address, tmp_path):
    from safeguard_streams.bus import kafka

    current = settings_module.load(bootstrap=kafka_address, prefix=f"java{time.time_ns()}.", partitions=2)
    await kafka.create_topics(current)
    found = [
        Verdict("v1", "c1", "s", "fraud-spam", "1", "violates", "reasoner", "live", "m", _now(), ("FS2",)),
        Verdict(
            "v2", "c1", "s", "fraud-spam", "1", "safe", "reasoner", "live", "m", _now(), supersedes="v1", score=0.1
        ),
    ]
    async with kafka.producer(current) as producer:
        for verdict in [found[0], *found]:
            await producer.send_and_wait(current.prefix + topics.VERDICTS, encode(verdict), key=b"c1")
    jars = f"{brokers.jars()}/*"
    command = [
        "java",
        "-cp",
        jars,
        EXAMPLES / "FollowVerdicts.java",
        kafka_address,
        "java",
        current.prefix + topics.VERDICTS,
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            lines = [process.stdout.readline().strip() for _ in range(2)]
        finally:
            process.kill()
    assert lines == ["c1 fraud-spam violates", "c1 fraud-spam safe in place of v1"]


@pytest.mark.slow
async def test_the_exactly_once_example_acts_once_although_it_is_killed(kafka_address):
    from safeguard_streams.bus import kafka

    count, group = 200, f"g{time.time_ns()}"
    topic = f"removals-{group}"
    current = settings_module.load(bootstrap=kafka_address, partitions=2)
    await kafka.create_topics(current)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_address)
    async with kafka.started(current, admin, admin.close):
        await admin.create_topics([NewTopic(topic, 2, 1)])
    async with kafka.producer(current) as producer:
        for number in range(count):
            verdict = Verdict(
                f"{group}-{number}", f"{group}-{number}", "s", "p", "1", "violates", "reasoner", "live", "m", _now()
            )
            await producer.send(topics.VERDICTS, encode(verdict), key=verdict.content_id.encode())
        await producer.flush()

    async def acted():
        found = [r.key.decode() async for r in kafka.read_all(current, [topic])]
        return [key for key in found if key.startswith(group)]

    command = [sys.executable, EXAMPLES / "exactly_once.py", kafka_address, group, topic]
    for part in (0.4, 1.0):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                async with asyncio.timeout(TIMEOUT):
                    while len(await acted()) < part * count:
                        assert process.poll() is None
                        await asyncio.sleep(0.1)
            finally:
                process.kill()
    assert sorted(await acted()) == sorted(f"{group}-{number}" for number in range(count))
    await another_policys_verdict_restores_nothing(current, command, f"{group}-0", topic)


async def another_policys_verdict_restores_nothing(current, command, content_id, topic):
    from safeguard_streams.bus import kafka

    made = [("safe", "other"), ("violates", "other"), ("safe", "p"), ("safe", "other")]

    async def removed():
        found = [r async for r in kafka.read_all(current, [topic]) if r.key.decode() == content_id]
        return [dict(record.headers)["removed"] for record in found]

    async with kafka.producer(current) as producer:
        for number, (decision, policy) in enumerate(made):
            name = f"{content_id}-{number}"
            verdict = Verdict(name, content_id, "s", policy, "1", decision, "reasoner", "live", "m", _now())
            await producer.send_and_wait(topics.VERDICTS, encode(verdict), key=content_id.encode())
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            async with asyncio.timeout(TIMEOUT):
                while len(await removed()) < 1 + len(made):
                    assert process.poll() is None
                    await asyncio.sleep(0.1)
        finally:
            process.kill()
    assert await removed() == [b"yes", b"yes", b"yes", b"yes", b"no"]


def test_the_asyncapi_document_is_current_and_complete():
    path = ROOT / "streams/contract/asyncapi.json"
    written = json.loads(path.read_text())
    assert written == json.loads(json.dumps(asyncapi.document())), (
        "run: safeguard topics asyncapi > streams/contract/asyncapi.json"
    )
    assert set(written["channels"]) == {topic.name for topic in topics.CATALOGUE}
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', path.read_text()):
        target = written
        for step in reference.split("/"):
            target = target[step]
    schemas = written["components"]["schemas"]
    assert schemas["Verdict"]["properties"]["decided_at"]["format"] == "date-time"
    assert schemas["Verdict"]["required"][:2] == ["verdict_id", "content_id"]


def test_the_java_example_has_the_fields_of_the_asyncapi_document():
    text = (EXAMPLES / "FollowVerdicts.java").read_text()
    fields = re.findall(r"(\w+(?:<\w+>)?) (\w+)[,)]", re.search(r"record Verdict\((.*?)\{", text, re.DOTALL)[1])
    properties = json.loads((ROOT / "streams/contract/asyncapi.json").read_text())["components"]["schemas"]["Verdict"][
        "properties"
    ]
    kinds = {"String": "string", "Double": "number", "List<String>": "array"}
    assert len(fields) > 8
    for kind, name in fields:
        schema = properties[name]
        possible = [one.get("type", "string" if "enum" in one else None) for one in schema.get("anyOf", [schema])]
        assert kinds[kind] in possible, name


def _now():
    from safeguard_streams.contract.records import now

    return now()


def test_the_compose_file_is_valid_and_its_commands_and_settings_exist():
    path = ROOT / "docker-compose.kafka.yml"
    check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    subprocess.run(check, check=True, capture_output=True)
    services = yaml.safe_load(path.read_text())["services"]
    assert {"kafka", "topics", "prefilter", "enforcement", "reasoner", "reasoner-cpu"} <= set(services)
    known = {f"SAFEGUARD_{name.upper()}" for name in settings_module.Settings.model_fields}
    for name, service in services.items():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            words = service["command"]
            subprocess.run([BIN / "safeguard", *words[:2], "--help"], check=True, capture_output=True)
            assert set(service["environment"]) <= known | {"PGPASSWORD"}, name
            image = (ROOT / service["build"]["dockerfile"]).read_text()
            assert "\nUSER safeguard\n" in image
            usual = "".join(re.findall(r"^ARG EXTRA=(\S+)", image, re.MULTILINE))
            for pins in re.findall(r"infra/requirements/(\S+)", image):
                extra = service["build"].get("args", {}).get("EXTRA") or usual
                assert (ROOT / "infra/requirements" / pins.replace("${EXTRA}", extra)).is_file()
    device = services["reasoner"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert device["capabilities"] == ["gpu"]
    assert services["reasoner-cpu"]["profiles"] == ["cpu"]


def test_tests_run_against_the_installed_package():
    import safeguard_streams

    assert "site-packages" in safeguard_streams.__file__
    assert (Path(safeguard_streams.__file__).parent / "py.typed").is_file()


def test_the_distribution_installs_one_package_and_nothing_beside_it():
    folders = {path.parts[0] for path in metadata.files("safeguard-streams")}
    packages = {
        name for name in folders if name != ".." and not name.endswith(".dist-info")
    }  # "..": the commands in bin/
    assert packages == {"safeguard_streams"}


def test_the_shipped_models_are_small_and_have_their_cards():
    package = files("safeguard_streams")
    prefilter, small = package / "prefilter" / "model", package / "workers" / "small"
    assert (prefilter / "prefilter.bin").stat().st_size <= 12_000_000
    assert (small / "model.safetensors").stat().st_size <= 25_000_000
    from safeguard_streams.prefilter.classifier import Classifier
    from safeguard_streams.workers.small.weights import expand

    assert Classifier().name in (prefilter / "card.md").read_text()
    assert expand().name in (small / "card.md").read_text()


if __name__ == "__main__":
    text = CAPACITY.read_text(encoding="utf-8")
    CAPACITY.write_text(text.replace(block("capacity"), capacities()), encoding="utf-8")
