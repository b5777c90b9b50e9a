"""Batches of pairs for every training stage, from the tables of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smar_model.data.catalogue import MAXIMUM_FRAMES, Thumbnails, augment, read_catalogue, read_thumbnails
from smar_model.data.text_tokens import ItemTexts, encode_items, encode_queries, load_tokenizer, trim
from smar_model.data.training_pairs import ClickedPairs, SyntheticPairs, read_clicked_pairs, read_synthetic_pairs
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.training.device import device

ENCODING_BATCH = 256


@dataclass(slots=True, kw_only=True)
class Batch:
    queries: Tensor
    """Query token ids (B, L)."""
    query_keys: Tensor
    """Hash of the query's text (B,): equal texts are equal in every process."""
    item_keys: Tensor
    """Item rows (B,)."""
    texts: Tensor
    segments: Tensor
    patches: Tensor | None = None
    """Patch tokens (B, P, C) of one picture an item."""
    pixels: Tensor | None = None
    """Pictures (B, 3, H, W), 0–1, where the vision encoder is trained."""
    has_picture: Tensor | None = None
    labels: Tensor | None = None
    """P(q)'s target: 1 visual, 0 not, −1 unknown (B,)."""

    def split(self, size: int) -> list[Batch]:
        """The batch in parts of at most `size` pairs."""
        columns = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        starts = range(0, len(self.queries), size)
        return [replace(self, **{name: c[start : start + size] for name, c in columns.items()}) for start in starts]


class PatchTable:
    """Patch tokens of every picture under a locked encoder, several augmented views of each (design, decision 6).

    Shape (V, M, P, C) in half precision; view 0 is the picture as it is.
    """

    def __init__(self, model: RetrievalModel, thumbnails: Thumbnails, views: int, random: np.random.Generator) -> None:
        model.vision.eval()
        self.views = []
        for view in range(views):
            parts = []
            for start in range(0, len(thumbnails.pixels), ENCODING_BATCH):
                pixels = thumbnails.pixels[start : start + ENCODING_BATCH]
                seen = augment(pixels, random) if view else pixels
                with torch.no_grad():
                    pictures = torch.from_numpy(seen).to(device()).float() / 255
                    parts.append(model.picture_patches(pictures).half().cpu())
            self.views.append(
                torch.cat(parts) if parts else torch.zeros(0, model.vision.patches, model.vision.channels)
            )

    def sample(self, thumbnails: Thumbnails, rows: np.ndarray, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One view of one picture of each item: patch tokens (B, P, C) and whether there is a picture (B,)."""
        count = np.minimum(thumbnails.count[rows], MAXIMUM_FRAMES)
        has = count > 0
        picture = np.where(has, thumbnails.first[rows] + random.integers(0, np.maximum(count, 1)), 0)
        view = random.integers(0, len(self.views), len(rows))
        if not len(self.views[0]):
            empty = self.views[0].new_zeros(len(rows), *self.views[0].shape[1:])
            return empty.float(), torch.from_numpy(has)
        patches = torch.stack([self.views[v][p] for v, p in zip(view, picture, strict=True)])
        return patches.float(), torch.from_numpy(has)


class TrainingData:
    """What a run's tables hold for training: only items and events from before its cutoff."""

    def __init__(self, context: StageContext, *, seed: int, pictures: bool) -> None:
        settings = context.settings
        self.random = np.random.default_rng(seed)
        self.tokenizer = load_tokenizer(context.input("train-tokenizer").file("tokenizer.json"))
        self.query_length = settings.tokenizer.query_length
        self.token_dropout = settings.training.token_dropout
        catalogue = read_catalogue(context.table("prepare-items", "catalogue"), before=context.run.cutoff)
        self.items: ItemTexts = encode_items(self.tokenizer, catalogue, settings.tokenizer.item_length)
        self.categories = catalogue["category"].astype("category").cat.codes.to_numpy()
        item_ids = self.items.item_ids
        novel_bucket = settings.segments.novel_bucket
        self.synthetic: SyntheticPairs = read_synthetic_pairs(
            context.table("generate-queries", "synthetic_queries"), item_ids, novel_bucket=novel_bucket
        )
        self.clicked: ClickedPairs = read_clicked_pairs(
            context.table("extract-clicks", "clicks"), item_ids, context.run.training_days, novel_bucket=novel_bucket
        )
        self.thumbnails = (
            read_thumbnails(context.table("prepare-items", "pictures"), item_ids, maximum_frames=MAXIMUM_FRAMES)
            if pictures
            else None
        )

    def batches(
        self,
        size: int,
        clicked_share: float,
        *,
        patch_table: PatchTable | None = None,
        pixels: bool = False,
        label_of: Callable[[str], int] | None = None,
    ) -> Iterator[Batch]:
        """Endless batches: `clicked_share` of clicked pairs, the others synthetic ones of distinct items."""
        clicked = round(size * clicked_share)
        while True:
            queries, rows = self.synthetic.sample(size - clicked, self.random)
            clicked_queries, clicked_rows = self.clicked.sample(size - len(queries), self.random)
            queries, rows = queries + clicked_queries, np.concatenate([rows, clicked_rows])
            keys = pd.util.hash_array(np.array(queries, dtype=object), categorize=False).view(np.int64)
            texts = self.items.ids[rows]
            # A hidden token is padding in the middle: attention and pooling pass over it.
            hidden = self.random.random(texts.shape) < self.token_dropout
            texts, segments = trim(np.where(hidden, 0, texts), self.items.segments[rows])
            batch = Batch(
                queries=torch.from_numpy(encode_queries(self.tokenizer, queries, self.query_length)),
                query_keys=torch.from_numpy(keys),
                item_keys=torch.from_numpy(rows),
                texts=torch.from_numpy(texts.astype(np.int64)),
                segments=torch.from_numpy(segments.astype(np.int64)),
            )
            if patch_table and self.thumbnails:
                batch.patches, batch.has_picture = patch_table.sample(self.thumbnails, rows, self.random)
            if pixels and self.thumbnails:
                batch.pixels, batch.has_picture = self._pixels(self.thumbnails, rows)
            if label_of:
                batch.labels = torch.tensor([label_of(q) for q in queries])
            yield batch

    def _pixels(self, thumbnails: Thumbnails, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        count = np.minimum(thumbnails.count[rows], MAXIMUM_FRAMES)
        picture = thumbnails.first[rows] + self.random.integers(0, np.maximum(count, 1))
        pixels = thumbnails.pixels[np.where(count > 0, picture, 0)]
        return torch.from_numpy(augment(pixels, self.random)).float() / 255, torch.from_numpy(count > 0)
