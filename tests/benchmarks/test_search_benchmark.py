"""What the search benchmark makes besides what it measures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search import TwoIndexes, ratios, resample
from smar_model.retrieval.index_recall import exact_search


def draw_items(count: int, dimension: int = 8) -> np.ndarray:
    """[S_t ; S_m − S_t] in clusters."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(5, dimension))[random.integers(0, 5, count)]
    text, both = (middles + 0.3 * random.normal(size=(count, dimension)) for _ in range(2))
    text, both = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (text, both))
    return np.hstack([text, both - text]).astype(np.float32)


def test_resampled_items_are_unit_vectors_about_the_real_ones() -> None:
    real, out = draw_items(500), np.empty((2_000, 16), np.float32)
    resample(real, 0.5, out)
    np.testing.assert_array_equal(out[:500], real)
    for vectors in (out[:, :8], out[:, :8] + out[:, 8:]):
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.trace(np.cov(out[500:].T)) == pytest.approx(np.trace(np.cov(real.T)), rel=0.1)
    assert exact_search(real, out[500:], 1)[0].mean() > 0.8, "each lies beside a real one"
    assert len(np.unique(out, axis=0)) == 2_000
    again = np.empty_like(out)
    resample(real, 0.5, again)
    np.testing.assert_array_equal(again, out)


def test_two_indexes_that_look_everywhere_find_what_exact_search_finds() -> None:
    items = draw_items(2_000)
    query = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    asked = np.hstack([query, np.linspace(0, 1, 20, dtype=np.float32)[:, None] * query])
    two = TwoIndexes(items, "IVF4,Flat")
    two.factor = 20.0
    for index in two.indexes:
        index.nprobe = 4
    scores, rows = two.search(asked, 10)
    best, wanted = exact_search(items, asked, 10)
    assert np.mean([np.isin(r, w).mean() for r, w in zip(rows, wanted, strict=True)]) > 0.99
    assert scores[:, 0] == pytest.approx(best[:, 0], abs=1e-4)


def test_ratios_come_with_their_spread() -> None:
    assert ratios([2.0, 3.0, 8.0], [1.0, 1.0, 2.0]) == "3.00 (2.00, 4.00)"
