"""Training in several processes, started as a user would: it ends as in one, or it ends for all of them at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import psutil
import pytest
from safetensors.torch import load_file

from smar_model import cli
from smar_model.errors import BAD_INPUT, InputError
from smar_model.lake.artifacts import Artifact, checkpoint_stage, find_checkpoints, manifest_path
from smar_model.lake.runs import Run, load_run
from smar_model.lake.shared_files import fetch_files, share_files
from smar_model.lake.sweeping import sweep_orphans
from smar_model.settings import REPOSITORY, SharedStage, home
from smar_model.stages import REFRESH_STAGES, STAGES
from smar_model.training import processes
from tests.patience import PATIENCE_SECONDS
from tests.s3_server import BUCKET, running_s3
from tests.tiny_shop import DATA_STAGES, published, run_stages, tiny_run

STEPS = {"steps": 24, "batch": 16, "learning_rate": 0.003}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run whose outputs were made in one process; its settings ask for two from here on."""
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("processes"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        training = {
            "adapt_vision": STEPS,
            "pretrain": STEPS | {"chunk": 5},
            "finetune": STEPS | {"patience": 50},
        }
        training |= {"checkpoint_minutes": 0, "threads": 1}
        run = tiny_run(
            folder / "shop",
            network={"variant": "smar_adapted"},  # with an encoder: its weights must agree too
            training=training,
            stages={"torchrun": {"pretrain": ["--nproc-per-node=2"], "train-text-only": ["--nproc-per-node=2"]}},
        )
        run_stages(run, *DATA_STAGES, "train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune")
        yield run


def command(stage: str, run: Run) -> list[str]:
    return ["smar_model.cli", stage, "--run", run.name]


def start(*arguments: str, at: Path | None = None) -> subprocess.Popen[str]:
    """A command in a process group of its own, so that nothing of it outlives a test; `at`: its home, if another than this process's."""
    return subprocess.Popen(
        arguments,
        env=os.environ | ({"SMAR_HOME": str(at)} if at else {}),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """What it has printed, once it has ended."""
    try:
        return process.communicate(timeout=PATIENCE_SECONDS)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def child(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process of that rank."""
    return next(c for c in psutil.Process(process.pid).children() if c.environ()["RANK"] == str(rank))


def forget(run: Run, stage: str) -> Artifact:
    """Its output, which is not found again."""
    output = run.output(stage)
    sweep_orphans()
    manifest_path(stage, output.key).unlink()
    return output


def assert_same(together: Artifact, alone: Artifact) -> None:
    """The same curve, and the same weights but where Adam walks on rounding: single weights, and the bias of attention's keys,
    which shifts all scores of a query alike. (`test_gradient_cache.py` holds every gradient to 1e-5.)"""
    assert together.folder != alone.folder
    curves = [json.loads(output.file("history.json").read_text()) for output in (together, alone)]
    assert len(curves[0]) == len(curves[1]) == STEPS["steps"]
    for mine, wanted in zip(*curves, strict=True):
        assert mine.keys() == wanted.keys()
        for name in wanted.keys() - {"step"}:
            tolerance = 1e-3 if name.startswith("watched/") else 1e-4
            assert mine[name] == pytest.approx(wanted[name], abs=tolerance), (wanted["step"], name)
    weights = [load_file(output.file("model/weights.safetensors")) for output in (together, alone)]
    for name, wanted in weights[1].items():
        apart = (weights[0][name].float() - wanted.float()).abs()
        if name.endswith("in_proj_bias"):
            apart[len(apart) // 3 : 2 * len(apart) // 3] = 0
        assert apart.mean() < 1e-5, name


def test_a_process_that_dies_ends_the_others_and_two_go_on_from_the_checkpoint_as_one(run: Run) -> None:
    alone = forget(run, "pretrain")
    before = published("pretrain")
    killed = start(sys.executable, "-m", *command("pretrain", run))
    while not published(checkpoint_stage("pretrain"))[0]:
        assert killed.poll() is None, end(killed)
        time.sleep(0.02)
    child(killed, rank=1).kill()
    said = end(killed)
    assert killed.returncode == 1, said
    assert said.splitlines()[-1].startswith("error: pretrain: process 1 has ended, and with it all others: Signal 9")
    assert published("pretrain")[0] == before[0]
    state = run.state("pretrain")
    assert state and state["state"] == "failed" and "Signal 9" in state["message"]
    step = find_checkpoints("pretrain")[-1].metrics["step"]
    assert 0 < step < STEPS["steps"]
    again = start(sys.executable, "-m", *command("pretrain", run))
    said = end(again)
    assert again.returncode == 0, said
    assert said.count("goes on after step") == 1
    assert_same(run.output("pretrain"), alone)


@contextmanager
def lake_in_a_store(monkeypatch: pytest.MonkeyPatch, *, without: str, copy: Path) -> Iterator[None]:
    """All that the home holds in an object store as well, but for the run's output of a stage."""
    monkeypatch.setenv("SMAR_HOME", str(shutil.copytree(home(), copy)))
    forget(load_run("tiny"), without)
    with running_s3() as variables:
        for name, value in (variables | {"SMAR_STORE": f"s3://{BUCKET}/{uuid.uuid4().hex}"}).items():
            monkeypatch.setenv(name, value)
        share_files(f for name in ("lake", "runs") for f in (home() / name).rglob("*") if f.is_file())
        yield


def test_a_training_that_died_on_one_machine_goes_on_on_another_in_fewer_processes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stages(run, "pretrain")
    alone = run.output("pretrain")
    with lake_in_a_store(monkeypatch, without="pretrain", copy=tmp_path / "one"):
        killed = start(sys.executable, "-m", *command("pretrain", run))
        while not published(checkpoint_stage("pretrain"))[0]:
            assert killed.poll() is None, end(killed)
            time.sleep(0.02)
        # Torchrun's processes are in groups of their own.
        for process in [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]:
            process.kill()
        end(killed)
        monkeypatch.setenv("SMAR_HOME", str(tmp_path / "another"))
        capsys.readouterr()
        run_stages(run, "pretrain")
        assert capsys.readouterr().out.count("goes on after step") == 1
        curve = run.folder / "pretrain.history.jsonl"
        made = run.output("pretrain")
        monkeypatch.setenv("SMAR_HOME", str(tmp_path / "third"))
        fetch_files([home() / curve.relative_to(tmp_path / "another")])
        assert len((home() / curve.relative_to(tmp_path / "another")).read_text().splitlines()) == STEPS["steps"]
        assert_same(made, alone)


def test_two_machines_without_a_common_folder_train_as_one_process(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From the very model that two machines begin with: another test may have pretrained it anew, which is the same but for rounding.
    run_stages(run, "finetune")
    alone = run.output("finetune")
    homes = [tmp_path / "first", tmp_path / "second"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=finetune", place]
    with lake_in_a_store(monkeypatch, without="finetune", copy=tmp_path / "copy"):
        nodes = [start(*TORCHRUN, *meeting, "-m", "--", *command("finetune", run), at=at) for at in homes]
        said = [end(node) for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], said
        made = run.output("finetune")
        # What the second one wrote was discarded, and only what was published lies in the store.
        assert [(at / made.place.relative_to(home())).is_dir() for at in homes].count(True) == 1
        assert_same(made, alone)


def test_bad_input_in_a_process_is_one_message(run: Run) -> None:
    forget(run, "train-tokenizer")
    (run.folder / "train-tokenizer.json").unlink()
    process = start(sys.executable, "-m", *command("train-text-only", run))
    said = end(process)
    assert process.returncode == BAD_INPUT, said
    assert said.splitlines()[-1].startswith("error: run tiny: stage 'train-tokenizer' has no finished output"), said
    assert said.count("no finished output") == 1
    assert not published("train-text-only")[0]


def test_other_stages_refuse_torchrun(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert {name for name, stage in (STAGES | REFRESH_STAGES).items() if stage.shared} == set(get_args(SharedStage))
    monkeypatch.setenv(cli.runs.TORCHRUN, "any")
    monkeypatch.setattr(sys, "argv", ["smar", "index", "--run", run.name])
    with pytest.raises(SystemExit) as error:
        cli.main()
    assert error.value.code == BAD_INPUT
    assert "error: index: runs in one process; begin it without torchrun" in capsys.readouterr().err


def test_a_batch_without_equal_shares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "processes", lambda: 3)
    monkeypatch.setattr(processes, "rank", lambda: 2)
    assert processes.own_rows(9) == slice(6, 9)
    with pytest.raises(InputError, match="a batch of 10 pairs has no equal shares for 3 processes"):
        processes.own_rows(10)
