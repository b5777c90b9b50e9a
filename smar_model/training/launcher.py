"""One training stage in several processes: torchrun starts them, this module says what each of them does.

Plain torchrun and no wrapper of model and optimiser (DDP, accelerate): between encoding and loss the loop gathers embeddings
itself, and with gradient caching it encodes twice a step, which a wrapper's hooks on the backward pass do not expect. What is
left for a launcher to do is to start processes on one machine or many, let them meet, and end or restart them together.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler
from torch.distributed.run import parse_args
from torch.distributed.run import run as torchrun

from smar_model.errors import BAD_INPUT, InputError
from smar_model.lake.runs import Run
from smar_model.lake.stage import Stage, run_stage, share_stage, verify_inputs
from smar_model.training.processes import from_first, rank

REPLACEABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it torchrun (2.14) keeps the first meeting's address for all later ones: a machine that takes another's place waits for it in vain."""


def launch(stage: Stage, run: Run) -> None:
    """Run a stage in the processes that torchrun starts with the arguments in `stages.torchrun`, until all have ended.

    Raises:
        InputError: a process found bad input, or torchrun does not take the arguments.
        SystemExit: a process ended in another way; the message says which and how.
    """
    verify_inputs(stage, run)
    arguments = run.settings.section("stages.torchrun")[stage.name]
    os.environ.setdefault("OMP_NUM_THREADS", str(run.settings.training.threads))
    os.environ.update(REPLACEABLE)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # a failure is said below, once
    # After `--`, or `--run` would be read as torchrun's own `--run-path`.
    command = [*arguments, "-m", "--", "smar_model.cli", stage.name, "--run", run.name]
    with tempfile.TemporaryDirectory() as logs:
        try:
            torchrun(parse_args([f"--log-dir={logs}", *command]))
        except ChildFailedError as error:
            number, failure = _first(error.failures)
            message = _message(failure)
            run.write_state(stage.name, "failed", message=message)
            if failure.exitcode == BAD_INPUT:
                raise InputError(message) from None
            sys.exit(f"error: {stage.name}: process {number} has ended, and with it all others: {message}")
        except ValueError as error:
            raise InputError(f"stages.torchrun.{stage.name} {arguments}: {error}") from error


def run_together(stage: Stage, run: Run) -> None:
    """What each process under torchrun does: the first runs the stage and publishes, the others compute their share."""
    is_gpu = torch.cuda.is_available()
    if is_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        silence = timedelta(minutes=run.settings.training.silence_minutes)
        dist.init_process_group("cpu:gloo,cuda:nccl" if is_gpu else "gloo", timeout=silence)
        if rank() == 0:
            run_stage(stage, run, announce=from_first)
        elif key := from_first(None):
            share_stage(stage, run, key)
    except Exception as error:
        # Before this process ends, and others fail because it has.
        get_error_handler().record_exception(error)
        if isinstance(error, InputError):
            sys.exit(BAD_INPUT)
        raise
    dist.destroy_process_group()


def _first(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Rank and failure of the process that the others failed by: one that was killed, or the first to write why."""

    def written(found: tuple[int, ProcessFailure]) -> int:
        file = Path(found[1].error_file)
        return file.stat().st_mtime_ns if file.is_file() else 0

    return min(failures.items(), key=written)


def _message(failure: ProcessFailure) -> str:
    found = failure.error_file_data["message"]
    if isinstance(found, dict):
        return found["message"].removeprefix(f"{InputError.__name__}: ")
    return failure.message if failure.exitcode < 0 else f"exit code {failure.exitcode}"
