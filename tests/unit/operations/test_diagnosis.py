"""Each check of `safeguard doctor` fails for what it looks for, and for nothing else."""

import asyncio
import contextlib
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import msgspec
import orjson
import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations import acls, cluster_checks, diagnosis, health_pages, host_checks
from safeguard_streams.operations.checks import failed
from safeguard_streams.operations.cluster import OPERATIONS, QUEUES, Group, Lag, TopicState
from safeguard_streams.operations.log_dirs import LogDir
from safeguard_streams.operations.status import Letters
from safeguard_streams.runtime.settings import Settings

HEALTHY = {
    topic.name: TopicState(f"eu.{topic.name}", topic.partitions or 6, 3, config=topic.config, rights=set(OPERATIONS))
    for topic in topics.CATALOGUE
}


def with_change(name, **changes):
    return HEALTHY | {name: msgspec.structs.replace(HEALTHY[name], **changes)}


def with_setting(name, **settings):
    changed = {key.replace("_", "."): value for key, value in settings.items()}
    return with_change(name, config=HEALTHY[name].config | changed)


def test_a_healthy_cluster_passes():
    for check in (
        cluster_checks.topic_settings(HEALTHY),
        cluster_checks.partitions(HEALTHY),
        cluster_checks.replication(HEALTHY),
        cluster_checks.rights(HEALTHY, None),
    ):
        assert (check.result, check.remedy) == ("ok", ""), check


@pytest.mark.parametrize(
    ("states", "result", "said", "remedy"),
    [
        (with_change(topics.POSITIONS, partitions=0), "failed", "eu.moderation.positions", "topics create"),
        (with_change(topics.EVENTS, offline=1), "failed", "without a leader: eu.content.events", "start the brokers"),
        (with_setting(topics.STANDING, cleanup_policy="delete"), "failed", "cleanup.policy=delete", "kafka-configs.sh"),
        (with_setting(topics.EVENTS, max_message_bytes="1000"), "failed", "max.message.bytes=1000", "topics create"),
        (with_setting(topics.EVENTS, retention_ms="1000"), "warning", "retention.ms=1000", "[2592000000]"),
        (with_setting(topics.REFERRALS, retention_bytes="1000"), "warning", "retention.bytes=1000", "[-1]"),
        (with_setting(topics.EVENTS, max_message_bytes=str(2**30)), "ok", "as the contract says", ""),
        (with_setting(topics.RATIONALES, cleanup_policy="delete,compact"), "ok", "as the contract says", ""),
        (with_change(topics.EVENTS, config=None), "skipped", "may not read their settings", ""),
        (with_change(topics.EVENTS, partitions=0, forbidden=True), "ok", "", ""),
    ],
)
def test_topics_are_compared_with_the_contract(states, result, said, remedy):
    check = cluster_checks.topic_settings(states)
    assert check.result == result
    assert said in check.found
    assert remedy in check.remedy


@pytest.mark.parametrize(("days", "retention"), [(0, "-1"), (365, "31536000000")])
def test_the_retention_of_actions_is_that_of_the_settings(days, retention):
    catalogue = Settings(actions_retention_days=days).catalogue
    check = cluster_checks.topic_settings(HEALTHY, catalogue)
    assert (check.result, f"not {retention}" in check.found) == ("warning", True)
    assert check.remedy.startswith("set SAFEGUARD_ACTIONS_RETENTION_DAYS")
    states = with_setting(topics.ACTIONS, retention_ms=retention)
    assert cluster_checks.topic_settings(states, catalogue).result == "ok"
    assert cluster_checks.topic_settings(states).result == "warning"


def test_topics_that_records_pass_through_need_equal_partitions():
    check = cluster_checks.partitions(with_change(topics.ESCALATIONS_AUDIT, partitions=3))
    assert (check.result, "eu.content.escalations.audit 3" in check.found) == ("failed", True)
    assert cluster_checks.partitions(with_change(topics.POLICIES, partitions=9)).result == "ok"


def test_dead_letters_that_wait_are_a_warning():
    assert cluster_checks.dead_letters(Letters(0, {})).result == "ok"
    check = cluster_checks.dead_letters(Letters(1027, {"prefilter": 5, "enforcement-webhook": 1022}))
    assert check.result == "warning"
    assert check.found == "1,027 wait: enforcement-webhook 1,022, prefilter 5"
    assert check.remedy == "see: safeguard dead-letters list"


async def test_nothing_is_called_healthy_where_no_topic_exists():
    absent = {name: msgspec.structs.replace(state, partitions=0, replicas=0) for name, state in HEALTHY.items()}
    checks = [cluster_checks.partitions(absent), cluster_checks.replication(absent), cluster_checks.waiting([])]
    checks.append(await cluster_checks.clocks(Settings(bootstrap="127.0.0.1:1"), absent))
    assert {check.result for check in checks} == {"skipped"}


def test_one_replica_and_replicas_behind_are_warnings():
    assert cluster_checks.replication(with_change(topics.EVENTS, replicas=1)).result == "warning"
    check = cluster_checks.replication(with_change(topics.EVENTS, under_replicated=2))
    assert "not in sync: eu.content.events" in check.found


def only(role):
    """The states as a user of one role sees them."""
    rights = {name: set() for name in HEALTHY}
    for binding in acls.bindings(role, "User:x"):
        if binding.resource == "topic":
            rights[binding.name].add(binding.operation)
    return {
        name: msgspec.structs.replace(state, rights=rights[name], forbidden=not rights[name])
        for name, state in HEALTHY.items()
    }


@pytest.mark.parametrize("role", acls.ROLES)
def test_the_rights_of_a_role_are_recognised_and_what_is_lacking_named(role):
    states = only(role)
    assert cluster_checks.rights(states, role).result == "ok"
    assert role in cluster_checks.rights(states, None).found
    (name, state) = next((name, state) for name, state in states.items() if state.rights)
    right = min(state.rights)
    check = cluster_checks.rights(states | {name: msgspec.structs.replace(state, rights=state.rights - {right})}, role)
    assert check.result == "failed"
    assert f"{right} on eu.{name}" in check.found
    assert f"topics acls {role}" in check.remedy


def test_rights_that_a_broker_does_not_tell_are_no_failure():
    states = {name: msgspec.structs.replace(state, rights=None) for name, state in HEALTHY.items()}
    assert cluster_checks.rights(states, "reasoner").result == "skipped"


def members(**counts):
    for group in topics.LANE_GROUPS.values():
        counts.setdefault(group, counts.get("reasoner", 0))
    return {queue.group: Group(queue.group, "Stable", ["h"] * counts.get(queue.group, 0)) for queue in QUEUES}


@pytest.mark.parametrize(
    ("counts", "result", "said"),
    [
        ({}, "failed", "no prefilter and no reasoner"),
        ({"prefilter": 1, "enforcement": 1}, "failed", "no reasoner is running"),
        ({"prefilter": 1, "reasoner": 1}, "warning", "0 enforcement"),
        ({"prefilter": 7, "reasoner": 1, "enforcement": 1}, "warning", "more than 6 partitions"),
        ({"prefilter": 2, "reasoner": 1, "enforcement": 1}, "ok", "2 prefilter, 1 reasoner, 1 enforcement"),
        (
            {"prefilter": 1, "reasoner": 1, "enforcement": 1, "reasoner-audit": 0, "reasoner-replay": 0},
            "warning",
            "none judges audit, replay",
        ),
    ],
)
def test_each_stage_needs_a_process(counts, result, said):
    check = cluster_checks.processes(members(**counts), 6)
    assert (check.result, said in check.found) == (result, True), check


def test_live_content_that_waits_is_a_warning_and_a_replay_that_waits_is_not():
    late = Lag("reasoner", "live", topics.ESCALATIONS, 5, 1000.0, started=True)
    assert cluster_checks.waiting([late]).result == "warning"
    assert "live 5 for 1,000 s" in cluster_checks.waiting([late]).found
    others = [
        msgspec.structs.replace(late, queue="replay"),
        msgspec.structs.replace(late, seconds=1.0),
        msgspec.structs.replace(late, stage="enforcement", queue="webhook", started=False),
    ]
    assert cluster_checks.waiting(others).result == "ok"


def test_variables_that_nothing_reads_are_named_with_the_one_that_was_meant():
    known = {"SAFEGUARD_BOOTSTRAP": "x", "SAFEGUARD_CONFIG": "y", "PATH": "z", "SAFEGUARD_REASONER_SERVICE_HOST": "h"}
    assert host_checks.variables(known).result == "ok"
    check = host_checks.variables(known | {"SAFEGUARD_BOOTSTRP": "s3cret"})
    assert check.result == "failed"
    assert "SAFEGUARD_BOOTSTRP (did you mean SAFEGUARD_BOOTSTRAP?)" in check.found
    assert "s3cret" not in f"{check}"


async def test_a_port_is_free_or_one_of_our_processes_is_there():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        number = other.getsockname()[1]
        other.listen()
        taken = asyncio.create_task(host_checks.port(Settings(), "prefilter", number))
        assert (await taken).result == "failed"
        assert "SAFEGUARD_PREFILTER_PORT" in (await taken).remedy
    assert (await host_checks.port(Settings(), "prefilter", number)).found == f"{number} is free"
    assert (await host_checks.port(Settings(), "reasoner", 0)).result == "ok"

    class Ours(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"ready": false}')

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Ours)
    Thread(target=server.serve_forever, daemon=True).start()
    check = await host_checks.port(Settings(), "reasoner", server.server_port)
    assert (check.result, "not ready" in check.found) == ("ok", True)
    answers = await host_checks.inference_server(f"http://127.0.0.1:{server.server_port}/v1")
    assert (answers.result, "answers 503" in answers.found) == ("failed", True)
    named = await host_checks.inference_server(f"dns+http://localhost:{server.server_port}/v1")
    assert "answers 503" in named.found, "a name for several servers is asked at one of them"
    server.shutdown()
    server.server_close()
    gone = await host_checks.inference_server(f"http://127.0.0.1:{server.server_port}/v1")
    assert (gone.result, "SAFEGUARD_SERVERS" in gone.remedy) == ("failed", True)


async def test_servers_of_a_first_judge_are_asked_too_and_their_setting_is_named(monkeypatch):
    async def away(_):
        return failed("broker", "away", "start it")

    monkeypatch.setattr(cluster_checks, "broker", away)
    given = Settings(servers="http://127.0.0.1:1/v1", first_servers="http://127.0.0.1:2/v1,http://127.0.0.1:3/v1")
    checks = [check for check in await diagnosis.diagnose(given, {}, None) if check.name == "inference server"]
    assert [check.found.partition("/v1")[0][-1] for check in checks] == ["1", "2", "3"]
    assert [check.remedy.rpartition(" ")[2] for check in checks] == [
        "SAFEGUARD_SERVERS",
        *["SAFEGUARD_FIRST_SERVERS"] * 2,
    ]


@contextlib.contextmanager
def answering(page):
    """A port of this host where /health/ready says this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(orjson.dumps(page))

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("page", "other"),
    [
        ({"stage": "enforcement", "prefix": "acme."}, None),
        ({}, None),  # of an earlier version
        ({"stage": "enforcement", "prefix": "other."}, "enforcement of the deployment with prefix other. is there"),
        ({"stage": "enforcement", "prefix": ""}, "enforcement of the deployment with no prefix is there"),
        ({"stage": "prefilter", "prefix": "acme."}, "prefilter of the deployment with prefix acme. is there"),
    ],
)
async def test_a_process_of_another_deployment_is_not_taken_for_ones_own(page, other):
    """A webhook of another deployment is not failing in the status of this one."""
    current = Settings(prefix="acme.")
    with answering({"ready": True, "webhook": "answers 500", **page}) as number:
        check = await host_checks.port(current, "enforcement", number)
        own = await health_pages.own_health_page(current, "enforcement", number)
    assert check.result == ("failed" if other else "ok")
    assert (other or "a process is there") in check.found
    assert (own is None) == bool(other)


def test_model_files_are_looked_at(tmp_path):
    shipped = host_checks.models(Settings())
    assert [check.result for check in shipped] == ["ok", "warning"], "the small model is no model for production"
    (tmp_path / "empty.bin").touch()
    for path, said in ((tmp_path / "nowhere.bin", "No such file"), (tmp_path / "empty.bin", "is empty")):
        check = host_checks.models(Settings(prefilter_model=path))[0]
        assert (check.result, said in check.found) == ("failed", True)
    assert host_checks.models(Settings(model=str(tmp_path)))[1].result == "failed", "a folder without config.json"
    (tmp_path / "config.json").write_text("{}")
    assert host_checks.models(Settings(model=str(tmp_path)))[1].result == "ok"
    assert host_checks.models(Settings(servers="http://gpu-1:8000/v1"))[1].found == "on inference servers"


def test_a_disk_that_is_full_fails(monkeypatch):
    for free, result in ((2**40, "ok"), (2**31, "warning"), (2**20, "failed")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert host_checks.disk(Settings()).result == result


def test_a_brokers_disk_that_fills_up_is_named():
    room = LogDir(1, "/logs", 100 * 2**30, 80 * 2**30)
    assert cluster_checks.broker_disks([room]).result == "ok"
    assert cluster_checks.broker_disks([]).result == "skipped"
    for usable, result in ((10, "warning"), (2, "failed")):
        check = cluster_checks.broker_disks([room, LogDir(2, "/full", 100 * 2**30, usable * 2**30)])
        assert (check.result, "on broker 2 in /full" in check.found) == (result, True)


def test_settings_that_cannot_be_read_are_the_first_problem(monkeypatch):
    monkeypatch.setenv("SAFEGUARD_PARTITIONS", "none")
    monkeypatch.setenv("SAFEGUARD_PARTITION", "6")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "failed   settings: SAFEGUARD_PARTITIONS" in done.stdout
    assert "SAFEGUARD_PARTITION (did you mean SAFEGUARD_PARTITIONS?)" in done.stdout


def test_an_unknown_role_is_refused_with_those_there_are():
    done = CliRunner().invoke(app, ["doctor", "--role", "king"])
    assert isinstance(done.exception, ConfigurationError)
    assert "no role 'king'; choose one of: producer" in str(done.exception)
