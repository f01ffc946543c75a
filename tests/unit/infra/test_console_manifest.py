"""console.yaml: valid, with commands that parse, and consistent with ports, roles, settings and the other files."""

import json
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from safeguard_streams.cli import app
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.runtime import settings as settings_module
from safeguard_streams.runtime.process import END_SECONDS

FOLDER = Path(__file__).parents[3] / "infra" / "kubernetes"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "console.yaml").read_text()))
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
FIELDS = settings_module.Settings.model_fields
PORTS = {"projector": FIELDS["projector_port"].default, "console": FIELDS["console_port"].default}


def of(kind):
    return {one["metadata"]["name"]: one for one in DOCUMENTS if one["kind"] == kind}


def pod(name):
    return of("Deployment")[name]["spec"]["template"]["spec"]


def container(name):
    (one,) = pod(name)["containers"]
    return one


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_each_document_is_valid(document):
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_it_is_there_where_people_use_it_with_an_image_of_its_own():
    assert "console.yaml" not in KUSTOMIZATION["resources"]
    assert set(of("Deployment")) == set(PORTS)
    for name in PORTS:
        assert container(name)["image"] in [image["name"] for image in KUSTOMIZATION["images"]]
    assert (FOLDER.parent / "requirements" / "console.txt").is_file(), "the image's EXTRA"


@pytest.mark.parametrize("name", PORTS)
def test_the_command_parses_and_the_probes_use_its_port(name):
    command = typer.main.get_command(app)
    words = container(name)["args"]
    for word in words[:2]:
        command = command.commands[word]
    assert command.make_context(name, list(words[2:])).params.get("projected", True) is (name == "projector")
    assert [one["containerPort"] for one in container(name)["ports"]] == [PORTS[name]]
    annotations = of("Deployment")[name]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(PORTS[name])
    assert container(name)["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container(name)["startupProbe"]["httpGet"]["path"] == "/health/live", "needs no database"
    assert container(name)["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert pod(name)["terminationGracePeriodSeconds"] > END_SECONDS + 5


@pytest.mark.parametrize("name", PORTS)
def test_no_container_runs_as_root_or_writes_its_root_or_shares_the_host(name):
    assert pod(name)["securityContext"]["runAsNonRoot"]
    assert not pod(name)["automountServiceAccountToken"]
    assert pod(name)["enableServiceLinks"] is False
    assert not any(pod(name).get(shared) for shared in ("hostIPC", "hostPID", "hostNetwork"))
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(container(name)["resources"])


@pytest.mark.parametrize("name", PORTS)
def test_each_is_a_kafka_user_of_its_own_with_a_secret_of_its_own(name):
    (user,) = [one["value"] for one in container(name)["env"] if one["name"] == "SAFEGUARD_USERNAME"]
    (secret,) = [volume["secret"] for volume in pod(name)["volumes"] if "secret" in volume]
    assert user == secret["secretName"] == f"safeguard-{name}"
    assert name in ROLES


def test_the_settings_are_known_and_hold_no_secret():
    (config,) = of("ConfigMap").values()
    known = {f"SAFEGUARD_{name.upper()}": field for name, field in FIELDS.items()}
    assert set(config["data"]) <= set(known)
    assert not any("SECRET" in str(known[name].annotation) for name in config["data"])
    given = {name.removeprefix("SAFEGUARD_").lower(): value for name, value in config["data"].items()}
    roles = json.loads(given.pop("console_roles"))
    assert settings_module.load(**given, console_roles=roles).console_oidc_issuer, "nobody is a local user there"
    text = (FOLDER / "console.yaml").read_text()
    for name in ("console_database", "console_oidc_client_secret", "console_session_key"):
        assert "SecretStr" in str(FIELDS[name].annotation)
        assert f"safeguard_{name}" in text


def test_the_service_leads_to_the_pages():
    service = of("Service")["console"]["spec"]
    labels = of("Deployment")["console"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"] == labels == of("PodDisruptionBudget")["console"]["spec"]["selector"]["matchLabels"]
    assert [one["targetPort"] for one in service["ports"]] == [one["name"] for one in container("console")["ports"]]


def test_each_may_talk_to_what_it_needs_and_to_nothing_else():
    policies = of("NetworkPolicy")
    assert set(policies) == set(PORTS)
    for name, policy in policies.items():
        spec = policy["spec"]
        assert spec["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        ports = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
        assert ports == {53, 9092, 4318, 5432} | ({443} if name == "console" else set()), "a provider"
        assert all(rule["to"] for rule in spec["egress"])
        (rule,) = spec["ingress"]
        assert [port["port"] for port in rule["ports"]] == [PORTS[name]]
        assert len(rule["from"]) == (2 if name == "console" else 1)
