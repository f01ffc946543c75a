import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_environment_over_file_over_default(monkeypatch, tmp_path):
    (tmp_path / "safeguard.toml").write_text('bootstrap = "from-file:1"\npartitions = 3\n')
    assert settings.load().bootstrap == "from-file:1"
    monkeypatch.setenv("SAFEGUARD_BOOTSTRAP", "from-env:2")
    assert settings.load().bootstrap == "from-env:2"
    assert settings.load().partitions == 3
    assert settings.load(bootstrap="given:3", partitions=None).bootstrap == "given:3"


def test_a_wrong_setting_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFEGUARD_PARTITIONS", "0")
    with pytest.raises(ConfigurationError, match="SAFEGUARD_PARTITIONS: .*greater than or equal to 1"):
        settings.load()
    monkeypatch.delenv("SAFEGUARD_PARTITIONS")
    (tmp_path / "safeguard.toml").write_text("partition = 3\ncolour = 1\n")
    expected = r"safeguard.toml: unknown setting partition; did you mean partitions\?; .* unknown setting colour$"
    with pytest.raises(ConfigurationError, match=expected):
        settings.load()


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "safeguard.toml").write_text("bootstrap = [")
    with pytest.raises(ConfigurationError, match="safeguard.toml: cannot be read: .*end of document"):
        settings.load()


@pytest.mark.parametrize("data", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000, b"a = 1\0", b"a = '\xff'"])
def test_a_file_that_is_no_toml_is_refused(data, tmp_path):
    (tmp_path / "safeguard.toml").write_bytes(data)
    with pytest.raises(ConfigurationError, match="safeguard.toml: cannot be read: "):
        settings.load()


def test_a_variable_that_is_no_json_is_named_and_not_quoted(monkeypatch):
    monkeypatch.setenv("SAFEGUARD_CONSOLE_ROLES", "{a secret")
    with pytest.raises(ConfigurationError) as refused:
        settings.load()
    assert str(refused.value) == "SAFEGUARD_CONSOLE_ROLES: is no valid JSON"
    assert refused.value.__cause__ is None


def test_a_byte_order_mark_of_the_file_is_skipped(tmp_path):
    (tmp_path / "safeguard.toml").write_bytes(b"\xef\xbb\xbfprefix = 'x-'\r\n")
    assert settings.load().prefix == "x-"


def test_the_catalogue_holds_every_topic_once():
    names = [t.name for t in topics.CATALOGUE]
    assert len(set(names)) == len(names) == 29
    assert set(topics.LANES.values()) < set(names)
    dead = next(t for t in topics.CATALOGUE if t.name == topics.DEAD_LETTERS)
    assert dead.largest >= topics.LARGEST_CONTENT * 4 / 3, "a dead letter holds the largest record in base64"


def test_topics_take_the_prefix(monkeypatch):
    monkeypatch.setenv("SAFEGUARD_PREFIX", "tenant-a.")
    result = CliRunner().invoke(app, ["topics", "list", "--json"])
    assert result.exit_code == 0
    assert '"tenant-a.content.events"' in result.output


def test_a_command_without_a_broker_says_so():
    result = CliRunner().invoke(app, ["policy", "release", "nonsense"])
    assert isinstance(result.exception, ConfigurationError)
    assert "no policy 'nonsense'" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("SAFEGUARD_PORT", "tcp://10.0.0.1:9092", ...),  # Kubernetes, for a Service named safeguard
        ("SAFEGUARD_PORT_9092_TCP_ADDR", "10.0.0.1", ...),
        ("SAFEGUARD_REASONER_SERVICE_PORT_HTTP", "80", ...),
        ("SAFEGUARD_REASONER_METRICS_PORT", "udp://10.0.0.1:53", ...),
        ("SAFEGUARD_REASONER_METRICS_PORT", "80", "SAFEGUARD_REASONER_PORT"),
        ("SAFEGUARD_Bootstrap", "host:1", ...),  # settings are read in any case
        ("safeguard_bootstrap", "host:1", ...),
        ("safeguard_bootstrp", "host:1", "SAFEGUARD_BOOTSTRAP"),
        ("SAFEGUARD_CONFIG", "file", ...),
        ("SAFEGUARD_CONFGI", "file", "SAFEGUARD_CONFIG"),
        ("SAFEGUARD_OF_ANOTHER_PROGRAM", "x", None),
        ("SAFEGUARDS_BOOTSTRAP", "x", ...),
    ],
)
def test_a_variable_that_nothing_reads_is_told_from_those_of_kubernetes(name, value, near):
    """A Service named safeguard-reasoner-metrics sets such variables in every pod of its namespace."""
    assert settings.unknown_variables({name: value, "PATH": "x"}) == ({} if near is ... else {name: near})
