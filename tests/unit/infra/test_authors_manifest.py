"""authors.yaml: valid, with a command that parses, and consistent with ports, roles and the other files."""

from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from safeguard_streams.cli import app
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.runtime.process import END_SECONDS
from safeguard_streams.runtime.settings import Settings

FOLDER = Path(__file__).parents[3] / "infra" / "kubernetes"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "authors.yaml").read_text()))
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
SERVICE, WORKLOAD, BUDGET, NETWORK = DOCUMENTS
POD = WORKLOAD["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PORT = Settings.model_fields["authors_port"].default


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one["kind"])
def test_each_document_is_valid(document):
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_its_command_parses_and_reads_rules_that_are_mounted():
    command = typer.main.get_command(app)
    group, name, *options = CONTAINER["args"]
    command.commands[group].commands[name].make_context("run", list(options))
    (mounted,) = [one["mountPath"] for one in CONTAINER["volumeMounts"] if one["name"] == "rules"]
    assert Path(options[0]).parent == Path(mounted)


def test_names_ports_time_to_finish_user_and_image_are_those_of_the_other_files():
    label = {"app.kubernetes.io/name": "authors"}
    assert SERVICE["spec"]["selector"] == label == WORKLOAD["spec"]["template"]["metadata"]["labels"]
    assert WORKLOAD["spec"]["selector"]["matchLabels"] == label == BUDGET["spec"]["selector"]["matchLabels"]
    assert NETWORK["spec"]["podSelector"]["matchLabels"] == label
    assert [one["containerPort"] for one in CONTAINER["ports"]] == [PORT]
    assert NETWORK["spec"]["ingress"][0]["ports"] == [{"port": PORT}]
    assert WORKLOAD["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)
    assert POD["terminationGracePeriodSeconds"] > END_SECONDS + 5
    (user,) = [one["value"] for one in CONTAINER["env"] if one["name"] == "SAFEGUARD_USERNAME"]
    assert user.removeprefix("safeguard-") in ROLES
    assert CONTAINER["image"] in [image["name"] for image in KUSTOMIZATION["images"]]
    assert "authors.yaml" not in KUSTOMIZATION["resources"], "it needs rules for authors"
