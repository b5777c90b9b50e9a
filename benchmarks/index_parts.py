"""Memory of the workers that fill and tune the parts of an index, each in a process of its own: its peak against its share.

    python benchmarks/index_parts.py --vectors FILE.npy --queries FILE.npz --folder EMPTY [--parts 4] [--only 0]

Vectors (N, 2D) as `benchmarks/search.py` writes them, and its `base.npz`. The share of a part: its vectors as embed publishes them, and its
file of the index. What a process holds before it opens a vector (Python, FAISS, Arrow) is the base, measured apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from smar_model.lake.artifacts import Artifact, find_artifact
from smar_model.lake.publishing import Attempt
from smar_model.retrieval.embedding_rows import write_row_digests
from smar_model.retrieval.index_building import choose_factory, train_index
from smar_model.retrieval.index_parts import Plan, fill_part, gather, tune_part
from smar_model.retrieval.index_recall import BUCKETS, fill_buckets
from smar_model.retrieval.item_embeddings import create_embeddings

FLOOR = 0.99
QUERIES = 120
"""Of each fifth of the shares of S_m."""


def published(stage: str, key: str, write: Callable[[Path], dict[str, Any] | None]) -> Artifact:
    if found := find_artifact(stage, key):
        return found
    attempt = Attempt(stage, key)
    metrics = write(attempt.folder) or {}
    return attempt.publish(metrics=metrics, inputs={}, settings={})


def publish_embeddings(vectors: np.ndarray, folder: Path) -> None:
    (folder / "embeddings").mkdir()
    half, block = vectors.shape[1] // 2, 1 << 16
    ids = np.array([b"%09d" % n for n in range(len(vectors))])
    out = create_embeddings(folder / "embeddings", ids, np.zeros((len(vectors), 2), np.uint64), dimension=half, kinds=2)
    for start in range(0, len(vectors), block):
        rows = vectors[start : start + block]
        out[0][start : start + block] = rows[:, :half]
        out[1][start : start + block] = rows[:, half:] + rows[:, :half]
    for array in out:
        array.flush()
    write_row_digests(folder / "embeddings", out)


def publish_plan(plan: Plan, trained: faiss.Index, folder: Path) -> None:
    plan.write(folder)
    faiss.write_index(trained, str(folder / "trained.faiss"))


def draw_plan(vectors: np.ndarray, queries: Path, parts: int, folder: Path) -> None:
    base = np.load(queries)
    asked, routes = base["asked"][::2], base["routes"][::2]
    place = np.digitize(routes, BUCKETS)
    rows = np.sort(np.concatenate([np.flatnonzero(place == b)[:QUERIES] for b in range(len(BUCKETS) + 1)]))
    asked, filled = fill_buckets(asked[rows][:, None].astype(np.float32), routes[rows])
    plan = Plan(
        items=len(vectors),
        parts=parts,
        asked=asked,
        routes=filled,
        shares=np.bincount(place, minlength=len(BUCKETS) + 1) / len(place),
        served=np.empty((0, vectors.shape[1]), np.float32),
        made={},
        difference=0.0,
        kept=(),
    )
    publish_plan(plan, train_index(vectors, choose_factory(len(vectors), vectors.shape[1], FLOOR)), folder)


def in_own_process(work: Callable[[], object]) -> dict[str, float]:
    """Seconds, and the most memory (MB) that a forked process had beside what it began with."""
    here, there = multiprocessing.Pipe()

    def run(answer: Connection) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of this process begins here
        before, began, cpu = resident(), time.monotonic(), time.process_time()
        work()
        used = time.process_time() - cpu
        answer.send({"base": before, "peak": peak(), "seconds": time.monotonic() - began, "cpu": used})

    process = multiprocessing.get_context("fork").Process(target=run, args=(there,))
    process.start()
    there.close()
    found: dict[str, float] = here.recv()
    process.join()
    return found


def resident() -> float:
    return _status("VmRSS")


def peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--only", type=int, nargs="*", default=None)
    options = parser.parse_args()
    os.environ["SMAR_HOME"] = str(options.folder)
    os.environ.pop("SMAR_STORE", None)
    vectors = np.load(options.vectors, mmap_mode="r")
    key = f"{len(vectors)}"

    def prepare() -> None:
        published("embed", key, lambda folder: publish_embeddings(vectors, folder))
        published(
            "plan",
            f"{key}-{options.parts}",
            lambda folder: draw_plan(vectors, options.queries, options.parts, folder),
        )

    in_own_process(prepare)
    embed, planned = find_artifact("embed", key), find_artifact("plan", f"{key}-{options.parts}")
    assert embed and planned
    plan = Plan.read(planned)
    numbers = range(len(plan.cuts))
    rows: dict[tuple[str, int], dict[str, float]] = {}

    def filled(part: int) -> Artifact:
        return published(
            "fill", f"{key}-{options.parts}-{part}", lambda folder: fill_part(folder, embed, planned, part)
        )

    def tuned(part: int, fills: list[Artifact]) -> Artifact:
        return published(
            "tune",
            f"{key}-{options.parts}-{part}",
            lambda folder: tune_part(folder, embed, planned, fills, part, floor=FLOOR),
        )

    for part in numbers:
        rows["fill", part] = in_own_process(lambda part=part: filled(part))  # type: ignore[misc]
    fills = [filled(part) for part in numbers]
    for part in numbers if options.only is None else options.only:
        rows["tune", part] = in_own_process(lambda part=part: tuned(part, fills))  # type: ignore[misc]
    print(f"{resource.getpagesize()}-byte pages, {os.cpu_count()} cores, load {os.getloadavg()[1]:.0f}")
    print(
        "| step | part | items | share, MB | peak over the base, MB | over the share | base, MB | seconds | CPU seconds |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (step, part), found in rows.items():
        start, stop = plan.cuts[part]
        index = fills[part].file("index.faiss").stat().st_size
        share = ((stop - start) * vectors.shape[1] * 4 + index) / 2**20
        over = found["peak"] - found["base"]
        print(
            f"| {step} | {part} | {stop - start:,} | {share:.0f} | {over:.0f} | {over / share - 1:+.0%} | {found['base']:.0f} | "
            f"{found['seconds']:.1f} | {found['cpu']:.1f} |"
        )
    if options.only is None:
        used, _ = gather(plan, fills, [tuned(part, fills) for part in numbers])
        print(json.dumps({"parameters": used.parameters, "overall": used.recall.overall, "worst": used.recall.worst}))


if __name__ == "__main__":
    main()
