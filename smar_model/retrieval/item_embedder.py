"""Embeds items by a model's towers, in one process: their tokens, and the patch tokens of their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from smar_model.data.item_pictures import ItemPictures, distinct_pictures, find_pictures, read_item_pictures
from smar_model.data.text_tokens import load_tokenizer, trim
from smar_model.data.token_tables import ItemTokens, write_item_tokens
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.item_embeddings import ItemEmbeddings
from smar_model.training.encode_pictures import patches_of

BATCH = 256
"""Items embedded at a time."""
LENGTHS_TOGETHER = 1 << 16
PICTURES_TOGETHER = 64
ANY_TIME = datetime.max.replace(tzinfo=UTC)

ReadPatches = Callable[[np.ndarray], np.ndarray]
"""Rows of pictures (B,) to patch tokens (B, P, C). Pickles as the names of files, for other processes."""
Shown = tuple[Tensor, Tensor, Tensor]
"""Pictures of a batch of items, as `ItemPatches.of` returns them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPatches:
    """Patch tokens of the pictures that show items."""

    pictures: ItemPictures
    read: ReadPatches

    def of(self, model: RetrievalModel, rows: np.ndarray) -> Shown:
        """Those of items (B,): (M, P, C), the place of each one's item in `rows` (M,), whether it is a picture (M,). An item without
        pictures has one row that says so.

        For a network of F frames the first pictures of each item side by side: (B, F, P, C), (B,), (B, F).
        """
        count = self.pictures.count[rows]
        owners = np.repeat(np.arange(len(rows)), np.maximum(count, 1))
        has = np.repeat(count > 0, np.maximum(count, 1))
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        slots = self.pictures.pictures[np.repeat(self.pictures.first[rows], count) + within]
        tokens = torch.from_numpy(self.read(slots)).float()
        patches = tokens
        if not has.all():
            patches = torch.zeros(len(owners), model.vision.patches, model.vision.channels)
            patches[torch.from_numpy(has)] = tokens
        shown = patches, torch.from_numpy(owners), torch.from_numpy(has)
        frames = model.shape.network.frames
        return side_by_side(*shown, frames) if frames > 1 else shown


class ItemEmbedder:
    """Embeds items. Of an item with several pictures S_m is the mean over up to four, or attends to as many as the network has
    frames."""

    def __init__(
        self,
        model: RetrievalModel,
        patches: ItemPatches | None,
        place: torch.device | None = None,
    ) -> None:
        """
        Args:
            patches: None for a variant without pictures.
            place: where the towers compute; unset: on the CPU.
        """
        self.device = place or torch.device("cpu")
        self.model = model.to(self.device).eval()
        self.patches = patches

    def embed(self, items: ItemTokens, tokens: np.ndarray, rows: np.ndarray, *, threads: int = 1) -> np.ndarray:
        """S_t and S_m of n items: (2, n, D) float32; of a variant without pictures S_t alone, (1, n, D).

        Args:
            tokens: (n,) rows of `items`.
            rows: (n,) rows of the items whose `patches` there are, in the same order.
            threads: batches at a time. On a CPU one thread each is quicker than all of them at one batch's small matrices; a GPU
                has the next batch while one is computed.
        """
        kinds = 2 if self.patches else 1
        found = np.empty((kinds, len(rows), self.model.shape.network.dimension), np.float32)

        def work(places: np.ndarray) -> None:
            vectors = self.forward(*self.inputs(items, tokens[places], rows[places]))
            for out, part in zip(found, vectors, strict=True):
                out[places] = part.cpu().numpy()

        if threads == 1:
            for places in batches(items, tokens):
                work(places)
            return found
        before = torch.get_num_threads()
        with ThreadPoolExecutor(threads, "embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, batches(items, tokens)):
                pass
        torch.set_num_threads(before)  # else threads that begin later have one, too
        return found

    def inputs(self, items: ItemTokens, tokens: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor, Shown | None]:
        """What the towers read of a batch of items: token ids and segments (B, L), and their pictures."""
        ids, segments = trim(items.ids[tokens].astype(np.int64), items.segments[tokens].astype(np.int64))
        texts = [torch.from_numpy(part).to(self.device) for part in (ids, segments)]
        if self.patches is None:
            return texts[0], texts[1], None
        patches, owners, has = self.patches.of(self.model, rows)
        return texts[0], texts[1], (patches.to(self.device), owners.to(self.device), has.to(self.device))

    @torch.inference_mode()
    def forward(self, ids: Tensor, segments: Tensor, shown: Shown | None) -> tuple[Tensor, ...]:
        """S_t and S_m (B, D) of a batch as `inputs` makes it."""
        model = self.model
        states, mask, embedding = model.encode_texts(ids, segments)
        if shown is None:
            return (embedding,)
        patches, owners, has = shown
        if len(owners) > len(ids):
            states, mask = states[owners], mask[owners]
        both = (states, mask, model.encode_images(patches, has)[0], model.image_mask(has))
        fused = torch.nn.functional.normalize(sum_by_item(model.fuse(*both), owners, len(ids)), dim=-1)
        if model.variant.item_confidence:
            views = sum_by_item(fused.new_ones(len(owners)), owners, len(ids))
            confidence = sum_by_item(model.confidence(*both), owners, len(ids)) / views
            fused = torch.lerp(embedding, fused, confidence[:, None])
        return embedding, fused


def batches(items: ItemTokens, tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Places of n items in batches, texts of about one length together: a short one beside a long one would be padded to it."""
    lengths = np.zeros(len(tokens), np.int64)
    for start in range(0, len(tokens), LENGTHS_TOGETHER):
        part = slice(start, start + LENGTHS_TOGETHER)
        lengths[part] = (items.ids[tokens[part]] != 0).sum(1)
    ordered = np.argsort(lengths, kind="stable")
    return (ordered[start : start + BATCH] for start in range(0, len(tokens), BATCH))


def side_by_side(patches: Tensor, owners: Tensor, has: Tensor, frames: int) -> Shown:
    """The first pictures of each item side by side: (N, F, P, C), the items (N,), which are pictures (N, F)."""
    items = int(owners[-1]) + 1
    frame = torch.arange(len(owners), device=owners.device) - torch.searchsorted(owners, owners)
    kept = frame < frames
    places = (owners[kept], frame[kept])
    together = patches.new_zeros(items, frames, *patches.shape[1:]).index_put_(places, patches[kept])
    are_pictures = has.new_zeros(items, frames).index_put_(places, has[kept])
    return together, torch.arange(items, device=owners.device), are_pictures


def sum_by_item(values: Tensor, owners: Tensor, items: int) -> Tensor:
    """Sums over the pictures of each item: (M, …), (M,) → (N, …)."""
    return values.new_zeros(items, *values.shape[1:]).index_add_(0, owners, values)


def encode_pictures(
    model: RetrievalModel,
    files: Sequence[Path],
    item_ids: np.ndarray,
    file: Path,
    new: np.ndarray | slice = slice(None),
) -> ItemPatches:
    """Encode the pictures of items into a scratch file, in one pass over their table.

    Args:
        item_ids: sorted bytes.
        new: rows of the items whose patch tokens are asked for.

    Raises:
        InputError: the thumbnails have another size than the model was trained on.
    """
    digests = find_pictures(files)
    pictures = read_item_pictures(files, item_ids, digests)
    is_new, is_wanted = np.zeros(len(item_ids), bool), np.zeros(len(digests), bool)
    is_new[new] = True
    wanted = np.unique(pictures.pictures[np.repeat(is_new, pictures.count)])
    is_wanted[wanted] = True
    # Training has seen a locked encoder's tokens in half precision, as encode-pictures keeps them.
    kind = np.float16 if model.vision_locked else np.float32
    shape = (max(1, len(wanted)), model.vision.patches, model.vision.channels)
    tokens = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
    for rows, pixels in distinct_pictures(files, digests, is_wanted, together=PICTURES_TOGETHER):
        tokens[np.searchsorted(wanted, rows)] = patches_of(model, pixels).cpu().numpy().astype(kind)
    return ItemPatches(pictures=pictures, read=partial(_read_encoded, file, wanted))


def _read_encoded(file: Path, wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.load(file, mmap_mode="r")[np.searchsorted(wanted, rows)])


def embed_catalogue(
    model: RetrievalModel, tokenizer_file: Path, catalogue_files: Sequence[Path], picture_files: Sequence[Path]
) -> ItemEmbeddings:
    """Embed every item of a catalogue in this process, in memory."""
    with TemporaryDirectory() as scratch:
        items = tokenise(model, tokenizer_file, catalogue_files, Path(scratch) / "items")
        patches: ItemPatches | None = None
        if model.variant.fusion:
            patches = encode_pictures(model, picture_files, items.item_ids, Path(scratch) / "patches.npy")
        every = np.arange(len(items.item_ids))
        vectors = ItemEmbedder(model, patches).embed(items, every, every)
        item_ids = [item.decode() for item in items.item_ids.tolist()]
    return ItemEmbeddings(item_ids=item_ids, text=vectors[0], multimodal=vectors[-1])


def tokenise(
    model: RetrievalModel, tokenizer_file: Path, files: Sequence[Path], folder: Path, only: np.ndarray | None = None
) -> ItemTokens:
    """Tokenise a catalogue for a model into `folder`; `only` these items (sorted bytes)."""
    tokenizer, length = load_tokenizer(tokenizer_file), model.shape.item_length
    return write_item_tokens(folder, files, tokenizer, length=length, before=ANY_TIME, only=only)
