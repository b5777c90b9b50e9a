"""Stages embed and embed-release: the text and the multimodal embedding of every item, offline (`item_embeddings.py`).

1. Read the digest of each item's content from the catalogue.
2. Take over the rows of the newest output of the same model whose digest is the same.
3. Embed the others (`embed_shards.py`). Items that train-tokenizer has tokenised are not tokenised again.

A row taken over is the very one of before. One that is embedded anew is that of a full embedding to 1e-6: which items share its
batch shows in the last bits.
"""

from __future__ import annotations

import shutil
from collections import deque
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from smar_model.data.catalogue import read_item_digests
from smar_model.data.earlier_rows import find_earlier, match_digests, take_rows
from smar_model.data.item_pictures import read_item_pictures
from smar_model.data.patch_tokens import PatchTokens, read_patch_tokens
from smar_model.data.sorted_keys import find_rows
from smar_model.data.token_tables import read_item_tokens
from smar_model.errors import InputError
from smar_model.lake.digests import digest_file
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.embed_shards import Plan, Source, cut_shards, embedded_shards
from smar_model.retrieval.embedding_rows import write_row_digests
from smar_model.retrieval.item_embedder import ItemPatches, encode_pictures, tokenise
from smar_model.retrieval.item_embeddings import create_embeddings, open_embeddings
from smar_model.training.device import device
from smar_model.training.encode_pictures import encoder_digest
from smar_model.training.model_files import load_model
from smar_model.training.model_folder import model_digest
from smar_model.training.processes import rank

EMBEDDING_STAGES = ("embed", "embed-release")
"""Whose outputs hold embeddings: of a run's own model, and of a release for a refresh of its index."""
ROWS_TAKEN_TOGETHER = 1 << 16


def run(context: StageContext) -> dict[str, float | str]:
    """Publish `embeddings/` of the run's catalogue under its own model."""
    return embed_stage(context, context.input("finetune").folder / "model")


def run_release(context: StageContext) -> dict[str, float | str]:
    """Publish `embeddings/` of the run's catalogue under the release that the run works on, to refresh its index with.

    Raises:
        InputError: there was no release, or its files are gone.
    """
    release = context.run.release
    if release is None:
        raise InputError(f"run {context.run.name}: met no release when it started, so there is no index to refresh")
    return embed_stage(context, released_folder(context.run, release, "model"))


def embed_stage(context: StageContext, model_folder: Path) -> dict[str, float | str]:
    """Embed the run's catalogue with a model; what other stages and earlier outputs have of it is not done again."""
    threads = context.settings.training.threads
    torch.set_num_threads(threads)
    model = load_model(model_folder)
    scratch = context.output(".scratch/any").parent  # hidden: no part of what is published
    made_of = {
        "model": model_digest(model_folder),
        "thumbnails_made_by": context.input("prepare-items").manifest["made_by"],
    }
    item_ids, digests = read_item_digests(
        context.table("prepare-items", "catalogue"), "content_digest" if model.variant.fusion else "text_digest"
    )
    held, earlier = np.full(len(digests), -1), list[np.ndarray]()
    if artifact := find_earlier(context, made_of, stages=EMBEDDING_STAGES):
        _, known, earlier = open_embeddings(artifact.folder)
        held = match_digests(known, digests)
    new = np.flatnonzero(held < 0)
    patches = _patches(context, model, item_ids, new, scratch)
    shards = cut_shards(_sources(context, model, model_folder, item_ids, new, scratch))
    plan = Plan(model_folder=model_folder, patches=patches, scratch=scratch)
    context.report(f"embedding {len(new):,} items; {len(digests) - len(new):,} are embedded already")
    embedded = embedded_shards(context, plan, shards, model, threads)
    if rank():
        deque(embedded, maxlen=0)
        return {}

    folder, dimension = context.output("embeddings/any").parent, model.shape.network.dimension
    out = create_embeddings(folder, item_ids, digests, dimension=dimension, kinds=2 if patches else 1)
    for vectors, source in zip(out, earlier, strict=False):
        take_rows(held, source.__getitem__, vectors.__setitem__, together=ROWS_TAKEN_TOGETHER)
    for rows, found in embedded:
        for vectors, part in zip(out, found, strict=True):
            vectors[rows] = part
    for vectors in out:
        vectors.flush()
    write_row_digests(folder, out)
    shutil.rmtree(scratch)
    counts = {"items_embedded": float(len(new)), "items_reused": float(len(digests) - len(new))}
    return {"items": float(len(digests)), "dimension": float(dimension), **counts, **made_of}


def _patches(
    context: StageContext, model: RetrievalModel, item_ids: np.ndarray, new: np.ndarray, scratch: Path
) -> ItemPatches | None:
    """Those of encode-pictures, where they are of the model's encoder; else the pictures of the new items are encoded here. None for a
    variant without pictures."""
    if not model.variant.fusion:
        return None
    files, encoded = context.table("prepare-items", "pictures"), context.inputs.get("encode-pictures")
    if encoded and encoded.metrics.get("encoder") == encoder_digest(model):
        folder = encoded.folder / "patch_tokens"
        if tokens := _published_patches(folder):
            pictures = read_item_pictures(files, item_ids, tokens.digests)
            return ItemPatches(pictures=pictures, read=partial(_read_published, folder))
    return encode_pictures(model.to(device()), files, item_ids, scratch / "patches.npy", new)


@lru_cache(maxsize=1)
def _published_patches(folder: Path) -> PatchTokens | None:
    return read_patch_tokens(folder)


def _read_published(folder: Path, rows: np.ndarray) -> np.ndarray:
    """View 0 of what encode-pictures published; in each process that embeds."""
    tokens = _published_patches(folder)
    assert tokens is not None, "an item has a picture, so there are patch tokens"
    return tokens.read(rows, 0)


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
            found = find_rows(items.item_ids, item_ids[new])
            have = found >= 0
            sources.append(Source(items=made.folder / "tokens" / "items", tokens=found[have], rows=new[have]))
    rest = new[found < 0]
    if len(rest):
        catalogue = context.table("prepare-items", "catalogue")
        tokenise(model, model_folder / "tokenizer.json", catalogue, scratch / "items", item_ids[rest])
        sources.append(Source(items=scratch / "items", tokens=np.arange(len(rest)), rows=rest))
    return sources
