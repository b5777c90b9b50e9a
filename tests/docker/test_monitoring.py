"""The dashboard asks for metrics that exist, and what is provisioned fits together."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import yaml

from smar_model.serving.metrics import Metrics
from tests.docker.docker_files import DOCKER, compose

DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "dashboards" / "smar.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ASKED = [target["expr"] for panel in PANELS for target in panel["targets"]]
SPARK_MASTER = {"metrics_master_aliveWorkers_Value", "metrics_master_apps_Value", "metrics_master_waitingApps_Value"}
"""Of a standalone master as docker/spark/entrypoint.sh starts it (tests/images/test_environments.py asks one)."""
TIMER = ("_bucket", "_sum", "_count")


def metrics_of_the_server() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": TIMER}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def metrics_of_airflow() -> set[str]:
    """All that Airflow's own registry lists, as statsd-exporter names them."""
    airflow = importlib.util.find_spec("airflow")
    assert airflow and airflow.origin
    registry = Path(airflow.origin).parent / "_shared" / "observability" / "metrics" / "metrics_template.yaml"
    names = set()
    for metric in yaml.safe_load(registry.read_text(encoding="utf-8"))["metrics"]:
        name = "airflow_" + re.sub(r"[^a-zA-Z0-9_]", "_", metric["name"])
        names |= {name + suffix for suffix in TIMER} if metric["type"] == "timer" else {name}
    return names


def test_every_metric_of_the_dashboard_exists() -> None:
    known = metrics_of_airflow() | metrics_of_the_server() | SPARK_MASTER
    asked = {name for text in ASKED for name in re.findall(r"\b(?:airflow|smar|process|metrics_master)_\w+", text)}
    assert len(asked) > 20
    assert asked <= known, asked - known


def test_the_search_server_and_the_pipeline_are_both_shown() -> None:
    text = " ".join(ASKED)
    for name in ("smar_request_seconds_bucket", "smar_failed_reloads_total", "smar_registry_seen_timestamp_seconds"):
        assert name in text
    for name in ("airflow_dagrun_duration_failed_count", "airflow_task_duration_sum", "airflow_pool_running_slots"):
        assert name in text


def test_panels_lie_side_by_side_and_ask_the_provisioned_source() -> None:
    source = yaml.safe_load(
        (DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    )["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not taken & cells, panel["title"]
        taken |= cells
    assert all(target["datasource"]["uid"] == source["uid"] for panel in PANELS for target in panel["targets"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_what_is_provisioned_is_mounted_where_it_is_looked_for() -> None:
    grafana = compose()["services"]["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in grafana["volumes"])
    provider = yaml.safe_load(
        (DOCKER / "grafana" / "provisioning" / "dashboards" / "dashboards.yaml").read_text(encoding="utf-8")
    )["providers"][0]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/smar.json"


def test_prometheus_asks_services_of_the_compose_file() -> None:
    jobs = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    hosts = {
        target.split(":")[0] for job in jobs for group in job.get("static_configs", []) for target in group["targets"]
    } | {name for job in jobs for group in job.get("dns_sd_configs", []) for name in group["names"]}
    assert hosts - {"localhost"} == {"statsd-exporter", "spark-master", "search"}
    assert hosts - {"localhost"} <= set(compose()["services"])
    assert "search" in {job["job_name"] for job in jobs}, "the dashboard's process metrics are those of this job"
