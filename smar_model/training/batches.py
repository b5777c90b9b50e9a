"""Batches of pairs for every training stage, from token tables and patch tokens that earlier stages made.

All of it is numpy's work: torch would give the thread that makes batches (`prefetch.py`) threads of its own, beside those that train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smar_model.data.hard_negatives import NO_ITEM, HardNegatives, read_hard_negatives
from smar_model.data.item_pictures import MAXIMUM_FRAMES, ItemPictures, Thumbnails, read_item_pictures, read_thumbnails
from smar_model.data.patch_tokens import PatchTokens, read_patch_tokens
from smar_model.data.picture_views import look
from smar_model.data.text_tokens import load_tokenizer, trim
from smar_model.data.token_tables import PairTokens, query_keys, read_item_tokens, read_pair_tokens
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.training.encode_pictures import encoder_digest
from smar_model.training.processes import own_rows

UNKNOWN = -1
"""Label of a query that has none."""
TRIES = 1_000
"""Draws for one batch of held-out pairs, before there are too few of them."""


@dataclass(slots=True, kw_only=True)
class Batch:
    queries: Tensor
    """Query token ids (B, L)."""
    query_keys: Tensor
    """Hash of the query's text (B,): equal texts are equal in every process."""
    item_keys: Tensor
    """Item rows (B,). With R further items a pair all that belongs to items has B·(1 + R) rows: each pair's own first."""
    texts: Tensor
    segments: Tensor
    patches: Tensor | None = None
    """Patch tokens of one picture an item (B, P, C), or of several (B, F, P, C)."""
    pixels: Tensor | None = None
    """Pictures (B, 3, H, W), 0–1, where the vision encoder is trained."""
    has_picture: Tensor | None = None
    """(B,), of several pictures (B, F)."""
    labels: Tensor | None = None
    """P(q)'s target: 1 visual, 0 not, −1 unknown (B,)."""

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put another tensor in the place of each."""
        for column in fields(self):
            if (value := getattr(self, column.name)) is not None:
                setattr(self, column.name, change(value))

    def split(self, size: int) -> list[Batch]:
        """The batch in parts of at most `size` pairs."""
        columns = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        rows = {name: size * (len(column) // len(self.queries)) for name, column in columns.items()}
        parts = range(-(-len(self.queries) // size))
        return [
            replace(self, **{name: c[part * rows[name] : (part + 1) * rows[name]] for name, c in columns.items()})
            for part in parts
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchTable:
    """Patch tokens of the items' pictures, in several views (design, decision 6)."""

    tokens: PatchTokens | None
    items: ItemPictures
    empty: tuple[int, int]
    """(P, C)"""
    frames: int = 1

    def sample(self, rows: np.ndarray, random: np.random.Generator, own: slice) -> tuple[Tensor, Tensor]:
        """One view of one picture of each item: patch tokens (B, P, C) and whether there is a picture (B,); with several
        frames, of its first pictures in their order: (B, F, P, C) and (B, F). Drawn for all rows, read for the own ones."""
        count, first = self.items.count[rows], self.items.first[rows]
        if self.frames > 1:
            frame = np.arange(self.frames)
            has, slot = frame < count[:, None], first[:, None] + frame
        else:
            has, slot = count > 0, first + random.integers(0, np.maximum(count, 1))
        view = random.integers(0, self.tokens.views, has.shape)[own] if self.tokens and has.any() else None
        has, slot = has[own], slot[own]
        patches = np.zeros((*has.shape, *self.empty), np.float32)
        if self.tokens and view is not None:
            patches[has] = self.tokens.read(self.items.pictures[slot[has]], view[has])
        return torch.from_numpy(patches), torch.from_numpy(has)


class TrainingData:
    """What a run's tables hold for training: only items and events from before its cutoff. All of it stays on disk."""

    def __init__(self, context: StageContext, *, seed: int, pictures: bool) -> None:
        self.context = context
        self.random = np.random.default_rng(seed)
        self.part: Literal["all", "learned", "held out"] = "all"
        self.token_dropout = context.settings.training.token_dropout
        made = context.input("train-tokenizer")
        self.tokenizer = load_tokenizer(made.file("tokenizer.json"))
        folder = made.folder / "tokens"
        self.items = read_item_tokens(folder / "items")
        self.clicked, self.synthetic = (read_pair_tokens(folder / kind) for kind in ("clicked", "synthetic"))
        self.categories = self.items.categories
        self.picture_files = context.table("prepare-items", "pictures") if pictures else None

    @cached_property
    def thumbnails(self) -> Thumbnails | None:
        """Pictures of the items, decoded once, where the vision encoder is trained."""
        if self.picture_files is None:
            return None
        return read_thumbnails(self.picture_files, self.items.item_ids, scratch=self.context.folder)

    def patch_table(self, model: RetrievalModel) -> PatchTable | None:
        """What encode-pictures made; None without pictures.

        Raises:
            InputError: it was made with another vision encoder than the model's.
        """
        if self.picture_files is None:
            return None
        made = self.context.input("encode-pictures")
        tokens = read_patch_tokens(made.folder / "patch_tokens")
        if tokens and made.metrics["encoder"] != encoder_digest(model):
            raise InputError(
                f"encode-pictures {made.key[:12]}: its patch tokens are of another vision encoder than the model's; run "
                "adapt-vision, encode-pictures and pretrain again"
            )
        files = self.picture_files if tokens else []
        digests = tokens.digests if tokens else np.zeros(0, np.bytes_)
        items = read_item_pictures(files, self.items.item_ids, digests)
        return PatchTable(
            tokens=tokens,
            items=items,
            empty=(model.vision.patches, model.vision.channels),
            frames=model.shape.network.frames,
        )

    def batches(
        self,
        size: int,
        clicked_share: float,
        *,
        patch_table: PatchTable | None = None,
        pixels: bool = False,
        random_negatives: int = 0,
        hard_negatives: int = 0,
        labels: Mapping[str, int] | None = None,
    ) -> Iterator[Batch]:
        """Endless batches: `clicked_share` of clicked pairs, the others synthetic ones of distinct items. All processes draw
        the same ones, and each gets its share of the rows.

        Args:
            random_negatives: items of the whole catalogue, drawn alike, that come with each pair.
            hard_negatives: items mined for each clicked pair that come with it; with other pairs random ones.
            labels: P(q)'s target by query, for those that have one.
        """
        clicked = round(size * clicked_share)
        known = None
        if labels is not None:
            known = pd.Series(labels.values(), index=query_keys(list(labels)), dtype=np.int64)
        mined = self._hard_negatives() if hard_negatives else None
        while True:
            made = self._sample(self.synthetic, self.synthetic.sample_items, size - clicked)
            seen = self._sample(self.clicked, self.clicked.sample_weighted, size - len(made))
            queries, keys, rows = (
                np.concatenate([getattr(self.synthetic, name)[made], getattr(self.clicked, name)[seen]])
                for name in ("ids", "keys", "rows")
            )
            if further := random_negatives + hard_negatives:
                drawn = self.random.integers(0, len(self.items.item_ids), (len(rows), further))
                if mined:
                    hard = mined.sample(seen, hard_negatives, self.random)
                    np.copyto(drawn[len(made) :, random_negatives:], hard, where=hard != NO_ITEM)
                rows = np.column_stack([rows, drawn]).ravel()
            texts = self.items.ids[rows]
            # A hidden token is padding in the middle: attention and pooling pass over it.
            hidden = self.random.random(texts.shape) < self.token_dropout
            own = own_rows(len(keys))
            own_items = own_rows(len(rows))
            texts, segments = trim(np.where(hidden, 0, texts)[own_items], self.items.segments[rows[own_items]])
            batch = Batch(
                queries=_long(*trim(queries[own])),
                query_keys=torch.from_numpy(keys[own]),
                item_keys=_long(rows[own_items]),
                texts=_long(texts),
                segments=_long(segments),
            )
            if patch_table:
                batch.patches, batch.has_picture = patch_table.sample(rows, self.random, own_items)
            if pixels and self.thumbnails:
                batch.pixels, batch.has_picture = self._pixels(self.thumbnails, rows, own_items)
            if known is not None:
                batch.labels = torch.from_numpy(known.reindex(keys[own], fill_value=UNKNOWN).to_numpy())
            yield batch

    def _hard_negatives(self) -> HardNegatives | None:
        """What mine-negatives made; None where it had no release to mine.

        Raises:
            InputError: it has not run.
        """
        made = self.context.inputs.get("mine-negatives")
        if made is None:
            run = self.context.run.name
            raise InputError(f"run {run}: settings ask for hard negatives; run `smar mine-negatives --run {run}` first")
        return read_hard_negatives(made.folder / "hard_negatives") if made.metrics["queries"] else None

    def hold_out(self, batches: Iterator[Batch], count: int) -> list[Batch]:
        """So many batches of held-out pairs; from here on `batches` are of the other pairs.

        Raises:
            InputError: too few pairs are held out.
        """
        self.part = "held out"
        found = list(islice(batches, count))
        self.part = "learned"
        return found

    def _sample(
        self, pairs: PairTokens, sample: Callable[[int, np.random.Generator], np.ndarray], size: int
    ) -> np.ndarray:
        found = sample(size, self.random)
        if self.part == "all" or not len(found):
            return found
        size, kept = len(found), np.zeros(0, np.int64)
        for _ in range(TRIES):
            kept = np.append(kept, found[pairs.held_out(found) == (self.part == "held out")])
            if len(kept) >= size:
                return kept[:size]
            found = sample(size, self.random)
        raise InputError("patience: too few queries to hold some of them out; unset it in the settings")

    def _pixels(self, thumbnails: Thumbnails, rows: np.ndarray, own: slice) -> tuple[Tensor, Tensor]:
        count = np.minimum(thumbnails.count[rows], MAXIMUM_FRAMES)
        picture = thumbnails.first[rows] + self.random.integers(0, np.maximum(count, 1))
        picture, has = picture[own], count[own] > 0
        if not len(thumbnails.pixels):
            size = self.context.settings.pictures
            return torch.zeros(len(has), 3, size.height, size.width), torch.from_numpy(has)
        chances = self.random.random((len(rows), 4))[own]
        pixels = look(thumbnails.pixels[np.where(has, picture, 0)], chances)
        return torch.from_numpy(np.divide(pixels, 255, dtype=np.float32)), torch.from_numpy(has)

    def describe(self, batch: Batch, pairs: int = 5) -> str:
        """The first pairs of a batch, for people: query → item id."""
        shown = zip(batch.queries[:pairs].tolist(), batch.item_keys[:pairs].tolist(), strict=True)
        lines = [
            f"{self.tokenizer.decode([i for i in ids if i]).strip()!r} → {self.items.item_ids[row].decode()}"
            for ids, row in shown
        ]
        return "; ".join(lines) + (f"; … ({len(batch.queries)} pairs)" if len(batch.queries) > pairs else "")


def _long(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))
