"""Embedding on two machines, each with a disk of its own, the lake in an object store: as on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smar_model.lake.artifacts import Artifact, checkpoint_stage
from smar_model.lake.runs import load_run
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.settings import REPOSITORY
from tests.evaluation.published_run import publish_run
from tests.patience import PATIENCE_SECONDS

SMALL_SHARDS = """
from smar_model.retrieval import embed_shards
embed_shards.SHARD = 5
from smar_model.cli import main
main()
"""


def embed_on(homes: list[Path], run: str, script: Path) -> None:
    """Run the stage on machines, by their home folders, that meet over torchrun."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    meeting = [f"--nnodes={len(homes)}", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=embed", place]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *meeting, "--", str(script), "embed", "--run", run],
            env=os.environ | {"SMAR_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for home in homes
    ]
    said = [node.communicate(timeout=PATIENCE_SECONDS)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * len(homes), said


def shards_made_on(home: Path) -> int:
    return len(list((home / "lake" / checkpoint_stage("embed") / "attempts").glob("*/.owner.json")))


def test_two_machines_embed_as_one(shared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [tmp_path / name for name in ("one", "other", "alone")]
    monkeypatch.setenv("SMAR_HOME", str(homes[0]))
    made = publish_run(tmp_path / "shop", with_truth=False, variant="default")
    name = made.run.name
    script = tmp_path / "embed_small_shards.py"
    script.write_text(SMALL_SHARDS)
    embed_on(homes[:2], name, script)
    together = load_run(name).output("embed")
    assert sorted(map(shards_made_on, homes[:2])) == [2, 3], "of 24 items, five at a time"
    assert together.metrics["items_embedded"] == 24

    monkeypatch.delenv("SMAR_STORE")
    monkeypatch.setenv("SMAR_HOME", str(homes[2]))
    publish_run(tmp_path / "shop-alone", with_truth=False, variant="default")
    embed_on(homes[2:], name, script)
    alone: Artifact = load_run(name).output("embed")
    found = [load_embeddings(artifact.place) for artifact in (together, alone)]
    assert found[0].item_ids == found[1].item_ids
    for kind in ("text", "multimodal"):
        np.testing.assert_allclose(getattr(found[0], kind), getattr(found[1], kind), atol=1e-6)
