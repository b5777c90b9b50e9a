"""Which worker a task goes to: the cluster policy against the table of stages."""

from __future__ import annotations

import importlib.util
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from smar_model.stages import REFRESH_STAGES, STAGES
from tests.docker.docker_files import DOCKER

ALL_STAGES = STAGES | REFRESH_STAGES


@pytest.fixture(scope="module")
def policy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("policy", DOCKER / "airflow" / "airflow_local_settings.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def task(task_id: str, pool: str = "default_pool") -> SimpleNamespace:
    return SimpleNamespace(task_id=task_id, pool=pool, queue="default", executor_config={})


def test_spark_stages_and_no_others_go_to_spark(policy: ModuleType) -> None:
    assert {name for name, stage in ALL_STAGES.items() if stage.work.startswith("jobs.")} == policy.SPARK
    for name, stage in ALL_STAGES.items():
        given = task(name)
        policy.task_policy(given)
        assert given.queue == ("spark" if stage.work.startswith("jobs.") else "default")


def test_what_trains_goes_to_the_gpu(policy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMAR_POD_TEMPLATES", raising=False)
    given = task("pretrain", pool="training")
    policy.task_policy(given)
    assert given.queue == "gpu" and given.executor_config == {}


def test_each_queue_has_a_pod(policy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DOCKER / "kubernetes" / "pods"
    monkeypatch.setenv("SMAR_POD_TEMPLATES", str(folder))
    for given in (task("check-data"), task("finetune", pool="training")):
        policy.task_policy(given)
        with open(given.executor_config["pod_template_file"], encoding="utf-8") as file:
            assert yaml.safe_load(file)["metadata"]["name"] == f"smar-{given.queue}"
    mapped = SimpleNamespace(task_id="row", pool="training", queue="default", partial_kwargs={})
    policy.task_policy(mapped)
    assert mapped.partial_kwargs["executor_config"] == {"pod_template_file": str(folder / "gpu.yaml")}
    plain = task("gate")
    policy.task_policy(plain)
    assert (plain.queue, plain.executor_config) == ("default", {})
