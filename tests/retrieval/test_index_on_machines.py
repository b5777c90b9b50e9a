"""Parts of an index filled and tuned on machines of their own, the lake in an object store: as on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, checkpoint_stage
from smar_model.lake.object_store import ObjectStore
from smar_model.lake.runs import load_run
from smar_model.lake.stage import run_stage
from smar_model.retrieval import embedding_rows, index_steps
from smar_model.stages import STAGES
from tests.evaluation.published_run import publish_run

PARTS = 3
INDEX = STAGES["index"]


def embedded_run(root: Path) -> str:
    run = publish_run(root, with_truth=False, variant="default", index={"parts": PARTS}).run
    run_stage(STAGES["embed"], run)
    return run.name


def test_each_machine_fetches_its_own_rows_and_all_make_the_index_of_one(
    shared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_rows, "ROWS_TOGETHER", 8)
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "planner"))
    name = embedded_run(tmp_path / "shop")
    with pytest.raises(InputError, match=f"not planned; run `smar plan-index --run {name}`"):
        index_steps.fill(INDEX, load_run(name), 0)
    assert index_steps.plan(INDEX, load_run(name)) == PARTS

    fetched: list[tuple[str, int]] = []
    read_range = ObjectStore.read_range

    def noted(self: ObjectStore, path: Path, start: int, stop: int) -> bytes | None:
        fetched.append((path.name, stop - start))
        return read_range(self, path, start, stop)

    monkeypatch.setattr(ObjectStore, "read_range", noted)
    dimension = int(load_run(name).output("embed").metrics["dimension"])
    for step in (index_steps.fill, index_steps.tune):
        for part in range(PARTS):
            home = tmp_path / f"machine-{part}"
            monkeypatch.setenv("SMAR_HOME", str(home))
            fetched.clear()
            if step is index_steps.fill and part == 1:
                with pytest.raises(InputError, match="part 1 is not filled"):
                    index_steps.tune(INDEX, load_run(name), part)
            step(INDEX, load_run(name), part)
            arrays = {file.name for file in (home / "lake" / "embed").rglob("*.npy")}
            assert arrays == {"row_digests.npy"}, "the vectors are not fetched whole"
            rows = [size for _, size in fetched if size == 8 * dimension * 4]
            assert len(rows) == len({kind for kind, _ in fetched}), "one stretch of eight rows of each array"
    with pytest.raises(InputError, match=f"has {PARTS} parts, from 0, so no part {PARTS}"):
        index_steps.fill(INDEX, load_run(name), PARTS)

    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "planner"))
    made_before = steps_made(tmp_path / "planner")
    together = run_stage(INDEX, load_run(name))
    assert steps_made(tmp_path / "planner") == made_before, "the stage takes what the machines have made"
    assert "finished" in index_steps.fill(INDEX, load_run(name), 0), "done twice it costs nothing"

    monkeypatch.delenv("SMAR_STORE")
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "alone"))
    alone = run_stage(INDEX, load_run(embedded_run(tmp_path / "shop-alone")))
    assert content(together) == content(alone)


def steps_made(home: Path) -> int:
    return len(list((home / "lake" / checkpoint_stage("index") / "attempts").glob("*/.owner.json")))


def content(index: Artifact) -> dict[str, Any]:
    return {name: digest for name, digest in index.manifest["content"].items()}


def test_rows_that_have_changed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "var"))
    run = load_run(embedded_run(tmp_path / "shop"))
    embed = run.output("embed")
    whole = embedding_rows.RoutedStretch(embed, 0, 24, tmp_path)
    some = embedding_rows.RoutedStretch(embed, 5, 17, tmp_path)
    np.testing.assert_array_equal(some[:], whole[5:17])
    some.forget()
    np.testing.assert_array_equal(some[np.array([3, 0])], whole[np.array([8, 5])])
    text = np.load(embed.place / "embeddings" / "text.npy", mmap_mode="r+")
    text[7, 0] += 1
    text.flush()
    with pytest.raises(InputError, match=r"text\.npy: missing or damaged \(rows from 0 are not what was published\)"):
        embedding_rows.RoutedStretch(embed, 5, 17, tmp_path)
