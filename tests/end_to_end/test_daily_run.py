"""The whole line through Airflow on a tiny shop: a good day, the same again, a killed stage, a bad day."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow.parquet as pq
import pytest
import yaml

from laptop.airflow_environment import environment
from smar_model.lake.stage_code import STAGE_CODE
from smar_model.settings import REPOSITORY
from smar_model.stages import COMPARISON_STAGES, REFRESH_STAGES, STAGES
from tests.observed_files import observed_files, observing
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.stage_code import may_be_loaded
from tests.tiny_shop import LAST_DAY, QUICK_JVM, QUICK_SPARK, tiny_settings, write_tiny_shop


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("daily")
    write_tiny_shop(folder / "shop", zipped=True)
    return folder


def write_settings(
    home: Path, shop: str = "shop", *, torchrun: dict[str, list[str]] | None = None, **training: object
) -> Path:
    content = tiny_settings(home / shop, stages={"torchrun": torchrun or {}}).model_dump(mode="json")
    # A model of four steps beats nothing: the floors are for real ones.
    content["gate"] |= {"over_popularity": 0.0, "over_bm25": 0.0, "minimum_queries": 1, "champion_margin": 1.0}
    content["checks"]["visual_queries"] = [0.0, 0.1]  # half of them are: a warning on every day
    content["training"] |= training
    # The good day's are compiled and planned anew while they run, as a shop's are.
    content["spark"]["options"] = {"spark.driver.extraJavaOptions": QUICK_JVM} if shop == "shop" else QUICK_SPARK
    path = home / f"{shop}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(home: Path, *arguments: str, variables: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"SMAR_HOME": str(home / "var")} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, output


def retrain(home: Path, settings: Path, **variables: str) -> subprocess.Popen[str]:
    arguments = ["-m", "laptop.retrain", "--settings", str(settings), "--date", str(LAST_DAY)]
    return command(home, *arguments, variables=variables)


def smar(home: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return command(home, "-m", "smar_model.cli", *arguments, variables=variables)


def champion_version(home: Path) -> str:
    code, output = finish(smar(home, "champion", "--json"))
    assert code == 0, output
    return json.loads(output)["version"]


@pytest.fixture(scope="module")
def first_day(home: Path) -> str:
    """What `make retrain` printed for a good day; one training ran in two processes."""
    settings = write_settings(home, torchrun={"train-text-only": ["--nproc-per-node=2"]})
    # Cold: what a process has imported for others is read by none of them.
    code, output = finish(retrain(home, settings, SMAR_COLD="1", **observing(home / "files")))
    assert code == 0, output
    return output


def test_a_good_day_ends_with_a_champion_that_can_be_searched(home: Path, first_day: str) -> None:
    assert all(f"  {stage} " in first_day for stage in STAGES)
    for said in ("popularity", "BM25", "text-only", "Version 1 is the champion", "report.html", "make ui"):
        assert said in first_day
    code, output = finish(smar(home, "search", "red shirt", "-k", "3", "--json"))
    assert code == 0, output
    answer = json.loads(output)
    assert len(answer["hits"]) == 3
    assert all(Path(picture).name for hit in answer["hits"] for picture in hit["pictures"])
    assert 0 <= answer["p"] <= 1


def test_a_warning_leaves_its_task_green_and_is_seen(home: Path, first_day: str) -> None:
    run = newest_run(home)
    assert f"{json.loads((run / 'check-data.json').read_text())['metrics']['failed_warnings']} warnings)" in first_day
    page = (run / "checks.html").read_text(encoding="utf-8")
    assert '<tr class="warning">' in page and "share of labelled queries that are visual" in page
    log = (home / "var" / "logs" / f"{run.name}.log").read_text(encoding="utf-8")
    assert "check-data: warning: - run: share of labelled queries that are visual between 0 and 0.1" in log


COMPARED = ("judge", "judge-baselines", "reveal-truth", "reveal-visible-truth")
RUN_COMPARED = """
import sys
from smar_model.lake.runs import load_run
from smar_model.lake.stage import run_stage
from smar_model.stages import COMPARISON_STAGES
run_stage(COMPARISON_STAGES[sys.argv[1]], load_run(sys.argv[2]))
"""
MOST_NOT_READ = 15
"""Modules of a stage that none of its processes read: imported by functions that the tiny shop does not call."""


def test_what_a_stage_reads_of_the_checkout_is_what_its_version_is_made_of(home: Path, first_day: str) -> None:
    notes, day = home / "files", newest_run(home).name
    start = ["start", "--settings", str(home / "shop.yaml"), "--run", "refresh", "--date", str(LAST_DAY)]
    refresh = [[stage, "--run", "refresh"] for stage in ("prepare-items", *REFRESH_STAGES)]
    for arguments in ([*start, "--release", "champion"], *refresh):
        code, output = finish(smar(home, *arguments, **observing(notes)))
        assert code == 0, output
    for stage in COMPARED:
        code, output = finish(command(home, "-c", RUN_COMPARED, stage, day, variables=observing(notes, stage=stage)))
        assert code == 0, output
    listed, read = json.loads(STAGE_CODE.read_text(encoding="utf-8")), observed_files(notes)
    problems = []
    for stage in STAGES | COMPARISON_STAGES | REFRESH_STAGES:
        files = set(listed[stage]["files"])
        assert read[stage] & files, f"{stage}: nothing was noted"
        unlisted = sorted(name for name in read[stage] - files if not may_be_loaded(name))
        problems += [f"{stage} reads {name}, which stage_code.json lacks" for name in unlisted]
        unread = sorted(name for name in files - read[stage] if name.endswith(".py"))
        problems += [f"{stage} did not read {', '.join(unread)}"] if len(unread) > MOST_NOT_READ else []
    assert not problems, "\n".join(problems)
    # Spark's workers and torchrun's processes are among those that noted what they read.
    for stage, processes in {"prepare-items": 2, "train-text-only": 3}.items():
        assert len(list(notes.glob(f"{stage}.*"))) >= processes, stage


CHECK_TASKS = """
import os, sys
sys.path.append(os.environ["SMAR_DAGS"])
from airflow.sdk import DAG
from stages import SmarOperator
with DAG("check_tasks") as dag:
    for name in ("refused", "broken"):
        SmarOperator(task_id=name, arguments=["check-data", "--run", name])
if __name__ == "__main__":
    run = dag.test()
    print("STATES:", run.state, *sorted(f"{task.task_id}={task.state}" for task in run.get_task_instances()))
"""


def test_a_failed_check_and_a_broken_library_fail_their_task(
    home: Path, first_day: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(home / "var"))
    library = home / "broken" / "great_expectations"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("raise ValueError('this library is broken')\n", encoding="utf-8")
    python = home / "python-without-library"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={library.parent} exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    good = newest_run(home)
    cases: dict[str, dict[str, dict[str, object]]] = {
        "refused": {"checks": {"minimum_agreement": 1_000.0}, "spark": {"options": dict(QUICK_SPARK)}},
        "broken": {"checks": {"minimum_agreement": 1.1}, "stages": {"python": {"check-data": str(python)}}},
    }
    for name, sections in cases.items():
        shutil.copytree(good, good.parent / name)
        content = json.loads((good / "run.json").read_text(encoding="utf-8")) | {"name": name}
        for section, settings in sections.items():
            content["settings"][section] |= settings
        (good.parent / name / "run.json").write_text(json.dumps(content), encoding="utf-8")
    dags = home / "check_dags"
    dags.mkdir()
    (dags / "check_tasks.py").write_text(CHECK_TASKS, encoding="utf-8")
    published = set((home / "var" / "lake" / "check-data").glob("*.json"))
    done = subprocess.run(
        [sys.executable, str(dags / "check_tasks.py")],
        env=environment() | {"AIRFLOW__CORE__DAGS_FOLDER": str(dags), "SMAR_DAGS": str(REPOSITORY / "dags")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    for name in cases:
        shutil.rmtree(good.parent / name)
    assert "STATES: failed broken=failed refused=failed" in done.stdout, done.stdout[-3_000:]
    assert "at least 1000 times as often as by chance" in done.stdout and "exited with return code 2" in done.stdout
    assert "this library is broken" in done.stdout + done.stderr and "exited with return code 1" in done.stdout
    assert set((home / "var" / "lake" / "check-data").glob("*.json")) == published


def newest_run(home: Path) -> Path:
    return max((home / "var" / "runs").iterdir(), key=lambda folder: folder.stat().st_ctime)


def test_the_same_again_reuses_every_stage(home: Path, first_day: str) -> None:
    code, output = finish(retrain(home, write_settings(home)))
    assert code == 0, output
    lines = {line.split()[0]: line for line in output.splitlines() if line.startswith("  ") and line.split()}
    assert [stage for stage in STAGES if "reused" not in lines[stage]] == []
    assert champion_version(home) == "1"


def test_a_killed_stage_leaves_nothing_half_written_and_the_run_completes(home: Path, first_day: str) -> None:
    settings = write_settings(home, pretrain={"steps": 1000, "batch": 8})
    published = set((home / "var" / "lake" / "pretrain").glob("*.json"))
    process = retrain(home, settings)
    newest = running_stage(home, "pretrain", process)
    os.kill(newest["pid"], signal.SIGKILL)
    assert set((home / "var" / "lake" / "pretrain").glob("*.json")) == published
    code, output = finish(process)
    assert code == 0, output
    assert len(set((home / "var" / "lake" / "pretrain").glob("*.json"))) == len(published) + 1


def running_stage(home: Path, stage: str, process: subprocess.Popen[str]) -> dict:
    """State of a stage once it is at work in the newest run."""
    state: dict = {}

    def at_work() -> bool:
        runs = sorted((home / "var" / "runs").iterdir(), key=lambda f: f.stat().st_ctime)
        file = runs[-1] / f"{stage}.json"
        state.update(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"state": "not begun"})
        return state["state"] == "running" and state["progress"].startswith(("encoding", "step"))

    wait_until(at_work, still_possible=lambda: process.poll() is None, says=lambda: finish(process)[1])
    return state


def empty_log(shop: Path) -> None:
    for file in (shop / "click_log" / f"dt={LAST_DAY}").glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 0), file)


def test_a_bad_day_is_red_says_why_and_keeps_the_champion(home: Path, first_day: str) -> None:
    """One kind of them; what each stage says of others: tests/jobs."""
    before = champion_version(home)
    shop = home / "without-log"
    shutil.copytree(home / "shop", shop)
    empty_log(shop)
    code, output = finish(retrain(home, write_settings(home, shop.name)))
    assert code == 1, output
    assert "Red after" in output
    assert "Traceback" not in output
    assert f"click_log/dt={LAST_DAY}" in output, output
    assert champion_version(home) == before
