"""Token tables: items and training pairs as arrays on disk, made once and memory-mapped by every training stage.

    items/      item_ids (N,) · ids (N, L) · segments (N, L) · categories (N,), sorted by item id
    clicked/    ids (M, L) · keys (M,) · rows (M,) · starts (U + 1,) · cumulative (M,), grouped by item
    synthetic/  the same without `cumulative`
    counts.npy  (V,): how often each token stands in all of them

Any row is at hand, so a batch is drawn from all pairs alike (no shuffle buffer is as good), and the sampler's state is that of
one random generator. Memory does not grow with the data: making the tables holds a piece of the rows and two counters an
item, reading them what the operating system keeps of the files. The content is the same however the source tables lie in
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tokenizers import Tokenizer

from smar_model.data.sorted_keys import as_bytes, find_rows
from smar_model.data.text_tokens import encode_items
from smar_model.data.training_pairs import iterate_rows
from smar_model.errors import InputError

COUNTS_FILE = "counts.npy"
ENCODED_AT_A_TIME = 4_096
"""Queries that are tokenised at a time: what the library returns is hundreds of times larger than their ids."""
SORTED_AT_A_TIME = 200_000
"""Pairs whose order within their items is made in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTokens:
    item_ids: np.ndarray
    """(N,) UTF-8 bytes, sorted; its order is that of item rows everywhere in training."""
    ids: np.ndarray
    """(N, L) token ids, 0 is padding."""
    segments: np.ndarray
    """(N, L): title, category, brand, attributes are 0–3."""
    categories: np.ndarray
    """(N,): number of the item's category among all, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTokens:
    ids: np.ndarray
    """(M, L) token ids of the queries, 0 is padding."""
    keys: np.ndarray
    """(M,) int64, hash of the query's text."""
    rows: np.ndarray
    """(M,) item rows, ascending."""
    starts: np.ndarray
    """(U + 1,): pairs of the u-th item that has any are `starts[u] … starts[u + 1] − 1`."""
    cumulative: np.ndarray | None = None
    """(M,) float64, sums of the weights up to each pair."""

    def held_out(self, pairs: np.ndarray) -> np.ndarray:
        """Which of the pairs early stopping holds out. (B,) → (B,) bool"""
        return is_held_out(self.keys[pairs])

    def sample_items(self, size: int, random: np.random.Generator) -> np.ndarray:
        """Pairs of distinct items, each with one of its queries; at most as many as there are items. (B,)"""
        items = len(self.starts) - 1
        chosen = random.choice(items, min(size, items), replace=False)
        first = self.starts[chosen]
        return first + random.integers(0, self.starts[chosen + 1] - first)

    def sample_weighted(self, size: int, random: np.random.Generator) -> np.ndarray:
        """Pairs by weight; an item or a query may occur twice (the loss masks duplicates). (B,)"""
        assert self.cumulative is not None
        chances = random.random(size) * self.cumulative[-1]
        return np.minimum(np.searchsorted(self.cumulative, chances, side="right"), len(self.rows) - 1)


def read_item_tokens(folder: Path) -> ItemTokens:
    return ItemTokens(**{name: _read(folder, name) for name in ItemTokens.__slots__})


def read_pair_tokens(folder: Path) -> PairTokens:
    names = [name for name in PairTokens.__slots__ if (folder / f"{name}.npy").is_file()]
    return PairTokens(**{name: _read(folder, name) for name in names})


def _read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))


def count_tokens(tables: Sequence[np.ndarray], vocabulary: int) -> np.ndarray:
    """How often each token stands in tables of ids (N, L), padding aside: (V,) int64."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for table in tables:
        for start in range(0, len(table), SORTED_AT_A_TIME):
            counts += np.bincount(table[start : start + SORTED_AT_A_TIME].ravel(), minlength=vocabulary)
    counts[0] = 0
    return counts


def query_keys(queries: Sequence[str]) -> np.ndarray:
    """Hashes of queries, (N,) int64: equal texts are equal in every process."""
    return pd.util.hash_array(np.array(queries, dtype=object), categorize=False).view(np.int64)


def is_held_out(keys: np.ndarray) -> np.ndarray:
    """Which queries are of the sixteenth that something is measured on instead of learned from, by their hashes. (N,) bool"""
    return keys % 16 == 0


def write_item_tokens(
    folder: Path,
    files: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    length: int,
    before: datetime,
    only: np.ndarray | None = None,
) -> ItemTokens:
    """Tokenise the items of a catalogue that were last changed before the given moment.

    Args:
        only: ids of those wanted, sorted bytes; None: all.

    Raises:
        InputError: there is none.
    """

    def pieces(columns: list[str]) -> Iterator[pd.DataFrame]:
        for piece in iterate_rows(files, [*columns, "updated_at"]):
            frame = pa.Table.from_batches([piece]).to_pandas(maps_as_pydicts="strict")
            frame = frame[frame["updated_at"] < before]
            yield frame if only is None else frame[find_rows(only, as_bytes(frame["item_id"])) >= 0]

    ids, categories = [np.zeros(0, np.bytes_)], set[str]()
    for frame in pieces(["item_id", "category"]):
        ids.append(as_bytes(frame["item_id"]))
        categories.update(frame["category"])
    item_ids = np.sort(np.concatenate(ids))
    if not len(item_ids):
        raise InputError(f"catalogue: no item last changed before {before:%Y-%m-%d}; check updated_at in items.parquet")
    count, numbers = len(item_ids), {c: n for n, c in enumerate(sorted(categories))}
    _create_array(folder / "item_ids.npy", item_ids.dtype, count)[:] = item_ids
    out_ids = _create_array(folder / "ids.npy", _token_type(tokenizer), count, length)
    segments = _create_array(folder / "segments.npy", np.int8, count, length)
    out_categories = _create_array(folder / "categories.npy", np.int32, count)
    for frame in pieces(["item_id", "title", "category", "brand", "attributes"]):
        rows = find_rows(item_ids, as_bytes(frame["item_id"]))
        out_ids[rows], segments[rows] = encode_items(tokenizer, frame, length)
        out_categories[rows] = frame["category"].map(numbers)
    return read_item_tokens(folder)


def write_pair_tokens(
    folder: Path,
    pieces: Callable[[], Iterator[pd.DataFrame]],
    items: ItemTokens,
    tokenizer: Tokenizer,
    *,
    length: int,
) -> PairTokens | None:
    """Tokenise normalised queries and group them by item; None where no pair is of a known item.

    1. Count the pairs of each item, so that its place is known.
    2. Read them again and put each into the next free place of its item.
    3. Order the pairs of each item by their query's hash, then weight, so that the order of the source does not show.

    Args:
        pieces: begins to read; columns query, item_id and, where pairs have one, weight.
    """
    count = np.zeros(len(items.item_ids), np.int64)
    weighted = False
    for frame in pieces():
        rows, weighted = find_rows(items.item_ids, as_bytes(frame["item_id"])), "weight" in frame
        np.add.at(count, rows[rows >= 0], 1)
    bounds = np.concatenate([[0], np.cumsum(count)])
    total = int(bounds[-1])
    if not total:
        return None
    columns = {
        "ids": _create_array(folder / "ids.npy", _token_type(tokenizer), total, length),
        "keys": _create_array(folder / "keys.npy", np.int64, total),
        "rows": _create_array(folder / "rows.npy", np.int32, total),
    }
    if weighted:
        columns["cumulative"] = _create_array(folder / "cumulative.npy", np.float64, total)
    np.save(folder / "starts.npy", np.append(bounds[:-1][count > 0], total))
    del count
    free = bounds[:-1].copy()
    for frame in pieces():
        rows = find_rows(items.item_ids, as_bytes(frame["item_id"]))
        frame, rows = frame[rows >= 0], rows[rows >= 0]
        order = np.argsort(rows, kind="stable")
        frame, rows = frame.iloc[order], rows[order]
        places = free[rows] + np.arange(len(rows)) - np.searchsorted(rows, rows)
        np.add.at(free, rows, 1)
        codes, queries = pd.factorize(frame["query"])
        columns["ids"][places] = _encode(tokenizer, queries.tolist(), length)[codes]
        columns["keys"][places] = query_keys(queries.tolist())[codes]
        columns["rows"][places] = rows
        if weighted:
            columns["cumulative"][places] = frame["weight"]
    _order_within_items(columns, bounds)
    return read_pair_tokens(folder)


def _order_within_items(columns: dict[str, np.ndarray], bounds: np.ndarray) -> None:
    """Order the pairs of each item, `bounds[item]` to `bounds[item + 1]`, by hash and weight, and sum the weights up."""
    item, before = 0, 0.0
    while item < len(bounds) - 1:
        after = max(item + 1, int(np.searchsorted(bounds, bounds[item] + SORTED_AT_A_TIME, side="right")) - 1)
        part = slice(bounds[item], bounds[after])
        order = np.lexsort([columns[n][part] for n in ("cumulative", "keys", "rows") if n in columns])
        for column in columns.values():
            column[part] = column[part][order]
        if "cumulative" in columns and len(order):
            # One addition after the other from the first pair on: where a part begins must not show in the last bits.
            columns["cumulative"][part] = np.cumsum(np.append(before, columns["cumulative"][part]))[1:]
            before = float(columns["cumulative"][part][-1])
        item = after


def _encode(tokenizer: Tokenizer, queries: list[str], length: int) -> np.ndarray:
    """Queries to ids (B, length), cut or padded with 0."""
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=0)
    ids = np.zeros((len(queries), length), np.int32)
    for start in range(0, len(queries), ENCODED_AT_A_TIME):
        part = slice(start, start + ENCODED_AT_A_TIME)
        encoded = tokenizer.encode_batch_fast(queries[part], add_special_tokens=False)
        ids[part] = [e.ids for e in encoded]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ids


def _token_type(tokenizer: Tokenizer) -> type[np.generic]:
    return np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.int32


def _create_array(path: Path, kind: np.dtype | type[np.generic], *shape: int) -> np.ndarray:
    """A new array of zeros in a file, written through memory-mapping."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.asarray(np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape))
