"""Telemetry: one trace across four processes, every metric of the catalogue, logs without content."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.bus.dead_letters import dead_letter
from safeguard_streams.bus.tracing import TracedRecord, sampled
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import ContentEvent, DeadLetter, decode, encode
from safeguard_streams.errors import RecordError
from safeguard_streams.infra import brokers
from safeguard_streams.operations import dashboards
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.runtime import metrics
from tests.conftest import TIMEOUT, until
from tests.faults.receiver import SECRET, Receiver

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TEXT = "a text that is nobody's business"
POLICY = "hate-harassment"
RULES = """
[[rule]]
name = "undecided"
decision = "safe"
action = "label"
[webhook]
url = "http://127.0.0.1:{port}/"
"""
# Metrics that only vLLM in the worker's process or a server, or only failures, violations and odd content, produce.
NOT_HERE = {
    metrics.INFERENCE_RUNNING,
    metrics.INFERENCE_WAITING,
    metrics.INFERENCE_CACHE,
    metrics.SERVER_LIMIT,
    metrics.SERVER_IN_FLIGHT,
    metrics.SERVER_REFUSED,
    metrics.MALFORMED,
    metrics.VARIANTS,
    metrics.FIRST_JUDGEMENTS,
    metrics.SECOND_TRIES,
    metrics.SECOND_TRY_TOKENS,
    metrics.VIOLATIONS,
    metrics.VIOLATIONS_VARIANCE,
    metrics.HELD,
    metrics.RESETS,
    metrics.POSITION_LOST,
    metrics.RELEASES_LATE,
    metrics.UNKNOWN_SCOPE,
    metrics.REPORTS,
    metrics.ANSWERED,
    metrics.DATABASE_FAILURES,
    metrics.APPEALS,
    metrics.REFERRALS,
    metrics.STRIKES,
    metrics.AUTHOR_ACTIONS,
}


class Collector:
    """Receives spans over OTLP."""

    def __init__(self):
        self.port = brokers.free_port()
        self.spans = {}

    async def _traces(self, request):
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            service = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans[span.span_id.hex()] = (service, span)
        return web.Response()

    async def _metrics(self, _):
        return web.Response()

    @contextlib.asynccontextmanager
    async def running(self):
        app = web.Application()
        app.add_routes([web.post("/v1/traces", self._traces), web.post("/v1/metrics", self._metrics)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        yield f"http://127.0.0.1:{self.port}"
        await runner.cleanup()

    def tree(self, trace_id, parent, depth=0):
        """The spans of a trace below a span, as lines."""
        for name, (service, span) in sorted(self.spans.items(), key=lambda item: item[1][1].start_time_unix_nano):
            if span.trace_id.hex() == trace_id and span.parent_span_id.hex() == parent:
                took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                yield f"{'  ' * depth}{service}: {span.name} ({took:.1f} ms)"
                yield from self.tree(trace_id, name, depth + 1)


@contextlib.contextmanager
def process(words, environment, log):
    with log.open("wb") as out, subprocess.Popen(words, env=environment, stdout=out, stderr=out) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(TIMEOUT)


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT) as answer:
        return answer.read().decode()


@pytest.mark.slow
async def test_one_trace_spans_producer_to_enforcement_and_each_metric_is_exported(kafka, tmp_path):
    await kafka_bus.create_topics(kafka)
    document = load_library()[POLICY].document
    gate = with_changes(
        document, "gate", harms=None, general=None, threshold=None, calibration=None, terms=["nobody's business"]
    )
    await operator.release(kafka, [parse(gate)], operator.ChangedBy("test"))
    collector, receiver = Collector(), Receiver(brokers.free_port(), 1.0, 1, {"well": 1})
    (tmp_path / "rules.toml").write_text(RULES.format(port=receiver.port))
    ports = {stage: brokers.free_port() for stage in ("prefilter", "reasoner", "enforcement")}
    await receiver.start()
    async with collector.running() as endpoint:
        environment = {
            **os.environ,
            "SAFEGUARD_BOOTSTRAP": kafka.bootstrap,
            "SAFEGUARD_PREFIX": kafka.prefix,
            "SAFEGUARD_REASONER_PORT": str(ports["reasoner"]),
            "SAFEGUARD_SESSION_TIMEOUT_MS": "6000",
            "SAFEGUARD_WEBHOOK_SECRET": SECRET,
            "SAFEGUARD_LOG_FORMAT": "json",
            "SAFEGUARD_TRACE_SAMPLE_RATE": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        commands = {
            "prefilter": [BIN / "safeguard", "prefilter", "run", "--port", str(ports["prefilter"])],
            "reasoner": [sys.executable, ROOT / "tests/faults/reasoner.py", tmp_path / "calls"],
            "enforcement": [
                BIN / "safeguard",
                "enforce",
                "run",
                tmp_path / "rules.toml",
                "--port",
                str(ports["enforcement"]),
            ],
        }
        with contextlib.ExitStack() as stack:
            for stage, words in commands.items():
                stack.enter_context(process(words, environment, tmp_path / f"{stage}.log"))
            trace_id, producer_span = secrets.token_hex(16), secrets.token_hex(8)
            await publish(kafka, trace_id, producer_span)
            wanted = ("content.events", "content.escalations", "moderation.verdicts")
            await until(lambda: len(list(collector.tree(trace_id, producer_span))) >= 8)
            await until(lambda: receiver.had)
            pages = {stage: await asyncio.to_thread(scraped, port) for stage, port in ports.items()}
    await receiver.stop()
    tree = list(collector.tree(trace_id, producer_span))
    print("\n".join(tree))
    rows = [re.sub(r" \(.*| .*?\.(?=content|moderation)", " ", line.strip()).split() for line in tree]
    # The intake and the delivery read the actions at once, so their spans begin in any order.
    assert rows[:5] + sorted(rows[5:]) == [
        ["safeguard-prefilter:", wanted[0]],
        ["safeguard-reasoner:", wanted[1]],
        ["safeguard-reasoner:", "chat", "stand-in"],
        ["safeguard-enforcement:", wanted[2]],
        ["safeguard-enforcement:", "moderation.enforcement"],
        ["safeguard-enforcement:", "POST"],
        ["safeguard-enforcement:", "moderation.actions"],
        ["safeguard-enforcement:", "moderation.actions"],
    ]
    assert len({trace for _, span in collector.spans.values() if (trace := span.trace_id.hex())}) >= 1
    batches = [span for _, span in collector.spans.values() if span.name.startswith("process batch")]
    assert any(link.trace_id.hex() == trace_id for span in batches for link in span.links)
    check_pages(pages)
    check_logs(tmp_path)


async def publish(current, trace_id, span_id):
    """Publish one traced event among untraced ones, and one record that is not an event."""
    async with kafka_bus.producer(current) as producer:
        for number in range(20):
            # Equal content shares one request; the traced item has its own text, so that it gets a request of its own.
            text = f"{TEXT}, again" if number == 0 else TEXT if number < 10 else "fine weather"
            event = ContentEvent(f"c{number}", text, datetime.now(UTC))
            headers = [("traceparent", f"00-{trace_id}-{span_id}-01".encode())] if number == 0 else []
            topic = current.prefix + topics.EVENTS
            await producer.send(topic, encode(event), key=event.content_id.encode(), headers=headers)
        await producer.send(current.prefix + topics.EVENTS, b"no event", key=b"broken")
        await producer.flush()


def check_pages(pages):
    """Every exported metric is declared, and every declared metric is exported."""
    shown = {}
    for page in pages.values():
        for name, labels in re.findall(r"^(\w+?)(?:_bucket|_count|_sum)?\{([^}]*)\} ", page, re.MULTILINE):
            if name.startswith(("safeguard_", "messaging_", "gen_ai_")):
                shown.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        assert "process_resident_memory_bytes" in page
        assert TEXT not in page
    declared = {metric.prometheus: metric for metric in metrics.CATALOGUE}
    assert set(shown) <= set(declared)
    assert set(declared) - set(shown) <= {metric.prometheus for metric in NOT_HERE}
    for name, labels in shown.items():
        of_exporter = {label for label in labels if label.startswith("otel_scope") or label == "le"}
        assert labels - of_exporter <= {a.replace(".", "_") for a in declared[name].attributes}, name


def check_logs(folder):
    for stage in ("prefilter", "enforcement"):
        lines = (folder / f"{stage}.log").read_text().splitlines()
        assert lines
        for line in lines:
            if line.startswith("{"):
                assert {"time", "level", "logger", "message"} <= set(json.loads(line))
    for path in folder.glob("*.log"):
        assert TEXT not in path.read_text()
        assert "fine weather" not in path.read_text()
        assert SECRET not in path.read_text()


def test_every_metric_is_documented_once():
    names = [metric.name for metric in metrics.CATALOGUE]
    assert len(set(names)) == len(names) > 20
    assert all(metric.about.endswith(".") for metric in metrics.CATALOGUE)
    assert all(metric.buckets for metric in metrics.CATALOGUE if metric.kind == "histogram")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"00-%s-%s-01" % (b"a" * 32, b"b" * 16), True),
        (b"00-%s-%s-00" % (b"a" * 32, b"b" * 16), False),
        (b"00-%s-%s-03" % (b"a" * 32, b"b" * 16), True),
        (b"", False),
        (b"\xff" * 55, False),
        (b"nonsense", False),
    ],
)
def test_only_sampled_records_are_traced(header, found):
    assert sampled([("other", b"1"), ("traceparent", header)]) is found
    assert not sampled([])


# ---------------------------------------------------------------- dashboards and alerts

TELEMETRY = ROOT / "infra" / "telemetry"


def names_in(query):
    """The names of the metrics in a Prometheus query."""
    without = re.sub(r"\{[^}]*\}|\"[^\"]*\"|by \([^)]*\)|\[[^\]]*\]|\$\w+", " ", query)
    return set(re.findall(r"\b(?:safeguard|messaging|http|gen_ai|up|process)\w*", without))


def declared():
    shown = set()
    for metric in metrics.CATALOGUE:
        kinds = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        shown |= {metric.prometheus + kind for kind in kinds}
    return shown | {"up"}


def labels_in(query):
    return {
        *re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", query),
        *(name.strip() for group in re.findall(r"by \(([^)]*)\)", query) for name in group.split(",")),
    }


def known_labels():
    return {a.replace(".", "_") for metric in metrics.CATALOGUE for a in metric.attributes} | {"le", "job", "instance"}


def test_dashboards_are_current_and_query_exported_metrics():
    for name, content in dashboards.documents().items():
        assert (TELEMETRY / name).read_bytes() == content, (
            "run: python -m safeguard_streams.operations.dashboards infra/telemetry"
        )
        if not name.endswith(".json") or name.endswith("runbook.json"):
            continue
        panels = json.loads(content)["panels"]
        assert len(panels) > 5
        for panel in panels:
            for target in panel["targets"]:
                assert names_in(target["expr"]) <= declared(), panel["title"]
                assert names_in(target["expr"])
                assert labels_in(target["expr"]) <= known_labels(), panel["title"]
    asked = "".join(content.decode() for name, content in dashboards.documents().items() if name.endswith(".json"))
    assert [metric.name for metric in metrics.CATALOGUE if metric.prometheus not in asked] == []


def test_alerts_query_exported_metrics_and_link_to_the_runbook():
    (group,) = yaml.safe_load((TELEMETRY / "alerts.yml").read_text())["groups"]
    runbook = (TELEMETRY / "RUNBOOK.md").read_text()
    for rule in group["rules"]:
        assert names_in(rule["expr"]) <= declared(), rule["alert"]
        assert labels_in(rule["expr"]) <= known_labels() | {"job"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.runbook }}#" + rule["alert"].lower()
        assert f"\n## {rule['alert']}\n" in runbook
    assert runbook.count("\n## ") == len(group["rules"])


def test_the_alerts_link_leads_to_the_runbook_of_the_composes_grafana():
    board = json.loads((TELEMETRY / "dashboards/runbook.json").read_text())
    config = yaml.safe_load((TELEMETRY / "prometheus.yml").read_text())
    services = yaml.safe_load((TELEMETRY.parents[1] / "docker-compose.kafka.yml").read_text())["services"]
    (port,) = services["grafana"]["ports"]
    assert config["global"]["external_labels"]["runbook"].startswith(
        f"http://{port.rpartition(':')[0]}/d/{board['uid']}/"
    )
    titles = {panel["title"] for panel in board["panels"]}
    (group,) = yaml.safe_load((TELEMETRY / "alerts.yml").read_text())["groups"]
    assert {rule["alert"] for rule in group["rules"]} < titles
    assert all(panel["options"]["content"] for panel in board["panels"])


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_prometheus_scrapes_each_process_of_a_profile_and_no_other(profile):
    """A target that does not exist would raise ProcessDown for good."""
    services = yaml.safe_load((TELEMETRY.parents[1] / "docker-compose.kafka.yml").read_text())["services"]
    names = set()
    for name, service in services.items():
        if set(service.get("profiles", [profile])) & {profile}:
            aliases = service.get("networks", {}).get("default", {}).get("aliases", [])
            names |= {name, *aliases}
    (job,) = yaml.safe_load((TELEMETRY / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target.partition(":")[0] for entry in job["static_configs"] for target in entry["targets"]]
    assert sorted(targets) == ["enforcement", "prefilter", "reasoner"]
    assert set(targets) <= names


def test_in_kubernetes_prometheus_finds_the_pods_by_their_annotations():
    (job,) = yaml.safe_load((TELEMETRY / "prometheus-kubernetes.yml").read_text())["scrape_configs"]
    folder = TELEMETRY.parent / "kubernetes"
    namespace = yaml.safe_load((folder / "namespace.yaml").read_text())["metadata"]["name"]
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [namespace]
    labels = {label for rule in job["relabel_configs"] for label in rule["source_labels"]}
    for stage in ("prefilter", "reasoner", "enforcement"):
        for document in yaml.safe_load_all((folder / f"{stage}.yaml").read_text()):
            if document["kind"] == "StatefulSet":
                for name in document["spec"]["template"]["metadata"]["annotations"]:
                    if name.startswith("prometheus.io/"):
                        assert "__meta_kubernetes_pod_annotation_" + re.sub(r"\W", "_", name) in labels


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_an_alert_that_fires_has_the_address_of_its_remedy(tmp_path):
    shutil.copy(TELEMETRY / "alerts.yml", tmp_path)
    address = yaml.safe_load((TELEMETRY / "prometheus.yml").read_text())["global"]["external_labels"]["runbook"]
    case = {
        "rule_files": ["alerts.yml"],
        "tests": [
            {
                "external_labels": {"runbook": address},
                "interval": "1m",
                "input_series": [{"series": 'up{job="safeguard", instance="prefilter:6066"}', "values": "0x10"}],
                "alert_rule_test": [
                    {
                        "eval_time": "5m",
                        "alertname": "ProcessDown",
                        "exp_alerts": [
                            {
                                "exp_labels": {"severity": "page", "job": "safeguard", "instance": "prefilter:6066"},
                                "exp_annotations": {
                                    "summary": "prefilter:6066 does not respond",
                                    "runbook_url": f"{address}#processdown",
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    done = subprocess.run(
        ["promtool", "test", "rules", "case.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_accepts_the_alerts_the_configuration_and_every_query(tmp_path):
    for path in ("alerts.yml", "prometheus.yml"):
        shutil.copy(TELEMETRY / path, tmp_path)

    def promtool(*words):
        done = subprocess.run(["promtool", "check", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    promtool("rules", "alerts.yml")
    promtool("config", "prometheus.yml")
    found = yaml.safe_load((TELEMETRY / "prometheus-kubernetes.yml").read_text())
    for job in found["scrape_configs"]:
        del job["kubernetes_sd_configs"]  # Debian's promtool is built without Kubernetes
    (tmp_path / "prometheus-kubernetes.yml").write_text(yaml.safe_dump(found))
    promtool("config", "prometheus-kubernetes.yml")
    boards = [json.loads(content) for name, content in dashboards.documents().items() if name.endswith(".json")]
    queries = [target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", ())]
    # As recording rules, because the promtool of Debian 12 checks queries only in a file of rules.
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("rules", "queries.yml")


def test_a_dead_letter_of_a_traced_record_is_complete_and_in_its_trace():
    came, goes = [("traceparent", b"00-a"), ("x", b"1")], [("x", b"1"), ("traceparent", b"00-b")]
    record = TracedRecord("content.events", 0, 1, 2, b"key", b"no event", goes, came)
    output = dead_letter(record, RecordError("record", "is not JSON"), stage="test", attempts=1)
    letter = decode(output.value, DeadLetter)
    assert letter.original() == (b"key", b"no event", came)
    assert ("traceparent", b"00-b") in output.headers
