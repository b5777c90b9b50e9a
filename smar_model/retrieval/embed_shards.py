"""Items embedded shard by shard, in as many processes as there are GPUs or as `training.threads` allows, on one machine or several.

Each finished shard is published beside the stage (a checkpoint), so that a stage that was killed goes on from there.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smar_model.data.token_tables import read_item_tokens
from smar_model.lake.artifacts import Artifact, checkpoint_stage, find_checkpoints, is_whole
from smar_model.lake.digests import digest_bytes, digest_json
from smar_model.lake.publishing import Attempt
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.retrieval.item_embedder import ItemEmbedder, ItemPatches
from smar_model.training.device import device
from smar_model.training.model_files import load_model
from smar_model.training.processes import from_first, processes, rank, wait_for_all

SHARD = 1 << 16
"""Items of a shard: what one process does at a time, and what is lost of it when it is killed."""


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


def cut_shards(sources: Sequence[Source]) -> list[Source]:
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
    patches: ItemPatches | None
    scratch: Path


def embedded_shards(
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
        embedder = ItemEmbedder(model, plan.patches, device())
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
    _process = plan, ItemEmbedder(load_model(plan.model_folder), plan.patches, place)


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
