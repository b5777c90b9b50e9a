"""An index in parts: each is filled and tuned by whoever holds it, with its own stretch of the vectors and no other.

1. *Plan*, once (`index.py`): an empty index, trained on a sample of all items, and the queries to measure by.
2. *Fill* a part: the plan's index with the part's vectors, and the exact best of these for the queries.
3. *Tune* a part, once all are filled: of the exact best of all items some lie in the part; it gets the cheapest search parameters that find the
   share of those that settings ask for. Where each part finds its share, all find it of the whole.
4. *Gather* (`index.py`): what the parts found is put together and compared with exact search; below the floor nothing is published.

What a step makes is published beside the stage (a checkpoint), under a key of its own that follows from the stage's: each may be done on another
machine, and a step that was killed is done again without the others. The stage itself does the steps that nobody has done.

Steps 2 and 3 keep what they hold in files, of which the kernel has in memory what it has memory for; a part that is being filled is in memory.
Neither imports PyTorch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from smar_model.lake.artifacts import Artifact, checkpoint_stage, find_whole_artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import StageContext
from smar_model.lake.stage_lock import one_at_a_time
from smar_model.retrieval.embedding_rows import RoutedStretch
from smar_model.retrieval.index_building import Vectors, iterate_blocks
from smar_model.retrieval.index_files import Recall, set_parameters
from smar_model.retrieval.index_recall import SAME_SCORE, summarise
from smar_model.retrieval.parted_index import cut_rows
from smar_model.retrieval.search import MEASURED_DEPTH
from smar_model.retrieval.search_parameters import IN_USE, around, search_times, tune_search

EMBEDDINGS = {"index": "embed", "refresh-index": "embed-release"}
"""Stage → whose embeddings it reads."""
PLAN = "plan"
BLOCK = 1 << 14
"""Vectors in memory at a time beside the part that is being filled."""
ASKED_TOGETHER = 64
"""Queries."""
COMPARED_TOGETHER = 1 << 12
"""Vectors."""
PART_FILE = "index.faiss"
SCRATCH = ".scratch"
"""Hidden: no part of what is published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the parts have in common."""

    items: int
    parts: int
    asked: np.ndarray
    """(Q, K, 2D) float32: queries of K heads to measure by."""
    routes: np.ndarray
    """(Q,): the share of S_m."""
    shares: np.ndarray
    """(B,) of all queries, in each bucket of routes."""
    served: np.ndarray
    """(n, 2D): the first of `asked` as the exported query tower has them, (0, 2D) where it is not compared with the network."""
    made: dict[str, Any]
    """Fields of `IndexDescription` that are known by now."""
    difference: float
    """Largest one of the exported query tower from the network."""
    kept: tuple[str, ...]
    """Search parameters of each part of the release that is refreshed; empty where they are to be found anew."""

    @property
    def cuts(self) -> list[tuple[int, int]]:
        return cut_rows(self.items, self.parts)

    @property
    def flat(self) -> np.ndarray:
        """(Q·K, 2D)"""
        return np.ascontiguousarray(self.asked.reshape(-1, self.asked.shape[-1]), dtype=np.float32)

    def write(self, folder: Path) -> None:
        for name in ("asked", "routes", "shares", "served"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        about = {name: getattr(self, name) for name in ("items", "parts", "made", "difference", "kept")}
        (folder / "plan.json").write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def read(cls, artifact: Artifact) -> Plan:
        about = json.loads(artifact.file("plan.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(artifact.file(f"{name}.npy")) for name in ("asked", "routes", "shares", "served")}
        return cls(**about | {"kept": tuple(about["kept"])}, **arrays)


def is_parted(context: StageContext) -> bool:
    """Whether settings cut the index, and the catalogue is large enough to be cut."""
    items = int(context.input(EMBEDDINGS[context.stage.name]).metrics["items"])
    return len(cut_rows(items, context.settings.index.parts)) > 1


def do_step(context: StageContext, name: str, work: Callable[[Path], dict[str, Any]]) -> Artifact:
    """What a step has published for this very output of the stage; where nobody has done it yet, it is done.

    Args:
        work: writes into the folder that it is given, and returns metrics.
    """
    stage, key = checkpoint_stage(context.stage.name), digest_json([context.key, name])
    with one_at_a_time(f"{context.stage.name}-{name}", context.run):
        if done := find_whole_artifact(stage, key):
            return done
        attempt = Attempt(stage, key)
        try:
            metrics = work(attempt.folder)
            shutil.rmtree(attempt.folder / SCRATCH, ignore_errors=True)
            about = {"of": context.key, "step": name}
            return attempt.publish(metrics=about | metrics, inputs={}, settings={})
        except BaseException:
            attempt.discard()
            raise


def find_step(context: StageContext, name: str) -> Artifact | None:
    return find_whole_artifact(checkpoint_stage(context.stage.name), digest_json([context.key, name]))


def filled(part: int) -> str:
    return f"fill-{part}"


def tuned(part: int) -> str:
    return f"tune-{part}"


def fill_part(folder: Path, embed: Artifact, planned: Artifact, part: int) -> dict[str, Any]:
    """Write `index.faiss` of a part, and for the plan's queries, and the served ones after them, the exact best of its items:
    `best_scores.npy`, `best_rows.npy` (n, depth), rows of the whole catalogue."""
    plan = Plan.read(planned)
    start, stop = plan.cuts[part]
    vectors = RoutedStretch(embed, start, stop, _scratch(folder))
    index = faiss.read_index(str(planned.file("trained.faiss")))
    asked = np.concatenate([plan.flat, plan.served]).astype(np.float32)
    depth = min(MEASURED_DEPTH, stop - start)
    best = faiss.ResultHeap(len(asked), depth, keep_max=True)
    for first, block in iterate_blocks(vectors, together=BLOCK):
        index.add(block)
        scores, rows = faiss.knn(asked, block, min(depth, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + first + start)
        vectors.forget()
    best.finalize()
    faiss.write_index(index, str(folder / PART_FILE))
    np.save(folder / "best_scores.npy", best.D)
    np.save(folder / "best_rows.npy", best.I)
    return {"part": part, "items": stop - start}


def _scratch(folder: Path) -> Path:
    (folder / SCRATCH).mkdir()
    return folder / SCRATCH


def merge_best(plan: Plan, fills: Sequence[Artifact]) -> tuple[np.ndarray, np.ndarray]:
    """Of what `fill_part` found in each part the best of all: scores and rows (n, depth), best first."""
    best = faiss.ResultHeap(len(plan.flat) + len(plan.served), min(MEASURED_DEPTH, plan.items), keep_max=True)
    for fill in fills:
        best.add_result(np.load(fill.file("best_scores.npy")), np.load(fill.file("best_rows.npy")))
    best.finalize()
    return best.D, best.I


@dataclass(frozen=True, slots=True, kw_only=True)
class PartQueries:
    """The plan's queries, and which of the best of all items lie in a part."""

    plan: Plan
    start: int
    """First row of the part."""
    scores: np.ndarray
    rows: np.ndarray
    """(Q·K, depth) the best of all."""

    def find(self, index: faiss.Index, vectors: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the part finds, (Q·K, depth): rows of the whole catalogue, its own scores of them, and whether each is as good as the best of all."""
        flat, depth = self.plan.flat, self.rows.shape[1]
        # What a search holds of its candidates grows with the queries that are asked together.
        found = [
            index.search(flat[first : first + ASKED_TOGETHER], depth) for first in range(0, len(flat), ASKED_TOGETHER)
        ]
        scores, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        everywhere = np.where(rows < 0, rows, rows + self.start)
        hit = _same_rows(everywhere, self.rows)
        query, place = np.nonzero(~hit & (rows >= 0))
        # In the order of the file, whose pages are given back after each stretch: the kernel brings neighbours with each.
        order = np.argsort(rows[query, place], kind="stable")
        query, place = query[order], place[order]
        for first in range(0, len(query), COMPARED_TOGETHER):
            some = slice(first, first + COMPARED_TOGETHER)
            exact = np.einsum("nd,nd->n", vectors[rows[query[some], place[some]]], flat[query[some]])
            hit[query[some], place[some]] = exact >= self.scores[query[some], -1] - SAME_SCORE
            if isinstance(vectors, RoutedStretch):
                vectors.forget()
        return everywhere, scores, hit

    def measure(self, index: faiss.Index, vectors: Vectors) -> Recall:
        """Of the best that lie in the part, the share that it finds."""
        inside = ((self.rows >= self.start) & (self.rows < self.start + len(vectors))).sum(1)
        _, _, hit = self.find(index, vectors)
        queries = len(self.plan.routes)
        wanted = inside.reshape(queries, -1).sum(1).astype(float)
        # Items that score as the last of the best are as good as it, not better.
        found = np.minimum(hit.sum(1), inside).reshape(queries, -1).sum(1).astype(float)
        if not wanted.any():  # nothing to find here: any search parameters are enough
            found, wanted = np.ones(queries), np.ones(queries)
        return summarise(found, wanted, self.plan.routes, self.plan.shares, depth=self.rows.shape[1])


def tune_part(
    folder: Path, embed: Artifact, planned: Artifact, fills: Sequence[Artifact], part: int, *, floor: float
) -> dict[str, Any]:
    """Write `tuned.json`, the search parameters of a part and such around them, and for each of these `found-N.npz`, what the part finds with them."""
    plan = Plan.read(planned)
    start, stop = plan.cuts[part]
    vectors = RoutedStretch(embed, start, stop, _scratch(folder))
    index = faiss.read_index(str(fills[part].file(PART_FILE)), faiss.IO_FLAG_MMAP_IFC)
    scores, rows = merge_best(plan, fills)
    queries = PartQueries(plan=plan, start=start, scores=scores[: len(plan.flat)], rows=rows[: len(plan.flat)])
    chosen = plan.kept[part] if plan.kept else ""
    set_parameters(index, chosen)
    if not plan.kept or queries.measure(index, vectors).worst < floor:
        chosen = tune_search(index, vectors, queries, floor)
    tried, times = around(index, chosen), []
    for number, parameters in enumerate(tried):
        set_parameters(index, parameters)
        found, their_scores, hit = queries.find(index, vectors)
        np.savez(folder / f"found-{number}.npz", rows=found.astype(np.int64), scores=their_scores, hit=hit)
        times.append(search_times(index, plan.asked).tolist())
    (folder / "tuned.json").write_text(json.dumps(tried), encoding="utf-8")
    # Times belong to the machine, not to the part.
    return {"part": part, "search_parameters": chosen, "milliseconds": times}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What all parts find together, with one choice of search parameters for each."""

    parameters: tuple[str, ...]
    recall: Recall
    milliseconds: np.ndarray
    """(n,) of each query timed, over all parts."""


def gather(plan: Plan, fills: Sequence[Artifact], tunes: Sequence[Artifact]) -> tuple[Gathered, list[Gathered]]:
    """With the search parameters in use, and with each choice around them."""
    _, rows = merge_best(plan, fills)
    rows = rows[: len(plan.flat)]
    tried = [json.loads(tune.file("tuned.json").read_text(encoding="utf-8")) for tune in tunes]
    steps = max(map(len, tried))
    points = []
    for step in range(steps):
        # A part without such a choice is asked as it is.
        numbers = [step if len(part) > 1 else 0 for part in tried]
        found = [np.load(tune.file(f"found-{number}.npz")) for tune, number in zip(tunes, numbers, strict=True)]
        scores = np.concatenate([part["scores"] for part in found], axis=1)
        hit = np.concatenate([part["hit"] & (part["rows"] >= 0) for part in found], axis=1)
        scores = np.where(np.concatenate([part["rows"] for part in found], axis=1) < 0, -np.inf, scores)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : rows.shape[1]]
        share = np.take_along_axis(hit, best, axis=1).sum(1) / rows.shape[1]
        share = share.reshape(len(plan.routes), -1).mean(1)
        taken = [np.array(tune.metrics["milliseconds"][number]) for tune, number in zip(tunes, numbers, strict=True)]
        points.append(
            Gathered(
                parameters=tuple(part[number] for part, number in zip(tried, numbers, strict=True)),
                recall=summarise(share, np.ones_like(share), plan.routes, plan.shares, depth=rows.shape[1]),
                milliseconds=np.sum(taken, axis=0),
            )
        )
    return points[IN_USE if steps > 1 else 0], points


def kept_best(plan: Plan, fills: Sequence[Artifact]) -> float:
    """Share of the best items that stay the same when the exported query tower asks."""
    _, rows = merge_best(plan, fills)
    served = rows[len(plan.flat) :]
    return float(_same_rows(served, rows[: len(served)]).mean())


def _same_rows(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each of the rows found, (n, m), is among those wanted of the same query, (n, k)."""
    together = max(int(found.max(initial=0)), int(wanted.max(initial=0))) + 1
    base = np.arange(len(found))[:, None] * together
    return np.isin(base + found, base + np.where(wanted < 0, 0, wanted)) & (found >= 0)
