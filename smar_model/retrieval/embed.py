"""Stage embed: the text and the multimodal embedding of every item, offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from smar_model.data.catalogue import MAXIMUM_FRAMES, Thumbnails, read_catalogue, read_thumbnails
from smar_model.data.patch_tokens import PatchTokens, read_item_pictures, read_patch_tokens
from smar_model.data.text_tokens import encode_items, load_tokenizer, trim
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel, load_model
from smar_model.training.encode_pictures import encoder_digest

BATCH = 256
CHUNK = 80 * BATCH
"""Items whose pictures are held in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEmbeddings:
    item_ids: list[str]
    """Sorted; row i of both arrays belongs to item_ids[i]."""
    text: np.ndarray
    """S_t, unit vectors (N, D) float32."""
    multimodal: np.ndarray
    """S_m (N, D) float32, as a query with P(q) = 1 meets it: unit vectors, or S_t + c(item)·(S_m − S_t) for a variant with
    item confidence; equal to S_t for a variant without pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPictures:
    """Pictures of items as Thumbnails has them, but as patch tokens (M, P, C) instead of pixels."""

    tokens: np.ndarray
    first: np.ndarray
    count: np.ndarray


@torch.inference_mode()
def embed_catalogue(
    model: RetrievalModel,
    tokenizer_file: Path,
    catalogue_files: Sequence[Path],
    picture_files: Sequence[Path],
    *,
    patch_tokens: PatchTokens | None = None,
) -> ItemEmbeddings:
    """Embed every item of a catalogue; of an item with several pictures S_m is the mean over up to four, or attends to as
    many as the network has frames.

    Args:
        patch_tokens: of all its pictures under the model's own vision encoder; None: they are encoded here.
    """
    catalogue = read_catalogue(catalogue_files)
    texts = encode_items(load_tokenizer(tokenizer_file), catalogue, model.shape.item_length)
    text, multimodal = [], []
    for start in range(0, len(texts.item_ids), BATCH):
        if model.variant.fusion and start % CHUNK == 0:
            pictures = _read_pictures(picture_files, texts.item_ids[start : start + CHUNK], patch_tokens)
        rows = slice(start, start + BATCH)
        ids, segments = trim(texts.ids[rows], texts.segments[rows])
        states, mask, embedding = model.encode_texts(torch.from_numpy(ids).long(), torch.from_numpy(segments).long())
        text.append(embedding.numpy())
        if model.variant.fusion:
            patches, owners, has = item_patches(model, pictures, start % CHUNK, len(ids))
            if model.shape.network.frames > 1:
                patches, owners, has = side_by_side(patches, owners, has, model.shape.network.frames)
            both = (
                *(states[owners], mask[owners], model.encode_images(patches, has)[0]),
                model.image_mask(has),
            )
            fused = torch.nn.functional.normalize(sum_by_item(model.fuse(*both), owners, len(ids)), dim=-1)
            if model.variant.item_confidence:
                shown = sum_by_item(torch.ones(len(owners)), owners, len(ids))
                confidence = sum_by_item(model.confidence(*both), owners, len(ids)) / shown
                fused = torch.lerp(embedding, fused, confidence[:, None])
            multimodal.append(fused.numpy())
    stacked = np.concatenate(text)
    return ItemEmbeddings(
        item_ids=texts.item_ids, text=stacked, multimodal=np.concatenate(multimodal) if multimodal else stacked
    )


def _read_pictures(
    files: Sequence[Path], item_ids: Sequence[str], patch_tokens: PatchTokens | None
) -> Thumbnails | EncodedPictures:
    if patch_tokens is None:
        return read_thumbnails(files, item_ids, maximum_frames=MAXIMUM_FRAMES)
    found = read_item_pictures(files, np.array([i.encode() for i in item_ids]), patch_tokens.digests)
    return EncodedPictures(tokens=patch_tokens.read(found.pictures, 0), first=found.first, count=found.count)


def item_patches(
    model: RetrievalModel, pictures: Thumbnails | EncodedPictures, first_item: int, items: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patch tokens of the pictures of a stretch of items: (M, P, C), the item of each (M,), whether it is a picture (M,).

    An item without pictures has one row that says so.
    """
    count = pictures.count[first_item : first_item + items]
    owners = np.repeat(np.arange(items), np.maximum(count, 1))
    has = np.repeat(count > 0, np.maximum(count, 1))
    patches = torch.zeros(len(owners), model.vision.patches, model.vision.channels)
    if has.any():
        first = pictures.first[first_item]
        own = slice(first, first + count.sum())
        patches[torch.from_numpy(has)] = (
            torch.from_numpy(pictures.tokens[own]).float()
            if isinstance(pictures, EncodedPictures)
            else _encode(model, pictures.pixels[own])
        )
    return patches, torch.from_numpy(owners), torch.from_numpy(has)


def _encode(model: RetrievalModel, pixels: np.ndarray) -> torch.Tensor:
    shape = model.shape
    if pixels.shape[2:] != (shape.picture_height, shape.picture_width):
        raise InputError(
            f"pictures are {pixels.shape[3]}×{pixels.shape[2]}, the model was trained on "
            f"{shape.picture_width}×{shape.picture_height}: set settings.pictures back, or retrain"
        )
    parts = [torch.from_numpy(pixels[i : i + BATCH]).float() / 255 for i in range(0, len(pixels), BATCH)]
    return torch.cat([model.picture_patches(part) for part in parts])


def side_by_side(
    patches: torch.Tensor, owners: torch.Tensor, has: torch.Tensor, frames: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first pictures of each item side by side: (N, F, P, C), the items (N,), which are pictures (N, F)."""
    items = int(owners[-1]) + 1
    frame = torch.arange(len(owners)) - torch.searchsorted(owners, owners)
    kept = frame < frames
    places = (owners[kept], frame[kept])
    together = patches.new_zeros(items, frames, *patches.shape[1:]).index_put_(places, patches[kept])
    return together, torch.arange(items), has.new_zeros(items, frames).index_put_(places, has[kept])


def sum_by_item(values: torch.Tensor, owners: torch.Tensor, items: int) -> torch.Tensor:
    """Sums over the pictures of each item: (M, …), (M,) → (N, …)."""
    return values.new_zeros(items, *values.shape[1:]).index_add_(0, owners, values)


def load_embeddings(folder: Path) -> ItemEmbeddings:
    """Read what the stage embed published."""
    table = pq.read_table(folder / "item_embeddings")
    vectors = {name: _matrix(table[name]) for name in ("text", "multimodal")}
    return ItemEmbeddings(item_ids=table["item_id"].to_pylist(), **vectors)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return flat.reshape(len(column), -1)


def run(context: StageContext) -> dict[str, float]:
    """Publish the table item_embeddings."""
    torch.set_num_threads(context.settings.training.threads)
    folder, encoded = context.input("finetune").folder / "model", context.input("encode-pictures")
    model = load_model(folder)
    is_own = model.variant.fusion is not None and encoded.metrics.get("encoder") == encoder_digest(model)
    embeddings = embed_catalogue(
        model,
        folder / "tokenizer.json",
        context.table("prepare-items", "catalogue"),
        context.table("prepare-items", "pictures"),
        patch_tokens=read_patch_tokens(encoded.folder / "patch_tokens") if is_own else None,
    )
    path = context.output("item_embeddings/part-0.parquet")
    pq.write_table(pa.Table.from_batches(list(_batches(embeddings))), path)
    return {"items": float(len(embeddings.item_ids)), "dimension": float(embeddings.text.shape[1])}


def _batches(embeddings: ItemEmbeddings) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(embeddings.item_ids), 10_000):
        rows = slice(start, start + 10_000)
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(embeddings.item_ids[rows]),
                *(
                    pa.array(list(v[rows].astype(np.float32)), pa.list_(pa.float32()))
                    for v in (embeddings.text, embeddings.multimodal)
                ),
            ],
            names=["item_id", "text", "multimodal"],
        )
