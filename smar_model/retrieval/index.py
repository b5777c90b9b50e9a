"""Stages index and refresh-index: a FAISS index routed by P(q), its recall measured against exact search before it is published
(`index_files.py`).

1. Choose a factory string by the size of the catalogue and the recall asked for: exact search while it is quick; above, inverted
   lists of 4-bit product quantiser codes (FAISS's fast scan), the best of which are scored again in half precision.
2. Train it on a sample, add the items block by block: no more than a block of vectors is in memory beside the index. With `index.parts`
   one part after the other is filled and written, and all are asked from their files: what candidates are scored again by stays on disk, and the
   kernel keeps of it what it has memory for.
3. Search with real queries, as many of each share of S_m (where few have it, others are asked with it), and compare with exact search: the cheapest search parameters whose
   recall reaches the floor with a margin in the worst bucket are kept. Below the floor nothing is published.

A refresh of the same model's index takes its trained parts and search parameters and skips training. FAISS removes items by reading
all lists, so it is filled anew, and the result is what a full build with those trained parts would be.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext
from smar_model.network.model import load_model, model_digest
from smar_model.retrieval.embed import ItemEmbeddings, load_embeddings
from smar_model.retrieval.index_files import open_index, read_recall_queries, write_index
from smar_model.retrieval.parted_index import cut_rows
from smar_model.retrieval.query_tower import LEAST_KEPT, TOLERANCE, TOWER_FILE, export_query_tower
from smar_model.retrieval.search import MEASURED_DEPTH, QueryEncoder
from smar_model.settings import Index

_FAISS: Any = faiss
"""Whose type stubs know little of what SWIG makes."""
EXACT_LIMIT = 50_000
"""Up to here exact search answers one query in about 5 ms on one core."""
HIGHEST_APPROXIMATE = 0.999
"""A floor above this is for exact search alone."""
POINTS_A_LIST = 64
"""Training vectors for each list; FAISS asks for 39 and uses at most 256."""
LEAST_SAMPLE = 1 << 16
BLOCK = 1 << 16
"""Vectors in memory at a time."""
BUCKETS = (0.2, 0.4, 0.6, 0.8)
"""Bounds of the shares of S_m between which recall is measured apart."""
QUERIES_READ = 10_000
QUERIES_A_BUCKET = 200
ENOUGH_QUERIES = 50
"""A bucket with fewer does not count by itself."""
SAME_SCORE = 1e-6
MARGIN = 0.25
"""Share of what the floor leaves to 1 by which search parameters must be better; and by no less than a standard error, as other
queries come."""
K_FACTORS = (4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
"""Candidates scored again for each result."""
TIMED_QUERIES = 200
SPEEDS = (1 / 16, 1 / 4, 1 / 2, 2)
"""Of the lists that are looked at in use, for the curve of recall against speed."""
RANDOM_READ = 6
"""What a byte of a candidate scored again costs, in bytes of scanned lists: measured at a million items."""


class RoutedItems:
    """[S_t ; S_m − S_t] of items, (N, 2D) float32, made of embeddings on disk for the rows that are asked for."""

    def __init__(self, embeddings: ItemEmbeddings) -> None:
        self.embeddings = embeddings
        self.shape = (len(embeddings.item_ids), 2 * embeddings.text.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        text, multimodal = np.asarray(self.embeddings.text[rows]), np.asarray(self.embeddings.multimodal[rows])
        return np.hstack([text, multimodal - text])


Vectors = np.ndarray | RoutedItems


def choose_factory(items: int, dimension: int, minimum_recall: float) -> str:
    """FAISS factory string for so many vectors of 2D dimensions, of which at least this share of the best must be found."""
    if items <= EXACT_LIMIT or minimum_recall > HIGHEST_APPROXIMATE:
        return "Flat"
    lists = 1 << round(math.log2(math.sqrt(items)))
    # Two dimensions a code: codes of four lose too many of the best, however many are scored again (benchmarks/search.md).
    return f"IVF{lists},PQ{dimension // 2}x4fs,Refine(SQfp16)"


def train_index(vectors: Vectors, factory: str) -> faiss.Index:
    """An empty inner-product index over (N, 2D) vectors, trained on a sample of them.

    Raises:
        InputError: FAISS does not know the factory string, or has too few vectors to train it.
    """
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            lists = faiss.try_extract_index_ivf(index)
            sample = min(len(vectors), max(LEAST_SAMPLE, POINTS_A_LIST * lists.nlist if lists else 0))
            index.train(vectors[np.sort(np.random.default_rng(0).choice(len(vectors), sample, replace=False))])
    except RuntimeError as error:
        raise InputError(f"index.factory {factory!r} for {len(vectors)} items: {_first_line(error)}") from error
    return index


def fill_index(index: faiss.Index, vectors: Vectors, rows: tuple[int, int] | None = None) -> faiss.Index:
    """Add vectors to a trained index, in place of those that it holds.

    Args:
        rows: the first and the one after the last; None: all.
    """
    index.reset()
    for _, block in _blocks(vectors, rows):
        index.add(block)
    return index


def build_index(vectors: Vectors, factory: str) -> faiss.Index:
    """Train and fill; search parameters stay the library's (`tune_search`).

    Raises:
        InputError: as `train_index`.
    """
    return fill_index(train_index(vectors, factory), vectors)


def build_parts(index: faiss.Index, vectors: Vectors, parts: int, scratch: Path) -> faiss.Index:
    """Fill a trained index; where there are several parts, each in turn, and put it on disk.

    Returns:
        The index, or all parts as one `IndexShards`, memory-mapped: each is asked for as many as all are, and the best of those are the best,
        as `PartedIndex` has it.
    """
    cuts = cut_rows(len(vectors), parts)
    if len(cuts) == 1:
        return fill_index(index, vectors)
    # One after the other, each by all threads: one query's time is then what its parts take together.
    whole = _FAISS.IndexShards(index.d, False, True)
    for number, rows in enumerate(cuts):
        file = str(scratch / f"{number}.faiss")
        faiss.write_index(fill_index(index, vectors, rows), file)
        whole.add_shard(faiss.read_index(file, faiss.IO_FLAG_MMAP_IFC))
    index.reset()
    return whole


def parts_of(index: faiss.Index) -> list[faiss.Index]:
    """Of `build_parts`: the parts, or the only one. They live no longer than the index."""
    if not isinstance(index, _FAISS.IndexShards):
        return [index]
    return [faiss.downcast_index(index.at(number)) for number in range(index.count())]


def merge_indexes(parts: Sequence[faiss.Index]) -> faiss.Index:
    """Join indexes of one training that hold one stretch of rows after the other: into the first, which is returned; the others are
    empty after."""
    first, *others = (faiss.downcast_index(part) for part in parts)
    for other in others:
        if isinstance(first, faiss.IndexRefine):  # the library merges what it consists of, not itself
            for name in ("base_index", "refine_index"):
                merge_indexes([getattr(first, name), getattr(other, name)])
            first.ntotal, other.ntotal = first.base_index.ntotal, 0
        else:
            # Inverted lists keep row numbers, which go on after those of the first; a flat index has none.
            shift = first.ntotal if isinstance(first, faiss.IndexIVF) else 0
            first.merge_from(other, shift)
    return first


def _blocks(vectors: Vectors, rows: tuple[int, int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    first, stop = rows or (0, len(vectors))
    for start in range(first, stop, BLOCK):
        yield start, np.ascontiguousarray(vectors[start : min(start + BLOCK, stop)], dtype=np.float32)


def exact_search(vectors: Vectors, asked: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of all vectors for queries (Q, 2D): scores and rows (Q, depth), best first."""
    depth = min(depth, len(vectors))
    best = faiss.ResultHeap(len(asked), depth, keep_max=True)
    for start, block in _blocks(vectors):
        scores, rows = faiss.knn(asked, block, min(depth, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + start)
    best.finalize()
    return best.D, best.I


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQueries:
    """Queries to measure an index by, and what exact search answers."""

    asked: np.ndarray
    """(Q, K, 2D) float32, of K heads."""
    routes: np.ndarray
    """(Q,): the share of S_m."""
    shares: np.ndarray
    """(B,) of all queries, in each bucket of routes."""
    scores: np.ndarray
    rows: np.ndarray
    """(Q·K, depth), best first."""

    def found(self, index: faiss.Index, vectors: Vectors) -> np.ndarray:
        """Share of each query's best that the index finds, (Q,). An item that scores as the last of the best is as good."""
        asked = self.asked.reshape(len(self.rows), -1)
        _, rows = index.search(asked, self.rows.shape[1])
        hit = np.stack([np.isin(f, wanted) for f, wanted in zip(rows, self.rows, strict=True)])
        query, place = np.nonzero(~hit & (rows >= 0))
        for start in range(0, len(query), BLOCK):
            part = slice(start, start + BLOCK)
            scores = np.einsum("nd,nd->n", vectors[rows[query[part], place[part]]], asked[query[part]])
            hit[query[part], place[part]] = scores >= self.scores[query[part], -1] - SAME_SCORE
        return hit.reshape(len(self.routes), -1).mean(1)

    def by_bucket(self, found: np.ndarray) -> list[dict[str, float]]:
        """Figures of each bucket that has a query: bounds, queries, share of all queries, recall and its standard error."""
        place, bounds = np.digitize(self.routes, BUCKETS), (0.0, *BUCKETS, 1.0)
        return [
            {
                "from": bounds[b],
                "to": bounds[b + 1],
                "queries": int((place == b).sum()),
                "share": float(self.shares[b]),
                "recall": float(found[place == b].mean()),
                "error": float(found[place == b].std() / math.sqrt((place == b).sum())),
            }
            for b in range(len(bounds) - 1)
            if (place == b).any()
        ]

    def measure(self, index: faiss.Index, vectors: Vectors) -> dict[str, Any]:
        """Recall over all queries as they come, in the worst bucket with enough of them (`sure`: less its standard error), and in every
        bucket."""
        buckets = self.by_bucket(self.found(index, vectors))
        overall = sum(b["share"] * b["recall"] for b in buckets) / sum(b["share"] for b in buckets)
        counted = [b for b in buckets if b["queries"] >= ENOUGH_QUERIES]
        worst = min([overall, *(b["recall"] for b in counted)])
        sure = min([overall, *(b["recall"] - b["error"] for b in counted)])
        return {"depth": self.rows.shape[1], "overall": overall, "worst": worst, "sure": sure, "buckets": buckets}


def draw_queries(encoder: QueryEncoder, queries: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Of distinct queries up to QUERIES_A_BUCKET from each bucket, and `asked`, `routes` and `shares` of RecallQueries.

    What `fill_buckets` adds comes after those of the texts.
    """
    random = np.random.default_rng(0)
    texts = [queries[i] for i in np.sort(random.permutation(len(queries))[:QUERIES_READ])]
    asked, routes, _ = encoder.encode(texts)
    place = np.digitize(routes, BUCKETS)
    counts = np.bincount(place, minlength=len(BUCKETS) + 1)
    chosen = [random.permutation(np.flatnonzero(place == b))[:QUERIES_A_BUCKET] for b in range(len(counts))]
    rows = np.sort(np.concatenate(chosen))
    asked, filled = fill_buckets(asked.reshape(len(texts), encoder.heads, -1)[rows], routes[rows])
    return [texts[row] for row in rows], asked, filled, counts / len(texts)


def fill_buckets(asked: np.ndarray, routes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries (Q, K, 2D) and their shares of S_m (Q,), and after them further ones: in a bucket that has some, but fewer than
    QUERIES_A_BUCKET, others of the queries are asked with a share of this bucket.

    A few dozen queries say too little about the worst of the next thousand, which are found too rarely.
    """
    random, bounds = np.random.default_rng(1), (0.0, *BUCKETS, 1.0)
    counts = np.bincount(np.digitize(routes, BUCKETS), minlength=len(BUCKETS) + 1)
    every, shares = [asked], [routes]
    for bucket in np.flatnonzero((counts > 0) & (counts < QUERIES_A_BUCKET)):
        others = random.integers(0, len(asked), QUERIES_A_BUCKET - counts[bucket])
        share = random.uniform(bounds[bucket], bounds[bucket + 1], len(others)).astype(routes.dtype)
        heads = asked[others, :, : asked.shape[2] // 2]
        every.append(np.concatenate([heads, share[:, None, None] * heads], axis=2))
        shares.append(share)
    return np.concatenate(every), np.concatenate(shares)


def check_query_tower(
    exported: QueryEncoder,
    eager: QueryEncoder,
    texts: Sequence[str],
    vectors: Vectors,
    queries: RecallQueries,
    settings: Index,
) -> dict[str, float]:
    """Largest difference of an exported tower's embeddings and P(q) from PyTorch's over the texts of `queries`, and the share of the
    best items that stays the same.

    Raises:
        InputError: the difference is over TOLERANCE, or in 8 bits the share under LEAST_KEPT.
    """
    # Those of the texts come first in `queries`.
    ours, _, p = exported.encode(texts)
    theirs, _, eager_p = eager.encode(texts)
    difference = max(float(np.abs(ours - theirs).max()), float(np.abs(p - eager_p).max()))
    _, rows = exact_search(vectors, ours, queries.rows.shape[1])
    kept = float(
        np.mean([np.isin(r, wanted).mean() for r, wanted in zip(rows, queries.rows[: len(rows)], strict=True)])
    )
    if settings.query_tower == "onnx" and difference > TOLERANCE:
        raise InputError(
            f"index.query_tower onnx: differs from PyTorch by {difference:.1e}, over {TOLERANCE:.0e}; set it to pytorch"
        )
    if kept < LEAST_KEPT:
        raise InputError(
            f"index.query_tower {settings.query_tower}: only {kept:.3f} of the best {queries.rows.shape[1]} items stay, under "
            f"{LEAST_KEPT}; set it to onnx or pytorch"
        )
    return {"largest_difference": difference, "best_items_kept": kept}


def recall_against_exact(index: faiss.Index, vectors: Vectors, asked: np.ndarray, depth: int) -> float:
    """Mean share of the exact `depth` best that the index finds, over the asked vectors (Q, 2D)."""
    return float(
        recall_queries(vectors, asked[:, None], np.zeros(len(asked)), depth=depth).found(index, vectors).mean()
    )


def recall_queries(
    vectors: Vectors,
    asked: np.ndarray,
    routes: np.ndarray,
    shares: np.ndarray | None = None,
    *,
    depth: int = MEASURED_DEPTH,
) -> RecallQueries:
    """Answer queries exactly. `shares`: None: as they come."""
    if shares is None:
        shares = np.bincount(np.digitize(routes, BUCKETS), minlength=len(BUCKETS) + 1) / len(routes)
    flat = np.ascontiguousarray(asked.reshape(-1, asked.shape[-1]), dtype=np.float32)
    scores, rows = exact_search(vectors, flat, depth)
    return RecallQueries(asked=asked, routes=routes, shares=shares, scores=scores, rows=rows)


def tune_search(index: faiss.Index, vectors: Vectors, queries: RecallQueries, floor: float) -> str:
    """Set the cheapest search parameters with which recall reaches the floor with a margin in every bucket that counts, or the most
    thorough ones; returns them as FAISS's ParameterSpace reads them, "" where the index has none.

    Cheap is what reads few bytes, so that the same index is tuned alike on every machine. Recall falls with either parameter, so
    one walk along the border of what is enough finds the cheapest.
    """
    space: Any = faiss.ParameterSpace()
    one, *others = parts_of(index)  # all are trained alike
    space.initialize(one)
    ranges = [space.parameter_ranges.at(n) for n in range(space.parameter_ranges.size())]
    found = {r.name: faiss.vector_to_array(r.values) for r in ranges}
    breadth = next((name for name in ("nprobe", "efSearch") if name in found), None)
    factors: Sequence[float] = K_FACTORS if "k_factor_rf" in found else (1.0,)
    aim = floor + MARGIN * (1 - floor)
    if breadth is None:
        return ""
    lists = faiss.try_extract_index_ivf(one)
    if lists:
        breadths = sorted({round(2 ** (n / 4)) for n in range(round(4 * math.log2(lists.nlist)) + 1)})
    else:
        breadths = [round(MEASURED_DEPTH * 2 ** (n / 2)) for n in range(11)]

    def parameters(broad: int, factor: float) -> str:
        refined = f",k_factor_rf={factor:g}" if "k_factor_rf" in found else ""
        return f"{breadth}={broad}{refined}"

    def is_enough(broad: int, factor: float) -> bool:
        space.set_index_parameters(index, parameters(broad, factor))
        found = queries.measure(index, vectors)
        return found["worst"] >= aim and found["sure"] >= floor

    def cost(broad: int, factor: float) -> float:
        scanned = len(vectors) / lists.nlist * lists.code_size * broad if lists else broad
        return scanned + RANDOM_READ * MEASURED_DEPTH * factor * (1 + len(others)) * 2 * vectors.shape[1]

    enough: list[tuple[float, int, float]] = []
    place = _first(len(breadths), lambda n: is_enough(breadths[n], factors[-1]))
    kept = len(factors) - 1
    while place < len(breadths) and kept >= 0:
        if is_enough(breadths[place], factors[kept]):
            enough.append((cost(breadths[place], factors[kept]), breadths[place], factors[kept]))
            kept -= 1
        else:
            place += 1
    best = parameters(*min(enough)[1:]) if enough else parameters(breadths[-1], factors[-1])
    space.set_index_parameters(index, best)
    return best


def search_times(index: faiss.Index, asked: np.ndarray) -> np.ndarray:
    """Milliseconds of each query (Q, 2D) alone on one thread, (Q,)."""
    threads, taken = faiss.omp_get_max_threads(), np.empty(len(asked))
    faiss.omp_set_num_threads(1)
    try:
        index.search(asked[:TIMED_QUERIES], MEASURED_DEPTH)
        for n in range(len(asked)):
            began = time.perf_counter()
            index.search(asked[n : n + 1], MEASURED_DEPTH)
            taken[n] = 1_000 * (time.perf_counter() - began)
    finally:
        faiss.omp_set_num_threads(threads)
    return taken


def recall_by_speed(
    index: faiss.Index, vectors: Vectors, queries: RecallQueries, parameters: str
) -> list[dict[str, Any]]:
    """Recall, overall and in the worst bucket, and median milliseconds a query, with the search parameters in use and with a few
    that look at fewer lists, or more: what another `index.minimum_recall` would buy. The parameters in use are set again after."""
    space: Any = faiss.ParameterSpace()
    asked = _timed(queries)
    found = re.fullmatch(r"(nprobe|efSearch)=(\d+)(.*)", parameters)
    lists = faiss.try_extract_index_ivf(parts_of(index)[0])
    most = lists.nlist if lists else math.inf
    if found:
        name, broad, rest = found.groups()
        breadths = sorted({int(min(most, max(1, round(int(broad) * share)))) for share in (*SPEEDS, 1.0)})
        each = [f"{name}={n}{rest}" for n in breadths]
    else:
        each = [parameters]
    points = []
    for one in each:
        if one:
            space.set_index_parameters(index, one)
        recall, taken = queries.measure(index, vectors), float(np.median(search_times(index, asked)))
        points.append({"parameters": one, "ms": taken, "recall": recall["overall"], "worst": recall["worst"]})
    if parameters:
        space.set_index_parameters(index, parameters)
    return points


def _timed(queries: RecallQueries) -> np.ndarray:
    """Some of the queries, evenly over all shares of S_m: (≤ TIMED_QUERIES, 2D)."""
    asked = queries.asked.reshape(-1, queries.asked.shape[-1])
    rows = np.unique(np.linspace(0, len(asked) - 1, min(TIMED_QUERIES, len(asked))).astype(int))
    return np.ascontiguousarray(asked[rows])


def _first(count: int, is_enough: Any) -> int:
    """The first of so many numbers that is enough, where all after it are too; `count` where none is."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def run(context: StageContext) -> dict[str, Any]:
    """Publish an index of the run's own model.

    Raises:
        InputError: recall is below the floor, or the exported query tower differs from the model; nothing is published.
    """
    settings, model_folder = context.settings.index, context.input("finetune").folder / "model"
    torch.set_num_threads(context.settings.training.threads)
    vectors = RoutedItems(load_embeddings(context.input("embed").folder))
    factory = settings.factory or choose_factory(len(vectors), vectors.shape[1], settings.minimum_recall)
    context.report(f"building {factory} over {len(vectors):,} items")
    index = _fill(context, train_index(vectors, factory), vectors)

    clicks = ds.dataset([str(f) for f in context.table("extract-clicks", "clicks")])
    days = ds.field("day").isin(context.run.training_days)
    texts = sorted(clicks.to_table(columns=["query"], filter=days)["query"].unique().to_pylist())
    if not texts:
        raise InputError("no query on the training days to measure the index by; check the click log")
    encoder = QueryEncoder(load_model(model_folder), model_folder / "tokenizer.json")
    texts, asked, routes, shares = draw_queries(encoder, texts)
    queries = recall_queries(vectors, asked, routes, shares)
    parameters = tune_search(index, vectors, queries, settings.minimum_recall)
    recall = _measured(index, vectors, queries, factory, settings)
    about = {"factory": factory, "search_parameters": parameters, "trained_on": len(vectors)}
    about |= {"query_tower": settings.query_tower}
    if settings.query_tower != "pytorch":
        file = context.output(TOWER_FILE)
        export_query_tower(encoder.model, file, int8=settings.query_tower == "onnx_int8")
        exported = QueryEncoder(encoder.model, model_folder / "tokenizer.json", tower_file=file)
        about["query_tower_check"] = check_query_tower(exported, encoder, texts, vectors, queries, settings)
    curve = {"recall_by_speed": recall_by_speed(index, vectors, queries, parameters)}
    return _publish(context, model_folder, index, vectors, queries, recall, about) | curve


def refresh(context: StageContext) -> dict[str, Any]:
    """Publish the index of the release that the run works on, with today's catalogue.

    Raises:
        InputError: there was no release, its index is damaged or was made before indexes could be refreshed, or recall is below
            the floor; nothing is published.
    """
    settings, release = context.settings.index, context.run.release
    if release is None:
        raise InputError(f"run {context.run.name}: met no release when it started, so there is no index to refresh")
    torch.set_num_threads(context.settings.training.threads)
    model_folder, index_folder = (
        released_folder(context.run, release, "model"),
        released_folder(context.run, release, "index"),
    )
    manifest, (index, *_), old = open_index(index_folder, model_folder)  # every part is trained alike
    asked, routes = read_recall_queries(index_folder)
    vectors = RoutedItems(load_embeddings(context.input("embed-release").folder))
    factory = settings.factory or choose_factory(len(vectors), vectors.shape[1], settings.minimum_recall)
    about: dict[str, Any] = {n: manifest[n] for n in ("query_tower", "query_tower_check") if n in manifest}
    is_kept = factory == manifest["factory"] or (
        not settings.factory and "Flat" not in (factory, manifest["factory"]) and _is_near(len(vectors), manifest)
    )
    if is_kept:
        context.report(f"filling {manifest['factory']} with {len(vectors):,} items")
        about |= {name: manifest[name] for name in ("factory", "search_parameters", "trained_on")}
    else:
        context.report(
            f"training {factory} anew for {len(vectors):,} items; it was made for {manifest['trained_on']:,}"
        )
        index = train_index(vectors, factory)
        about |= {"factory": factory, "search_parameters": "", "trained_on": len(vectors)}
    index = _fill(context, index, vectors)
    queries = recall_queries(vectors, asked, routes, np.array(manifest["shares"]))
    if not is_kept or queries.measure(index, vectors)["worst"] < settings.minimum_recall:
        about["search_parameters"] = tune_search(index, vectors, queries, settings.minimum_recall)
    recall = _measured(index, vectors, queries, about["factory"], settings)
    if (index_folder / TOWER_FILE).is_file():
        context.output(TOWER_FILE).write_bytes((index_folder / TOWER_FILE).read_bytes())
    ids, before = set(vectors.embeddings.item_ids), set(old["item_id"].to_pylist())
    return _publish(context, model_folder, index, vectors, queries, recall, about) | {
        "trained_again": float(not is_kept),
        "items_added": float(len(ids - before)),
        "items_removed": float(len(before - ids)),
        "items_embedded": context.input("embed-release").metrics["items_embedded"],
        "refreshed_from": release["index_digest"],
    }


def _fill(context: StageContext, index: faiss.Index, vectors: RoutedItems) -> faiss.Index:
    """`build_parts`, its files in a hidden folder, which is no part of what is published and which `_publish` removes."""
    return build_parts(index, vectors, context.settings.index.parts, context.output(".parts/any").parent)


def _is_near(items: int, manifest: dict[str, Any]) -> bool:
    """Whether lists trained for other numbers of items still fit."""
    return manifest["trained_on"] / 2 <= items <= 2 * manifest["trained_on"]


def _measured(
    index: faiss.Index, vectors: Vectors, queries: RecallQueries, factory: str, settings: Index
) -> dict[str, Any]:
    """Recall, at or above the floor.

    Raises:
        InputError: it is below.
    """
    recall = queries.measure(index, vectors)
    if recall["worst"] < settings.minimum_recall:
        worst = min(recall["buckets"], key=lambda b: b["recall"] if b["queries"] >= ENOUGH_QUERIES else math.inf)
        raise InputError(
            f"index {factory}: recall@{recall['depth']} against exact search is {recall['worst']:.3f} where the share of pictures "
            f"is {worst['from']:g} to {worst['to']:g} ({recall['overall']:.3f} over all), under index.minimum_recall "
            f"{settings.minimum_recall}; choose a finer index.factory"
        )
    return recall | {"floor": settings.minimum_recall}


def _publish(
    context: StageContext,
    model_folder: Path,
    index: faiss.Index,
    vectors: RoutedItems,
    queries: RecallQueries,
    recall: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    items = read_index_items(context.table("prepare-items", "catalogue"), vectors.embeddings.item_ids)
    about |= {"model_digest": model_digest(model_folder), "recall": recall}
    about |= {"shares": queries.shares.tolist()}
    named: dict[str, Any] = {"recall_at_100": recall["overall"], "recall_at_100_worst": recall["worst"]}
    # Times belong to the machine, not to the index: they stand in the metrics, outside the content.
    times = search_times(index, _timed(queries))
    named |= {f"search_p{q}_ms": float(np.percentile(times, q)) for q in (50, 99)}
    cuts = cut_rows(len(vectors), context.settings.index.parts)
    folder = context.output("index.json").parent
    write_index(folder, parts_of(index), items, queries.asked, queries.routes, about, cuts=cuts)
    shutil.rmtree(folder / ".parts")
    sizes = {
        "items": float(len(vectors)),
        "bytes_per_item": sum(file.stat().st_size for file in folder.glob("index*.faiss")) / len(vectors),
    }
    return named | sizes | {n: about[n] for n in ("factory", "search_parameters", "query_tower")}


def read_index_items(catalogue_files: Sequence[Path], item_ids: list[str]) -> pa.Table:
    """Table index_items of a catalogue, in the order of `item_ids`, which is sorted.

    Raises:
        InputError: the catalogue has other items.
    """
    columns = ["item_id", "title", "department", "images"]
    table = ds.dataset([str(f) for f in catalogue_files]).to_table(columns=columns)
    # By bytes, as item ids are sorted everywhere.
    order = np.argsort(np.array([i.encode() for i in table["item_id"].to_pylist()], dtype=np.bytes_), kind="stable")
    table = table.take(order)
    if table["item_id"].to_pylist() != item_ids:
        raise InputError(f"embed: made for {len(item_ids)} items that are not this run's; run embed again")
    numbered = table.add_column(0, "row", pa.array(range(len(table)), pa.int64()))
    return numbered.cast(load_contract("index_items").arrow_schema())
