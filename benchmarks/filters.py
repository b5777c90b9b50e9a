"""Search among filtered items: recall and latency by the share of items that is left, and by method: writes benchmarks/filters.md.

    python benchmarks/filters.py [--sizes 100000 1000000] [--page benchmarks/filters.md]

Vectors are drawn: clusters of which each item lies in one, 256 dimensions as the network that ships has. The index is the one that
`choose_factory` names, with the fewest lists that reach the floor without a filter. Items are left by chance (`random`) or by cluster (`clustered`), as
a colour or a department leaves them. One thread.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from smar_model.lake.checkout import commit
from smar_model.retrieval.filtered_search import _lists_of, score_selected, search_selected
from smar_model.retrieval.index_building import choose_factory, fill_index, train_index
from smar_model.retrieval.item_filters import ItemFilters
from smar_model.settings import Index

DIMENSION, DEPTH, QUERIES = 256, 100, 100
SHARES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9)
FLOOR = Index().minimum_recall
Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--page", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    sections = [
        "# Filters: recall and latency by the share of items that is left\n\n"
        f"    .venv/bin/python benchmarks/filters.py --sizes {' '.join(map(str, options.sizes))}\n\n"
        f"{dt.date.today()}, commit {commit()}, {platform.machine()}, FAISS {faiss.__version__}; {QUERIES} queries one by one on one thread, the best {DEPTH}, "
        f"floor {FLOOR}; load of the machine at the start {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. `chosen` is `search_selected`."
    ]
    for size in options.sizes:
        sections.append(measure(size))
        options.page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
        print(sections[-1], flush=True)


def draw(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (N, D), the cluster of each (N,), queries (Q, D)."""
    random = np.random.default_rng(0)
    clusters = max(50, size // 500)
    centres = random.normal(size=(clusters, DIMENSION)).astype(np.float32)
    basis = random.normal(size=(24, DIMENSION)).astype(np.float32) / 5
    member = random.integers(0, clusters, size)
    vectors = centres[member]
    for start in range(0, size, 50_000):
        rows = slice(start, min(size, start + 50_000))
        vectors[rows] += random.normal(size=(len(vectors[rows]), 24)).astype(np.float32) @ basis
    faiss.normalize_L2(vectors)
    asked = vectors[random.integers(0, size, QUERIES)] + 0.03 * random.normal(size=(QUERIES, DIMENSION)).astype(
        np.float32
    )
    return vectors, member, asked


def tune(index: faiss.Index, vectors: np.ndarray, asked: np.ndarray) -> str:
    """Set the fewest lists that reach the floor without a filter; returns them."""
    exact = exact_rows(vectors, asked, np.ones(len(vectors), bool))
    space: Any = faiss.ParameterSpace()
    if index.__class__.__name__ == "IndexFlat":
        return ""
    for nprobe in (4, 8, 16, 32, 64, 128, 256):
        for factor in (8, 16, 32):
            parameters = f"nprobe={nprobe},k_factor_rf={factor}"
            space.set_index_parameters(index, parameters)
            if recall(index.search(asked, DEPTH)[1], exact) >= FLOOR + 0.0025:
                return parameters
    return parameters


def _probing(index: faiss.Index, selector: faiss.IDSelector, share: float) -> Any | None:
    """An IVF asked for selected rows alone, in more lists the fewer are left."""
    faiss_: Any = faiss
    lists, refined = _lists_of(index), faiss_.downcast_index(index)
    if lists is None:
        return None
    nprobe = min(lists.nlist, int(np.ceil(lists.nprobe * 1.25 / share)))
    parameters = faiss_.SearchParametersIVF(sel=selector, nprobe=nprobe)
    if not isinstance(refined, faiss.IndexRefine):
        return parameters
    return faiss_.IndexRefineSearchParameters(k_factor=refined.k_factor, base_index_params=parameters)


def exact_rows(vectors: np.ndarray, asked: np.ndarray, mask: np.ndarray) -> list[set[int]]:
    rows = np.flatnonzero(mask)
    scores = np.concatenate(
        [asked @ vectors[part].T for part in np.array_split(rows, max(1, len(rows) // 50_000))], axis=1
    )
    kept = min(DEPTH, len(rows))
    best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
    return [set(rows[each].tolist()) for each in best]


def recall(found: np.ndarray, exact: list[set[int]]) -> float:
    return float(np.mean([len(set(f[f >= 0].tolist()) & e) / len(e) for f, e in zip(found, exact, strict=True)]))


def timed(search: Search, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    search(asked[:2])
    taken, found = [], []
    for n in range(len(asked)):
        began = time.perf_counter()
        found.append(search(asked[n : n + 1])[1])
        taken.append(1_000 * (time.perf_counter() - began))
    return np.array(taken), np.concatenate(found)


def measure(size: int) -> str:
    vectors, member, asked = draw(size)
    factory = choose_factory(size, DIMENSION, FLOOR)
    index = fill_index(train_index(vectors, factory), vectors)
    parameters = tune(index, vectors, asked)
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(1)
    order = random.permutation(member.max() + 1)
    whole, _ = timed(lambda one: index.search(one, DEPTH), asked)
    lines = [
        f"## {size:,} items\n",
        f"`{factory}`, {parameters}. Without a filter: p50 {np.median(whole):.2f} ms, p99 {np.percentile(whole, 99):.2f} ms.\n",
        "| left | how | method | recall@100 | p50 ms | p99 ms |",
        "| ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for share in SHARES:
        for how in ("random", "clustered"):
            mask = random.random(size) < share if how == "random" else np.argsort(order)[member] < share * len(order)
            bitmap = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg]
            exact = exact_rows(vectors, asked, mask)
            probing = _probing(index, selector, float(mask.mean()))
            methods: dict[str, Search] = {"all selected": lambda one, s=selector: score_selected(index, one, DEPTH, s)}
            if probing is not None:
                methods["selector in its lists"] = lambda one, p=probing: index.search(one, DEPTH, params=p)
            methods["chosen"] = lambda one, b=bitmap: search_selected(index, one, DEPTH, b)
            for name, search in methods.items():
                taken, found = timed(search, asked)
                print(size, share, how, name, flush=True)
                lines.append(
                    f"| {share:.1%} | {how} | {name} | {recall(found, exact):.4f} | {np.median(taken):.2f} | {np.percentile(taken, 99):.2f} |"
                )
    print("\n".join(lines), flush=True)
    return "\n".join([*lines, "", opening(size)])


def opening(size: int) -> str:
    """What filters cost besides: the first question about a field, later ones, memory."""
    random = np.random.default_rng(2)
    colours, brands = [f"colour {n}" for n in range(40)], pa.array([f"brand {n}" for n in range(2_000)])
    named = pa.array(["colour", "size", "material", "fit"])
    names = named.take(pa.array(np.tile(np.arange(4), size)))
    values = pa.array(colours).take(pa.array(random.integers(0, 40, 4 * size)))
    items = {
        "item_id": pa.array(np.arange(size).astype(str)),
        "department": pa.array(["Clothing", "Books"]).take(pa.array(random.integers(0, 2, size))),
        "brand": brands.take(pa.array(random.integers(0, 2_000, size))),
        "attributes": pa.MapArray.from_arrays(pa.array(np.arange(size + 1) * 4, pa.int32()), names, values),
        "price": pa.array(random.integers(100, 20_000, size)).cast(pa.decimal128(23, 4)).cast(pa.decimal128(18, 4)),
        "currency": pa.array(["EUR"] * size),
        "available": pa.array(random.random(size) < 0.9),
    }
    before = _resident_bytes()
    began = time.perf_counter()
    filters = ItemFilters(items)
    opened = time.perf_counter() - began
    asked = [
        "attributes.colour:colour 7|colour 9",
        "price<50",
        "available",
        "brand:brand 3",
        "-attributes.size:colour 1",
    ]
    rows = [
        f"Opening: {1_000 * opened:.0f} ms. Four attributes an item, 2,000 brands.\n",
        "| filter | first time, ms | again, ms |",
        "| --- | ---: | ---: |",
    ]
    for text in asked:
        first, again = 0.0, 0.0
        for turn in range(2):
            filters._kept.clear()
            began = time.perf_counter()
            filters.select([text])
            first, again = (time.perf_counter() - began, 0.0) if turn == 0 else (first, time.perf_counter() - began)
        rows.append(f"| `{text.replace('|', chr(92) + '|')}` | {1_000 * first:.1f} | {1_000 * again:.1f} |")
    held = sum(p._rows.nbytes for p in filters._postings.values()) + filters.offers.prices.nbytes + 3 * size
    grown = _resident_bytes() - before
    return "\n".join(
        [*rows, "", f"Postings, prices and stock: {held / 1e6:.0f} MB; resident memory grew by {grown / 1e6:.0f} MB."]
    )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
