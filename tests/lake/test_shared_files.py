"""Lake, runs and locks in an object store: what one machine writes another sees, whole; neither needs the other's disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.cli import main
from smar_model.doctor import examine
from smar_model.errors import InputError, NoAnswer
from smar_model.lake import object_store, shared_files, sweeping
from smar_model.lake.artifacts import DamagedOutput, find_artifact, lake, load_artifact, remove_artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.earlier_outputs import EarlierModel
from smar_model.lake.object_store import ObjectStore, Version
from smar_model.lake.publishing import Attempt
from smar_model.lake.release_copies import released_folder
from smar_model.lake.runs import create_run, find_runs, load_run
from smar_model.lake.shared_files import create_if_absent, files_in, read_file
from smar_model.lake.stage import Stage, StageContext, run_stage
from smar_model.lake.sweeping import sweep_orphans
from smar_model.release.history import append_history, new_entry, read_history
from smar_model.release.lease import registry_lease
from smar_model.release.stock import KEPT, refresh_stock
from smar_model.release.stock_tables import StockPointer, current_stock, load_stock, stock_folder
from smar_model.settings import REPOSITORY, home
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.release.test_lease import COUNT
from tests.s3_server import BUCKET, running_s3
from tests.tiny_shop import flip_byte, publish_with, tiny_run, tiny_settings

LABEL = {"query": "red", "clicks": 3, "visual_share": 1.0, "is_visual": True}
WORK = Stage(name="label-fashion", summary="", work=f"{__name__}:write_labels")
SLOW = """
import sys, time
from pathlib import Path
from smar_model.lake import stage_lock
from smar_model.lake.runs import load_run
from smar_model.lake.stage import Stage, run_stage

stage_lock.LEASE_SECONDS = 10.0

def work(context):
    context.report("half-way")
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    context.output("done.txt").write_text("done")
    return {}

run_stage(Stage(name="embed", summary="", work="__main__:work"), load_run("tiny"))
"""


def write_labels(context: StageContext) -> dict[str, Any]:
    folder = context.output("fashion_labels")
    folder.mkdir()
    schema = load_contract("fashion_labels").arrow_schema()
    pq.write_table(pa.Table.from_pylist([LABEL], schema=schema), folder / "a.parquet")
    context.output("model/weights.bin").write_bytes(bytes(6_000_000))  # more than one part of an upload
    return {"rows": 1}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with running_s3() as variables:
        yield variables


@pytest.fixture
def url(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def on(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Go to a machine, by name: its own home folder, the shared store."""
    monkeypatch.setenv("SMAR_STORE", url)

    def go(machine: str) -> Path:
        monkeypatch.setenv("SMAR_HOME", str(tmp_path / machine))
        return tmp_path / machine

    go("first")
    return go


def test_an_object_is_created_once_and_swapped_only_where_it_is_as_it_was_read(on: Callable[[str], Path]) -> None:
    store = shared_files.store()
    assert store is not None
    path, none = on("first") / "a" / "b", on("first") / "a" / "none"
    assert store.read(path) is None and not store.is_file(path)
    assert store.create_if_absent(path, "one")
    assert not store.create_if_absent(path, "two")
    content, known_by = store.read_to_replace(path)
    assert content == b"one" and store.is_file(path)
    assert store.replace_unchanged(path, "two", known_by)
    assert not store.replace_unchanged(path, "three", known_by)
    assert store.read_files([path, none]) == {path: b"two"}
    assert store.create_if_absent(path, "two"), "a first try that arrived without an answer is no other's"
    for gone in (path, none):
        store.remove_file(gone)
    assert not store.replace_unchanged(path, "four", known_by), "it is gone"
    assert store.replace_unchanged(path, "four", Version())


def test_of_many_who_create_one_object_one_does(on: Callable[[str], Path], url: str) -> None:
    path = on("first") / "lock"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: ObjectStore(url).create_if_absent(path, str(n)), range(8)))
    found = ObjectStore(url).read(path)
    assert won.count(True) == 1 and found is not None and found[0] == str(won.index(True)).encode()


def test_a_store_that_cannot_be_reached_or_is_none_is_one_clear_message(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        InputError, match=r"SMAR_STORE='/data': an object store is named by a URL of s3://, gs://, az://"
    ):
        ObjectStore("/data")
    refused = r"s3://no-such-bucket: the object store refuses \(.*check SMAR_STORE"
    for write in (ObjectStore.replace_file, ObjectStore.create_if_absent):
        with pytest.raises(InputError, match=refused):
            write(ObjectStore("s3://no-such-bucket"), home() / "a", "")
    monkeypatch.setattr(object_store, "RETRIES", {"max_retries": 1})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NoAnswer, match=r"the object store does not answer \(.*127\.0\.0\.1:9"):
        ObjectStore(url).read(home() / "a")
    monkeypatch.setenv("SMAR_STORE", f"{url}/away")
    monkeypatch.setattr(sys, "argv", ["smar", "index", "--run", "any"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1, "Airflow tries again"
    said = capsys.readouterr().err
    assert said.startswith(f"error: {url}/away: the object store does not answer") and said.count("\n") == 1


def test_smar_doctor_says_whether_the_store_does_what_the_lake_needs(
    on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[str, str]:
        (finding,) = [finding for finding in examine() if finding.subject == "Store"]
        return finding.state, finding.found

    assert found()[0] == "fine" and found()[1].endswith("conditional puts hold")
    store = shared_files.store()
    assert store is not None and not store.sizes(home() / "probes")
    monkeypatch.setattr(ObjectStore, "swap", lambda self, path, content, old: self.put(path, content) or True)
    assert found()[0] == "missing" and "ignores conditional puts" in found()[1]
    monkeypatch.setenv("SMAR_STORE", "s3://no-such-bucket")
    assert found()[0] == "missing" and "check SMAR_STORE" in found()[1]


def test_what_one_machine_made_another_takes_and_fetches_only_what_it_reads(on: Callable[[str], Path]) -> None:
    tiny_run(home() / "shop")
    made = run_stage(WORK, load_run("tiny"))
    second = on("second")
    run = load_run("tiny")
    assert [found.name for found in find_runs()] == ["tiny"]
    assert run.output(WORK.name).digest == made.digest
    taken = run_stage(WORK, run)
    assert (run.state(WORK.name) or {})["reused"] and not (second / "lake" / WORK.name / "attempts").exists()
    (table,) = taken.files("fashion_labels")
    assert table.is_relative_to(second) and pq.read_table(table).num_rows == 1
    assert not (taken.place / "model").exists()
    assert (taken.folder / "model" / "weights.bin").stat().st_size == 6_000_000
    table.write_bytes(b"cut off")
    assert pq.read_table(load_artifact(WORK.name, taken.key).file("fashion_labels/a.parquet")).num_rows == 1


def test_of_two_machines_with_one_key_the_first_is_real(on: Callable[[str], Path]) -> None:
    attempts = {}
    for machine in ("first", "second"):
        on(machine)
        attempts[machine] = Attempt("stage", "key")
        (attempts[machine].folder / "by.txt").write_text(machine)
    winner = attempts["second"].publish(metrics={}, inputs={}, settings={})
    on("first")
    loser = attempts["first"].publish(metrics={}, inputs={}, settings={})
    assert winner.manifest == loser.manifest
    assert loser.file("by.txt").read_text() == "second"
    store = shared_files.store()
    assert store is not None
    assert {path.name for path in store.sizes(lake() / "stage")} == {"key.json", "by.txt"}


def test_files_without_a_manifest_are_nothing_and_swept_when_they_are_old(
    on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt("stage", "key")
    (attempt.folder / "half.txt").write_text("half")
    shared_files.share_files([attempt.folder / "half.txt"])  # and then the process was killed
    on("second")
    store = shared_files.store()
    assert store is not None and find_artifact("stage", "key") is None
    assert sweeping.sweep_orphans() == 0 and len(store.sizes(lake())) == 1
    kept = Attempt("stage", "other")
    (kept.folder / "whole.txt").write_text("whole")
    kept.publish(metrics={}, inputs={}, settings={})
    monkeypatch.setattr(sweeping, "ORPHAN_AGE_SECONDS", -1)
    assert sweeping.sweep_orphans() == 1
    assert {path.name for path in store.sizes(lake())} == {"other.json", "whole.txt"}


def test_what_is_removed_or_expired_is_so_on_every_machine(
    on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run(home() / "shop")
    made = run_stage(WORK, load_run("tiny"))
    on("second")
    assert len(load_artifact(WORK.name, made.key).files("fashion_labels")) == 1
    contract = load_contract("fashion_labels").model_copy(update={"retention_days": 1})
    monkeypatch.setattr(sweeping, "load_contract", lambda table: contract)
    publish_with(WORK.name, made.key, finished_at=datetime(2026, 1, 1, tzinfo=UTC).isoformat())
    assert sweeping.sweep_expired() == 1
    on("first")
    assert load_artifact(WORK.name, made.key).files("fashion_labels") == []
    assert sweeping.sweep_expired() == 1, "its own copy"
    assert sweeping.sweep_expired() == 0
    remove_artifact(made)
    on("second")
    assert find_artifact(WORK.name, made.key) is None
    assert files_in(lake() / WORK.name, ".json") == []


def test_a_damaged_copy_is_fetched_again_and_what_is_damaged_in_the_store_is_made_again(
    on: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(home() / "shop")
    made = run_stage(WORK, run)
    on("second")
    theirs = load_artifact(WORK.name, made.key)
    weights = theirs.file("model/weights.bin")
    flip_byte(weights)
    assert theirs.file("model/weights.bin").read_bytes() == bytes(6_000_000)
    assert not capsys.readouterr().err, "the store's is whole"
    flip_byte(weights)
    shared_files.share_files([weights])
    with pytest.raises(DamagedOutput, match=r"weights\.bin: missing or damaged"):
        theirs.file("model/weights.bin")
    again = run_stage(WORK, load_run("tiny"))
    assert again.place != theirs.place and again.digest == made.digest
    assert f"{WORK.name} {made.key[:12]} is set aside" in capsys.readouterr().err
    on("first")
    assert load_artifact(WORK.name, made.key).place.name == again.place.name
    assert load_artifact(WORK.name, made.key).file("model/weights.bin").read_bytes() == bytes(6_000_000)
    assert sweeping.sweep_orphans() == 0, "set aside, and kept"


def test_a_run_keeps_its_first_record_and_names_folders_by_their_place_in_the_home_folder(
    on: Callable[[str], Path],
) -> None:
    run = tiny_run(home() / "shop")
    made = run_stage(WORK, run)
    model = EarlierModel(
        version="1",
        cutoff="2026-11-19T00:00:00+00:00",
        model_folder=str(made.place / "model"),
        model_digest=made.manifest["content"]["model"],
    )
    content = json.loads(read_file(run.folder / "run.json"))
    other = create_run(replace(run, name="other", warm_start=model))
    on("second")
    found = load_run("other")
    assert found.warm_start is not None
    assert (
        released_folder(found, found.warm_start, "model")
        == on("second") / made.place.relative_to(on("first")) / "model"
    )
    on("second")
    weights = released_folder(found, found.warm_start, "model") / "weights.bin"
    assert weights.stat().st_size == 6_000_000
    weights.write_bytes(b"cut off")
    assert released_folder(found, found.warm_start, "model") == weights.parent and weights.stat().st_size == 6_000_000
    weights.unlink()
    assert (released_folder(found, found.warm_start, "model") / "weights.bin").is_file()
    assert not create_if_absent(run.folder / "run.json", json.dumps(content | {"note": "later"}))
    assert load_run("tiny").note == run.note and other.name == "other"


def slow_process(machine: Path, go: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "SMAR_HOME": str(machine)}
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", SLOW, str(go)], env=environment, stdout=file, stderr=file)


def wait_for(text: str, log: Path) -> None:
    wait_until(lambda: text in log.read_text(), says=log.read_text)


@pytest.mark.parametrize("killed", [False, True])
def test_a_stage_that_is_done_on_one_machine_is_waited_for_by_another(
    killed: bool, on: Callable[[str], Path], tmp_path: Path
) -> None:
    tiny_run(home() / "shop")
    go, logs = tmp_path / "go", [tmp_path / "log-1", tmp_path / "log-2"]
    first = slow_process(on("first"), go, logs[0])
    wait_for("half-way", logs[0])
    second = slow_process(on("second"), go, logs[1])
    wait_for(f"embed: waits for process {first.pid} on", logs[1])
    if killed:
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_for("half-way", logs[1])
    go.touch()
    assert second.wait(PATIENCE_SECONDS) == 0, logs[1].read_text()
    assert first.wait(PATIENCE_SECONDS) == (-signal.SIGKILL if killed else 0), logs[0].read_text()
    assert ("embed: finished" if killed else "embed: reused") in logs[1].read_text()


def test_one_writer_of_the_registry_on_all_machines(on: Callable[[str], Path], tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(counter)],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "SMAR_HOME": str(on(machine))},
        )
        for machine in ("first", "second", "third")
    ]
    assert [process.wait(PATIENCE_SECONDS) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "30"


def test_no_line_of_the_history_is_lost(on: Callable[[str], Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: append_history(new_entry("m", "promote", number=n)), range(12)))
    on("second")
    assert sorted(entry["number"] for entry in read_history("m")) == list(range(12))


def test_a_damaged_manifest_is_set_aside_once_for_all_machines(on: Callable[[str], Path]) -> None:
    tiny_run(home() / "shop")
    made = run_stage(WORK, load_run("tiny"))
    store = shared_files.store()
    assert store is not None
    store.put(lake() / WORK.name / f"{made.key}.json", b'{"stage": \xff')
    on("second")
    assert sweep_orphans() == 0
    assert find_artifact(WORK.name, made.key) is None
    on("first")
    assert run_stage(WORK, load_run("tiny")).digest == made.digest
    on("second")
    assert load_run("tiny").output(WORK.name).place != made.place
    damaged = [path.name for path in store.sizes(lake() / WORK.name / "damaged")]
    assert len(damaged) == 1 and damaged[0].startswith(made.key)


def test_holders_of_the_registry_have_growing_numbers_on_all_machines_and_a_late_one_writes_nothing(
    on: Callable[[str], Path],
) -> None:
    store = shared_files.store()
    assert store is not None
    with registry_lease(purpose="slow", lease_seconds=0.05) as slow:
        time.sleep(0.1)
        on("second")
        with registry_lease(purpose="quick", wait_seconds=0) as quick:
            append_history(new_entry("m", "promote", number=1))
        assert quick.number > slow.number
        for damage in (b"\xff", b""):
            store.put(home() / "registry.lock", damage)
            store.put(home() / "registry.lock.number", damage)
            with registry_lease(purpose="next", wait_seconds=0) as lease:
                assert lease.number > quick.number
                lease.verify()
        on("first")
        with pytest.raises(InputError, match="lease ran out"):
            append_history(new_entry("m", "promote", number=2))
    assert [entry["number"] for entry in read_history("m")] == [1]


def test_prices_and_stock_of_one_machine_are_those_of_all(on: Callable[[str], Path], tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path / "shop")
    assert current_stock(settings) is None
    first: StockPointer | None = None
    for price in range(KEPT + 1):
        (tmp_path / "new.jsonl").write_text(f'{{"item_id": "a", "price": {price}}}\n', encoding="utf-8")
        published = refresh_stock(settings, tmp_path / "new.jsonl", lambda: None, print)
        first = first or published
    on("second")
    pointer = current_stock(settings)
    assert pointer == published
    assert load_stock(settings, pointer).rows["price"].to_pylist() == [KEPT]
    assert len(files_in(stock_folder(settings), ".parquet")) == KEPT
    with pytest.raises(InputError, match=r"\.parquet: cannot be read .*run `smar refresh-stock` again"):
        load_stock(settings, first)
