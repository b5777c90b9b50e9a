"""The services of docker/compose.yaml, started as it says: users, limits, secrets, dependencies; and a daily run through them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.cluster_shop import MODEL, SETTINGS, fill_home
from tests.containers.compose_file import read_compose_file
from tests.containers.images import REPLACED, BuiltImages
from tests.containers.running_services import ADDRESS, NOT_HERE, RunningServices, airflow_of, get, running_services
from tests.docker.docker_files import compose
from tests.patience import wait_until
from tests.services.airflow_api import AirflowApi
from tests.services.results import record
from tests.tiny_shop import LAST_DAY

VARIABLES = {
    "BIND_ADDRESS": ADDRESS,
    "MLFLOW_HOSTS": f",{ADDRESS}:*",
    "SMAR_SETTINGS": str(SETTINGS),
}


@pytest.fixture(scope="module")
def services(
    built: BuiltImages, targets: dict[str, str], secrets: Path, tmp_path_factory: pytest.TempPathFactory, logs: Path
) -> Iterator[RunningServices]:
    fill_home(built.podman, targets["search"], tmp_path_factory.mktemp("delivered"))
    described = read_compose_file(VARIABLES, secrets=secrets, profiles=frozenset({"search"}))
    wanted = {name: service for name, service in described.items() if name not in NOT_HERE}
    with running_services(built.podman, wanted, logs / "shared_home") as running:
        yield running


@pytest.fixture(scope="module")
def airflow(services: RunningServices, secrets: Path) -> AirflowApi:
    return airflow_of(secrets)


def status(services: RunningServices, container: str) -> dict[str, str]:
    """Lines of /proc/1/status: of the init process, which has the rights that its child has."""
    text = services.podman.execute(container, "cat", "/proc/1/status").stdout
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_all_services_became_healthy_and_none_was_started_twice(services: RunningServices) -> None:
    for service in services.services:
        for name in services.containers(service):
            state = services.podman.inspect("container", name)
            assert state["State"]["Status"] == "running" and state["RestartCount"] == 0, services.logs(name)
    after = {name: services.seconds[name] for name in services.all_containers()}
    assert set(after) == set(services.all_containers())
    memory = services.memory()
    rows = [
        f"| `{service}` | {services.seconds[name]:.0f} | {services.checks[name]:.1f} | {memory[name] / 10**6:.0f} | "
        f"{services.services[service].memory / 10**6:.0f} |"
        for service in services.services
        for name in services.containers(service)
    ]
    record(
        "The services",
        [
            f"All services of `docker/compose.yaml` with the profile `search`, but {', '.join(sorted(NOT_HERE))}; in the place of other people's "
            f"images ({', '.join(sorted(REPLACED))}) those of `tests/containers/stand_ins`. Processes that wanted a core meanwhile: "
            f"{os.getloadavg()[2]:.0f}.",
            "",
            "| service | seconds to its first good health check | seconds of the check | MB in use | MB allowed |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
        ],
        page="containers",
    )


def test_no_service_has_rights_or_is_root(services: RunningServices) -> None:
    for name in services.all_containers():
        found = status(services, name)
        assert found["Uid"].split()[0] != "0", name
        assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0 and found["NoNewPrivs"] == "1", (name, found)


def test_limits_are_the_compose_files(services: RunningServices) -> None:
    for service, content in services.services.items():
        for name in services.containers(service):
            assert services.podman.inspect("container", name)["HostConfig"]["Memory"] == content.memory


def test_the_search_container_can_write_into_its_home_alone(services: RunningServices) -> None:
    (name,) = services.containers("search")
    assert services.podman.execute(name, "touch", "/opt/smar/x", check=False).returncode
    assert services.podman.execute(name, "touch", "/home/smar/x", check=False).returncode
    services.podman.execute(name, "touch", "/var/lib/smar/x", "/tmp/x")


def test_whoever_has_no_login_is_refused(services: RunningServices, secrets: Path) -> None:
    (api,) = services.containers("airflow-api-server")
    code = (
        "import urllib.request as r, urllib.error as e\n"
        "for a in ('http://mlflow:5000/api/2.0/mlflow/experiments/search?max_results=1', 'http://object-store:8333/mlflow'):\n"
        "    try: print(r.urlopen(a).status)\n"
        "    except e.HTTPError as error: print(error.code)\n"
    )
    assert services.podman.execute(api, "python", "-c", code).stdout.split() == ["401", "403"]
    (redis,) = services.containers("redis")
    assert "NOAUTH" in services.podman.execute(redis, "redis-cli", "get", "x").stdout
    (postgres,) = services.containers("postgres")
    login = ["psql", "--host", "postgres", "--username", "airflow", "--no-password", "--command", "select 1"]
    assert "no password supplied" in services.podman.execute(postgres, *login, check=False).stderr


def test_a_daily_run_by_airflows_api_and_a_query_to_its_champion(
    services: RunningServices, airflow: AirflowApi
) -> None:
    search = f"http://{ADDRESS}:8000"
    airflow.turn_on("smar_retrain")
    run = airflow.trigger("smar_retrain", date=str(LAST_DAY))
    state = airflow.wait("smar_retrain", run)
    states = airflow.states("smar_retrain", run)
    red = [name for name, state in states.items() if state == "failed"]
    assert state == "success", f"{states}\n" + "\n".join(
        airflow.log("smar_retrain", run, name)[-3_000:] for name in red
    )
    tasks = {task["task_id"]: task for task in airflow.tasks("smar_retrain", run)}
    hosts = {
        service: services.podman.output("exec", services.containers(service)[0], "hostname")
        for service in ("airflow-worker", "airflow-worker-spark")
    }
    assert tasks["prepare-items"]["hostname"] == hosts["airflow-worker-spark"]
    assert tasks["finetune"]["hostname"] == tasks["promote"]["hostname"] == hosts["airflow-worker"]
    applications = get(f"http://{ADDRESS}:8082/json/")["completedapps"]
    assert len(applications) >= 4
    used = [worker for worker in services.containers("spark-worker") if executors(services, worker)]
    assert len(used) == 2, "both Spark workers have run executors"

    def ready() -> bool:
        try:
            return bool(get(f"{search}/readyz"))
        except OSError:
            return False

    wait_until(ready, says=lambda: services.logs("smar-search-1"))
    answer = get(f"{search}/search?q=red+shirt&k=5")
    assert len(answer["hits"]) == 5 and answer["version"] == "1", answer
    restarted = [
        name for name in services.all_containers() if services.podman.inspect("container", name)["RestartCount"]
    ]
    assert not restarted
    attempts = {name: task["try_number"] for name, task in tasks.items() if task["try_number"] > 1}
    seconds = airflow.run("smar_retrain", run)["duration"]
    memory = services.memory()
    record(
        "A daily run",
        [
            f"`smar_retrain`, triggered through Airflow's API, on the tiny shop of the tests: {len(tasks)} tasks, {seconds:.0f} seconds"
            + (f", tried again: {attempts}" if attempts else ", none tried again")
            + f"; {len(applications)} Spark applications, whose executors ran on both workers. Afterwards all containers together used "
            f"{sum(memory.values()) / 10**9:.1f} GB. The search server answered with champion {answer['version']} of the model `{MODEL}`, as user 1000, without capabilities, on a root it cannot write to.",
        ],
        page="containers",
    )


def test_a_run_is_one_trace_wherever_its_tasks_ran(services: RunningServices, airflow: AirflowApi) -> None:
    """After the daily run above."""
    (run,) = [run["dag_run_id"] for run in airflow.runs("smar_retrain")]
    tasks = {task["task_id"]: task["state"] for task in airflow.tasks("smar_retrain", run)}
    called = {name for name, state in tasks.items() if state == "success"} - {"reconciled", "text_only_settled"}

    def traces() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get(f"http://{ADDRESS}:16686/api/traces?service=smar&limit=1000")["data"]
        return [t for t in found if any(tags(span).get("airflow.dag_run.run_id") == run for span in t["spans"])]

    # The scheduler sends a run's own span once the run has ended.
    wait_until(lambda: any(span["operationName"].startswith("dag_run") for t in traces() for span in t["spans"]))
    (trace,) = traces()
    spans = {span["spanID"]: span for span in trace["spans"]}
    commands = [span for span in trace["spans"] if span["process"]["serviceName"] == "smar"]
    tasks_of = {spans[span["references"][0]["spanID"]]["operationName"] for span in commands}
    assert {f"worker.{name}" for name in called} - tasks_of <= {"worker.released"}, "the command is a part of its task"
    assert "smar finetune" in {span["operationName"] for span in commands}


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def executors(services: RunningServices, worker: str) -> list[str]:
    """Folders of executors that a Spark worker has started."""
    found = services.podman.execute(worker, "find", "/tmp/spark-work", "-mindepth", "2", "-maxdepth", "2", check=False)
    return re.findall(r"/app-[^/]+/\d+", found.stdout)


def test_prometheus_sees_all_that_it_is_told_to_ask(services: RunningServices) -> None:
    def seen() -> dict[str, str]:
        targets = get(f"http://{ADDRESS}:9090/api/v1/targets?state=active")["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    expected = dict.fromkeys(("airflow", "spark-master", "search", "prometheus"), "up")
    wait_until(lambda: seen() == expected, says=lambda: str(seen()))
    for metric in ("airflow_scheduler_heartbeat", "metrics_master_aliveWorkers_Value", "smar_request_seconds_count"):
        assert get(f"http://{ADDRESS}:9090/api/v1/query?query={metric}")["data"]["result"], metric


def test_every_service_was_tried_or_is_named(services: RunningServices) -> None:
    off = {name for name, service in compose()["services"].items() if service.get("profiles") == ["gpu"]}
    assert set(services.services) | NOT_HERE | off == set(compose()["services"])
