"""The Dockerfiles by rule and by what they name; `make test-containers` builds docker/Dockerfile."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from smar_model.settings import REPOSITORY
from tests.docker.docker_files import DOCKER, DOCKERFILES, images, json_words, last, run_tool

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PARTS = PROJECT["optional-dependencies"] | {"project": PROJECT["dependencies"]}
LOCK = dict(
    line.split("==") for line in (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines() if line
)
CLUSTER = images(DOCKER / "Dockerfile")
RUN = ("airflow", "spark", "airflow-spark", "training", "airflow-training", "mlflow", "search")
INSTALL = re.compile(r"docker/install\.sh(?: --torch \$\{TORCH\})? (\S+) (.+)")


def environments() -> dict[str, tuple[str, ...]]:
    """Stage of the Dockerfile that makes an environment → parts that install.sh puts into it."""
    made = {}
    for name, instructions in CLUSTER.items():
        if not name.endswith("-environment"):  # `training` builds on one
            continue
        for word, rest in instructions:
            if word == "RUN" and (found := INSTALL.search(rest)):
                made[name] = tuple(found.group(2).split())
    return made


def packages(parts: tuple[str, ...]) -> set[str]:
    """What an environment of these parts holds, by the metadata of the packages installed here, which are those of the lock."""
    open_requirements = [Requirement(text) for part in parts for text in PARTS[part]]
    found: set[tuple[str, str]] = set()
    while open_requirements:
        requirement = open_requirements.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in found:
                continue
            found.add(key)
            for text in importlib.metadata.requires(requirement.name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    open_requirements.append(further)
    return {name for name, _ in found}


def test_hadolint_finds_nothing() -> None:
    done = run_tool("hadolint", *map(str, DOCKERFILES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp\n", encoding="utf-8")
    assert run_tool("hadolint", str(bad)).returncode != 0


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    scripts = sorted(map(str, DOCKER.rglob("*.sh")))
    assert len(scripts) > 5
    done = run_tool("shellcheck", *scripts)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_base_images_have_whole_versions(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    named = set(re.findall(r"(?m)^(?:FROM|ARG PYTHON_IMAGE=)\s*([^\s$]\S*:\S+)", text))
    assert named and all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", image) for image in named), named


@pytest.mark.parametrize("image", RUN)
def test_images_run_as_a_user_without_rights(image: str) -> None:
    assert last(CLUSTER[image], "USER") == "1000"


def test_the_laptops_image_runs_as_a_user_without_rights() -> None:
    assert last(images(DOCKER / "laptop.Dockerfile")["image"], "USER") == "1000"


@pytest.mark.parametrize("image", sorted(set(RUN) - {"training"}))
def test_images_of_services_have_a_health_check(image: str) -> None:
    check = last(CLUSTER[image], "HEALTHCHECK")
    assert check and json_words(check)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_from_the_checkout_is_there(dockerfile: Path) -> None:
    for instructions in images(dockerfile).values():
        for word, rest in instructions:
            if word == "COPY" and "--from=" not in rest:
                *sources, _ = [part for part in rest.split() if not part.startswith("--")]
                assert all((REPOSITORY / source).exists() for source in sources), rest


def test_what_is_copied_from_another_stage_is_made_there() -> None:
    made_at = {
        name: INSTALL.search(rest).group(1)  # type: ignore[union-attr]
        for name in environments()
        for word, rest in CLUSTER[name]
        if word == "RUN" and INSTALL.search(rest)
    }
    copied = {
        tuple(re.search(r"--from=(\S+) (\S+) (\S+)", rest).groups())  # type: ignore[union-attr]
        for instructions in CLUSTER.values()
        for word, rest in instructions
        if word == "COPY" and "--from=" in rest
    }
    assert {stage for stage, _, _ in copied} == set(made_at) - {"training-environment"}, "`training` builds on that one"
    assert all(source == target == made_at[stage] for stage, source, target in copied)


def test_files_of_the_checkout_that_images_start_are_there() -> None:
    for name in RUN:
        for word in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            for part in json_words(last(CLUSTER[name], word) or "[]"):
                if found := re.search(r"(?:/opt/smar/)?(docker/\S+)", part):
                    path = REPOSITORY / found.group(1)
                    assert path.is_file() and (path.suffix == ".py" or path.stat().st_mode & 0o111), path


def test_commands_of_smar_that_images_run_exist() -> None:
    commands = [json_words(last(CLUSTER[name], "CMD") or "[]") for name in ("training", "search")]
    for command in commands:
        assert command[:3] == ["python", "-m", "smar_model.cli"]
        done = subprocess.run(
            [sys.executable, *command[1:4], "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert all(option in done.stdout for option in command[4:] if option.startswith("--"))


def test_uv_is_the_makefiles() -> None:
    version = re.search(r"UV_VERSION := (\S+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8")).group(1)  # type: ignore[union-attr]
    assert f"uv=={version}" in (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_every_environment_is_of_parts_that_exist_and_that_the_lock_holds() -> None:
    assert set(environments()) == {
        "airflow-environment",
        "spark-environment",
        "training-environment",
        "search-environment",
        "mlflow-environment",
    }
    for parts in environments().values():
        assert set(parts) <= set(PARTS)
        missing = packages(parts) - {canonicalize_name(name) for name in LOCK}
        assert not missing


def test_the_orchestrator_holds_no_torch_and_the_server_no_orchestrator() -> None:
    held = {name: packages(parts) for name, parts in environments().items()}
    orchestrator, spark = held["airflow-environment"], held["spark-environment"]
    training, server = held["training-environment"], held["search-environment"]
    tracking = held["mlflow-environment"]
    assert {"apache-airflow", "celery", "apache-airflow-providers-cncf-kubernetes"} <= orchestrator
    assert not orchestrator & {"torch", "pyspark", "mlflow", "faiss-cpu", "pandas"}
    assert {"torch", "faiss-cpu", "mlflow", "fastapi"} <= training
    assert not training & {"apache-airflow-core", "apache-airflow", "pyspark"}
    assert {"faiss-cpu", "onnxruntime", "mlflow-skinny", "fastapi"} <= server
    assert not server & {"torch", "timm", "transformers", "onnxscript", "mlflow", "apache-airflow-core", "pyspark"}
    assert {"pyspark", "great-expectations"} <= spark
    assert not spark & {"torch", "apache-airflow-core", "mlflow"}
    assert {"mlflow", "boto3", "psycopg2-binary"} <= tracking
    assert not tracking & {"torch", "apache-airflow-core", "pyspark"}


def test_install_names_a_part_that_does_not_exist(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(DOCKER / "install.sh"), "--dry-run", str(tmp_path / "x"), "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "no part nothing; there are cluster, orchestrate" in done.stderr
