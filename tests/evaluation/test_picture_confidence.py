"""c(s), read off the embeddings, of items whose pictures are right and wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from smar_model.evaluation.picture_confidence import confidence_in_pictures, measure_picture_confidence
from smar_model.retrieval.item_embeddings import ItemEmbeddings

ITEMS = 400


def units(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(ITEMS, 32))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def embeddings(confidence: np.ndarray) -> ItemEmbeddings:
    """As embed stores them: 32 bits, the confidence folded into S_m."""
    text = units(0)
    fused = text + confidence[:, None] * (units(1) - text)
    ids = [f"{number:03}" for number in range(ITEMS)]
    return ItemEmbeddings(item_ids=ids, text=text.astype(np.float32), multimodal=fused.astype(np.float32))


CATALOGUE = pd.DataFrame({"images": [["a.jpg"]] * (ITEMS - 100) + [[]] * 100})


def test_it_is_what_the_model_folded_in() -> None:
    confidence = np.random.default_rng(2).uniform(0.01, 1, ITEMS)
    assert confidence_in_pictures(embeddings(confidence)) == pytest.approx(confidence, abs=1e-4)
    assert np.isnan(confidence_in_pictures(embeddings(np.zeros(ITEMS)))).all()


def test_wrong_pictures_are_held_against_right_ones() -> None:
    confidence = np.random.default_rng(3).uniform(0.5, 0.9, ITEMS)
    confidence[:20], confidence[20:30], confidence[-100:] = 0.2, 0.1, 0.0
    wrong = {f"{n:03}": "another_item" if n < 20 else "placeholder" for n in range(30)} | {"gone": "placeholder"}
    found = measure_picture_confidence(embeddings(confidence), CATALOGUE, wrong)
    assert found is not None
    assert {kind: of.items for kind, of in found.items.items()} == {
        **{"all": 300, "right": 270, "another_item": 20, "placeholder": 10},
    }
    assert found.items["another_item"].mean == pytest.approx(0.2, abs=1e-4)
    assert found.items["placeholder"].mean == pytest.approx(0.1, abs=1e-4)
    assert 0.5 < found.items["right"].low < found.items["right"].mean < found.items["right"].high < 0.9
    assert found.right_above_wrong == 1.0


def test_where_nobody_knows_there_is_one_figure_and_no_model_without_it_has_any() -> None:
    confidence = np.random.default_rng(3).uniform(0.5, 0.9, ITEMS)
    found = measure_picture_confidence(embeddings(confidence), CATALOGUE, None)
    assert found is not None
    assert list(found.items) == ["all"]
    assert found.right_above_wrong is None
    assert measure_picture_confidence(embeddings(np.ones(ITEMS)), CATALOGUE, None) is None
