"""Damage that no size shows: it is named, set aside and made again, and nobody reads it."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import (
    Artifact,
    DamagedOutput,
    find_artifact,
    lake,
    load_artifact,
    manifest_path,
    newest_artifact,
)
from smar_model.lake.contracts import load_contract
from smar_model.lake.publishing import Attempt
from smar_model.lake.release_copies import released_folder
from smar_model.lake.shared_files import replace_file
from smar_model.lake.stage import Stage, StageContext, run_stage
from smar_model.lake.sweeping import ORPHAN_AGE_SECONDS, sweep_orphans
from smar_model.settings import REPOSITORY
from tests.earlier_models import a_release
from tests.tiny_shop import flip_byte, published, tiny_run

# An output that no stage of the table makes.
WORK = Stage(name="extract-clicks-day", summary="", work=f"{__name__}:write_output")
FILES = ("model/weights.bin", "embeddings.npy", "evaluation.json", "fashion_labels/a.parquet")
Damage = Callable[[Artifact], Path]
"""Does it, and returns what it is named by."""


def write_output(context: StageContext) -> dict[str, Any]:
    context.output("model/weights.bin").write_bytes(bytes(range(256)) * 40)
    np.save(context.output("embeddings.npy"), np.arange(600, dtype=np.float32))
    context.output("evaluation.json").write_text(json.dumps({"recall": 0.4567, "queries": 120}), encoding="utf-8")
    labels = context.output("fashion_labels")
    labels.mkdir()
    rows = [{"query": f"q{n}", "clicks": n, "visual_share": 0.5, "is_visual": True} for n in range(20)]
    table = pa.Table.from_pylist(rows, schema=load_contract("fashion_labels").arrow_schema())
    pq.write_table(table, labels / "a.parquet", compression="none")
    return {"recall_at_50": 0.4567}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    return tmp_path


def in_file(name: str, change: Callable[[Path], object] = flip_byte) -> Damage:
    def damage(artifact: Artifact) -> Path:
        change(artifact.place / name)
        return artifact.place / name

    return damage


def in_manifest(old: str, new: str) -> Damage:
    def damage(artifact: Artifact) -> Path:
        path = manifest_path(artifact.stage, artifact.key)
        text = path.read_text(encoding="utf-8")
        assert text.count(old) >= 1
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return path

    return damage


def as_before(artifact: Artifact) -> Artifact:
    """The same output with a manifest as it was before files had digests, and it one of its own."""
    manifest = {name: value for name, value in artifact.manifest.items() if name != "manifest_digest"}
    manifest["files"] = {name: {"bytes": entry["bytes"]} for name, entry in manifest["files"].items()}
    replace_file(manifest_path(artifact.stage, artifact.key), json.dumps(manifest))
    return load_artifact(artifact.stage, artifact.key)


def replace_digit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("0.4567", "0.9567"), encoding="utf-8")


def touch_back(path: Path) -> None:
    """As a copy that keeps times would: the same size and the same time of change."""
    was = path.stat()
    flip_byte(path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


DAMAGES: dict[str, Damage] = {
    **{f"a byte of {name}": in_file(name) for name in FILES},
    "a byte, and the old time": in_file("model/weights.bin", touch_back),
    "a digit of evaluation.json": in_file("evaluation.json", replace_digit),
    "all zeros": in_file("embeddings.npy", lambda path: path.write_bytes(bytes(path.stat().st_size))),
    "cut": in_file("embeddings.npy", lambda path: os.truncate(path, 100)),
    "gone": in_file("evaluation.json", Path.unlink),
    "a digit of a metric": in_manifest("0.4567", "0.9567"),
    "a digit of a size": in_manifest('"bytes": 10240', '"bytes": 10241'),
    "another run's inputs": in_manifest('"inputs": {}', '"inputs": {"pretrain": "0"}'),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_output_is_named_set_aside_and_made_again(
    kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(home / "shop")
    first = run_stage(WORK, run)
    assert first.folder == first.place, "read once, and whole"
    named = DAMAGES[kind](first)
    with pytest.raises(DamagedOutput, match=r"missing or damaged|not the manifest that was published") as met:
        assert load_artifact(WORK.name, first.key).folder
    assert str(met.value).startswith(f"{named}: ") and "\n" not in str(met.value)
    capsys.readouterr()
    again = run_stage(WORK, run)
    said = [line for line in capsys.readouterr().err.splitlines() if str(named) in line]
    assert len(said) == 1 and "set aside" in said[0] and "made again" in said[0]
    assert (again.key, again.digest, again.metrics) == (first.key, first.digest, first.metrics)
    assert again.place != first.place and again.folder == again.place
    assert first.place.is_dir(), "kept for who wants to look, and for who reads it"
    assert (run.state(WORK.name) or {})["reused"] is False
    assert run_stage(WORK, run).place == again.place
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", FILES)
def test_an_output_of_before_files_had_digests_is_verified_as_a_whole(name: str, home: Path) -> None:
    run = tiny_run(home / "shop")
    first = as_before(run_stage(WORK, run))
    assert run_stage(WORK, run).place == first.place, "whole as it is, it is taken"
    flip_byte(first.place / name)
    with pytest.raises(DamagedOutput, match=f"{name.split('/')[0]}: missing or damaged"):
        load_artifact(WORK.name, first.key).file(name)
    again = run_stage(WORK, run)
    assert again.place != first.place and again.digest == first.digest
    assert set(again.manifest["files"][name]) == {"bytes", "sha256"}


def test_only_what_is_damaged_is_refused(home: Path) -> None:
    made = run_stage(WORK, tiny_run(home / "shop"))
    flip_byte(made.place / "embeddings.npy")
    assert made.file("evaluation.json") and made.files("fashion_labels")
    with pytest.raises(DamagedOutput):
        made.file("embeddings.npy")
    with pytest.raises(DamagedOutput):
        made.verify_files()


def test_a_manifest_in_the_place_of_another_is_none(home: Path) -> None:
    one, two = Attempt("stage", "one"), Attempt("stage", "two")
    for attempt in (one, two):
        (attempt.folder / "name.txt").write_text(attempt.key)
        attempt.publish(metrics={}, inputs={}, settings={})
    manifest_path("stage", "one").write_bytes(manifest_path("stage", "two").read_bytes())
    with pytest.raises(InputError, match=r"one\.json: damaged \(it is not the manifest that was published\)"):
        find_artifact("stage", "one")


def test_an_earlier_output_that_is_damaged_is_passed_over(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for key in ("1", "2", "3"):
        attempt = Attempt("stage", key)
        (attempt.folder / "rows.txt").write_text(f"rows of {key}")
        made.append(attempt.publish(metrics={"of": "a"}, inputs={}, settings={}, made_by="x"))
    flip_byte(made[2].place / "rows.txt")
    in_manifest('"of": "a"', '"of": "b"')(made[0])
    newest = newest_artifact("stage", "x", metrics={"of": "a"})
    assert newest is not None and newest.key == "2"
    assert "3" not in {path.stem for path in (lake() / "stage").glob("*.json")}
    assert "nothing of it is used again" in capsys.readouterr().err
    assert newest_artifact("stage", "x", metrics={"of": "b"}) is None, "an edited manifest is none"


def test_who_reads_a_damaged_output_meanwhile_is_not_disturbed(home: Path) -> None:
    run = tiny_run(home / "shop")
    first = run_stage(WORK, run)
    path = first.file("embeddings.npy")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        flip_byte(first.place / "model" / "weights.bin")
        run_stage(WORK, run)
        sweep_orphans()
        assert np.array_equal(np.load(path), np.arange(600, dtype=np.float32)) and len(mapped) == path.stat().st_size


def test_what_was_set_aside_is_swept_a_week_later(home: Path) -> None:
    run = tiny_run(home / "shop")
    first = run_stage(WORK, run)
    flip_byte(first.place / "evaluation.json")
    again = run_stage(WORK, run)
    (first.place / ".owner.json").write_text(json.dumps({"host": "another", "pid": 1}))
    assert sweep_orphans() == 0 and first.place.is_dir()
    (record,) = (lake() / WORK.name / "damaged").iterdir()
    assert json.loads((record / "manifest.json").read_text())["attempt"] == first.place.name
    old = time.time() - ORPHAN_AGE_SECONDS - 60
    for path in (record, first.place):
        os.utime(path, (old, old))
    assert sweep_orphans() == 1
    assert published(WORK.name) == ({f"{first.key}.json"}, {again.place.name}) and not record.exists()


def test_a_release_that_a_run_met_is_verified_where_it_is_read(home: Path) -> None:
    run = tiny_run(home / "shop")
    first = run_stage(WORK, run)
    outside = shutil.copytree(first.place / "model", home / "mlflow-artifacts" / "model")
    digest = first.manifest["content"]["model"]
    release = a_release(model_digest=digest, model_folder=str(first.place / "model"))
    assert released_folder(run, release, "model") == first.place / "model"
    flip_byte(first.place / "model" / "weights.bin")
    with pytest.raises(DamagedOutput, match=r"weights\.bin: missing or damaged"):
        released_folder(run, release, "model")
    again = run_stage(WORK, run)
    assert released_folder(run, release, "model") == again.place / "model", "made again, it lies elsewhere"
    index = replace(release, index_digest=first.digest, index_folder=str(first.place))
    assert released_folder(run, index, "index") == again.place
    release = replace(release, model_folder=str(outside))
    assert released_folder(run, release, "model") == outside
    flip_byte(outside / "weights.bin")
    with pytest.raises(
        InputError, match=rf"{outside}: damaged, or another model .*that of version 1 .*start a new run"
    ):
        released_folder(run, release, "model")


AT_ONCE = """
import sys, time
from pathlib import Path
from smar_model.lake.runs import load_run
from smar_model.lake.stage import run_stage
from tests.lake.test_damaged_outputs import WORK
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
print(run_stage(WORK, load_run(sys.argv[1])).digest)
"""


def test_processes_that_meet_the_same_damage_at_once_leave_one_whole_output(home: Path) -> None:
    """Four runs, each under its own lock, that share one output."""
    runs = [tiny_run(home / "shop", name=f"run-{n}") for n in range(4)]
    first = run_stage(WORK, runs[0])
    flip_byte(first.place / "model" / "weights.bin")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, run.name, str(home / f"ready-{run.name}"), str(home / "go")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for run in runs
    ]
    while not all((home / f"ready-{run.name}").exists() for run in runs):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (home / "go").touch()
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert {out.splitlines()[-1] for out, _ in answers} == {first.digest}
    assert sum(err.count("is set aside") for _, err in answers) == 1, "one of them"
    assert len(list((lake() / WORK.name / "damaged").glob("*/manifest.json"))) == 1
    sweep_orphans()
    manifests, attempts = published(WORK.name)
    assert manifests == {f"{first.key}.json"} and len(attempts) == 2
    load_artifact(WORK.name, first.key).verify_files()
