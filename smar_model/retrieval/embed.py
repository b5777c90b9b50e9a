"""Stage embed: the text and the multimodal embedding of every item, offline. Arrays on disk, memory-mapped.

    embeddings/item_ids.npy      (N,) UTF-8 bytes, sorted
               digests.npy       (N, 2) uint64, of all that an item's embedding depends on beside the model
               text.npy          (N, D) float32, S_t
               multimodal.npy    (N, D) float32, S_m; not there for a variant without pictures

1. Digest each item's text fields and the digests of its pictures.
2. Take over the rows of the newest output of the same model whose digest is the same.
3. Embed the others shard by shard, in as many processes as there are GPUs, or as `training.threads` allows; each finished shard
   is published beside the stage (a checkpoint), so that a stage that was killed goes on from there. Items that train-tokenizer has
   tokenised are not tokenised again.

A row taken over is the very one of before. One that is embedded anew is that of a full embedding to 1e-6: which items share its
batch shows in the last bits.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from smar_model.data.catalogue import MAXIMUM_FRAMES, iterate_pictures
from smar_model.data.patch_tokens import (
    ItemPictures,
    PatchTokens,
    distinct_pictures,
    read_item_pictures,
    read_patch_tokens,
)
from smar_model.data.text_tokens import load_tokenizer, trim
from smar_model.data.token_tables import ItemTokens, find_rows, read_item_tokens, write_item_tokens
from smar_model.data.training_pairs import iterate_rows
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, checkpoint_stage, find_checkpoints, is_whole, newest_artifact
from smar_model.lake.digests import digest_bytes, digest_file, digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel, load_model, model_digest
from smar_model.training.device import device
from smar_model.training.encode_pictures import encoder_digest, refuse_other_size
from smar_model.training.processes import from_first, processes, rank, wait_for_all

BATCH = 256
"""Items embedded at a time."""
SHARD = 1 << 16
"""Items of a shard: what one process does at a time, and what is lost of it when it is killed."""
PICTURES_TOGETHER = 64
TEXT_FIELDS = ("title", "category", "brand", "attributes")
EMBEDDING_STAGES = ("embed", "embed-release")
"""Whose outputs hold embeddings: of a run's own model, and of a release for a refresh of its index."""
ANY_TIME = datetime.max.replace(tzinfo=UTC)

ReadPatches = Callable[[np.ndarray], np.ndarray]
"""Rows of pictures (B,) to patch tokens (B, P, C). Pickles as the names of files, for other processes."""
Shown = tuple[Tensor, Tensor, Tensor]
"""Pictures of a batch of items, as `item_patches` returns them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEmbeddings:
    item_ids: list[str]
    """Sorted; row i of both arrays belongs to item_ids[i]."""
    text: np.ndarray
    """S_t, unit vectors (N, D) float32."""
    multimodal: np.ndarray
    """S_m (N, D) float32, as a query with P(q) = 1 meets it: unit vectors, or S_t + c(item)·(S_m − S_t) for a variant with
    item confidence; equal to S_t for a variant without pictures."""


class ItemEmbedder:
    """Embeds items. Of an item with several pictures S_m is the mean over up to four, or attends to as many as the network has
    frames."""

    def __init__(
        self,
        model: RetrievalModel,
        pictures: ItemPictures | None,
        read_patches: ReadPatches | None,
        place: torch.device | None = None,
    ) -> None:
        """
        Args:
            pictures, read_patches: None for a variant without pictures.
            place: where the towers compute; unset: on the CPU.
        """
        self.device = place or torch.device("cpu")
        self.model = model.to(self.device).eval()
        self.pictures, self.read_patches = pictures, read_patches

    def embed(self, items: ItemTokens, tokens: np.ndarray, rows: np.ndarray, *, threads: int = 1) -> np.ndarray:
        """S_t and S_m of n items: (2, n, D) float32; of a variant without pictures S_t alone, (1, n, D).

        Args:
            tokens: (n,) rows of `items`.
            rows: (n,) rows of `pictures`, in the same order.
            threads: batches at a time. On a CPU one thread each is quicker than all of them at one batch's small matrices; a GPU
                has the next batch while one is computed.
        """
        kinds = 2 if self.pictures else 1
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
        if self.pictures is None or self.read_patches is None:
            return texts[0], texts[1], None
        patches, owners, has = item_patches(self.model, self.pictures, self.read_patches, rows)
        return texts[0], texts[1], (patches.to(self.device), owners.to(self.device), has.to(self.device))

    @torch.inference_mode()
    def forward(self, ids: Tensor, segments: Tensor, shown: Shown | None) -> tuple[Tensor, ...]:
        """S_t and S_m (B, D) of a batch as `inputs` makes it."""
        model = self.model
        states, mask, embedding = model.encode_texts(ids, segments)
        if shown is None:
            return (embedding,)
        patches, owners, has = shown
        if model.shape.network.frames > 1:
            patches, owners, has = side_by_side(patches, owners, has, model.shape.network.frames)
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
    for start in range(0, len(tokens), SHARD):
        part = slice(start, start + SHARD)
        lengths[part] = (items.ids[tokens[part]] != 0).sum(1)
    ordered = np.argsort(lengths, kind="stable")
    return (ordered[start : start + BATCH] for start in range(0, len(tokens), BATCH))


def item_patches(model: RetrievalModel, pictures: ItemPictures, read_patches: ReadPatches, rows: np.ndarray) -> Shown:
    """Patch tokens of the pictures of items (B,): (M, P, C), the place of each one's item in `rows` (M,), whether it is a
    picture (M,).

    An item without pictures has one row that says so.
    """
    count = pictures.count[rows]
    owners = np.repeat(np.arange(len(rows)), np.maximum(count, 1))
    has = np.repeat(count > 0, np.maximum(count, 1))
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    tokens = torch.from_numpy(read_patches(pictures.pictures[np.repeat(pictures.first[rows], count) + within])).float()
    patches = tokens
    if not has.all():
        patches = torch.zeros(len(owners), model.vision.patches, model.vision.channels)
        patches[torch.from_numpy(has)] = tokens
    return patches, torch.from_numpy(owners), torch.from_numpy(has)


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


def find_pictures(files: Sequence[Path]) -> np.ndarray:
    """Digests of all pictures that an item's embedding may use, (M,) bytes, sorted."""
    found = [np.zeros(0, "S64")]
    for batch in iterate_pictures(files, ["frame", "picture_digest"]):
        shown = zip(batch["picture_digest"], batch["frame"], strict=True)
        found.append(np.array([digest for digest, frame in shown if frame < MAXIMUM_FRAMES], dtype="S64"))
    return np.unique(np.concatenate(found))


def read_pictures(files: Sequence[Path], item_ids: np.ndarray, digests: np.ndarray) -> ItemPictures:
    """`read_item_pictures` by a binary search of all rows at once, without a Python object for each: a tenth of its time."""
    found = [np.zeros((3, 0), np.int64)]
    for piece in iterate_rows(files, ["item_id", "frame", "picture_digest", "uninformative"]):
        piece = piece.filter(pc.and_(pc.is_null(piece["uninformative"]), pc.less(piece["frame"], MAXIMUM_FRAMES)))
        rows, pictures = _rows_of(item_ids, piece["item_id"]), _rows_of(digests, piece["picture_digest"])
        columns = np.stack([rows, piece["frame"].to_numpy().astype(np.int64), pictures])
        found.append(columns[:, columns[0] >= 0])
    rows, frames, pictures = np.concatenate(found, axis=1)
    assert (pictures >= 0).all(), "the digests are of the same table"
    count = np.bincount(rows, minlength=len(item_ids))
    return ItemPictures(pictures=pictures[np.lexsort((frames, rows))], first=np.cumsum(count) - count, count=count)


def _rows_of(ids: np.ndarray, wanted: pa.Array) -> np.ndarray:
    """`find_rows` of a column, (M,) int64."""
    keys = np.asarray(wanted.cast(pa.binary()).to_numpy(zero_copy_only=False), dtype=ids.dtype)
    found = np.minimum(np.searchsorted(ids, keys), len(ids) - 1)
    return np.where(ids[found] == keys, found, -1)


def encode_new_pictures(
    model: RetrievalModel, files: Sequence[Path], digests: np.ndarray, wanted: np.ndarray, file: Path
) -> ReadPatches:
    """Encode pictures into a scratch file, in one pass over their table; returns what reads them, by row of `digests`.

    Args:
        wanted: rows of `digests`, sorted.

    Raises:
        InputError: the thumbnails have another size than the model was trained on.
    """
    # Training has seen a locked encoder's tokens in half precision, as encode-pictures keeps them.
    kind = np.float16 if model.vision_locked else np.float32
    shape = (max(1, len(wanted)), model.vision.patches, model.vision.channels)
    tokens = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
    is_wanted = np.zeros(len(digests), bool)
    is_wanted[wanted] = True
    for rows, pixels in distinct_pictures(files, digests, is_wanted, together=PICTURES_TOGETHER):
        tokens[np.searchsorted(wanted, rows)] = _encode(model, pixels).cpu().numpy().astype(kind)
    return partial(_read_encoded, file, wanted)


def _read_encoded(file: Path, wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.load(file, mmap_mode="r")[np.searchsorted(wanted, rows)])


@torch.inference_mode()
def _encode(model: RetrievalModel, pixels: np.ndarray) -> Tensor:
    """(B, 3, H, W) uint8 to (B, P, C)."""
    refuse_other_size(model, pixels)
    place = next(model.parameters()).device
    return model.picture_patches(torch.from_numpy(pixels).to(place).float() / 255)


class _PublishedPatches:
    """Reads view 0 of what encode-pictures published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: PatchTokens | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.tokens = self.tokens or read_patch_tokens(self.folder)
        assert self.tokens is not None, "an item has a picture, so there are patch tokens"
        return self.tokens.read(rows, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)


def embed_catalogue(
    model: RetrievalModel,
    tokenizer_file: Path,
    catalogue_files: Sequence[Path],
    picture_files: Sequence[Path],
    *,
    patch_tokens: PatchTokens | None = None,
) -> ItemEmbeddings:
    """Embed every item of a catalogue in this process, in memory.

    Args:
        patch_tokens: of all its pictures under the model's own vision encoder; None: they are encoded here.
    """
    with TemporaryDirectory() as scratch:
        items = _tokenise(model, tokenizer_file, catalogue_files, Path(scratch) / "items")
        pictures: ItemPictures | None = None
        read: ReadPatches | None = None
        if model.variant.fusion:
            digests = patch_tokens.digests if patch_tokens else find_pictures(picture_files)
            pictures = read_item_pictures(picture_files, items.item_ids, digests)
            if patch_tokens:
                read = partial(patch_tokens.read, views=0)
            else:
                every, file = np.arange(len(digests)), Path(scratch) / "patches.npy"
                read = encode_new_pictures(model, picture_files, digests, every, file)
        every = np.arange(len(items.item_ids))
        vectors = ItemEmbedder(model, pictures, read).embed(items, every, every)
        item_ids = [item.decode() for item in items.item_ids.tolist()]
    return ItemEmbeddings(item_ids=item_ids, text=vectors[0], multimodal=vectors[-1])


def _tokenise(model: RetrievalModel, tokenizer_file: Path, files: Sequence[Path], folder: Path) -> ItemTokens:
    tokenizer, length = load_tokenizer(tokenizer_file), model.shape.item_length
    return write_item_tokens(folder, files, tokenizer, length=length, before=ANY_TIME)


def load_embeddings(folder: Path) -> ItemEmbeddings:
    """What a stage of EMBEDDING_STAGES published, memory-mapped.

    Raises:
        InputError: it is not there, or not whole.
    """
    item_ids, _, text, multimodal = _open(folder / "embeddings")
    return ItemEmbeddings(item_ids=[i.decode() for i in item_ids.tolist()], text=text, multimodal=multimodal)


def _open(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, digests, S_t, S_m."""
    try:
        ids, digests, text = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("item_ids", "digests", "text"))
        both = folder / "multimodal.npy"
        multimodal = np.load(both, mmap_mode="r") if both.is_file() else text
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not whole embeddings: {error}; run the stage embed again") from error
    return ids, digests, text, multimodal


def run(context: StageContext) -> dict[str, Any]:
    """Publish `embeddings/` of the run's catalogue under its own model."""
    return embed_stage(context, context.input("finetune").folder / "model")


def run_release(context: StageContext) -> dict[str, Any]:
    """Publish `embeddings/` of the run's catalogue under the release that the run works on, to refresh its index with.

    Raises:
        InputError: there was no release, or its files are gone.
    """
    release = context.run.release
    if release is None:
        raise InputError(f"run {context.run.name}: met no release when it started, so there is no index to refresh")
    return embed_stage(context, released_folder(context.run, release, "model"))


def embed_stage(context: StageContext, model_folder: Path) -> dict[str, Any]:
    """Embed the run's catalogue with a model; what other stages and earlier outputs have of it is not done again."""
    threads = context.settings.training.threads
    torch.set_num_threads(threads)
    model = load_model(model_folder)
    scratch = context.output(".scratch/any").parent  # hidden: no part of what is published
    made_of = {
        "model": model_digest(model_folder),
        "thumbnails_made_by": context.input("prepare-items").manifest["made_by"],
    }
    picture_files, encoded = context.table("prepare-items", "pictures"), context.inputs.get("encode-pictures")
    item_ids, texts = _read_texts(context.table("prepare-items", "catalogue"))
    pictures: ItemPictures | None = None
    patch_tokens: PatchTokens | None = None
    names = np.zeros(0, "S64")
    if model.variant.fusion:
        if encoded and encoded.metrics.get("encoder") == encoder_digest(model):
            patch_tokens = read_patch_tokens(encoded.folder / "patch_tokens")
        names = patch_tokens.digests if patch_tokens else find_pictures(picture_files)
        pictures = read_pictures(picture_files, item_ids, names)
    digests = _with_pictures(texts, pictures, names)

    earlier = _earlier(context, made_of)
    taken = _find(earlier[0], digests) if earlier else np.full(len(digests), -1)
    new = np.flatnonzero(taken < 0)
    read: ReadPatches | None = None
    if patch_tokens and encoded:
        read = _PublishedPatches(encoded.folder / "patch_tokens")
    elif pictures:
        file = scratch / "patches.npy"
        read = encode_new_pictures(model.to(device()), picture_files, names, _pictures_of(pictures, new), file)
    shards = _cut(_sources(context, model, model_folder, item_ids, new, scratch))
    plan = Plan(model_folder=model_folder, pictures=pictures, read_patches=read, scratch=scratch)
    context.report(f"embedding {len(new):,} items; {len(digests) - len(new):,} are embedded already")
    if rank():
        deque(_embedded_shards(context, plan, shards, model, threads), maxlen=0)
        return {}

    folder = context.output("embeddings/any").parent
    np.save(folder / "item_ids.npy", item_ids)
    np.save(folder / "digests.npy", digests)
    shape = (len(digests), model.shape.network.dimension)
    kinds = ("text", "multimodal") if pictures else ("text",)
    out = [np.lib.format.open_memmap(folder / f"{n}.npy", mode="w+", dtype=np.float32, shape=shape) for n in kinds]
    for vectors, source in zip(out, earlier[1:] if earlier else (), strict=False):
        for start in range(0, len(digests), SHARD):
            rows = np.flatnonzero(taken[start : start + SHARD] >= 0) + start
            vectors[rows] = source[taken[rows]]
    for rows, found in _embedded_shards(context, plan, shards, model, threads):
        for vectors, part in zip(out, found, strict=True):
            vectors[rows] = part
    for vectors in out:
        vectors.flush()
    shutil.rmtree(scratch)
    counts = {"items_embedded": float(len(new)), "items_reused": float(len(digests) - len(new))}
    return {"items": float(len(digests)), "dimension": float(shape[1]), **counts, **made_of}


def _read_texts(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a catalogue's items, sorted bytes (N,), and digests of their texts (N, 2) uint64."""
    ids, digests = [np.zeros(0, np.bytes_)], [np.zeros((0, 2), np.uint64)]
    for piece in iterate_rows(files, ["item_id", *TEXT_FIELDS]):
        ids.append(np.array([item.encode() for item in piece["item_id"].to_pylist()], dtype=np.bytes_))
        found = np.zeros((len(piece), 2), np.uint64)
        for name in TEXT_FIELDS[:-1]:
            found = _mix(found * _FACTOR + _hash_texts(piece[name]))
        attributes = piece["attributes"]
        pairs = _mix(_hash_texts(attributes.keys) * _FACTOR + _hash_texts(attributes.items))
        # Their order says nothing, so their sum does: as differences of running sums, which may wrap round.
        sums = np.concatenate([np.zeros((1, 2), np.uint64), np.cumsum(pairs, axis=0, dtype=np.uint64)])
        bounds = attributes.offsets.to_numpy()
        digests.append(_mix(found * _FACTOR + sums[bounds[1:]] - sums[bounds[:-1]]))
    item_ids, texts = np.concatenate(ids), np.concatenate(digests)
    if not len(item_ids):
        raise InputError("catalogue: no item to embed; check items.parquet")
    order = np.argsort(item_ids, kind="stable")
    return item_ids[order], texts[order]


_FACTOR = np.uint64(0x100000001B3)
_KEYS = ("smar-item-digest", "smar-item-digesu")
"""Two hashes of 64 bits: with one, two of ten million changed items would be taken for others once in a hundred thousand days."""


def _mix(hashes: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return hashes ^ (hashes >> np.uint64(29))


def _hash_texts(texts: pa.Array) -> np.ndarray:
    """(N,) texts to (N, 2) uint64; each distinct one is hashed once."""
    encoded = texts.fill_null("").dictionary_encode()
    distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
    each = [pd.util.hash_array(distinct, hash_key=key, categorize=False) for key in _KEYS]
    return np.stack(each, axis=1)[encoded.indices.to_numpy()]


def _with_pictures(texts: np.ndarray, pictures: ItemPictures | None, names: np.ndarray) -> np.ndarray:
    """Digests of items: of their texts', and of their pictures' in their order. (N, 2) uint64"""
    if pictures is None:
        return texts
    hashes = _hash_texts(pa.array(names.astype(str)))[pictures.pictures]
    within = np.arange(len(hashes)) - np.repeat(pictures.first, pictures.count)
    hashes = _mix(hashes + (within + 1).astype(np.uint64)[:, None])
    sums = np.concatenate([np.zeros((1, 2), np.uint64), np.cumsum(hashes, axis=0, dtype=np.uint64)])
    return _mix(texts * _FACTOR + sums[pictures.first + pictures.count] - sums[pictures.first])


def _earlier(context: StageContext, made_of: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Digests, S_t and S_m of the newest output that the same model has of thumbnails made in the same way."""
    found = [newest_artifact(stage, context.made_by, metrics=made_of) for stage in EMBEDDING_STAGES]
    newest = max((a for a in found if a), key=lambda a: a.manifest["finished_at"], default=None)
    return _open(newest.folder / "embeddings")[1:] if newest else None


def _find(digests: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row of each wanted digest, −1 for one that is not there: (N, 2), (M, 2) → (M,)."""
    digests = np.asarray(digests)
    order = np.argsort(digests[:, 0], kind="stable")
    place = np.searchsorted(digests[:, 0], wanted[:, 0], sorter=order)
    found = order[np.minimum(place, len(digests) - 1)]
    return np.where((digests[found] == wanted).all(1), found, -1)


def _pictures_of(pictures: ItemPictures, rows: np.ndarray) -> np.ndarray:
    """Pictures that items (n,) show, each once, sorted."""
    chosen = np.zeros(len(pictures.count), bool)
    chosen[rows] = True
    return np.unique(pictures.pictures[np.repeat(chosen, pictures.count)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Items to embed that are tokenised in one place."""

    items: Path
    """Folder of `token_tables.read_item_tokens`."""
    tokens: np.ndarray
    """(n,) rows there."""
    rows: np.ndarray
    """(n,) rows of the catalogue."""

    @property
    def digest(self) -> str:
        return digest_bytes(np.ascontiguousarray(self.rows, dtype=np.int64).tobytes())


def _sources(
    context: StageContext,
    model: RetrievalModel,
    model_folder: Path,
    item_ids: np.ndarray,
    new: np.ndarray,
    scratch: Path,
) -> list[Source]:
    """Tokens of the new items: those of train-tokenizer where it has read the same catalogue with the model's tokenizer, which are
    those of items last changed before training's end; the others are tokenised here."""
    found = np.full(len(new), -1)
    sources = []
    made = context.inputs.get("train-tokenizer")
    same_catalogue = made and made.manifest["inputs"].get("prepare-items") == context.input("prepare-items").digest
    if made and same_catalogue:
        same_tokenizer = digest_file(made.file("tokenizer.json")) == digest_file(model_folder / "tokenizer.json")
        items = read_item_tokens(made.folder / "tokens" / "items")
        if same_tokenizer and items.ids.shape[1] == model.shape.item_length:
            found = find_rows(items.item_ids, item_ids[new].astype(str).tolist())
            have = found >= 0
            sources.append(Source(items=made.folder / "tokens" / "items", tokens=found[have], rows=new[have]))
    rest = new[found < 0]
    if len(rest):
        chosen = scratch / "catalogue.parquet"
        _write_rows(context.table("prepare-items", "catalogue"), item_ids[rest], chosen)
        _tokenise(model, model_folder / "tokenizer.json", [chosen], scratch / "items")
        sources.append(Source(items=scratch / "items", tokens=np.arange(len(rest)), rows=rest))
    return sources


def _write_rows(files: Sequence[Path], wanted: np.ndarray, path: Path) -> None:
    """Rows of a catalogue that belong to these items (sorted bytes)."""
    with pq.ParquetWriter(path, pq.read_schema(files[0])) as writer:
        for piece in iterate_rows(files):
            kept = find_rows(wanted, piece["item_id"].to_pylist()) >= 0
            writer.write_batch(piece.filter(pa.array(kept)))


def _cut(sources: Sequence[Source]) -> list[Source]:
    """Sources of at most SHARD items."""
    return [
        Source(items=s.items, tokens=s.tokens[start : start + SHARD], rows=s.rows[start : start + SHARD])
        for s in sources
        for start in range(0, len(s.rows), SHARD)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process needs to embed any shard: names of files, and small arrays."""

    model_folder: Path
    pictures: ItemPictures | None
    read_patches: ReadPatches | None
    scratch: Path


def _embedded_shards(
    context: StageContext, plan: Plan, shards: Sequence[Source], model: RetrievalModel, threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows (n,) of each shard with what `ItemEmbedder.embed` makes of them: first those that a killed attempt has finished, then the
    others as they come.

    Of several machines (processes of torchrun) each embeds its share, which the first takes from the lake; the others yield their own alone.
    """
    kept = _kept(context)
    missing = [shard for shard in shards if shard.digest not in kept]
    if len(missing) < len(shards):
        context.report(f"{len(shards) - len(missing)} of {len(shards)} shards were finished by an earlier attempt")
    if processes() == 1:
        yield from _taken(kept, shards)
        yield from _newly_embedded(context, plan, missing, model, threads)
        return
    absent = set(from_first([shard.digest for shard in missing]))
    missing = [shard for shard in shards if shard.digest in absent]
    yield from _newly_embedded(context, plan, missing[rank() :: processes()], model, threads, keep=True)
    wait_for_all()
    if rank() == 0:
        theirs = [shard for number, shard in enumerate(missing) if number % processes()]
        kept = _kept(context)
        yield from _taken(kept, [shard for shard in shards if shard.digest not in absent] + theirs)
        # Where another machine saw another earlier output to take from, its shards were cut elsewhere.
        left = [shard for shard in theirs if shard.digest not in kept]
        yield from _newly_embedded(context, plan, left, model, threads)


def _kept(context: StageContext) -> dict[str, Artifact]:
    """Finished shards, by the digest of their rows."""
    found = find_checkpoints(context.stage.name)
    return {c.metrics["rows"]: c for c in found if c.metrics["of"] == context.key and is_whole(c)}


def _taken(kept: dict[str, Artifact], shards: Sequence[Source]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for shard in shards:
        if checkpoint := kept.get(shard.digest):
            yield shard.rows, np.load(checkpoint.file("shard.npy"), mmap_mode="r")


def _newly_embedded(
    context: StageContext,
    plan: Plan,
    missing: Sequence[Source],
    model: RetrievalModel,
    threads: int,
    *,
    keep: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed shards by the processes or GPUs of this machine. A single one is not kept for a later attempt, but where `keep` says so."""
    gpus = torch.cuda.device_count()
    workers = min(gpus or threads, len(missing))
    if workers <= 1:
        embedder = ItemEmbedder(model, plan.pictures, plan.read_patches, device())
        for number, shard in enumerate(missing):
            items = read_item_tokens(shard.items)
            found = embedder.embed(items, shard.tokens, shard.rows, threads=threads)
            if keep or len(missing) > 1:
                np.save(plan.scratch / f"{number:05}.npy", found)
                _keep(context, shard, plan.scratch / f"{number:05}.npy")
            yield shard.rows, found
        return
    # A forked process need not import PyTorch for five seconds. It uses one thread, so that OpenMP's threads, which stay behind, are
    # not missed; CUDA's state could not be shared.
    kind = multiprocessing.get_context("spawn" if gpus else "fork")
    numbers = kind.Value("i", 0)
    with ProcessPoolExecutor(workers, kind, initializer=_start_process, initargs=(plan, numbers)) as pool:
        work = {pool.submit(_embed_shard, shard, f"{number:05}.npy"): shard for number, shard in enumerate(missing)}
        try:
            for finished, done in enumerate(as_completed(work), start=1):
                shard, file = work[done], done.result()
                yield shard.rows, np.load(_keep(context, shard, file), mmap_mode="r")
                context.report(f"{finished} of {len(missing)} shards")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_process: tuple[Plan, ItemEmbedder]
"""Of a process that embeds shards."""


def _start_process(plan: Plan, numbers: Any) -> None:
    global _process
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    torch.set_num_threads(1)
    gpus = torch.cuda.device_count()
    place = torch.device("cuda", number % gpus) if gpus else torch.device("cpu")
    _process = plan, ItemEmbedder(load_model(plan.model_folder), plan.pictures, plan.read_patches, place)


def _embed_shard(shard: Source, name: str) -> Path:
    plan, embedder = _process
    np.save(plan.scratch / name, embedder.embed(read_item_tokens(shard.items), shard.tokens, shard.rows))
    return plan.scratch / name


def _keep(context: StageContext, shard: Source, file: Path) -> Path:
    """Publish a finished shard beside the stage; `smar start` removes it once the stage has finished."""
    attempt = Attempt(checkpoint_stage(context.stage.name), digest_json([context.key, shard.digest]))
    file.rename(attempt.folder / "shard.npy")
    kept = attempt.publish(metrics={"of": context.key, "rows": shard.digest}, inputs={}, settings={})
    return kept.file("shard.npy")
