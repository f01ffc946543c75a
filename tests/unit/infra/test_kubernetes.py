"""The manifests: valid for Kubernetes, and consistent with the names, ports, topics and settings of the processes."""

import json
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.enforcement.transform import STAGE as ENFORCEMENT
from safeguard_streams.prefilter.decision import STAGE as PREFILTER
from safeguard_streams.runtime import settings as settings_module
from safeguard_streams.runtime.process import END_SECONDS
from safeguard_streams.workers.judging.judge import STAGE as REASONER

FOLDER = Path(__file__).parents[3] / "infra" / "kubernetes"
KUBERNETES = "1.33"
SETTINGS = settings_module.Settings.model_fields
PORTS = {
    PREFILTER: SETTINGS["prefilter_port"].default,
    REASONER: SETTINGS["reasoner_port"].default,
    ENFORCEMENT: SETTINGS["enforcement_port"].default,
}
LAGS = {PREFILTER: topics.EVENTS, REASONER: topics.ESCALATIONS}


def documents():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert {path.name for path in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *kustomization["resources"]}
    return [
        document for name in kustomization["resources"] for document in yaml.safe_load_all((FOLDER / name).read_text())
    ]


def of(kind):
    return {document["metadata"]["name"]: document for document in documents() if document["kind"] == kind}


def pods():
    return {
        name: document["spec"]["template"]["spec"]
        for kind in ("Deployment", "Job")
        for name, document in of(kind).items()
    }


@pytest.mark.parametrize("number", range(len(documents())))
def test_each_document_is_valid(number):
    document = documents()[number]
    if document["kind"] == "ScaledObject":
        spec = document["spec"]
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
        assert all(isinstance(value, str) for trigger in spec["triggers"] for value in trigger["metadata"].values())
        return
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_an_invalid_document_is_rejected():
    broken = json.loads(json.dumps(of("Deployment")[PREFILTER]))
    broken["spec"]["template"]["spec"]["containers"][0]["port"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_probes_use_the_ports_of_the_processes_which_have_time_to_finish():
    assert set(of("Deployment")) == set(PORTS)
    for name, pod in pods().items():
        (container,) = pod["containers"]
        command = typer.main.get_command(app)
        for word in container["args"]:
            command = command.commands[word]
        assert {reference["configMapRef"]["name"] for reference in container["envFrom"]} <= set(of("ConfigMap"))
        if name in PORTS:
            assert [port["containerPort"] for port in container["ports"]] == [PORTS[name]]
            assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
            assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
            assert pod["terminationGracePeriodSeconds"] > END_SECONDS + 5
    known = {f"SAFEGUARD_{name.upper()}" for name in SETTINGS}
    (config,) = of("ConfigMap").values()
    assert set(config["data"]) <= known
    assert not any("PASSWORD" in name or "SECRET" in name for name in config["data"])


def test_no_container_runs_as_root_or_keeps_capabilities():
    for pod in pods().values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert {"requests", "limits"} == set(container["resources"])
    for image in (FOLDER.parent / "images").glob("*.Dockerfile"):
        assert "--uid 1000 safeguard" in image.read_text()
        assert "\nUSER safeguard\n" in image.read_text()


def test_each_process_scales_by_the_lag_of_its_own_topic():
    partitions = int(of("ConfigMap")["safeguard"]["data"]["SAFEGUARD_PARTITIONS"])
    for name, scaled in of("ScaledObject").items():
        (trigger,) = scaled["spec"]["triggers"]
        assert scaled["spec"]["scaleTargetRef"]["name"] == name
        assert (trigger["metadata"]["consumerGroup"], trigger["metadata"]["topic"]) == (name, LAGS[name])
        assert scaled["spec"]["maxReplicaCount"] <= partitions
    assert set(of("PodDisruptionBudget")) == set(of("Deployment"))
    reasoner = pods()[REASONER]
    assert reasoner["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert reasoner["nodeSelector"]
    assert reasoner["tolerations"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kubectl_builds_all_documents():
    completed = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True)
    built = list(yaml.safe_load_all(completed.stdout))
    assert len(built) == len(documents())
    for document in built:
        if document["kind"] != "ScaledObject":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        assert document["metadata"].get("namespace", "safeguard") == "safeguard"
