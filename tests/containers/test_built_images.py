"""Every image of docker/Dockerfile is built and run."""

from __future__ import annotations

import json
import os

import pytest

from tests.containers.images import BuiltImages
from tests.docker.test_images import RUN
from tests.services.results import record

SAYS = {
    "airflow": (["airflow", "version"], "3.3.2"),
    "spark": (["spark-submit", "--version"], "version 4.1.3"),
    "airflow-spark": (
        ["bash", "-c", "airflow version && $SMAR_PYTHON -c 'import jobs.prepare_items' && java -version 2>&1"],
        'openjdk version "17',
    ),
    "training": (["python", "-m", "smar_model.cli", "--help"], "retrain"),
    "airflow-training": (["bash", "-c", "airflow version && $SMAR_PYTHON -m smar_model.cli --help"], "promote"),
    "mlflow": (["mlflow", "--version"], "3.17.2"),
    "search": (["python", "-m", "smar_model.cli", "serve", "--help"], "--port"),
}
"""Image → a command, and what it prints."""
SEARCH_LIMIT = 10**9


@pytest.mark.parametrize("target", RUN)
def test_it_is_built_and_runs_without_rights(built: BuiltImages, targets: dict[str, str], target: str) -> None:
    image = targets[target]
    assert built.podman.inspect("image", image)["Config"]["User"] == "1000"
    command, expected = SAYS[target]
    run = [
        "run",
        "--rm",
        "--pull=never",
        "--no-healthcheck",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
    ]
    done = built.podman.run(*run, image, *command)
    assert expected in done.stdout + done.stderr
    assert built.podman.output(*run, "--entrypoint", '["id", "-u"]', image) == "1000"


def test_no_image_holds_a_secret_or_this_checkouts_history(built: BuiltImages, targets: dict[str, str]) -> None:
    code = "import json, os; print(json.dumps([f for f in ('.git', '.venv', 'docker/secrets', 'docker/.env', 'var') if os.path.exists(f)]))"
    for image in targets.values():
        run = ["run", "--rm", "--pull=never", "--no-healthcheck", "--entrypoint", json.dumps(["python3", "-c", code])]
        assert json.loads(built.podman.output(*run, image)) == []


def test_sizes_are_written_down(built: BuiltImages, targets: dict[str, str]) -> None:
    sizes = {target: built.podman.size(image) for target, image in targets.items()}
    rows = [
        f"| `{target}` | {sizes[target] / 10**9:.2f} | {built.seconds[image]:.0f} |"
        for target, image in targets.items()
    ]
    search = f"{sizes['search'] / 10**9:.2f} GB, {'within' if sizes['search'] <= SEARCH_LIMIT else 'above'} the 1 GB aimed at"
    record(
        "The images",
        [
            "Built by Podman, on a base of Debian's own Python, PyTorch as the lock has it (CUDA). Sizes with all layers, those that images share "
            "included; the first image that needs an environment is the one whose seconds it counts in.",
            "",
            "| image | GB | seconds |",
            "| --- | ---: | ---: |",
            *rows,
            "",
            f"The search image: {search}. All images, with the base and those in the place of other people's: {built.seconds['all']:.0f} seconds. "
            f"Processes that wanted a core meanwhile: {os.getloadavg()[2]:.0f}.",
        ],
        page="containers",
    )
