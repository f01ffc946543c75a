"""canary.yaml: valid, with a command that parses, and consistent with ports, roles and the other files."""

from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from safeguard_streams.cli import app
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.runtime.process import END_SECONDS
from safeguard_streams.runtime.server_urls import urls_of
from safeguard_streams.runtime.settings import Settings

FOLDER = Path(__file__).parents[3] / "infra" / "kubernetes"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "canary.yaml").read_text()))
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DEPLOYMENT, NETWORK = DOCUMENTS
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PORT = Settings.model_fields["canary_port"].default


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one["kind"])
def test_each_document_is_valid(document):
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_its_command_parses_and_names_servers_that_discovery_knows():
    command = typer.main.get_command(app)
    words, options = CONTAINER["args"][:2], CONTAINER["args"][2:]
    for word in words:
        command = command.commands[word]
    parsed = command.make_context("canary", list(options)).params
    (url,) = urls_of(parsed["server"][0])
    assert url.startswith("dns+http://canary-servers:8000")
    assert 0 < parsed["share"] < 0.1


def test_ports_time_to_finish_user_and_image_are_those_of_the_other_files():
    assert [one["containerPort"] for one in CONTAINER["ports"]] == [PORT]
    assert NETWORK["spec"]["ingress"][0]["ports"] == [{"port": PORT}]
    assert DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)
    assert POD["terminationGracePeriodSeconds"] > END_SECONDS + 5
    assert CONTAINER["startupProbe"]["httpGet"]["path"] == "/health/started"
    (user,) = [one["value"] for one in CONTAINER["env"] if one["name"] == "SAFEGUARD_USERNAME"]
    assert user.removeprefix("safeguard-") in ROLES
    assert CONTAINER["image"] in [image["name"] for image in KUSTOMIZATION["images"]]
    assert "canary.yaml" not in KUSTOMIZATION["resources"], "it is there while it is to run"
