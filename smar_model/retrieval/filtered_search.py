"""Search among some rows of a FAISS index: which way is chosen by the kind of index and by how many rows are left.

1. All selected vectors are scored as the index stores them most finely (an IVF's or graph's refined or flat vectors). That costs a product for
   each selected row, whatever the query, and finds what exact search finds.
2. Of an IVF, where at least `BROAD` of the rows are left: its own search passes over rows that are not selected, in more lists the fewer are
   left (`nprobe` divided by the share that is left, times `MORE_LISTS`), as the nearest of few lie in lists farther away.

The share from which the second is faster, at no less recall than `index.minimum_recall`, is measured: `benchmarks/filters.md`.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from smar_model.errors import InputError

_FAISS: Any = faiss
"""Whose type stubs know neither keyword arguments of what SWIG makes nor its vectors."""
BROAD = 0.2
"""Share of the rows from which an IVF's own search is asked."""
ENOUGH_ROWS = 20_000
"""Fewer selected rows than these are scored in a few milliseconds, all of them."""
MORE_LISTS = 1.25


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
    if share >= BROAD and selected >= ENOUGH_ROWS and (parameters := _probing(index, selector, share)):
        return index.search(asked, depth, params=parameters)
    return score_selected(index, asked, depth, selector)


def _probing(index: faiss.Index, selector: faiss.IDSelector, share: float) -> Any | None:
    """Parameters with which an IVF, refined or not, finds selected rows alone; None: it is none."""
    index = _FAISS.downcast_index(index)
    refined: Any = index if isinstance(index, faiss.IndexRefine) else None
    lists = _FAISS.downcast_index(refined.base_index) if refined is not None else index
    if not isinstance(lists, faiss.IndexIVF | _FAISS.IndexIVFFastScan):
        return None
    nprobe = min(lists.nlist, int(np.ceil(lists.nprobe * MORE_LISTS / share)))
    parameters = _FAISS.SearchParametersIVF(sel=selector, nprobe=nprobe)
    if refined is None:
        return parameters
    return _FAISS.IndexRefineSearchParameters(k_factor=refined.k_factor, base_index_params=parameters)


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
