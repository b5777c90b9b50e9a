"""FAISS search parameters: the cheapest with which an index reaches its floor of recall, and what others would buy."""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np

from smar_model.retrieval.index_building import Vectors
from smar_model.retrieval.index_files import Recall
from smar_model.retrieval.index_recall import RecallQueries
from smar_model.retrieval.search import MEASURED_DEPTH

MARGIN = 0.25
"""Share of what the floor leaves to 1 by which search parameters must be better; and by no less than a standard error, as other
queries come."""
K_FACTORS = (4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
"""Candidates scored again for each result."""
TIMED_QUERIES = 200
SPEEDS = (1 / 16, 1 / 4, 1 / 2, 2)
"""Of the lists that are looked at in use, for the curve of recall against speed."""
IN_USE = sorted((*SPEEDS, 1.0)).index(1.0)
"""Place of the parameters in use among those that `around` gives, where these are several."""
RANDOM_READ = 6
"""What a byte of a candidate scored again costs, in bytes of scanned lists: measured at a million items."""


class Measured(Protocol):
    """Queries by which an index is measured: of a whole one, or of a part (`index_parts.py`)."""

    def measure(self, index: faiss.Index, vectors: Vectors) -> Recall: ...


def tune_search(index: faiss.Index, vectors: Vectors, queries: Measured, floor: float) -> str:
    """Set the cheapest search parameters with which recall reaches the floor with a margin in every bucket that counts, or the most
    thorough ones; returns them as FAISS's ParameterSpace reads them, "" where the index has none.

    Cheap is what reads few bytes, so that the same index is tuned alike on every machine. Recall falls with either parameter, so
    one walk along the border of what is enough finds the cheapest.
    """
    space: Any = faiss.ParameterSpace()
    space.initialize(index)
    ranges = [space.parameter_ranges.at(n) for n in range(space.parameter_ranges.size())]
    found = {r.name: faiss.vector_to_array(r.values) for r in ranges}
    breadth = next((name for name in ("nprobe", "efSearch") if name in found), None)
    factors: Sequence[float] = K_FACTORS if "k_factor_rf" in found else (1.0,)
    aim = floor + MARGIN * (1 - floor)
    if breadth is None:
        return ""
    lists = faiss.try_extract_index_ivf(index)
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
        return found.worst >= aim and found.sure >= floor

    def cost(broad: int, factor: float) -> float:
        scanned = len(vectors) / lists.nlist * lists.code_size * broad if lists else broad
        return scanned + RANDOM_READ * MEASURED_DEPTH * factor * 2 * vectors.shape[1]

    enough: list[tuple[float, int, float]] = []
    place = bisect_left(breadths, True, key=lambda broad: is_enough(broad, factors[-1]))
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
    """Milliseconds of each of some queries (Q, …, 2D), evenly over all shares of S_m, alone on one thread: (≤ TIMED_QUERIES,)."""
    asked = asked.reshape(-1, asked.shape[-1])
    asked = np.ascontiguousarray(
        asked[np.unique(np.linspace(0, len(asked) - 1, min(TIMED_QUERIES, len(asked))).astype(int))]
    )
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
) -> list[dict[str, float | str]]:
    """Recall, overall and in the worst bucket, and median milliseconds a query, with the search parameters in use and with a few
    that look at fewer lists, or more: what another `index.minimum_recall` would buy. The parameters in use are set again after."""
    space: Any = faiss.ParameterSpace()
    points: list[dict[str, float | str]] = []
    for one in dict.fromkeys(around(index, parameters)):
        space.set_index_parameters(index, one)
        recall, taken = queries.measure(index, vectors), float(np.median(search_times(index, queries.asked)))
        points.append({"parameters": one, "ms": taken, "recall": recall.overall, "worst": recall.worst})
    space.set_index_parameters(index, parameters)
    return points


def around(index: faiss.Index, parameters: str) -> list[str]:
    """Search parameters that look at fewer lists than these, these, and such that look at more; these alone where there is no such choice."""
    found = re.fullmatch(r"(nprobe|efSearch)=(\d+)(.*)", parameters)
    if not found:
        return [parameters]
    lists = faiss.try_extract_index_ivf(index)
    most = lists.nlist if lists else math.inf
    name, broad, rest = found.groups()
    breadths = [int(min(most, max(1, round(int(broad) * share)))) for share in sorted((*SPEEDS, 1.0))]
    return [f"{name}={n}{rest}" for n in breadths]
