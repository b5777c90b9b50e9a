"""Training pairs on disk: the right ones, drawn as they should be, in memory that does not grow with them."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from smar_model.data import token_tables, training_pairs
from smar_model.data.sorted_keys import as_bytes, find_rows
from smar_model.data.token_tables import ItemTokens, PairTokens, query_keys, write_item_tokens, write_pair_tokens
from smar_model.data.training_pairs import clicked_pairs, in_novel_bucket, synthetic_pairs
from smar_model.errors import InputError
from tests.tiny_shop import write_rows

DAY = date(2026, 11, 18)
LENGTH = 6


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = " ".join(["red", "blue", "later", "seen", "only", "gone", "cat0", "cat1", *map(str, range(100)), *"abcd"])
    tokenizer.train_from_iterator([words], trainers.WordLevelTrainer(special_tokens=["<pad>", "?"]))
    return tokenizer


def write_catalogue(path: Path, item_ids: list[str]) -> Path:
    row = {"title": "red", "department": "c", "brand": "", "attributes": [], "images": [], "informative_pictures": 0}
    when = datetime(2026, 11, 1, tzinfo=UTC)
    rows = [row | {"item_id": i, "category": f"cat{n % 2}", "updated_at": when} for n, i in enumerate(item_ids)]
    return write_rows(path, "catalogue", rows)


def items_of(folder: Path, item_ids: list[str], tokenizer: Tokenizer) -> ItemTokens:
    file = write_catalogue(folder / "catalogue.parquet", item_ids)
    before = datetime(2026, 11, 10, tzinfo=UTC)
    return write_item_tokens(folder / "items", [file], tokenizer, length=LENGTH, before=before)


def texts(pairs: PairTokens, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode([i for i in ids if i]) for ids in pairs.ids.tolist()]


def click(query: str, item: str, day: date = DAY, clicks: int = 1, orders: int = 0, weight: float = 1.0) -> dict:
    return {
        **{"day": day, "query": query, "item_id": item},
        **{"impressions": 1, "clicks": clicks, "carts": 0, "orders": orders, "weight": weight},
    }


def synthetic(query: str, item: str) -> dict:
    return {"item_id": item, "query": query, "method": "substring"}


def test_items_are_sorted_and_found_by_id(tmp_path: Path, tokenizer: Tokenizer) -> None:
    items = items_of(tmp_path, ["b", "über", "a", "a-long-one", "z"], tokenizer)
    assert [i.decode() for i in items.item_ids] == sorted(["b", "über", "a", "a-long-one", "z"])
    assert find_rows(items.item_ids, as_bytes(["z", "?", "über", "a", "a-long-one-that-is-longer", "z"])).tolist() == [
        3, -1, 4, 0, -1, 3
    ]  # fmt: skip
    assert tokenizer.decode(items.ids[0].tolist()).split()[:2] == ["red", "cat0"]
    assert sorted(items.categories.tolist()) == [0, 0, 0, 1, 1]


def test_clicked_pairs_are_of_the_training_days_weighted_by_what_shoppers_did(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [
        click("red", "a"),
        click("blue", "b", orders=1, weight=2.0),  # one click and order, far down in the list
        click("later", "a", day=date(2026, 11, 19)),
        click("seen only", "a", clicks=0),
        click("gone", "unknown"),
    ]
    file = write_rows(tmp_path / "clicks.parquet", "clicks", rows)
    items = items_of(tmp_path, ["a", "b"], tokenizer)
    pairs = write_pair_tokens(
        tmp_path / "clicked", partial(clicked_pairs, [file], [DAY]), items, tokenizer, length=LENGTH
    )
    assert pairs is not None and pairs.cumulative is not None
    assert texts(pairs, tokenizer) == ["red", "blue"]
    assert pairs.rows.tolist() == [0, 1]
    assert np.diff(pairs.cumulative, prepend=0).tolist() == [1, 4]
    assert pairs.keys.tolist() == query_keys(["red", "blue"]).tolist()
    drawn = Counter(pairs.sample_weighted(4_000, np.random.default_rng(0)).tolist())
    assert drawn[1] / 4_000 == pytest.approx(0.8, abs=0.03)
    elsewhere = partial(clicked_pairs, [file], [date(2026, 11, 17)])
    assert write_pair_tokens(tmp_path / "none", elsewhere, items, tokenizer, length=LENGTH) is None


def test_a_synthetic_batch_has_distinct_items_each_with_a_query_of_its_own(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [synthetic(f"{i} {n}", i) for i in "abcd" for n in range(3)]
    file = write_rows(tmp_path / "synthetic.parquet", "synthetic_queries", rows)
    items = items_of(tmp_path, ["a", "b", "c", "nothing"], tokenizer)
    pairs = write_pair_tokens(tmp_path / "made", partial(synthetic_pairs, [file]), items, tokenizer, length=LENGTH)
    assert pairs is not None
    queries, random = texts(pairs, tokenizer), np.random.default_rng(0)
    seen = Counter()
    for _ in range(300):
        chosen = pairs.sample_items(10, random)
        assert sorted(pairs.rows[chosen]) == [0, 1, 2]
        assert all(queries[n].startswith("abc"[pairs.rows[n]]) for n in chosen)
        seen.update(queries[n] for n in chosen)
    assert len(seen) == 9 and min(seen.values()) > 70, "every query comes up alike"


def test_pairs_in_the_novel_bucket_are_left_out(tmp_path: Path) -> None:
    rows = [synthetic(f"{i} {n}", i) for i in "abcd" for n in range(20)]
    file = write_rows(tmp_path / "synthetic.parquet", "synthetic_queries", rows)
    kept = pd.concat(synthetic_pairs([file], novel_bucket=(0.1, 0.4)))
    novel = in_novel_bucket("query", [r["query"] for r in rows], (0.1, 0.4))
    novel |= in_novel_bucket("item", [r["item_id"] for r in rows], (0.1, 0.4))
    assert 0 < len(kept) < len(rows)
    assert set(kept["query"]) == {r["query"] for r, n in zip(rows, novel, strict=True) if not n}


def test_the_tables_are_the_same_however_the_source_lies_in_files(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, files, the size of pieces and of sorted stretches do not show in any byte."""
    random = np.random.default_rng(0)
    rows = [
        click(str(random.integers(100)), f"{i}", date(2026, 11, 1 + d), weight=0.1 * d)
        for i in "abcd"
        for d in range(9)
    ]
    days = [date(2026, 11, n) for n in range(1, 10)]
    items = items_of(tmp_path, list("abcd"), tokenizer)
    results = []
    for n, cuts in enumerate(([0, 36], [0, 7, 20, 36])):
        random.shuffle(rows)
        files = [write_rows(tmp_path / f"{n}-{cut}.parquet", "clicks", rows[cut:end]) for cut, end in pairwise(cuts)]
        write_pair_tokens(tmp_path / str(n), partial(clicked_pairs, files, days), items, tokenizer, length=LENGTH)
        results.append({f.name: f.read_bytes() for f in (tmp_path / str(n)).iterdir()})
        monkeypatch.setattr(training_pairs, "PIECE", 5)
        monkeypatch.setattr(token_tables, "SORTED_AT_A_TIME", 8)
    assert results[0] == results[1]
    assert len(results[0]) == 5


def test_memory_does_not_grow_with_the_pairs(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_tables, "SORTED_AT_A_TIME", 1_000)
    items = items_of(tmp_path, list("abcd"), tokenizer)

    def pieces(times: int) -> Iterator[pd.DataFrame]:
        for _ in range(times):
            yield pd.DataFrame({"query": [str(n % 100) for n in range(1_000)], "item_id": ["a", "b", "c", "d"] * 250})

    def peak(times: int) -> int:
        tracemalloc.start()
        folder = tmp_path / str(times)
        pairs = write_pair_tokens(folder, partial(pieces, times), items, tokenizer, length=LENGTH)
        assert pairs is not None and len(pairs.rows) == 1_000 * times
        random = np.random.default_rng(0)
        for _ in range(20):
            assert len(pairs.ids[pairs.sample_items(4, random)]) == 4
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)
    # One item's pairs are put in order at once, 24 bytes a pair.
    assert peak(50) < 1.3 * peak(5) + 24 * 50 * 250 * 2


def test_a_catalogue_of_later_items_alone_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write_catalogue(tmp_path / "catalogue.parquet", ["a"])
    with pytest.raises(InputError, match="no item last changed before 2026-10-01"):
        write_item_tokens(
            tmp_path / "items", [file], tokenizer, length=LENGTH, before=datetime(2026, 10, 1, tzinfo=UTC)
        )
