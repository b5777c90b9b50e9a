"""Pods against Kubernetes' own schemas, and names that several files must agree on.

The values file was checked by hand against the chart's schema, which is not on a package registry (docker/README.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from smar_model.settings import REPOSITORY, load_settings
from tests.docker.docker_files import DOCKER, images

FOLDER = DOCKER / "kubernetes"
VALUES = yaml.safe_load((FOLDER / "airflow_values.yaml").read_text(encoding="utf-8"))
TEMPLATES = sorted((FOLDER / "pods").glob("*.yaml"))
PODS = [*TEMPLATES, FOLDER / "spark_executor.yaml"]
VERSION = "1.34"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [*PODS, FOLDER / "spark_driver_account.yaml"], ids=lambda path: path.name)
def test_it_fits_kubernetes_schema(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_a_wrong_pod_would_not() -> None:
    pod = documents(TEMPLATES[0])[0]
    pod["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSION, strict=True)


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.name)
def test_pods_have_no_rights_and_mount_what_they_declare(path: Path) -> None:
    spec = documents(path)[0]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 1000
    for container in spec["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_of_the_charts_release(path: Path) -> None:
    pod = documents(path)[0]
    base = pod["spec"]["containers"][0]
    assert base["name"] == "base", "the container that Airflow fills in"
    assert pod["spec"]["restartPolicy"] == "Never"
    variables = {variable["name"]: variable for variable in base["env"]}
    shared = {variable["name"]: variable["value"] for variable in VALUES["env"]}
    assert variables["SMAR_HOME"]["value"] == shared["SMAR_HOME"] == VALUES["volumeMounts"][0]["mountPath"]
    assert variables["SMAR_SETTINGS"]["value"] == shared["SMAR_SETTINGS"]
    assert variables["AIRFLOW__CORE__FERNET_KEY"]["valueFrom"]["secretKeyRef"]["name"] == VALUES["fernetKeySecretName"]
    assert variables["SMAR_TRUSTED_KEYS"]["value"] == shared["SMAR_TRUSTED_KEYS"]
    assert "SMAR_SIGNING_KEY" not in variables and "SMAR_SIGNING_KEY" in shared
    keys = next(volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "release-keys")
    assert [item["path"] for item in keys["items"]] == ["release_public_key"]
    assert keys["secretName"] == next(v["secret"]["secretName"] for v in VALUES["volumes"] if "secret" in v)
    if login := variables.get("MLFLOW_TRACKING_PASSWORD"):
        assert variables["MLFLOW_TRACKING_USERNAME"]["value"] == "reader"
        assert login["valueFrom"]["secretKeyRef"] == {"name": VALUES["secret"][0]["secretName"], "key": "smar-reader"}
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"]
        for v in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims == {
        "home": VALUES["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "logs": VALUES["logs"]["persistence"]["existingClaim"],
    }


def test_images_are_those_of_the_dockerfile_by_version() -> None:
    stages = images(DOCKER / "Dockerfile")
    named = [container["image"] for path in PODS for container in documents(path)[0]["spec"]["containers"]]
    named += [f"{image['repository']}:{image['tag']}" for image in VALUES["images"].values()]
    settings = load_settings(REPOSITORY / "configs" / "kubernetes_sample_shop.yaml")
    named.append(settings.spark.options["spark.kubernetes.container.image"])
    for image in named:
        name, tag = image.rsplit("/", 1)[1].split(":")
        assert name.removeprefix("smar-").removesuffix("-cpu").removesuffix("-gpu") in stages, image
        assert tag == "0.1.0"


def test_spark_finds_its_template_and_its_account() -> None:
    options = load_settings(REPOSITORY / "configs" / "kubernetes_sample_shop.yaml").spark.options
    template = REPOSITORY / Path(options["spark.kubernetes.executor.podTemplateFile"]).relative_to("/opt/smar")
    assert template == FOLDER / "spark_executor.yaml"
    container = documents(template)[0]["spec"]["containers"][0]["name"]
    assert container == options["spark.kubernetes.executor.podTemplateContainerName"]
    account, role, binding = documents(FOLDER / "spark_driver_account.yaml")
    driver = documents(FOLDER / "pods" / "spark.yaml")[0]["spec"]["serviceAccountName"]
    assert account["metadata"]["name"] == driver == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    namespaces = {document["metadata"]["namespace"] for document in (account, role, binding)}
    assert namespaces == {options["spark.kubernetes.namespace"]}


def test_airflow_is_the_locks_and_has_no_user_that_everybody_knows() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert f"apache-airflow=={VALUES['airflowVersion']}" in lock
    assert VALUES["createUserJob"] == {"enabled": False} and VALUES["postgresql"] == {"enabled": False}
