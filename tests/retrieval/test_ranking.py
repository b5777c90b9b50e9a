"""The one order: score descending, then item id (row) ascending."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smar_model.retrieval.ranking import NO_ROW, order_candidates, rank_scores


@given(
    scores=arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.sampled_from([0, 1, 2, 3])),
    depth=st.integers(1, 40),
)
def test_equals_a_full_stable_sort_with_ties(scores: np.ndarray, depth: int) -> None:
    ranking = rank_scores(scores, depth)
    kept = min(depth, scores.shape[1])
    full = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
    assert ranking.rows[:, :kept].tolist() == full.tolist()
    assert (ranking.rows[:, kept:] == NO_ROW).all()
    assert np.array_equal(ranking.scores[:, :kept], np.take_along_axis(scores, full, axis=1))


def test_items_that_are_no_result_leave_their_place_empty() -> None:
    ranking = rank_scores(np.array([[1.0, -np.inf, 2.0], [-np.inf, -np.inf, -np.inf]]), 3)
    assert ranking.rows.tolist() == [[2, 0, NO_ROW], [NO_ROW, NO_ROW, NO_ROW]]
    assert np.isneginf(ranking.scores[1]).all()


def test_a_broken_score_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        rank_scores(np.array([[0.0, np.nan]]), 1)


def test_candidates_of_an_index_are_put_in_the_same_order() -> None:
    ranking = order_candidates(np.array([[7, 3, NO_ROW, 5]]), np.array([[1.0, 1.0, 9.0, 2.0]]))
    assert ranking.rows.tolist() == [[5, 3, 7, NO_ROW]]
