"""servers.yaml: valid for Kubernetes, consistent in itself and with the settings, and fit to replace reasoner.yaml."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from safeguard_streams.cli import app
from safeguard_streams.runtime import settings as settings_module
from safeguard_streams.runtime.server_urls import urls_of
from safeguard_streams.workers.inference import discovery, server

FOLDER = Path(__file__).parents[3] / "infra" / "kubernetes"
KUBERNETES = "1.33"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "servers.yaml").read_text()))
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def of(kind, name):
    (found,) = [one for one in DOCUMENTS if one["kind"] == kind and one["metadata"]["name"] == name]
    return found["spec"]


def pod(kind, name):
    return of(kind, name)["template"]["spec"]


SERVERS, WORKER = pod("Deployment", "servers"), pod("StatefulSet", "reasoner")
(SERVER,), (REASONER,) = SERVERS["containers"], WORKER["containers"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_each_document_is_valid(document):
    if document["kind"] != "ScaledObject":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_workers_find_the_servers_by_the_headless_service(monkeypatch):
    service = of("Service", "servers")
    assert service["clusterIP"] == "None"
    assert service["selector"] == of("Deployment", "servers")["selector"]["matchLabels"]
    given = {one["name"]: one["value"] for one in REASONER["env"] if "value" in one}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    loaded = settings_module.load()  # the values are those that settings take
    (url,) = urls_of(loaded.servers)
    (port,) = service["ports"]
    assert url == f"dns+http://servers:{port['port']}/v1"
    assert [one["containerPort"] for one in SERVER["ports"]] == [port["port"]]
    assert f"--port={port['port']}" in SERVER["args"]
    ranked = [value.get_secret_value() for value in loaded.server_headers.values()]
    assert ranked == [server.RANK]
    assert "--scheduling-policy=priority" in SERVER["args"], "without it, vLLM ignores ranks"


def test_the_command_of_the_worker_exists_and_its_probes_need_no_partition():
    command = typer.main.get_command(app)
    for word in REASONER["args"]:
        command = command.commands[word]
    port = settings_module.Settings.model_fields["reasoner_port"].default
    assert [one["containerPort"] for one in REASONER["ports"]] == [port]
    assert REASONER["startupProbe"]["httpGet"]["path"] == "/health/started"


def test_the_arguments_of_the_server_are_vllms():
    found = importlib.util.find_spec("vllm")
    if found is None:
        pytest.skip("no vLLM here")
    folder = Path(found.submodule_search_locations[0])
    source = (folder / "engine" / "arg_utils.py").read_text()
    parser = (folder / "entrypoints" / "launchers" / "cli_args.py").read_text()
    for argument in SERVER["args"]:
        name = argument.partition("=")[0]
        field = name.removeprefix("--").replace("-", "_")
        assert f'"{name}"' in source or re.search(rf"\b{field}:", parser), name


def test_server_and_worker_agree_on_the_model():
    (model,) = [one["valueFrom"]["configMapKeyRef"] for one in SERVER["env"] if one["name"] == "SAFEGUARD_MODEL"]
    assert model == {"name": "safeguard", "key": "SAFEGUARD_MODEL"}
    assert REASONER["envFrom"] == [{"configMapRef": {"name": "safeguard"}}]
    assert "--model=$(SAFEGUARD_MODEL)" in SERVER["args"]


def test_a_server_that_ends_finishes_its_requests_after_workers_have_dropped_its_address():
    (drain,) = [int(one.split("=")[1]) for one in SERVER["args"] if one.startswith("--shutdown-timeout")]
    asleep = SERVER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert asleep > 2 * discovery.INTERVAL
    assert SERVERS["terminationGracePeriodSeconds"] > asleep + drain
    timeout = settings_module.Settings.model_fields["inference_timeout"].default
    assert drain >= timeout


@pytest.mark.parametrize("spec", [SERVERS, WORKER], ids=["servers", "worker"])
def test_no_container_has_more_rights_than_it_needs(spec):
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    assert spec["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(container["resources"])


def test_the_servers_write_their_caches_to_a_volume():
    mounts = {one["mountPath"] for one in SERVER["volumeMounts"] if not one.get("readOnly")}
    paths = [one["value"] for one in SERVER["env"] if re.search("CACHE", one["name"])]
    assert len(paths) == 5
    assert all(any(path.startswith(mount) for mount in mounts) for path in paths)


def test_only_workers_and_prometheus_reach_the_servers_which_reach_nothing():
    policy = of("NetworkPolicy", "servers")
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": 8000}]
    worker = of("NetworkPolicy", "reasoner-to-servers")
    assert rule["from"][0] == {"podSelector": worker["podSelector"]}
    assert worker["egress"] == [{"to": [{"podSelector": policy["podSelector"]}], "ports": [{"port": 8000}]}]


def test_servers_scale_within_bounds():
    spec = of("ScaledObject", "servers")
    assert spec["scaleTargetRef"] == {"name": "servers"}
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert all(behavior[way]["policies"] for way in ("scaleUp", "scaleDown"))
    assert all(isinstance(value, str) for trigger in spec["triggers"] for value in trigger["metadata"].values())


def test_images_are_pinned_by_the_kustomization():
    pinned = {image["name"] for image in KUSTOMIZATION["images"]}
    assert {SERVER["image"], REASONER["image"]} <= pinned


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kubectl_builds_it_where_reasoner_yaml_was(tmp_path):
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    changed = {**KUSTOMIZATION, "resources": [*KUSTOMIZATION["resources"]]}
    changed["resources"] = [name for name in changed["resources"] if not name.startswith("reasoner")] + ["servers.yaml"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(changed))
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    built = [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(done.stdout)]
    assert len(set(built)) == len(built)
    ours = {(one["kind"], one["metadata"]["name"]) for one in DOCUMENTS}
    assert ours <= set(built)
    assert json.dumps(done.stdout).count("safeguard-streams-reasoner-remote:0.1.0") == 1
