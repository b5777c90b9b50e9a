"""Training on two machines with a network between: containers with a home each, the lake in the object store, no folder in common."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smar_model.lake.artifacts import Artifact, find_checkpoints, manifest_path
from smar_model.lake.runs import Run
from smar_model.lake.shared_files import remove_file, share_files
from smar_model.settings import home
from smar_model.training.launcher import REPLACEABLE
from tests.containers.compose_file import read_compose_file
from tests.containers.images import BuiltImages
from tests.containers.podman import Podman
from tests.containers.running_services import NETWORK, RunningServices, running_services
from tests.patience import wait_until
from tests.s3_server import BUCKET, s3_client
from tests.services.results import record
from tests.tiny_shop import DATA_STAGES, run_stages, tiny_run
from tests.training.test_processes import STEPS, assert_same

FIRST, SECOND = "machine-1", "machine-2"
MEETING = [f"--rdzv-endpoint={FIRST}:29500", "--rdzv-backend=c10d", "--nproc-per-node=1"]
BOTH = ["--nnodes=2", "--max-restarts=2"]
SILENCE_MINUTES = 2
ONE_OR_BOTH = ["--nnodes=1:2", "--max-restarts=2", "--rdzv-conf=last_call_timeout=10"]


@dataclass(slots=True)
class Machines:
    """Containers of the image `training`, each with a volume of its own for its home."""

    podman: Podman
    image: str
    run: Run
    variables: dict[str, str]
    alone: Artifact
    """What one process has trained."""
    started: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    """What tests have shown, for the page."""

    def start(self, name: str, *arguments: str) -> None:
        """Start torchrun on a machine with an empty home."""
        torchrun = ["torchrun", *arguments, *MEETING, "-m", "--", "smar_model.cli", "pretrain", "--run", self.run.name]
        places = ["--name", name, "--hostname", name, "--network", NETWORK, "--network-alias", name]
        places += ["--volume", f"home-{name}:/var/lib/smar", "--tmpfs", "/tmp", "--read-only"]
        rights = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "2g"]
        values = [part for pair in self.variables.items() for part in ("--env", "=".join(pair))]
        self.podman.run("run", "--detach", "--pull=never", *places, *rights, *values, self.image, *torchrun)
        self.started.append(name)

    def start_two(self, *arguments: str) -> None:
        for name in (FIRST, SECOND):
            self.start(name, *arguments)

    def is_running(self, name: str) -> bool:
        return self.podman.inspect("container", name)["State"]["Status"] == "running"

    def said(self, *names: str) -> str:
        logs = [self.podman.run("logs", name, check=False) for name in names or self.started]
        return "\n".join(log.stdout + log.stderr for log in logs)

    def kill(self, name: str) -> None:
        """At once, as a machine whose power fails; but its system still says to the others that its connections are closed."""
        os.kill(self.podman.inspect("container", name)["State"]["Pid"], signal.SIGKILL)

    def cut(self, name: str) -> None:
        """From the network: nobody is told."""
        self.podman.run("network", "disconnect", NETWORK, name)

    def wait_for_a_checkpoint(self) -> None:
        wait_until(
            lambda: find_checkpoints("pretrain"),
            still_possible=lambda: all(map(self.is_running, self.started)),
            says=self.said,
        )

    def wait_for(self, *names: str) -> None:
        """Until they have ended well, and made what one process makes."""
        wait_until(lambda: not any(map(self.is_running, names)), says=lambda: self.said(*names))
        codes = [self.podman.inspect("container", name)["State"]["ExitCode"] for name in names]
        assert codes == [0] * len(names), self.said(*names)
        assert_same(self.run.output("pretrain"), self.alone)

    def note(self, what: str, began: float) -> None:
        """`began`: the moment of the fault, if there is one."""
        self.found.append(f"| {what} | {time.monotonic() - began:.0f} |")

    def clear(self) -> None:
        """No machine, and nothing trained."""
        for name in self.started:
            self.podman.run("rm", "--force", "--time", "0", "--volumes", name)
            self.podman.run("volume", "rm", "--force", f"home-{name}")
        self.started.clear()
        for artifact in [*find_checkpoints("pretrain"), self.alone]:
            remove_file(manifest_path(artifact.stage, artifact.key))


@pytest.fixture(scope="module")
def store(built: BuiltImages, secrets: Path, logs: Path) -> Iterator[RunningServices]:
    services = read_compose_file({}, secrets=secrets)
    with running_services(built.podman, {"object-store": services["object-store"]}, logs / "training") as running:
        yield running


@pytest.fixture(scope="module")
def prepared(
    store: RunningServices,
    targets: dict[str, str],
    secrets: Path,
    tiny_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machines]:
    """The tiny shop's run, trained by one process of this machine; then all in the store but what that has trained."""
    folder = shutil.copytree(tiny_data, tmp_path_factory.mktemp("machines"), dirs_exist_ok=True)
    variables = {
        "SMAR_STORE": f"s3://{BUCKET}/smar",
        "AWS_ACCESS_KEY_ID": (secrets / "object_store_access_key").read_text(encoding="utf-8"),
        "AWS_SECRET_ACCESS_KEY": (secrets / "object_store_secret_key").read_text(encoding="utf-8"),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        # Dropout falls on chunks, which are the same ones in one process and in two.
        few = {"steps": 4, "batch": 8}
        training = {"adapt_vision": few, "pretrain": STEPS | {"chunk": 4}, "finetune": few}
        training |= {"checkpoint_minutes": 0, "silence_minutes": SILENCE_MINUTES, "threads": 1, "step_threads": 1}
        run = tiny_run(folder / "shop", network={"dropout": 0.1}, training=training)
        run_stages(run, *DATA_STAGES, "train-tokenizer", "adapt-vision", "encode-pictures", "pretrain")
        alone = run.output("pretrain")
        manifest_path("pretrain", alone.key).unlink()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{store.address('smar-object-store-1')}:8333")
        for name, value in variables.items():
            patch.setenv(name, value)
        s3_client(dict(os.environ)).create_bucket(Bucket=BUCKET)
        share_files(f for name in ("lake", "runs") for f in (home() / name).rglob("*") if f.is_file())
        variables |= {"AWS_ENDPOINT_URL": "http://object-store:8333", **REPLACEABLE}
        made = Machines(podman=store.podman, image=targets["training"], run=run, variables=variables, alone=alone)
        yield made
    record(
        "Training on two machines",
        [
            f"Containers of the image `training`, each with a home of its own, the lake in the object store: {STEPS['steps']} steps of pretraining on "
            "the tiny shop, with dropout, a checkpoint after each. In each row curves and weights are those of one process within 1e-4.",
            "",
            "| what | seconds, from the fault on |",
            "| --- | ---: |",
            *made.found,
        ],
        page="containers",
    )


@pytest.fixture
def machines(prepared: Machines) -> Iterator[Machines]:
    prepared.clear()
    yield prepared
    prepared.clear()


def test_two_machines_train_as_one_process(machines: Machines) -> None:
    began = time.monotonic()
    machines.start_two(*BOTH)
    machines.wait_for(FIRST, SECOND)
    machines.note("both from the beginning to the end", began)


def test_a_machine_that_died_is_replaced(machines: Machines) -> None:
    machines.start_two(*BOTH)
    machines.wait_for_a_checkpoint()
    began = time.monotonic()
    machines.kill(SECOND)
    machines.start("machine-3", *BOTH)
    machines.wait_for(FIRST, "machine-3")
    assert "goes on after step" in machines.said()
    machines.note("one killed, a third with an empty home in its place", began)


def test_after_the_meeting_place_died_the_command_again_goes_on(machines: Machines) -> None:
    machines.start_two(*BOTH)
    machines.wait_for_a_checkpoint()
    began = time.monotonic()
    machines.kill(FIRST)
    wait_until(lambda: not machines.is_running(SECOND), says=machines.said)
    for name in (FIRST, SECOND):
        machines.podman.run("rm", name)
        machines.podman.run("volume", "rm", f"home-{name}")
    machines.start_two(*BOTH)
    machines.wait_for(FIRST, SECOND)
    assert "goes on after step" in machines.said()
    machines.note("the meeting place killed, the same command again on two machines with empty homes", began)


def test_a_machine_that_is_cut_off_is_done_without(machines: Machines) -> None:
    machines.start_two(*ONE_OR_BOTH)
    machines.wait_for_a_checkpoint()
    began = time.monotonic()
    machines.cut(SECOND)
    machines.wait_for(FIRST)
    assert "goes on after step" in machines.said(FIRST)
    machines.note(
        f"one cut off the network, the other alone after `training.silence_minutes` ({SILENCE_MINUTES})", began
    )
