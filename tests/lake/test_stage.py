"""Publishing and reuse: what is half done is not there, what is done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import lake, load_artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_file
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import load_run
from smar_model.lake.stage import Stage, StageContext, run_stage
from smar_model.lake.sweeping import sweep_orphans
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.tiny_shop import published, tiny_run

LABEL = {"query": "red", "clicks": 3, "visual_share": 1.0, "is_visual": True}
WORK = Stage(name="label-fashion", summary="", work=f"{__name__}:write_labels", settings=("labels",))
calls: list[int] = []


def write_labels(context: StageContext) -> dict[str, Any]:
    """The work of a stage: as many rows as a setting says."""
    calls.append(1)
    rows = [LABEL | {"query": f"q{n}"} for n in range(context.settings.labels.minimum_clicks)]
    write(context.output("fashion_labels"), rows)
    return {"rows": len(rows)}


def fail_half_way(context: StageContext) -> dict[str, Any]:
    write_labels(context)
    raise InputError("labels.csv: row 3 is bad; correct it")


def write(folder: Path, rows: list[dict[str, Any]], *, table: str = "fashion_labels", name: str = "a") -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=load_contract(table).arrow_schema()), folder / f"{name}.parquet")


def publish(attempt: Attempt) -> Any:
    return attempt.publish(metrics={}, inputs={}, settings={})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    calls.clear()
    return tmp_path


def test_of_two_attempts_with_one_key_the_first_is_real(home: Path) -> None:
    first, second = Attempt("stage", "key"), Attempt("stage", "key")
    write(first.folder / "fashion_labels", [LABEL])
    write(second.folder / "fashion_labels", [LABEL, LABEL | {"query": "blue"}])
    winner = publish(second)
    loser = publish(first)
    assert winner.manifest["attempt"] == loser.manifest["attempt"] == second.id
    assert not first.folder.exists()
    assert published("stage") == ({"key.json"}, {second.id})


def test_only_listed_files_are_read(home: Path) -> None:
    attempt = Attempt("stage", "key")
    write(attempt.folder / "fashion_labels", [LABEL])
    (attempt.folder / "fashion_labels" / "_SUCCESS").touch()
    artifact = publish(attempt)
    write(artifact.folder / "fashion_labels", [LABEL], name="stray")
    assert [file.name for file in load_artifact("stage", "key").files("fashion_labels")] == ["a.parquet"]
    with pytest.raises(InputError, match=r"lists no file 'fashion_labels/stray\.parquet'"):
        artifact.file("fashion_labels/stray.parquet")


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_listed_file_that_is_gone_or_cut_is_named(damage: str, home: Path) -> None:
    attempt = Attempt("stage", "key")
    write(attempt.folder / "fashion_labels", [LABEL])
    artifact = publish(attempt)
    file = artifact.folder / "fashion_labels" / "a.parquet"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"a\.parquet: missing or damaged .* run the stage again"):
        artifact.files("fashion_labels")


def test_a_table_without_a_contract_is_refused(home: Path) -> None:
    attempt = Attempt("stage", "key")
    write(attempt.folder / "nameless", [LABEL])
    with pytest.raises(InputError, match=r"nameless\.yaml: no contract"):
        publish(attempt)
    assert published("stage")[0] == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.set_column(1, "clicks", t["clicks"].cast(pa.int32())), "column clicks is int32, expected int64"),
        (lambda t: t.drop_columns(["query"]), "column query is missing"),
        (lambda t: t.append_column("extra", t["query"]), "column extra is not in the contract"),
    ],
)
def test_a_table_that_differs_from_its_contract_is_refused(change: Any, message: str, home: Path) -> None:
    attempt = Attempt("stage", "key")
    folder = attempt.folder / "fashion_labels"
    write(folder, [LABEL])
    write(folder, [LABEL], name="b")
    pq.write_table(change(pq.read_table(folder / "b.parquet")), folder / "b.parquet")
    with pytest.raises(InputError, match=rf"b\.parquet: differs from schemas/fashion_labels\.yaml: .*{message}"):
        publish(attempt)
    assert published("stage")[0] == set()


def test_finished_work_is_reused_until_a_setting_that_the_stage_reads_changes(home: Path) -> None:
    first = run_stage(WORK, tiny_run(home / "shop", name="first", labels={"minimum_clicks": 2}))
    again = run_stage(WORK, tiny_run(home / "shop", name="again", labels={"minimum_clicks": 2}))
    assert (again.key, len(calls)) == (first.key, 1)
    unread = tiny_run(home / "shop", name="unread", labels={"minimum_clicks": 2}, clicks={"bot_requests_per_day": 7})
    assert (run_stage(WORK, unread).key, len(calls)) == (first.key, 1)
    read = run_stage(WORK, tiny_run(home / "shop", name="read", labels={"minimum_clicks": 3}))
    assert read.key != first.key
    assert (read.metrics, len(calls)) == ({"rows": 3}, 2)
    assert load_artifact(first.stage, first.key).metrics == {"rows": 2}
    # Why it was done again stands in the records of the two runs.
    made_of = [(load_run(name).state(WORK.name) or {})["made_of"] for name in ("unread", "read")]
    assert {name for name in made_of[0] if made_of[0][name] != made_of[1][name]} == {"settings"}
    assert "sql/label_fashion.sql" in made_of[0]["code"] and any(
        line.startswith("pyspark==") for line in made_of[0]["lock"]
    )


def test_the_days_of_the_run_are_part_of_a_dated_stage_s_key_alone(home: Path) -> None:
    shorter = {"days": 2, "evaluation_days": 1}
    undated = Stage(name="embed", summary="", work=WORK.work, settings=WORK.settings, dated=False)
    for stage, expected in ((WORK, 2), (undated, 1)):
        calls.clear()
        run_stage(stage, tiny_run(home / "shop", name=f"{stage.name}-long"))
        run_stage(stage, tiny_run(home / "shop", name=f"{stage.name}-short", window=shorter))
        assert len(calls) == expected


def test_a_failure_is_recorded_and_leaves_nothing(home: Path) -> None:
    run = tiny_run(home / "shop")
    with pytest.raises(InputError):
        run_stage(Stage(name=WORK.name, summary="", work=f"{__name__}:fail_half_way"), run)
    state = run.state(WORK.name)
    assert state is not None and (state["state"], state["message"]) == (
        "failed",
        "labels.csv: row 3 is bad; correct it",
    )
    assert state["made_of"]["stage"] == WORK.name, "why it ran is asked of one that failed, too"
    assert published(WORK.name) == (set(), set())
    with pytest.raises(InputError, match="has no finished output; run `smar label-fashion"):
        run.output(WORK.name)


def test_a_killed_attempt_leaves_no_output_is_swept_and_can_be_done_again(home: Path) -> None:
    (home / "slow_work.py").write_text(
        "import time\n"
        "def run(context):\n"
        "    folder = context.output('fashion_labels')\n"
        "    folder.mkdir()\n"
        "    (folder / 'half.parquet').write_bytes(b'PAR1 half of a file')\n"
        "    context.report('half-way')\n"
        "    time.sleep(3_600)\n"
    )
    run = tiny_run(home / "shop")
    program = (
        "from smar_model.lake.runs import load_run\n"
        "from smar_model.lake.stage import Stage, run_stage\n"
        f"run_stage(Stage(name={WORK.name!r}, summary='', work='slow_work:run', settings=('labels',)), load_run('tiny'))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{home}{os.pathsep}{REPOSITORY}", "SMAR_HOME": str(home)}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
    wait_until(
        lambda: (run.state(WORK.name) or {}).get("progress") == "half-way", still_possible=lambda: child.poll() is None
    )
    assert sweep_orphans() == 0  # its process lives
    child.send_signal(signal.SIGKILL)
    child.wait()
    state = run.state(WORK.name)
    assert state is not None and state["state"] == "killed"
    manifests, attempts = published(WORK.name)
    assert (manifests, len(attempts)) == (set(), 1)
    assert sweep_orphans() == 1
    assert published(WORK.name) == (set(), set())
    again = run_stage(WORK, run)
    assert again.metrics == {"rows": 1}
    assert sweep_orphans() == 0
    assert again.files("fashion_labels")


def test_a_second_process_waits_for_the_first_and_takes_what_it_made(home: Path) -> None:
    (home / "slow_work.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "def run(context):\n"
        "    context.report('half-way')\n"
        f"    while not Path({str(home / 'go')!r}).exists():\n"
        "        time.sleep(0.05)\n"
        "    context.output('done.txt').write_text('done')\n"
        "    return {}\n"
    )
    tiny_run(home / "shop")
    program = (
        "from smar_model.lake.runs import load_run\n"
        "from smar_model.lake.stage import Stage, run_stage\n"
        "run_stage(Stage(name='embed', summary='', work='slow_work:run'), load_run('tiny'))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{home}{os.pathsep}{REPOSITORY}", "SMAR_HOME": str(home)}

    def start(name: str) -> subprocess.Popen[bytes]:
        with (home / name).open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=log, stderr=log)

    def wait_for(text: str, name: str) -> None:
        wait_until(lambda: text in (home / name).read_text(), says=(home / name).read_text)

    first = start("first")
    wait_for("half-way", "first")
    second = start("second")
    wait_for(f"embed: waits for process {first.pid} on", "second")
    (home / "go").touch()
    assert (first.wait(PATIENCE_SECONDS), second.wait(PATIENCE_SECONDS)) == (0, 0)
    assert "embed: finished" in (home / "first").read_text()
    assert "embed: reused" in (home / "second").read_text()
    assert len(published("embed")[1]) == 1


def test_a_manifest_lists_every_file_with_its_size_and_digest(home: Path) -> None:
    artifact = run_stage(WORK, tiny_run(home / "shop"))
    manifest = json.loads((lake() / WORK.name / f"{artifact.key}.json").read_text(encoding="utf-8"))
    file = artifact.folder / "fashion_labels" / "a.parquet"
    assert manifest["files"] == {
        "fashion_labels/a.parquet": {"bytes": file.stat().st_size, "sha256": digest_file(file)}
    }
    assert manifest["settings"] == {"labels": {"minimum_clicks": 1, "unsure": [0.3, 0.7]}}
