"""The DAG really run by Airflow: what a failing task leads to, and what `make retrain` says of it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from laptop.airflow_environment import airflow_home, environment, password, prepare
from laptop.run_dag import run_name
from smar_model.settings import REPOSITORY

STAND_IN = """#!{python}
# Stands in for the interpreter of the commands: this test is about what Airflow makes of their exit codes and last lines.
import os, sys
name, run = sys.argv[3], sys.argv[sys.argv.index("--run") + 1] if "--run" in sys.argv else ""
with open(os.environ["CALLS"], "a") as calls:
    print(*sys.argv[3:], file=calls)
with open(os.environ["CALLS"] + "-address", "w") as address:
    print(os.environ.get("SMAR_AIRFLOW_URL"), file=address)
said = dict(line.split("=", 1) for line in os.environ["SAID"].splitlines())
print(said.get(name, "done: http://127.0.0.1:5000/#/experiments/1/runs/a/artifacts/report.html"))
for code in (2, 99):
    # A command, or the command of one run.
    if {{name, name + ":" + run}} & set(os.environ["EXIT_" + str(code)].split()):
        sys.exit(code)
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    states: dict[str, str]
    """Task, with its map index where it has one → state."""
    calls: list[str]
    log: str
    address: str
    """What the last command was told of the run's page."""


def run_dag(
    home: Path,
    when: str,
    *,
    dag: str = "smar_retrain",
    failing: str = "",
    absent: str = "",
    said: dict[str, str] | None = None,
    conf: dict | None = None,
    **variables: str,
) -> Outcome:
    """Run a DAG for a moment with commands that end as they are told."""
    stand_in, calls = home / "stand-in", home / f"calls-{dag}-{when[:10]}"
    stand_in.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    stand_in.chmod(0o755)
    told = {"EXIT_2": failing, "EXIT_99": absent, "SAID": "\n".join(f"{n}={t}" for n, t in (said or {}).items())}
    done = subprocess.run(
        [sys.executable, "-m", "laptop.run_dag", dag, when, json.dumps(conf or {})],
        env=environment() | {"SMAR_PYTHON": str(stand_in), "CALLS": str(calls)} | told | variables,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
        rows = database.execute(
            "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = ? AND run_id = ?",
            (dag, f"manual__{when}"),
        ).fetchall()
    assert rows, done.stdout[-4_000:]
    return Outcome(
        code=done.returncode,
        states={task if index < 0 else f"{task}[{index}]": state for task, index, state in rows},
        calls=calls.read_text(encoding="utf-8").splitlines(),
        log=done.stdout,
        address=Path(f"{calls}-address").read_text(encoding="utf-8").strip(),
    )


def events(dag: str) -> list[tuple[str, dict]]:
    """Assets of which a DAG has sent an event, with what came with it."""
    with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
        found = database.execute(
            "SELECT asset.name, asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_event.asset_id "
            "WHERE source_dag_id = ? ORDER BY asset_event.id",
            (dag,),
        ).fetchall()
    return [(name, json.loads(extra)) for name, extra in found]


PROMOTED = {"promote": "[x] promote: promoted: version 3 is the champion"}


def test_a_good_run_is_green_and_passes_its_parameters_on(airflow_ready: Path) -> None:
    conf = {"date": "2026-11-19", "window_days": 5, "settings": "a file; touch x.yaml", "promotion": "never"}
    conf |= {"variant": "smar", "pretraining": "never", "seed": 0, "sample_share": 0.25, "note": "--why? $(date)"}
    done = run_dag(airflow_ready, "2026-01-01T00:00:00+00:00", conf=conf, said=PROMOTED)
    assert done.code == 0
    states = dict(done.states)
    assert {states.pop(name) for name in ("watcher", "describe-decision", "ask")} == {"skipped"}
    assert set(states.values()) == {"success"}
    calls = [call for call in done.calls if not call.startswith("reconcile")]
    assert len(calls) == len(done.calls) - 1
    assert calls[0] == "shop open --settings a file; touch x.yaml --date 2026-11-19 --window-days 5"
    name = "manual__2026-01-01T00-00-00-00-00"
    assert calls[1] == (
        f"start --settings a file; touch x.yaml --run {name} --date 2026-11-19 --window-days 5 --promotion never "
        "--note=--why? $(date) --set=network.variant=smar --set=training.reuse_pretraining=never --set=training.seed=0 "
        "--set=clicks.sample_share=0.25"
    )
    assert calls[-2:] == [f"track --run {name}", "prune --settings a file; touch x.yaml"]
    assert f"promote --run {name}" in calls
    with closing(sqlite3.connect(airflow_home() / "airflow.db")) as database:
        links = database.execute("SELECT task_id, value FROM xcom WHERE key = '_link_ReportLink'").fetchall()
    assert [(task, json.loads(value)) for task, value in links] == [
        ("track", "http://127.0.0.1:5000/#/experiments/1/runs/a/artifacts/report.html")
    ]
    run_id = "manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    assert done.address == f"http://127.0.0.1:8080/dags/smar_retrain/runs/{run_id}"
    sent = events("smar_retrain")
    assert [asset for asset, _ in sent] == ["smar_tables", "smar_model", "smar_release"]
    assert sent[-1][1] == {"run": "manual__2026-01-01T00:00:00+00:00", "said": PROMOTED["promote"]}


class Inbox(ThreadingHTTPServer):
    """Takes whatever is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Letterbox)
        self.letters: list[dict] = []


class Letterbox(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        letter = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.letters.append(letter | {"path": self.path, "authorization": self.headers["Authorization"]})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


SECRETS = ("hunter2secret", "T0kenInTheAddress")


def notices_to(inbox: Inbox) -> dict[str, str]:
    path = f"json://shop:{SECRETS[0]}@127.0.0.1:{inbox.server_port}/hook/{SECRETS[1]}"
    connection = {"conn_type": "apprise", "extra": {"config": {"path": path, "tag": "people"}}}
    return {"SMAR_NOTICES": "people", "AIRFLOW_CONN_PEOPLE": json.dumps(connection)}


def test_a_failed_check_ends_red_before_training_is_tracked_and_told(airflow_ready: Path, inbox: Inbox) -> None:
    said = {"check-data": "error: clicks: 3 of 40 rows"}
    when = "2026-01-02T00:00:00+00:00"
    done = run_dag(airflow_ready, when, failing="check-data track", said=said, **notices_to(inbox))
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
    assert f"Run manual__{when}, stage check-data ended with exit code 2. Next: mend what it names" in done.log

    (letter,) = inbox.letters
    assert letter["title"] == "smar_retrain failed: check-data"
    assert letter["type"] == "failure"
    for told in (
        "smar_retrain",
        f"manual__{when}",
        said["check-data"],
        "http://127.0.0.1:8080/dags/smar_retrain/runs/",
    ):
        assert told in letter["message"]
    assert letter["path"].endswith(SECRETS[1]) and letter["authorization"], "it was used"
    logs = [file.read_text(errors="replace") for file in (airflow_home() / "logs").rglob("*.log")]
    for secret in SECRETS:
        assert secret not in done.log
        assert not any(secret in log for log in logs)


def test_a_failed_baseline_or_an_unservable_champion_releases_all_the_same_but_ends_red(airflow_ready: Path) -> None:
    done = run_dag(airflow_ready, "2026-01-03T00:00:00+00:00", failing="train-text-only reconcile", said=PROMOTED)
    assert done.code == 1
    assert {done.states[name] for name in ("start", "evaluate", "promote", "released", "track")} == {"success"}
    assert done.states["watcher"] == "failed"


def test_a_kept_champion_ends_green_without_an_event_but_with_a_notice(airflow_ready: Path, inbox: Inbox) -> None:
    before = events("smar_retrain")
    said = {"promote": "[x] promote: kept: version 4 is not promoted; keep the champion: Recall@50 fell"}
    conf = {"promotion": "ask"}
    done = run_dag(airflow_ready, "2026-01-04T00:00:00+00:00", said=said, conf=conf, **notices_to(inbox))
    assert done.code == 0
    # Without a scheduler nobody would end the wait for an answer.
    assert {done.states[name] for name in ("describe-decision", "ask", "released")} == {"skipped"}
    assert "describe-decision" not in [call.split(" ")[0] for call in done.calls]
    assert [asset for asset, _ in events("smar_retrain")[len(before) :]] == ["smar_tables", "smar_model"]
    assert [letter["title"] for letter in inbox.letters] == ["smar_retrain: the champion stays"]
    assert "Recall@50 fell" in inbox.letters[0]["message"]


RELEASES = ("champion", "previous")


def test_a_refresh_skips_a_release_that_is_not_there(airflow_ready: Path) -> None:
    when, name = "2026-01-06T00:00:00+00:00", "refresh-manual__2026-01-06T00-00-00-00-00"
    done = run_dag(airflow_ready, when, dag="smar_refresh_index", absent=f"start:{name}-previous")
    assert done.code == 0
    assert {s for task, s in done.states.items() if task.startswith("champion.")} == {"success"}
    assert {s for task, s in done.states.items() if task.startswith("previous.")} == {"skipped"}
    settings = "--settings configs/sample_shop.yaml"
    begun = {
        release: f"start {settings} --run {name}-{release} --date 2026-01-05 --release {release}"
        for release in RELEASES
    }
    stages = ("prepare-items", "embed-release", "refresh-index", "publish-index")
    champion = [begun["champion"], *(f"{stage} --run {name}-champion" for stage in stages)]
    assert [call for call in done.calls if "-champion" in call] == champion
    assert [call for call in done.calls if "-champion" not in call] == [f"reconcile {settings}", begun["previous"]]


def test_a_rollback_passes_on_why_and_who_and_fails_where_there_is_no_such_release(airflow_ready: Path) -> None:
    conf = {"release": "7", "reason": "--force it's; too many books"}
    name = "rollback-manual__2026-01-07T00-00-00-00-00"
    done = run_dag(airflow_ready, "2026-01-07T00:00:00+00:00", dag="smar_rollback", conf=conf)
    assert done.code == 0
    assert done.calls[0].endswith(f"--run {name} --date 2026-01-07 --release 7 --note=roll back: {conf['reason']}")
    assert done.calls[-1] == f"rollback --run {name} --reason={conf['reason']} --by=dag_test"
    assert [asset for asset, _ in events("smar_rollback")] == ["smar_index", "smar_release"]
    done = run_dag(airflow_ready, "2026-01-08T00:00:00+00:00", dag="smar_rollback", conf=conf, absent="start")
    assert done.code == 1
    assert done.states["start"] == "failed"
    assert len(done.calls) == 1, "not retried, and nothing is switched"


def test_what_is_missing_of_a_comparison_is_mapped(airflow_ready: Path) -> None:
    conf = {"settings": "c.yaml", "rows": ["smar", "default"], "seeds": [1, 0]}
    said = {"compare": '[["smar", 1], ["default", 0]]'}
    done = run_dag(airflow_ready, "2026-01-09T00:00:00+00:00", dag="smar_compare", conf=conf, said=said)
    assert done.code == 0
    assert done.calls == [
        "compare --settings c.yaml --list --only=smar --only=default --seeds=1 --seeds=0",
        "compare --settings c.yaml --only=smar --seeds=1",
        "compare --settings c.yaml --only=default --seeds=0",
        "compare --settings c.yaml --page-only",
    ]
    assert done.states["compare[0]"] == done.states["compare[1]"] == "success"


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
