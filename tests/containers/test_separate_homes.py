"""A daily run whose two Celery workers and whose search server share no home: the lake lies in the object store, as `SMAR_STORE` says.

3,000 real products where SMAR_REAL_DATA is set, else the sample shop. What is shared is what docker/README.md says must be: the shop's own
files, and the home of the Spark stages' driver with Spark's workers.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from smar_model.settings import REPOSITORY
from tests.cluster.test_daily_run import DATE, JOBS, TOLERANCE, fetched_record, outcome, shop_settings
from tests.containers.cluster_shop import HOME, HOME_VOLUME, ONE_CORE_EACH, cluster_sections, copy_into
from tests.containers.compose_file import Service, read_compose_file
from tests.containers.images import BuiltImages
from tests.containers.running_services import ADDRESS, NOT_HERE, RunningServices, airflow_of, get, running_services
from tests.patience import wait_until
from tests.services.results import record
from tests.services.run_times import describe_times

STORE = "s3://mlflow/smar"
SHOPS = Path("/srv/shops")
"""Where the shop's own files lie in every container that reads them: a volume."""
REAL_DATA = Path("/srv/real_data")
OWN_HOME = ("airflow-worker", "search")
"""Services with a home of their own; that of `airflow-worker-spark` is Spark's workers', too."""
HOMES = ("airflow-worker-1", "airflow-worker-spark-1", "search-1")
VARIABLES = {
    "BIND_ADDRESS": ADDRESS,
    "MLFLOW_HOSTS": f",{ADDRESS}:*",
    "SMAR_SETTINGS": str(SHOPS / "shop.yaml"),
    "SMAR_STORE": STORE,
}


def with_own_home(service: Service) -> Service:
    """The service as it would stand on a machine of its own: another volume for `home`, and the shop's files beside it."""
    shared = f"{HOME_VOLUME}:{HOME}"
    if shared not in service.options:
        return service
    home = f"{HOME_VOLUME}-{service.name}:{HOME}" if service.name in OWN_HOME else shared
    options = [home if option == shared else option for option in service.options]
    options += ["--volume", f"smar_shops:{SHOPS}"]
    if source := os.environ.get("SMAR_REAL_DATA"):
        options += ["--volume", f"{Path(source).resolve()}:{REAL_DATA}:ro", "--env", f"SMAR_REAL_DATA={REAL_DATA}"]
    return dataclasses.replace(service, options=tuple(options))


@pytest.fixture(scope="module")
def services(
    built: BuiltImages, targets: dict[str, str], secrets: Path, tmp_path_factory: pytest.TempPathFactory, logs: Path
) -> Iterator[RunningServices]:
    sections = cluster_sections()
    spark = {"shuffle_partitions": 4} | sections["spark"]
    spark["options"] = spark["options"] | ONE_CORE_EACH
    content = shop_settings(spark=spark, release=sections["release"] | {"model": "shop", "experiment": "shop"})
    content["shop"]["root"] = str(SHOPS / "shop")
    delivered = tmp_path_factory.mktemp("delivered")
    (delivered / "shop.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    copy_into(built.podman, targets["search"], delivered, volume="smar_shops", place=SHOPS, user="0")
    described = read_compose_file(VARIABLES, secrets=secrets, profiles=frozenset({"search"}))
    wanted = {name: with_own_home(service) for name, service in described.items() if name not in NOT_HERE}
    with running_services(built.podman, wanted, logs / "separate_homes") as running:
        yield running


def laptops_run(folder: Path) -> Path:
    """The same run by `make retrain`'s command; returns its home."""
    folder.mkdir()
    settings = folder / "shop.yaml"
    settings.write_text(yaml.safe_dump(shop_settings(spark={"shuffle_partitions": 4})), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "laptop.retrain", "--settings", str(settings), "--date", DATE],
        env=os.environ | {"SMAR_HOME": str(folder / "var"), "OMP_WAIT_POLICY": "passive"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    return folder / "var"


def test_a_run_without_a_common_home_equals_the_laptops(
    services: RunningServices, secrets: Path, tmp_path: Path
) -> None:
    for name in HOMES:
        services.podman.execute(f"smar-{name}", "touch", str(HOME / f"canary-{name}"))
    airflow = airflow_of(secrets)
    runs = {}
    for dag, conf in (("smar_retrain", {"date": DATE}), ("smar_refresh_index", {})):
        airflow.turn_on(dag)
        runs[dag] = airflow.trigger(dag, **conf)
        state = airflow.wait(dag, runs[dag])
        states = airflow.states(dag, runs[dag])
        red = [name for name, state in states.items() if state == "failed"]
        logs = "\n".join(airflow.log(dag, runs[dag], name)[-3_000:] for name in red)
        assert state == "success", f"{states}\n{logs}"

    for name in HOMES:
        seen = services.podman.execute(f"smar-{name}", "ls", str(HOME)).stdout.split()
        assert [file for file in seen if file.startswith("canary")] == [f"canary-{name}"]

    def answers() -> bool:
        try:
            return bool(get(f"http://{ADDRESS}:8000/readyz"))
        except OSError:
            return False

    wait_until(answers, says=lambda: services.logs("smar-search-1"))
    answer = get(f"http://{ADDRESS}:8000/search?q=black+shoes&k=5")
    assert len(answer["hits"]) == 5, answer

    store = {
        "SMAR_STORE": STORE,
        "AWS_ENDPOINT_URL": f"http://{services.address('smar-object-store-1')}:8333",
        "AWS_ACCESS_KEY_ID": (secrets / "object_store_access_key").read_text(encoding="utf-8"),
        "AWS_SECRET_ACCESS_KEY": (secrets / "object_store_secret_key").read_text(encoding="utf-8"),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    records = fetched_record(tmp_path / "empty", store)
    there = outcome(tmp_path / "empty", records.name, store)
    home = laptops_run(tmp_path / "laptop")
    (laptop_run,) = [folder.name for folder in (home / "runs").iterdir() if (folder / "evaluate.json").is_file()]
    here = outcome(home, laptop_run)
    assert there["tables"] == here["tables"]
    differences = {name: abs(there["metrics"][name] - value) for name, value in here["metrics"].items()}
    quality = {name: d for name, d in differences.items() if "seconds" not in name and "_ms" not in name}
    assert quality and max(quality.values()) <= TOLERANCE, quality
    shop = "3,000 real products" if "SMAR_REAL_DATA" in os.environ else "The sample shop"
    record(
        "A daily run without a common home",
        [
            f"{shop}; `SMAR_STORE={STORE}`, and a home of its own for each of the two Celery workers and for the search server: of a file that each "
            "was given no other saw anything. What they share is the shop's own files; the Spark stages' driver shares its home with Spark's two "
            "workers. The refresh of the index after the run was green, and the search server answered with the champion.",
            "",
            f"Tables of the {len(JOBS)} Spark jobs: equal to the laptop's by digest. Largest difference of {len(quality)} figures of the "
            f"evaluation: {max(quality.values()):.1g} (allowed: {TOLERANCE:g}).",
            "",
            *describe_times(airflow, "smar_retrain", {"the run": (runs["smar_retrain"], records)}),
        ],
        page="containers",
    )
