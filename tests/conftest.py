"""What the tests share: brokers, a server with the small model, and the rule that CI skips no test for want of a tool.

The brokers are the embedded one, and Apache Kafka from its jars or at KAFKA_BOOTSTRAP.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid

import hypothesis
import psutil
import pytest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.infra import brokers
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime import settings

# In CI a missing tool (Java, Maven, Chromium, promtool) is a failure: a suite that skips shows nothing.
REQUIRE_TOOLS = os.environ.get("SAFEGUARD_REQUIRE_TOOLS") == "1"
# The reasons that remain: what the embedded broker lacks by design, and kubectl, which Debian has only in a version
# that cannot read this kustomization.
ALLOWED_SKIPS = ("the embedded broker has no ", "no kubectl here")
# `make test-secure`: every test that uses Kafka uses one with SASL_SSL and access lists.
SECURE = os.environ.get("SAFEGUARD_TEST_SECURE") == "1"
# Seconds until a test gives up waiting. It is a guard against a hang, far above what a busy machine needs.
TIMEOUT = 600.0
HEARTBEAT_MS = 1000
# No property fails because an example took long: the machine may be busy. CI tries the same examples in each run, so
# that a change fails for what it changed; runs elsewhere try new ones each time.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=REQUIRE_TOOLS,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With SAFEGUARD_REQUIRE_TOOLS=1, a skip is a failure unless its reason is one of ALLOWED_SKIPS."""
    report = yield
    if REQUIRE_TOOLS and report.skipped and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr
        if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: {reason}; SAFEGUARD_REQUIRE_TOOLS=1 allows no skip for a missing tool"
    return report


def descendants():
    """The processes that this one has started, and those that they started.

    Without the tracker of shared memory, which is not to be killed: later tests would start it again with a warning.
    """
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in "".join(process.cmdline()):
                found.add(process)
    return found


async def until(condition, timeout=TIMEOUT):
    """Wait until an async or plain condition holds; returns its value. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            result = condition()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.1)


# The loggers whose levels a command sets, and their levels before any did.
LEVELS = {
    logger: logger.level
    for logger in map(logging.getLogger, (None, "safeguard_streams", "aiokafka.consumer.group_coordinator"))
}


@pytest.fixture(autouse=True)
def no_logging_left_behind():
    """Undo what a command that ran in this process set for its own process: which messages are logged, and where to.

    A later test would otherwise see no message below the level of that command, which a fixture of a module may have
    run as well.
    """
    _undo_logging()
    yield
    _undo_logging()


def _undo_logging():
    for logger, level in LEVELS.items():
        logger.setLevel(level)
    for handler in list(logging.root.handlers):
        if type(handler) is logging.StreamHandler:  # pytest's own are subclasses, one for each phase of a test
            logging.root.removeHandler(handler)


@pytest.fixture(autouse=True)
def no_collection_left_behind():
    """Undo what a stage that began in this process set for its own process: when garbage is collected, and of what."""
    thresholds = gc.get_threshold()
    yield
    if gc.get_threshold() != thresholds:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@pytest.fixture(scope="session")
def embedded_address():
    if SECURE:
        pytest.skip("the embedded broker has no SASL")
    with brokers.embedded() as address:
        yield address


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory):
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    if bootstrap:
        yield bootstrap
        return
    try:
        brokers.jars()
    except brokers.BrokerError as error:
        pytest.skip(f"not run on Apache Kafka: {error}")
    if not SECURE:
        with brokers.kafka_cluster() as nodes:
            yield brokers.addresses(nodes)
        return
    secure = brokers.KafkaSecurity(tmp_path_factory.mktemp("secure"), {"admin": uuid.uuid4().hex})
    with brokers.kafka_cluster(secure=secure) as nodes, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SAFEGUARD_SECURITY_PROTOCOL", "SASL_SSL")
        environment.setenv("SAFEGUARD_CA_FILE", str(secure.ca_file))
        environment.setenv("SAFEGUARD_USERNAME", "admin")
        environment.setenv("SAFEGUARD_PASSWORD", secure.passwords["admin"])
        yield brokers.addresses(nodes)


@pytest.fixture(params=["embedded", "kafka"])
def broker_address(request):
    """Runs a test on each of the two brokers."""
    return request.getfixturevalue(f"{request.param}_address")


@pytest.fixture
def broker(broker_address):
    """Settings for a broker, under a topic prefix of this test's own."""
    return own_topics(broker_address)


@pytest.fixture
def kafka(kafka_address):
    """Settings for Apache Kafka only."""
    return own_topics(kafka_address)


@pytest.fixture
def consumers(monkeypatch):
    """Sets options of every consumer of this process."""
    start, chosen = kafka_bus.bus.StrictConsumer.__init__, {}
    monkeypatch.setattr(
        kafka_bus.bus.StrictConsumer,
        "__init__",
        lambda self, *names, **options: start(self, *names, **{**options, **chosen}),
    )
    return chosen.update


@pytest.fixture
def patient(consumers):
    """Makes settings for Apache Kafka with which no member in this process is taken for gone, however long it stands
    still. Its heartbeats are still frequent: a change of the group is soon known.

    The embedded broker forms no group with such a session in time.
    """
    consumers(heartbeat_interval_ms=HEARTBEAT_MS)
    return lambda current: current.model_copy(update={"session_timeout_ms": round(2 * TIMEOUT * 1000)})


async def feed_of(current):
    """The policies in force, read from moderation.policies as a process reads them."""
    feed = PolicyFeed()
    async for record in kafka_bus.read_all(current, [topics.POLICIES]):
        feed.take(record.key, record.value)
    return feed


def own_topics(address):
    return settings.load(bootstrap=address, prefix=f"t{uuid.uuid4().hex[:8]}.", partitions=2, session_timeout_ms=6000)


@pytest.fixture(scope="session")
def inference_server(tmp_path_factory):
    """The base URL of a vLLM server with the small model."""
    from safeguard_streams.workers.inference.preflight import locate
    from safeguard_streams.workers.inference.vllm_arguments import ON_CPU, QUIET

    folder, name = locate("small")
    port, log = brokers.free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", name, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096"),
        *("--max-num-seqs", "8", "--enforce-eager", "--block-size", "32", "--enable-prompt-tokens-details"),
        *("--distributed-executor-backend", "uni"),
    ]
    environment = {**os.environ, **QUIET, **ON_CPU, "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.asynccontextmanager
async def enforcing(current, rules, **more):
    """An enforcement agent in this process."""
    from safeguard_streams.enforcement.app import EnforcementAgent

    agent = EnforcementAgent(current, rules, current.partitions, **more)
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop))
    try:
        yield agent
    finally:
        stop.set()
        await running


async def standing_on(current):
    """The action in effect by content id, as an agent restores it."""
    from datetime import timedelta

    from safeguard_streams.enforcement.state import EnforcementState

    standing = {}
    for partition in range(current.partitions):
        standing |= (
            await EnforcementState.restore(current, partition, current.partitions, timedelta(hours=1))
        ).restricted()
    return standing
