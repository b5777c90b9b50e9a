"""Search among some rows of a FAISS index: which way is chosen by the kind of index and by how many rows are left.

1. All selected vectors are scored as the index stores them most finely (an IVF's or graph's refined or flat vectors). That costs a product for
   each selected row, whatever the query, and finds what exact search finds.
2. Of an IVF, where at least `BROAD` of the rows are left: its own search without a selection, deeper the fewer are left; the selected ones
   of what it finds are the answer to each query of which enough are. Its recall is then the index's own, whatever has been left out.
   The queries of which too few are, as what they ask for has been filtered away, are answered by the first way.

Asking an IVF for selected rows alone (a selector in its lists, more of them the fewer are left) is as fast, and fails where a filter leaves what lies far
from the query: of the best 100 it found half (`benchmarks/filters.md`). So nobody may know beforehand how many lists are enough.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from smar_model.errors import InputError

_FAISS: Any = faiss
"""Whose type stubs know neither keyword arguments of what SWIG makes nor its vectors."""
BROAD = 0.3
"""Share of the rows from which an IVF's own search is asked."""
ENOUGH_ROWS = 20_000
"""Fewer selected rows than these are scored in a few milliseconds, all of them."""
DEEPER = 2.0
"""Times what would be enough if the selected ones lay evenly among the best."""
MORE_LISTS = 4.0
"""Times as many as the depth asks for: a deeper search finds less of its best in the same lists. With 1.25 and 1.5 the recall at `BROAD` was
the floor itself (.992 where the index has .999 without a filter), with these .9986, in a quarter of the time of the first way."""


def search_selected(
    index: faiss.Index, asked: np.ndarray, depth: int, bitmap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (Q, depth) of the best selected ones, best first; −1 where there are no more.

    Args:
        bitmap: of the index's rows, the first in the lowest bit.

    Raises:
        InputError: an index of this kind cannot be searched in part.
    """
    bitmap = np.ascontiguousarray(bitmap)
    selected = int(np.bitwise_count(bitmap).sum())
    if not selected:
        return np.full((len(asked), depth), -np.inf, np.float32), np.full((len(asked), depth), -1, np.int64)
    selector = _FAISS.IDSelectorBitmap(bitmap)
    share = selected / max(1, index.ntotal)
    if share < BROAD or selected < ENOUGH_ROWS or (lists := _lists_of(index)) is None:
        return score_selected(index, asked, depth, selector)
    scores, rows, is_enough = _search_deeper(index, lists, asked, depth, bitmap, share)
    if not is_enough.all():
        scores[~is_enough], rows[~is_enough] = score_selected(
            index, np.ascontiguousarray(asked[~is_enough]), depth, selector
        )
    return scores, rows


def _lists_of(index: faiss.Index) -> Any | None:
    """The IVF, of a refined one that which is refined; None: it is none."""
    index = _FAISS.downcast_index(index)
    refined: Any = index if isinstance(index, faiss.IndexRefine) else None
    lists = _FAISS.downcast_index(refined.base_index) if refined is not None else index
    return lists if isinstance(lists, faiss.IndexIVF) else None


def _search_deeper(
    index: faiss.Index, lists: Any, asked: np.ndarray, depth: int, bitmap: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and rows (Q, depth) of the selected ones of what a deeper search finds, and which queries have enough of them (Q,)."""
    deep = int(np.ceil(depth / share * DEEPER))
    parameters = _FAISS.SearchParametersIVF(
        nprobe=min(lists.nlist, int(np.ceil(lists.nprobe * MORE_LISTS * deep / depth)))
    )
    refined: Any = _FAISS.downcast_index(index)
    if isinstance(refined, faiss.IndexRefine):
        parameters = _FAISS.IndexRefineSearchParameters(k_factor=refined.k_factor, base_index_params=parameters)
    scores, rows = index.search(asked, deep, params=parameters)
    kept = (rows >= 0) & ((bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).astype(bool)
    first = np.argsort(~kept, axis=1, kind="stable")[:, :depth]
    return (
        np.take_along_axis(scores, first, axis=1),
        np.take_along_axis(rows, first, axis=1),
        kept.sum(axis=1) >= depth,
    )


def score_selected(
    index: faiss.Index, asked: np.ndarray, depth: int, selector: faiss.IDSelector
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the best selected ones, all of which are looked at: few lists, or a graph that is left where few may be
    entered, would miss most of a small selection."""
    index = _FAISS.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return score_selected(index.refine_index, asked, depth, selector)
    if isinstance(index, faiss.IndexHNSW):
        return score_selected(index.storage, asked, depth, selector)
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for number in range(chain.size()):
            asked = _FAISS.downcast_VectorTransform(chain.at(number)).apply(asked)
        return score_selected(index.index, asked, depth, selector)
    if isinstance(index, faiss.IndexIVF):
        parameters = _FAISS.SearchParametersIVF(sel=selector, nprobe=index.nlist)
    else:
        parameters = _FAISS.SearchParameters(sel=selector)
    try:
        return index.search(asked, depth, params=parameters)
    except RuntimeError as error:
        raise InputError(
            f"{type(index).__name__} cannot be searched by department or filter; choose another index.factory"
        ) from error
