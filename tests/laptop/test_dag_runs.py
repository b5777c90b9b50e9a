"""The DAG really run by Airflow: what a failing task leads to, and what `make retrain` says of it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from laptop.airflow_environment import airflow_home, environment, password, prepare
from laptop.run_dag import run_name
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until

STAND_IN = """#!{python}
# Stands in for the interpreter of the commands: this test is about what Airflow makes of their exit codes and last lines.
import json, os, sys
name, run = sys.argv[3], sys.argv[sys.argv.index("--run") + 1] if "--run" in sys.argv else ""
with open(os.environ["CALLS"], "a") as calls:
    print(*sys.argv[3:], file=calls)
with open(os.environ["CALLS"] + "-address", "w") as address:
    print(os.environ.get("SMAR_AIRFLOW_URL"), file=address)
said = dict(line.split("=", 1) for line in os.environ["SAID"].splitlines())
print(said.get(name, "done"))
if name in (outcomes := json.loads(os.environ["OUTCOMES"])):
    with open(os.environ["SMAR_OUTCOME"], "w") as file:
        json.dump(outcomes[name], file)
for code in (2, 99):
    # A command, or the command of one run.
    if {{name, name + ":" + run}} & set(os.environ["EXIT_" + str(code)].split()):
        sys.exit(code)
"""


RUN_ALL = """
# One process for all runs: importing Airflow takes longer than most of them.
import json, os, sys
from laptop.run_dag import main
for name, run in json.load(sys.stdin).items():
    os.environ.update(run["environment"])
    print(f"BEGIN:{name}", flush=True)
    code = main(run["dag"], run["when"], json.dumps(run["conf"]))
    print(f"END:{name}:{code}", flush=True)
"""


REQUEST_CALLBACK = """
# What the scheduler does when a run has failed: it asks the DAG processor to call the DAG's callback.
import sys
from sqlalchemy import select
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.models import DagRun
from airflow.utils.session import create_session

with create_session() as session:
    run = session.scalar(select(DagRun).where(DagRun.dag_id == sys.argv[1], DagRun.run_id == sys.argv[2]))
    failed = [task for task in run.get_task_instances(session=session) if task.state == "failed"]
    last = max(failed, key=lambda task: task.end_date)
    request = run.produce_dag_callback(dag=None, success=False, relevant_ti=last, reason="task_failure")
    DatabaseCallbackSink().send(request, session=session)
"""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run, and how its commands end."""

    dag: str = "smar_retrain"
    day: int
    conf: dict[str, Any] = field(default_factory=dict)
    failing: str = ""
    """Commands that end with exit code 2; `absent` with 99. Of one run alone: COMMAND:RUN."""
    absent: str = ""
    said: dict[str, str] = field(default_factory=dict)
    """Last lines of commands."""
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)
    """What they hand over."""

    @property
    def when(self) -> str:
        return f"2026-01-{self.day:02}T00:00:00+00:00"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int
    states: dict[str, str]
    """Task, with its map index where it has one → state."""
    calls: list[str]
    address: str
    """What the last command was told of the run's page."""
    log: str
    events: list[tuple[str, dict[str, Any]]]
    """Assets of which the run sent an event, with what came with it."""
    letters: list[dict[str, Any]]
    """Notices that came while it ran."""


REPORT = {"report": "http://127.0.0.1:5000/#/experiments/1/runs/a/artifacts/report.html"}
PROMOTED = {"outcome": "promoted", "text": "version 3 is the champion", "version": "3"}
KEPT = {"outcome": "kept", "text": "version 4 is not promoted; keep the champion: Recall@50 fell", "version": "4"}
FORM = {
    **{"date": "2026-11-19", "window_days": 5, "settings": "a file; touch x.yaml", "promotion": "never", "seed": 0},
    **{"variant": "smar", "pretraining": "never", "sample_share": 0.25, "note": "--why? $(date)"},
}
REASON = "--force it's; too many books"
REFRESH = "refresh-manual__2026-01-04T00-00-00-00-00"
PLAN = {
    "good": Planned(day=1, conf=FORM, outcomes={"promote": PROMOTED, "track": REPORT}, said={"plan-index": "[0, 1]"}),
    "checks": Planned(day=2, failing="check-data track", said={"check-data": "error: clicks: 3 of 40 rows"}),
    "beside": Planned(
        day=3,
        conf={"promotion": "ask"},
        failing="train-text-only reconcile",
        absent="plan-index",
        outcomes={"promote": KEPT},
    ),
    "refresh": Planned(dag="smar_refresh_index", day=4, absent=f"start:{REFRESH}-previous"),
    "rollback": Planned(dag="smar_rollback", day=5, conf={"release": "7", "reason": REASON}),
    "compare": Planned(
        dag="smar_compare",
        day=6,
        conf={"settings": "c.yaml", "rows": ["smar", "default"], "seeds": [1, 0]},
        said={"compare": '[["smar", 1], ["default", 0]]'},
    ),
}


class Inbox(ThreadingHTTPServer):
    """Takes whatever is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Letterbox)
        self.letters: list[dict[str, Any]] = []


class Letterbox(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        letter = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.letters.append(letter | {"path": self.path, "authorization": self.headers["Authorization"]})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


SECRETS = ("hunter2secret", "T0kenInTheAddress")


@pytest.fixture(scope="module")
def outcomes(airflow_ready: Path) -> dict[str, Outcome]:
    """Every planned run, done by Airflow, with a connection for notices."""
    stand_in = airflow_ready / "stand-in"
    stand_in.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    stand_in.chmod(0o755)
    plan = {
        name: {
            **{"dag": run.dag, "when": run.when, "conf": run.conf},
            "environment": {
                **{"CALLS": str(airflow_ready / f"calls-{name}"), "EXIT_2": run.failing, "EXIT_99": run.absent},
                "OUTCOMES": json.dumps(run.outcomes),
                "SAID": "\n".join(f"{command}={line}" for command, line in run.said.items()),
            },
        }
        for name, run in PLAN.items()
    }
    letters: dict[str, list[dict[str, Any]]] = {}
    with Inbox() as inbox:
        threading.Thread(target=inbox.serve_forever, daemon=True).start()
        path = f"json://shop:{SECRETS[0]}@127.0.0.1:{inbox.server_port}/hook/{SECRETS[1]}"
        connection = {"conn_type": "apprise", "extra": {"config": {"path": path, "tag": "people"}}}
        told = {"SMAR_NOTICES": "people", "AIRFLOW_CONN_PEOPLE": json.dumps(connection)}
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_ALL],
            env=environment() | {"SMAR_PYTHON": str(stand_in)} | told,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(plan))
        process.stdin.close()
        log = ""
        for line in process.stdout:
            log += line
            if line.startswith("END:"):
                letters[line.split(":")[1]], inbox.letters = inbox.letters, []
        process.wait(timeout=PATIENCE_SECONDS)
        assert set(letters) == set(PLAN), log[-4_000:]
        # `dag.test()` calls callbacks itself, with less to go by than the DAG processor has.
        told |= environment()
        request = [sys.executable, "-c", REQUEST_CALLBACK, "smar_retrain", f"manual__{PLAN['checks'].when}"]
        subprocess.run(request, env=told, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        processor = subprocess.Popen(
            [sys.executable, "-m", "airflow", "dag-processor"],
            start_new_session=True,
            env=told,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: inbox.letters, still_possible=lambda: processor.poll() is None)
        # With those that parse for it. Told to end it may go on, where the word comes while it waits for one of them.
        os.killpg(processor.pid, signal.SIGKILL)
        processor.wait(timeout=PATIENCE_SECONDS)
        letters["checks"] += inbox.letters
        inbox.shutdown()
    return {name: outcome_of(airflow_ready, name, log, letters[name]) for name in PLAN}


def outcome_of(home: Path, name: str, log: str, letters: list[dict[str, Any]]) -> Outcome:
    run, calls = PLAN[name], home / f"calls-{name}"
    log, code = log.split(f"BEGIN:{name}\n")[1].split(f"END:{name}:")
    asked = (run.dag, f"manual__{run.when}")
    with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
        states = database.execute(
            "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = ? AND run_id = ?", asked
        ).fetchall()
        events = database.execute(
            "SELECT asset.name, asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_event.asset_id "
            "WHERE source_dag_id = ? AND source_run_id = ? ORDER BY asset_event.id",
            asked,
        ).fetchall()
    return Outcome(
        code=int(code.splitlines()[0]),
        states={task if index < 0 else f"{task}[{index}]": state for task, index, state in states},
        calls=calls.read_text(encoding="utf-8").splitlines(),
        address=Path(f"{calls}-address").read_text(encoding="utf-8").strip(),
        log=log,
        events=[(asset, json.loads(extra)) for asset, extra in events],
        letters=letters,
    )


def test_a_good_run_is_green_and_passes_its_parameters_on(outcomes: dict[str, Outcome]) -> None:
    done = outcomes["good"]
    assert done.code == 0
    states = dict(done.states)
    assert {states.pop(name) for name in ("watcher", "describe-decision", "ask")} == {"skipped"}
    assert set(states.values()) == {"success"}
    settings, name = "--settings a file; touch x.yaml", "manual__2026-01-01T00-00-00-00-00"
    calls = [call for call in done.calls if call != f"reconcile {settings}"]
    assert len(calls) == len(done.calls) - 1
    assert calls[0] == f"shop open {settings} --date 2026-11-19 --window-days 5"
    assert calls[1] == (
        f"start {settings} --run {name} --date 2026-11-19 --window-days 5 --promotion never --note=--why? $(date) "
        "--set=network.variant=smar --set=training.reuse_pretraining=never --set=training.seed=0 "
        "--set=clicks.sample_share=0.25"
    )
    parts = [f"{step}-index-part --run {name} --part={part}" for step in ("fill", "tune") for part in (0, 1)]
    order = [call for call in calls if "index" in call]
    assert [order[0], *sorted(order[1:3]), *sorted(order[3:5]), order[5]] == [
        f"plan-index --run {name}",
        *parts,
        f"index --run {name}",
    ]
    assert calls[-2:] == [f"track --run {name}", f"prune {settings}"]
    assert f"promote --run {name}" in calls
    with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
        links = database.execute(
            "SELECT task_id, value FROM xcom WHERE key = '_link_ReportLink' AND run_id = ?",
            (f"manual__{PLAN['good'].when}",),
        ).fetchall()
    assert [(task, json.loads(value)) for task, value in links] == [
        ("track", "http://127.0.0.1:5000/#/experiments/1/runs/a/artifacts/report.html")
    ]
    run_id = "manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    assert done.address == f"http://127.0.0.1:8080/dags/smar_retrain/runs/{run_id}"
    assert [asset for asset, _ in done.events] == ["smar_tables", "smar_model", "smar_release"]
    assert done.events[-1][1] == {
        "run": f"manual__{PLAN['good'].when}",
        "said": PROMOTED["text"],
        **PROMOTED,
    }
    assert done.letters == []


def test_a_failed_check_ends_red_before_training_is_tracked_and_told(
    airflow_ready: Path, outcomes: dict[str, Outcome]
) -> None:
    done, run = outcomes["checks"], PLAN["checks"]
    states = done.states
    assert done.code == 1
    assert {states["check-data"], states["track"], states["watcher"]} == {"failed"}
    assert {states["train-tokenizer"], states["finetune"], states["promote"], states["released"]} == {"upstream_failed"}
    assert states["prune"] == "success", "it runs, and hides nothing"
    called = [call.split(" ")[0] for call in done.calls]
    assert "train-tokenizer" not in called
    assert called.count("check-data") == 1, "bad input is not retried"
    # Without a date in the form: the day before the run.
    assert "--date 2026-01-01" in next(call for call in done.calls if call.startswith("start"))
    assert f"Run manual__{run.when}, stage check-data ended with exit code 2. Next: mend what it names" in done.log

    _, letter = done.letters
    assert letter["title"] == "smar_retrain failed: check-data"
    assert letter["type"] == "failure"
    page = "http://127.0.0.1:8080/dags/smar_retrain/runs/"
    assert all(told in letter["message"] for told in (f"manual__{run.when}", run.said["check-data"], page))


def test_no_secret_of_a_connection_is_in_a_log(airflow_ready: Path, outcomes: dict[str, Outcome]) -> None:
    letters = [letter for done in outcomes.values() for letter in done.letters]
    assert letters and all(SECRETS[1] in letter["path"] and letter["authorization"] for letter in letters), "it is used"
    logs = [file.read_text(errors="replace") for file in (airflow_home() / "logs").rglob("*.log")]
    logs += [done.log for done in outcomes.values()]
    assert not any(secret in log for secret in SECRETS for log in logs)


def test_what_stands_beside_the_release_does_not_block_it_but_ends_red(outcomes: dict[str, Outcome]) -> None:
    """A failed baseline, and a champion that cannot serve; the gate keeps it all the same."""
    done = outcomes["beside"]
    assert done.code == 1
    assert {done.states[name] for name in ("start", "index", "evaluate", "promote", "track", "prune")} == {"success"}
    # An index in one file.
    assert {done.states[name] for name in ("plan-index", "fill-index-part", "tune-index-part")} == {"skipped"}
    assert done.states["watcher"] == "failed"
    # Without a scheduler nobody would end the wait for an answer.
    assert {done.states[name] for name in ("describe-decision", "ask", "released")} == {"skipped"}
    assert "describe-decision" not in [call.split(" ")[0] for call in done.calls]
    assert [asset for asset, _ in done.events] == ["smar_tables", "smar_model"], "no release"
    kept, failed = done.letters
    assert kept["title"] == "smar_retrain: the champion stays"
    assert "Recall@50 fell" in kept["message"]
    assert failed["title"].startswith("smar_retrain failed")


def test_a_refresh_skips_a_release_that_is_not_there(outcomes: dict[str, Outcome]) -> None:
    done = outcomes["refresh"]
    assert done.code == 0
    refreshed = ("champion", "challenger")
    for release, state in (*((each, "success") for each in refreshed), ("previous", "skipped")):
        assert {s for task, s in done.states.items() if task.startswith(f"{release}.")} == {state}
    settings = "--settings configs/sample_shop.yaml"
    begun = {
        release: f"start {settings} --run {REFRESH}-{release} --date 2026-01-03 --release {release}"
        for release in (*refreshed, "previous")
    }
    stages = ("prepare-items", "embed-release", "refresh-index", "publish-index")
    for release in refreshed:
        wanted = [begun[release], *(f"{stage} --run {REFRESH}-{release}" for stage in stages)]
        assert [call for call in done.calls if f"-{release}" in call] == wanted
    others = [call for call in done.calls if not any(f"-{release}" in call for release in refreshed)]
    assert others == [f"reconcile {settings}", begun["previous"]]
    assert {asset for asset, _ in done.events} == {"smar_index"}


def test_a_rollback_passes_on_why_and_who(outcomes: dict[str, Outcome]) -> None:
    done, name = outcomes["rollback"], "rollback-manual__2026-01-05T00-00-00-00-00"
    assert done.code == 0
    assert done.calls[0].endswith(f"--run {name} --date 2026-01-05 --release 7 --note=roll back: {REASON}")
    assert done.calls[-1] == f"rollback --run {name} --reason={REASON} --by=dag_test"
    assert [asset for asset, _ in done.events] == ["smar_index", "smar_release"]


def test_what_is_missing_of_a_comparison_is_mapped(outcomes: dict[str, Outcome]) -> None:
    done = outcomes["compare"]
    assert done.code == 0
    first, *mapped, last = done.calls
    assert first == "compare --settings c.yaml --list --only=smar --only=default --seeds=1 --seeds=0"
    assert sorted(mapped) == [  # which of them is first is the scheduler's affair
        "compare --settings c.yaml --only=default --seeds=0",
        "compare --settings c.yaml --only=smar --seeds=1",
    ]
    assert last == "compare --settings c.yaml --page-only"
    assert done.states["compare[0]"] == done.states["compare[1]"] == "success"


def retrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laptop.retrain", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


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
    when = "2026-01-09T00:00:00+00:00"
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
            # Of `reconcile` and `shop-open` either may have come first.
            query = "SELECT state FROM task_instance WHERE run_id = ? AND state IN ('running', 'failed')"
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
