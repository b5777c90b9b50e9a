"""The DAG really run by Airflow: what a failing task leads to, and what `make retrain` says of it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml

from laptop.airflow_environment import airflow_home, environment, password, prepare
from laptop.run_dag import run_name
from smar_model.settings import REPOSITORY

STAND_IN = """#!{python}
# Stands in for the interpreter of the commands: this test is about what Airflow makes of their exit codes.
import os, sys
name = "shop-open" if sys.argv[3] == "shop" else sys.argv[3]
with open(os.environ["CALLS"], "a") as calls:
    print(*sys.argv[3:], file=calls)
print("done: http://127.0.0.1:5000/#/experiments/1/runs/a/artifacts/report.html")
sys.exit(2 if name in os.environ["FAILING"].split() else 0)
"""


def run_dag(
    home: Path, when: str, *, failing: str = "", conf: dict | None = None
) -> tuple[int, dict[str, str], list[str]]:
    """Exit code, state of each task, and the commands that were called."""
    stand_in, calls = home / "stand-in", home / f"calls-{when[:10]}"
    stand_in.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    stand_in.chmod(0o755)
    variables = environment() | {"SMAR_PYTHON": str(stand_in), "FAILING": failing, "CALLS": str(calls)}
    done = subprocess.run(
        [sys.executable, "-m", "laptop.run_dag", "smar_retrain", when, json.dumps(conf or {})],
        env=variables,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    with sqlite3.connect(airflow_home() / "airflow.db") as database:
        rows = database.execute("SELECT task_id, state FROM task_instance WHERE run_id = ?", (f"manual__{when}",))
        states = dict(rows.fetchall())
    assert states, done.stdout[-2_000:] + done.stderr[-2_000:]
    return done.returncode, states, calls.read_text(encoding="utf-8").splitlines()


def test_a_good_run_is_green_and_passes_its_parameters_on(airflow_ready: Path) -> None:
    conf = {"date": "2026-11-19", "window_days": 5, "settings": "a file; touch x.yaml", "promotion": "never"}
    code, states, calls = run_dag(airflow_ready, "2026-01-01T00:00:00+00:00", conf=conf)
    assert code == 0
    assert states.pop("watcher") == "skipped"
    assert set(states.values()) == {"success"}
    assert calls[0] == "shop open --settings a file; touch x.yaml --date 2026-11-19 --window-days 5"
    name = "manual__2026-01-01T00-00-00-00-00"
    assert calls[1].startswith(f"start --settings a file; touch x.yaml --run {name} --date 2026-11-19 --window-days 5")
    assert calls[1].endswith("--promotion never")
    assert calls[-1] == f"track --run {name}"
    with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
        links = database.execute("SELECT task_id, value FROM xcom WHERE key = '_link_ReportLink'").fetchall()
    assert [(task, json.loads(value)) for task, value in links] == [
        ("track", "http://127.0.0.1:5000/#/experiments/1/runs/a/artifacts/report.html")
    ]


def test_a_failed_check_ends_red_before_training_and_is_tracked(airflow_ready: Path) -> None:
    code, states, calls = run_dag(airflow_ready, "2026-01-02T00:00:00+00:00", failing="check-data")
    assert code == 1
    assert {states["check-data"], states["watcher"]} == {"failed"}
    assert {states["train-tokenizer"], states["finetune"], states["promote"]} == {"upstream_failed"}
    assert states["track"] == "success"
    called = [call.split(" ")[0] for call in calls]
    assert "train-tokenizer" not in called
    assert called.count("check-data") == 1, "bad input is not retried"
    # Without a date in the form: the day before the run.
    assert "--date 2026-01-01" in calls[0]


def test_a_failed_baseline_releases_all_the_same_but_ends_red(airflow_ready: Path) -> None:
    code, states, _ = run_dag(airflow_ready, "2026-01-03T00:00:00+00:00", failing="train-text-only")
    assert code == 1
    assert {states["evaluate"], states["promote"], states["track"]} == {"success"}
    assert states["watcher"] == "failed"


def retrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laptop.retrain", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)


def test_retrain_of_a_shop_without_files_is_red_and_names_the_file(airflow_ready: Path) -> None:
    content = yaml.safe_load((REPOSITORY / "configs" / "sample_shop.yaml").read_text(encoding="utf-8"))
    content["shop"] = {"root": "shops/nowhere", "kind": "own", "visual_departments": ["Clothing"]}
    settings = airflow_ready / "nowhere.yaml"
    settings.write_text(yaml.safe_dump(content), encoding="utf-8")
    done = retrain("--settings", str(settings), "--date", "2026-11-19")
    assert done.returncode == 1
    assert "Red after" in done.stdout
    assert f"{airflow_ready}/shops/nowhere/items.parquet: no catalogue" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_retrain_says_what_is_wrong_with_settings_before_it_starts(airflow_ready: Path) -> None:
    settings = airflow_ready / "wrong.yaml"
    settings.write_text("shop: {root: x, visual_departments: [a], colour: red}\n", encoding="utf-8")
    done = retrain("--settings", str(settings))
    assert done.returncode == 2
    assert "shop.colour" in done.stderr


def test_a_run_that_was_stopped_is_not_left_for_a_scheduler(airflow_ready: Path) -> None:
    when = "2026-01-05T00:00:00+00:00"
    command = [sys.executable, "-m", "laptop.run_dag", "smar_retrain", when, json.dumps({"settings": "nowhere.yaml"})]
    stand_in = airflow_ready / "sleeper"
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    stand_in.chmod(0o755)
    process = subprocess.Popen(
        command, env=environment() | {"SMAR_PYTHON": str(stand_in)}, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Output:" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    for killed in (process, *children):
        killed.kill()
    process.communicate()

    def states() -> set[str]:
        with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
            runs = database.execute("SELECT state FROM dag_run WHERE run_id = ?", (f"manual__{when}",)).fetchall()
            query = "SELECT state FROM task_instance WHERE run_id = ? AND task_id = 'shop-open'"
            return {state for (state,) in runs + database.execute(query, (f"manual__{when}",)).fetchall()}

    assert states() == {"running"}
    prepare()
    assert states() == {"failed"}


def test_secrets_are_for_this_user_alone(airflow_ready: Path) -> None:
    assert len(password()) >= 12
    for name in ("passwords.json", "jwt-secret", "api-secret"):
        assert os.stat(airflow_home() / name).st_mode & 0o077 == 0


def test_names_of_runs_are_names_of_folders() -> None:
    assert run_name(datetime(2026, 11, 19, 4, tzinfo=UTC)) == "manual__2026-11-19T04-00-00-00-00"
