"""The manifests: valid for Kubernetes, and consistent with the names, ports, topics and settings of the processes."""

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
from safeguard_streams.contract import limits, topics
from safeguard_streams.enforcement.stages import STAGE as ENFORCEMENT
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.operations.cluster import QUEUES
from safeguard_streams.prefilter.decision import STAGE as PREFILTER
from safeguard_streams.runtime import metrics
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
SPOT = "reasoner-spot"
POOLS = (REASONER, SPOT)
PORTS[SPOT] = PORTS[REASONER]
CACHE = "/home/safeguard/.cache"


def documents():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        "kustomization.yaml",
        "servers.yaml",
        "authors.yaml",
        "canary.yaml",
        "console.yaml",
        *kustomization["resources"],
    }
    return [
        document for name in kustomization["resources"] for document in yaml.safe_load_all((FOLDER / name).read_text())
    ]


def of(kind):
    return {document["metadata"]["name"]: document for document in documents() if document["kind"] == kind}


def pods():
    return {
        name: document["spec"]["template"]["spec"]
        for kind in ("StatefulSet", "Job")
        for name, document in of(kind).items()
    }


def environment(name):
    (container,) = pods()[name if name in pods() else "safeguard-topics"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}


@pytest.mark.parametrize("number", range(len(documents())))
def test_each_document_is_valid(number):
    document = documents()[number]
    if document["kind"] == "TriggerAuthentication":
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        return
    if document["kind"] == "ScaledObject":
        spec = document["spec"]
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
        assert all(isinstance(value, str) for trigger in spec["triggers"] for value in trigger["metadata"].values())
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert all(behavior[way]["policies"] for way in ("scaleUp", "scaleDown")), "bounded"
        return
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_an_invalid_document_is_rejected():
    broken = json.loads(json.dumps(of("StatefulSet")[PREFILTER]))
    broken["spec"]["template"]["spec"]["containers"][0]["port"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_probes_use_the_ports_of_the_processes_which_have_time_to_finish():
    assert set(of("StatefulSet")) == set(PORTS)
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
            startup = container["startupProbe"]["httpGet"]["path"]
            assert startup == ("/health/started" if name in POOLS else "/health/live"), "needs no partition"
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


def test_each_process_scales_between_bounds_by_what_waits_and_what_arrives():
    partitions = int(of("ConfigMap")["safeguard"]["data"]["SAFEGUARD_PARTITIONS"])
    assert set(of("ScaledObject")) == {PREFILTER, REASONER, SPOT}
    for name, scaled in of("ScaledObject").items():
        assert scaled["spec"]["scaleTargetRef"] == {"kind": "StatefulSet", "name": name}
        assert scaled["spec"]["maxReplicaCount"] <= partitions, "a pod without a partition is never ready"
    for name in (PREFILTER, REASONER):
        lag, arrival = of("ScaledObject")[name]["spec"]["triggers"]
        assert lag["metricType"] == "Value"
        assert metrics.LAG_SECONDS.prometheus in lag["metadata"]["query"]
        assert metrics.CALL_AGE.prometheus in lag["metadata"]["query"], "a judgement in progress does not wait"
        assert metrics.CONSUMED.prometheus in arrival["metadata"]["query"]
        assert metrics.LAG_RECORDS.prometheus in arrival["metadata"]["query"]
        for trigger in (lag, arrival):
            assert trigger["metadata"]["ignoreNullValues"] == "false", "a lost metric is no zero"
            (pattern, *others) = set(re.findall(r'group_name=~"([^"]+)"', trigger["metadata"]["query"]))
            assert not others
            groups = [prefix + one.group for prefix in ("", "eu.") for one in QUEUES]
            matched = {group.removeprefix("eu.") for group in groups if re.fullmatch(pattern, group)}
            assert matched == {name}, "live content's alone"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
@pytest.mark.parametrize("name", [PREFILTER, REASONER])
def test_the_queries_give_the_wait_and_the_rate_of_arrival(name, tmp_path):
    """The oldest record is 50 s old and in progress for 45 of them. 3 records/s are read, and 1/s more waits."""
    triggers = of("ScaledObject")[name]["spec"]["triggers"]
    wait, arrival = (trigger["metadata"]["query"] for trigger in triggers)
    labels = f'{{messaging_consumer_group_name="eu.{name}", messaging_destination_partition_id="0"}}'
    series = {
        metrics.LAG_SECONDS: "50+0x20",
        metrics.CALL_AGE: "45+0x20",
        metrics.CONSUMED: "0+180x20",
        metrics.LAG_RECORDS: "100+60x20",
    }
    case = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": metric.prometheus + labels, "values": values} for metric, values in series.items()
                ],
                "promql_expr_test": [
                    {"expr": expr, "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": value}]}
                    for expr, value in ((wait, 5), (arrival, 4))
                ],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "case.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workers_on_spot_machines_judge_what_others_leave_and_are_none_while_nothing_waits():
    lanes = {name: environment(name)["SAFEGUARD_LANES"].split(",") for name in POOLS}
    assert sorted(lanes[REASONER] + lanes[SPOT]) == sorted(settings_module.LANES), "each lane has its workers"
    assert "live" in lanes[REASONER]
    spec = of("ScaledObject")[SPOT]["spec"]
    assert spec["minReplicaCount"] == 0
    variables, prefix = environment(SPOT), "$(SAFEGUARD_PREFIX)"
    assert "SAFEGUARD_PREFIX" in of("ConfigMap")["safeguard"]["data"], "the variable is expanded"
    read = set()
    for trigger in spec["triggers"]:
        about = trigger["metadata"]
        read.add((variables[about["consumerGroupFromEnv"]], variables[about["topicFromEnv"]]))
        (authentication,) = of("TriggerAuthentication").values()
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
        given = {one["parameter"] for one in authentication["spec"]["secretTargetRef"]}
        assert given >= {"sasl", "tls", "username", "password"}
        assert {one["name"] for one in authentication["spec"]["secretTargetRef"]} == {"safeguard-keda"}
        partitions = of("ConfigMap")["safeguard"]["data"]["SAFEGUARD_PARTITIONS"]
        assert about["activationLagThreshold"] == partitions, "each partition's last marker is lag, too"
    assert read == {(prefix + topics.LANE_GROUPS[lane], prefix + topics.LANES[lane]) for lane in lanes[SPOT]}


def test_a_pods_name_is_its_instance_id_and_no_pod_joins_before_the_one_of_its_name_has_left():
    assert set(of("PodDisruptionBudget")) == set(of("StatefulSet"))
    session = int(of("ConfigMap")["safeguard"]["data"]["SAFEGUARD_SESSION_TIMEOUT_MS"])
    assert session >= 20_000, "longer than a prefilter's restart"
    for name, workload in of("StatefulSet").items():
        spec = workload["spec"]
        assert environment(name)["SAFEGUARD_GROUP_INSTANCE_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
        assert spec["updateStrategy"] == {"type": "RollingUpdate"}
        assert spec["podManagementPolicy"] == "Parallel"
        service = of("Service")[spec["serviceName"]]["spec"]
        assert service["clusterIP"] == "None"
        assert service["selector"] == spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        assert [port["port"] for port in service["ports"]] == [PORTS[name]]


def test_reasoners_read_the_weights_and_write_what_they_compile():
    image = (FOLDER.parent / "images" / "reasoner.Dockerfile").read_text()
    caches = re.findall(r"\b((?:XDG|HF|VLLM|TORCHINDUCTOR|TRITON|CUDA|FLASHINFER)_\w+)=(\S+)", image)
    assert len(caches) == 8
    assert all(path.startswith(CACHE) for _, path in caches)
    model = of("ConfigMap")["safeguard"]["data"]["SAFEGUARD_MODEL"]
    for name in POOLS:
        pod = pods()[name]
        (container,) = pod["containers"]
        mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
        assert not mounts[CACHE].get("readOnly")
        assert mounts["/models"]["readOnly"]
        assert model.startswith("/models/")
        volumes = {one["name"]: one for one in pod["volumes"]}
        claim = volumes[mounts["/models"]["name"]]["persistentVolumeClaim"]
        assert claim["readOnly"]
        assert of("PersistentVolumeClaim")[claim["claimName"]]["spec"]["accessModes"] == ["ReadOnlyMany"]
        kept = {one["metadata"]["name"] for one in of("StatefulSet")[name]["spec"].get("volumeClaimTemplates", ())}
        assert (mounts[CACHE]["name"] in kept) == (name == REASONER), "a claim has a zone, a spot machine none"
        assert mounts[CACHE]["name"] in kept | set(volumes)
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["nodeSelector"]
        assert pod["tolerations"]
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.kafka.yml").read_text())
    assert compose["services"]["reasoner"]["volumes"] == [f"models:{CACHE}"]


def test_each_role_is_a_user_of_its_own_with_a_secret_of_its_own():
    users, secrets = [], []
    for name, pod in pods().items():
        role = {"safeguard-topics": "operator", SPOT: REASONER}.get(name, name)
        assert role in ROLES
        (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert not secret.get("optional"), "a pod without its password would not start, and says so"
        users.append(environment(name)["SAFEGUARD_USERNAME"])
        secrets.append(secret["secretName"])
        assert users[-1] == secrets[-1] == f"safeguard-{role}"
    assert len(set(users)) == len(set(secrets)) == len(pods()) - 1, "both pools of reasoners are one role"
    config = of("ConfigMap")["safeguard"]["data"]
    assert config["SAFEGUARD_SECURITY_PROTOCOL"] == "SASL_SSL"
    assert "SAFEGUARD_USERNAME" not in config


def test_each_workload_may_talk_to_what_it_needs_and_to_nothing_else():
    policies = of("NetworkPolicy")
    everything = policies.pop("refuse-all")
    assert everything["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {
        document["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for kind in ("StatefulSet", "Job")
        for document in of(kind).values()
    }
    assert set(policies) == labels - {SPOT}
    for name, policy in policies.items():
        spec = policy["spec"]
        pool = {"key": "app.kubernetes.io/name", "operator": "In", "values": list(POOLS)}
        one = {"matchLabels": {"app.kubernetes.io/name": name}}
        assert spec["podSelector"] == ({"matchExpressions": [pool]} if name == REASONER else one)
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        ports = [port["port"] for rule in spec["egress"] for port in rule["ports"]]
        assert {53, 9092} <= set(ports)
        assert (443 in ports) == (name == ENFORCEMENT), "a webhook"
        assert all(rule["to"] for rule in spec["egress"])
        ingress = [port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]]
        assert ingress == ([PORTS[name]] if name in PORTS else [])


def test_no_pod_shares_the_hosts_namespaces_or_a_services_variables():
    for pod in pods().values():
        assert pod["enableServiceLinks"] is False
        assert not any(pod.get(name) for name in ("hostIPC", "hostPID", "hostNetwork"))
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.kafka.yml").read_text())
    for service in compose["services"].values():
        assert not {"ipc", "pid", "network_mode", "privileged"} & set(service)


def test_memory_limits_are_above_the_cost_of_the_largest_record():
    units = {"Mi": 2**20, "Gi": 2**30}
    for name, pod in pods().items():
        limit = pod["containers"][0]["resources"]["limits"]["memory"]
        if name in PORTS:
            # The record, its JSON, its text at four bytes a character, folded copies, the outputs: 50 times its bytes.
            assert int(limit[:-2]) * units[limit[-2:]] >= 50 * limits.EVENT_BYTES + 512 * 2**20


def test_images_and_builds_are_pinned():
    for image in (FOLDER.parent / "images").glob("*.Dockerfile"):
        source = image.read_text()
        assert re.search(r"^ARG PYTHON=python:3\.\d+\.\d+-slim-\w+$", source, re.MULTILINE)
        assert set(re.findall(r"^FROM (\S+)", source, re.MULTILINE)) == {"${PYTHON}"}
        assert "--build-constraints /pins/build.txt /source" in source
    pins = (FOLDER.parent / "requirements" / "build.txt").read_text()
    assert re.search(r"^hatchling==\S+ \\\n    --hash=sha256:", pins, re.MULTILINE)
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert all(image.get("digest") or image["newTag"] not in ("", "latest") for image in kustomization["images"])
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.kafka.yml").read_text())
    for service in compose["services"].values():
        if "build" not in service and "safeguard-streams" not in service["image"]:
            assert re.search(r":v?\d+\.\d+(\.\d+|-\w+)$", service["image"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kubectl_builds_all_documents():
    completed = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True)
    built = list(yaml.safe_load_all(completed.stdout))
    assert len(built) == len(documents())
    for document in built:
        if not document["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        assert document["metadata"].get("namespace", "safeguard") == "safeguard"
