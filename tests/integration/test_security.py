"""Apache Kafka with access lists: every role can do its work and nothing else; secrets are never printed."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import TopicAuthorizationFailedError
from typer.testing import CliRunner

from safeguard_streams.bus import kafka
from safeguard_streams.cli import app
from safeguard_streams.client.verdicts import Verdicts
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, ContentEvent, Rationale, Verdict, decode, encode
from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.infra import brokers
from safeguard_streams.operations import acls
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.runtime import security
from safeguard_streams.runtime import settings as settings_module
from safeguard_streams.runtime.security import client_options
from tests.conftest import TIMEOUT, until

ROOT = Path(__file__).parents[2]
SAFEGUARD = Path(sys.executable).with_name("safeguard")
PREFIX = "sec."
PASSWORDS = {name: f"{name}-k3eps-its-s3cret" for name in ("admin", "stranger", *acls.ROLES)}
POLICY = "hate-harassment"
RULES = '[[rule]]\nname = "all"\ndecision = "safe"\naction = "label"\n'


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A Kafka with users and certificates. The operator made the topics and the administrator the access lists."""
    try:
        brokers.jars()
    except brokers.BrokerError as error:
        pytest.skip(f"not run on Apache Kafka: {error}")
    made = brokers.KafkaSecurity(tmp_path_factory.mktemp("secure"), PASSWORDS)
    with brokers.kafka_cluster(1, secure=made) as nodes:
        made.address = brokers.addresses(nodes)
        done = command(made, "admin", "topics", "acls", "--apply")
        assert "access lists written" in done.stdout, done.stderr
        assert command(made, "operator", "topics", "create").returncode == 0
        yield made


def environment(secure, user):
    return {
        "SAFEGUARD_BOOTSTRAP": secure.address,
        "SAFEGUARD_PREFIX": PREFIX,
        "SAFEGUARD_PARTITIONS": "2",
        "SAFEGUARD_SESSION_TIMEOUT_MS": "6000",
        "SAFEGUARD_SECURITY_PROTOCOL": "SASL_SSL",
        "SAFEGUARD_CA_FILE": str(secure.ca_file),
        "SAFEGUARD_USERNAME": user,
        "SAFEGUARD_PASSWORD": PASSWORDS[user],
    }


def command(secure, user, *words, **more):
    given = {**os.environ, **environment(secure, user)}
    return subprocess.run(
        [SAFEGUARD, *words], env=given, capture_output=True, text=True, timeout=TIMEOUT, check=False, **more
    )


def as_user(secure, user, **more):
    given = {
        "bootstrap": secure.address,
        "prefix": PREFIX,
        "partitions": 2,
        "session_timeout_ms": 6000,
        "security_protocol": "SASL_SSL",
        "ca_file": secure.ca_file,
        "username": user,
        "password": PASSWORDS.get(user),
    }
    return settings_module.load(**given | more)


async def may(settings, topic):
    """Try whether a user can read and write a topic. A user who can do neither does not see the topic."""
    name = settings.prefix + topic
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    (described,) = await admin.describe_topics([name])
    await admin.close()
    if described["error_code"]:
        return False, False
    consumer = AIOKafkaConsumer(**client_options(settings), group_id=None)
    consumer.assign([TopicPartition(name, 0)])
    await consumer.start()
    await consumer.seek_to_beginning()
    try:
        await consumer.getmany(timeout_ms=200)
        reads = True
    except TopicAuthorizationFailedError:
        reads = False
    await consumer.stop()
    producer = AIOKafkaProducer(**client_options(settings))
    await producer.start()
    try:
        await producer.send_and_wait(name, b"{}", key=b"try", partition=0)
        writes = True
    except TopicAuthorizationFailedError:
        writes = False
    await producer.stop()
    return reads, writes


# ---------------------------------------------------------------- the pipeline, each process as its own user


@contextlib.contextmanager
def process(secure, user, words, folder, **more):
    with (folder / f"{user}.log").open("wb") as out:
        running = subprocess.Popen(
            words, env={**os.environ, **environment(secure, user), **more}, stdout=out, stderr=out, cwd=folder
        )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(TIMEOUT)


async def read(secure, user, topic, kind):
    return [decode(r.value, kind) async for r in kafka.read_all(as_user(secure, user), [topic])]


async def operate(*words):
    """Run a command as the operator; returns its output."""
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, f"{words}: {done.exception!r} {done.stderr}"
    return done.stdout


async def look_up(secure):
    """Look at c0 as three users: each sees what it may read, and which topics it may not."""
    shown = command(secure, "auditor", "enforce", "show", "c0", "--json")
    assert [action["action"] for action in json.loads(shown.stdout)] == ["label", "allow"]
    found = {}
    for user in ("auditor", "operator", "prefilter"):
        shown = command(secure, user, "content", "show", "c0", "--json")
        assert shown.returncode == 0, shown.stderr
        found[user] = json.loads(shown.stdout)
    lanes = [topics.ESCALATIONS, topics.ESCALATIONS_AUDIT, topics.ESCALATIONS_SHADOW]
    assert found["auditor"]["forbidden"] == [*lanes, topics.DEAD_LETTERS]
    assert found["operator"]["forbidden"] == [topics.RATIONALES]
    for user in ("auditor", "operator"):
        assert [one["text"] for one in found[user]["texts"]] == ["a suspicious text"]
        assert {one["verdict"]["policy_id"] for one in found[user]["verdicts"]} == {POLICY}
        assert [action["action"] for action in found[user]["actions"]] == ["label", "allow"]
        assert found[user]["standing"]["effective"] == "allow"
    assert all(one["rationale"] for one in found["auditor"]["verdicts"])
    assert not any(one["rationale"] for one in found["operator"]["verdicts"])
    assert (found["prefilter"]["verdicts"], found["prefilter"]["actions"]) == ([], [])
    assert [one["text"] for one in found["prefilter"]["texts"]] == ["a suspicious text"]
    shown = command(secure, "operator", "content", "show", "c0")
    assert "not shown, because this user may not read them: moderation.rationales\n" in shown.stderr
    refused = command(secure, "producer", "content", "show", "c0")
    assert (refused.returncode, "see: safeguard topics acls" in refused.stderr) == (1, True)


async def erase(secure):
    """Erase c0 as the operator: only the rationale of c2 is left."""
    erased = json.loads(await operate("erase", "c0", "--json"))
    assert erased["rationales"] == 2, "its verdict's and its replay's"
    remains = {one["topic"]: one["text"] for one in erased["remains"]}
    assert remains[topics.EVENTS] is remains[topics.ESCALATIONS] is True
    assert remains[topics.VERDICTS] is remains[topics.ACTIONS] is False
    assert "0 rationales" in await operate("erase", "c-unknown")
    records = [r async for r in kafka.read_all(as_user(secure, "auditor"), [topics.RATIONALES])]
    assert sum(r.value is None for r in records) == 2
    last = {r.key: r for r in records}
    assert {decode(r.value, Rationale).content_id for r in last.values() if r.value} == {"c2"}
    partitions = {r.key: r.partition for r in records if r.value}
    assert all(partitions[r.key] == r.partition for r in records), "a tombstone lies where its rationale does"


@pytest.mark.slow
async def test_each_role_does_its_work(secure, tmp_path, monkeypatch):
    for name, value in environment(secure, "operator").items():
        monkeypatch.setenv(name, value)
    policy = tmp_path / "policy.md"
    gate = {**dict.fromkeys(("harms", "general", "threshold", "calibration")), "terms": ["suspicious"]}
    policy.write_text(with_changes(load_library()[POLICY].document, "gate", **gate))
    changed = tmp_path / "changed.md"
    changed.write_text(policy.read_text().replace("You review user content", "You look at user content"))
    (tmp_path / "rules.toml").write_text(RULES)
    events = tmp_path / "events.jsonl"
    moment = datetime.now(UTC)
    texts = ["a suspicious text", "fine weather", "another suspicious one"]
    lines = [encode(ContentEvent(f"c{number}", text, moment)).decode() for number, text in enumerate(texts)]
    events.write_text("\n".join([*lines, "no event"]))
    released = command(secure, "operator", "policy", "release", str(policy), "--why", "test")
    assert released.returncode == 0, released.stderr
    stages = {
        "prefilter": [SAFEGUARD, "prefilter", "run", "--port", str(brokers.free_port())],
        "reasoner": [sys.executable, ROOT / "tests/faults/reasoner.py", tmp_path / "calls"],
        "enforcement": [SAFEGUARD, "enforce", "run", "rules.toml", "--port", str(brokers.free_port())],
    }
    ports = {"SAFEGUARD_REASONER_PORT": str(brokers.free_port())}
    with contextlib.ExitStack() as stack:
        for user, words in stages.items():
            stack.enter_context(process(secure, user, words, tmp_path, **ports))
        published = command(secure, "producer", "publish", str(events))
        assert (published.returncode, "line 4" in published.stderr) == (1, True), "all lines are sent, also the last"

        async def acted():
            return len({a.content_id for a in await read(secure, "auditor", topics.ACTIONS, Action)}) == 2

        await until(acted)
        rationales = await read(secure, "auditor", topics.RATIONALES, Rationale)
        assert {rationale.content_id for rationale in rationales} == {"c0", "c2"}
        assert [v.content_id for v in await read(secure, "auditor", topics.CLEARED, Verdict)] == ["c1"]

        await operate("enforce", "decide", "c0", "allow", "--why", "test")
        letters = [json.loads(line) for line in (await operate("dead-letters", "list", "--json")).splitlines()]
        assert [letter["stage"] for letter in letters] == ["prefilter"]
        retried = command(secure, "operator", "dead-letters", "retry", "--json")
        assert json.loads(retried.stdout)["retried"] == 1, retried.stderr
        started = command(secure, "operator", "replay", "start", str(changed), "--noise", "0", "--yes", "--json")
        assert started.returncode == 0, started.stderr
        made = json.loads(started.stdout.splitlines()[-1])
        assert made["state"] in ("judging", "judged")

        async def judged():
            return len(await read(secure, "auditor", topics.REPLAYS, Verdict)) >= 2

        await until(judged)
        found = json.loads(await operate("replay", "diff", made["replay_id"], "--json"))
        assert found["compared"] == 2
        assert found["examples"] == []
        audited = command(secure, "auditor", "replay", "diff", made["replay_id"], "--json")
        assert audited.returncode == 0, audited.stderr
        await operate("replay", "promote", made["replay_id"], "--yes")
        await look_up(secure)
        await erase(secure)
    moved = command(secure, "operator", "enforce", "repartition")
    assert "0 items were moved" in moved.stdout, moved.stderr
    created = command(secure, "operator", "topics", "create")
    assert (created.returncode, created.stderr) == (0, ""), "every topic is checked and none differs"
    for log in tmp_path.glob("*.log"):
        assert not any(word in log.read_text() for word in PASSWORDS.values())


@pytest.mark.slow
async def test_no_role_exceeds_its_access_list(secure, capsys):
    """For every role and topic, the broker allows exactly what the access list grants."""
    table = {}
    for role, rights in acls.ROLES.items():
        settings = as_user(secure, role)
        found = await asyncio.gather(*(may(settings, topic.name) for topic in topics.CATALOGUE))
        table[role] = {topic.name: can for topic, can in zip(topics.CATALOGUE, found, strict=True)}
        for topic, (reads, writes) in table[role].items():
            assert reads == (topic in rights.reads), (role, topic)
            assert writes == (topic in rights.writes), (role, topic)
    readers = {role for role, row in table.items() if row[topics.RATIONALES][0]}
    assert readers == {"auditor", "console", "projector"}
    with capsys.disabled():
        print("\n" + " " * 34 + " ".join(f"{role:<11}" for role in table))
        for topic in topics.CATALOGUE:
            marks = [
                "".join(mark for mark, can in zip("rw", table[role][topic.name], strict=True) if can) for role in table
            ]
            print(f"{topic.name:<34}" + " ".join(f"{mark or '-':<11}" for mark in marks))


@pytest.mark.slow
async def test_a_refusal_says_what_to_do(secure, tmp_path):
    for user, words in (
        ("producer", ["topics", "create"]),
        ("prefilter", ["dead-letters", "retry"]),
        ("reasoner", ["enforce", "run", "--port", "0"]),
        ("operator", ["prefilter", "run", "--port", str(brokers.free_port())]),
        ("stranger", ["replay", "list"]),
    ):
        done = command(secure, user, *words)
        assert done.returncode == 1, (user, done.stdout, done.stderr)
        assert "the broker refuses this user" in done.stderr, (user, done.stderr)
        assert "Traceback" not in done.stderr
        assert PASSWORDS[user] not in done.stderr
    with pytest.raises(ConfigurationError, match="refused these credentials"):
        await kafka.wait_for_broker(as_user(secure, "producer", password="wrong"), 5)
    with pytest.raises(ConfigurationError, match="certificate is not trusted .*; see SAFEGUARD_CA_FILE"):
        await kafka.wait_for_broker(as_user(secure, "producer", ca_file=_other_ca(tmp_path)), 5)


def _other_ca(folder):
    return brokers.KafkaSecurity(folder, {"admin": "x"}).ca_file


# ---------------------------------------------------------------- tokens


def token(subject, seconds=3600):
    """A token without a signature, which the test broker accepts."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now - 1, "exp": now + seconds})
    words = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*words, ""])


@contextlib.asynccontextmanager
async def oauth_server(asked):
    async def give(request):
        form = await request.post()
        asked.append(dict(form))
        if form["client_secret"] != PASSWORDS["producer"]:
            return web.Response(status=401)
        return web.json_response({"access_token": token(form["client_id"]), "expires_in": 3600})

    server = web.Application()
    server.router.add_post("/token", give)
    runner = web.AppRunner(server)
    await runner.setup()
    port = brokers.free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}/token"
    await runner.cleanup()


@pytest.mark.slow
async def test_tokens_are_fetched_from_an_oauth_server_and_cached(secure):
    asked = []
    async with oauth_server(asked) as url:
        oauth = {"sasl_mechanism": "OAUTHBEARER", "oauth_url": url, "oauth_scope": "kafka"}
        settings = as_user(secure, "producer", **oauth)
        assert await may(settings, topics.EVENTS) == (False, True)
        assert await may(settings, topics.RATIONALES) == (False, False)
        assert asked == [
            {
                "grant_type": "client_credentials",
                "client_id": "producer",
                "client_secret": PASSWORDS["producer"],
                "scope": "kafka",
            }
        ]
        with pytest.raises(BusError, match="returned no token: HTTP 401"):
            await security.OAuthTokenProvider(url, "producer", "wrong", "").token()
    with pytest.raises(BusError, match="returned no token: URLError"):
        await security.OAuthTokenProvider(url, "producer", "wrong", "").token()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security_protocol": "SASL_SSL"}, "SCRAM-SHA-512 needs SAFEGUARD_USERNAME and SAFEGUARD_PASSWORD"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "set SAFEGUARD_OAUTH_URL"),
        ({"security_protocol": "SSL", "ca_file": "/nowhere.pem"}, "SAFEGUARD_CA_FILE"),
        ({"security_protocol": "TLS"}, "SAFEGUARD_SECURITY_PROTOCOL"),
        ({"oauth_url": "file:///etc/passwd"}, "SAFEGUARD_OAUTH_URL"),
    ],
)
def test_invalid_settings_are_refused_with_the_setting_to_change(given, said):
    with pytest.raises(ConfigurationError, match=said):
        client_options(settings_module.load(**given))


def test_secrets_come_from_files_and_are_never_printed(tmp_path, monkeypatch):
    (tmp_path / "safeguard_password").write_text("kept-in-a-file\n")
    (tmp_path / "safeguard_webhook_secret").write_text("whsec_kept-in-a-file")
    monkeypatch.setenv("SAFEGUARD_SECRETS", str(tmp_path))
    found = settings_module.load(username="ann")
    assert found.password.get_secret_value() == "kept-in-a-file"
    assert "kept-in-a-file" not in f"{found!r} {found} {found.model_dump()}"
    monkeypatch.setenv("SAFEGUARD_PASSWORD", "kept-in-the-environment")
    assert settings_module.load().password.get_secret_value() == "kept-in-the-environment"
    for words in ([], ["enforce", "run"], ["topics", "acls"], ["prefilter", "run"]):
        shown = CliRunner().invoke(app, [*words, "--help"]).output
        assert "kept-in" not in shown
    monkeypatch.setenv("SAFEGUARD_KEY_PASSWORD", "[1]")
    monkeypatch.setenv("SAFEGUARD_PARTITIONS", "none")
    with pytest.raises(ConfigurationError) as caught:
        settings_module.load()
    assert "kept-in" not in str(caught.value)


@pytest.fixture(scope="module")
def kafka_tools(tmp_path_factory):
    """A folder with kafka-acls.sh, as Kafka's distribution has it. Maven downloads its jars."""
    folder = tmp_path_factory.mktemp("tools")
    pom = brokers.JARS_POM.read_text().replace(">kafka_2.13<", ">kafka-tools<")
    (folder / "pom.xml").write_text(pom)
    command = ["mvn", "-q", "-B", "-f", folder / "pom.xml", "dependency:copy-dependencies"]
    subprocess.run([*command, f"-DoutputDirectory={folder / 'jars'}"], check=True, capture_output=True, timeout=TIMEOUT)
    script = folder / "kafka-acls.sh"
    script.write_text(f'exec java -cp "{folder}/jars/*" org.apache.kafka.tools.AclCommand "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.mark.slow
async def test_the_printed_commands_run_and_a_consumer_follows_verdicts(secure, kafka_tools, tmp_path):
    """As printed, by Kafka's own tool. The user gets exactly the rights of a consumer of verdicts."""
    (tmp_path / "admin.properties").write_text(
        f"security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\n"
        f"ssl.truststore.location={secure.ca_file}\nsasl.jaas.config=org.apache.kafka.common.security.scram."
        f'ScramLoginModule required username="admin" password="{PASSWORDS["admin"]}";\n'
    )
    before = await may(as_user(secure, "stranger"), topics.VERDICTS)
    words = ["topics", "acls", "consumer", "--principal", "User:stranger", "--group", "my-service"]
    printed = command(secure, "admin", *words)
    assert len(printed.stdout.splitlines()) == 4, printed.stderr
    given = {**os.environ, "PATH": f"{kafka_tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e"], input=printed.stdout, env=given, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    user = as_user(secure, "stranger")

    async def granted():
        return (await may(user, topics.VERDICTS), await may(user, topics.EVENTS)) == ((True, False), (False, False))

    await until(granted, 30)
    assert before == (False, False)
    options = {**client_options(user), "session_timeout_ms": 6000}
    follower = Verdicts(options.pop("bootstrap_servers"), "my-service", prefix=PREFIX, **options)
    async with follower as verdicts:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await anext(verdicts)
    tailed = command(secure, "stranger", "verdicts", "tail", "--exit", "--cleared", "--json")
    assert tailed.returncode == 0, tailed.stderr
    checked = command(secure, "stranger", "doctor", "--role", "consumer", "--json")
    rights = {check["name"]: check for check in json.loads(checked.stdout)}
    assert rights["rights"]["result"] == "ok", rights["rights"]
    lacking = command(secure, "stranger", "doctor", "--role", "operator")
    assert lacking.returncode == 1
    assert "safeguard topics acls operator" in lacking.stdout
    refused = command(secure, "producer", "status", "--json")
    assert refused.returncode == 0, refused.stderr
    assert json.loads(refused.stdout)["policies"] is None


def test_access_lists_are_printed_as_commands_and_as_json():
    shown = CliRunner().invoke(app, ["topics", "acls", "producer", "--principal", "User:web"]).stdout
    assert shown == (
        "kafka-acls.sh --bootstrap-server 127.0.0.1:9092 --add --allow-principal User:web --operation Write "
        "--topic content.events\n"
    )
    rows = json.loads(CliRunner().invoke(app, ["topics", "acls", "--json"]).stdout)
    readers = {row["principal"] for row in rows if (row["operation"], row["name"]) == ("read", topics.RATIONALES)}
    assert readers == {"User:auditor", "User:console", "User:projector"}
    assert "no role 'king'" in CliRunner().invoke(app, ["topics", "acls", "king"]).output
