"""What the training benchmark computes besides what it measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.training import artifact_of, idle_share, repeat_data
from smar_model.data.token_tables import read_item_tokens, read_pair_tokens


@pytest.mark.parametrize(
    ("spans", "idle"),
    [
        ([(0, 10)], 0.0),
        ([(0, 4), (6, 10)], 0.2),
        ([(6, 10), (0, 4), (1, 3)], 0.2),  # in any order, one inside another
        ([(0, 5), (3, 6), (8, 10)], 0.2),
    ],
)
def test_idle_is_the_time_that_no_span_covers(spans: list[tuple[float, float]], idle: float) -> None:
    assert idle_share(spans) == pytest.approx(idle)


def test_repeated_data_are_the_same_pairs_of_other_items(tmp_path: Path) -> None:
    source = tmp_path / "made"
    items = {
        "item_ids": np.array([b"a", b"bb", b"c"]),
        "ids": np.arange(6, dtype=np.uint16).reshape(3, 2),
        "segments": np.zeros((3, 2), np.int8),
        "categories": np.array([1, 0, 1], np.int32),
    }
    pairs = {
        "ids": np.arange(8, dtype=np.uint16).reshape(4, 2),
        "keys": np.array([5, 6, 7, 8]),
        "rows": np.array([0, 0, 2, 2], np.int32),
        "starts": np.array([0, 2, 4]),
    }
    tables = {"items": items, "synthetic": pairs, "clicked": pairs | {"cumulative": np.array([1.0, 3.0, 4.0, 8.0])}}
    for table, columns in tables.items():
        (source / "tokens" / table).mkdir(parents=True)
        for name, values in columns.items():
            np.save(source / "tokens" / table / f"{name}.npy", values)
    (source / "tokenizer.json").write_text("{}")
    (tmp_path / "tables" / "pictures").mkdir(parents=True)
    pictures = pa.table({"item_id": ["a", "c"], "picture_digest": ["x", "y"]})
    pq.write_table(pictures, tmp_path / "tables" / "pictures" / "part-0.parquet")
    inputs = {"train-tokenizer": artifact_of("train-tokenizer", source)}
    inputs["prepare-items"] = artifact_of("prepare-items", tmp_path / "tables")

    found = repeat_data(inputs, 3, tmp_path / "times-3")
    tokens = found["train-tokenizer"].folder / "tokens"
    items_found, clicked = read_item_tokens(tokens / "items"), read_pair_tokens(tokens / "clicked")
    assert len(set(items_found.item_ids.tolist())) == 9
    assert (np.sort(items_found.item_ids) == items_found.item_ids).all()
    assert clicked.rows.tolist() == [0, 0, 2, 2, 3, 3, 5, 5, 6, 6, 8, 8]
    assert clicked.starts.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert np.diff(clicked.cumulative, prepend=0).tolist() == [1, 2, 1, 4] * 3
    assert (items_found.ids[clicked.rows] == np.tile(items["ids"][pairs["rows"]], (3, 1))).all()
    shown = pq.read_table(found["prepare-items"].files("pictures"))
    assert set(shown["item_id"].to_pylist()) <= {i.decode() for i in items_found.item_ids.tolist()}
    assert shown["picture_digest"].to_pylist() == ["x", "y"] * 3
