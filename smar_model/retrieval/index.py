"""Stages index and refresh-index: a FAISS index routed by P(q), its recall measured against exact search before it is published
(`index_files.py`).

1. Choose a factory string by the size of the catalogue and the recall asked for: exact search while it is quick; above, inverted
   lists of 4-bit product quantiser codes (FAISS's fast scan), the best of which are scored again in half precision.
2. Train it on a sample, add the items block by block (`index_building.py`): no more than a block of vectors is in memory beside the index.
   With `index.parts` one part after the other is filled and written, and all are asked from their files: what candidates are scored again by
   stays on disk, and the kernel keeps of it what it has memory for.
3. Search with real queries, as many of each share of S_m (where few have it, others are asked with it), and compare with exact search
   (`index_recall.py`): the cheapest search parameters whose recall reaches the floor with a margin in the worst bucket are kept
   (`search_parameters.py`). Below the floor nothing is published.

A refresh of the same model's index takes its trained parts and search parameters and skips training. FAISS removes items by reading
all lists, so it is filled anew, and the result is what a full build with those trained parts would be.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow.dataset as ds
import torch

from smar_model.errors import InputError
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext
from smar_model.retrieval.index_building import RoutedItems, build_parts, choose_factory, parts_of, train_index
from smar_model.retrieval.index_files import (
    IndexDescription,
    open_index,
    read_recall_queries,
    write_index,
)
from smar_model.retrieval.index_items import read_index_items
from smar_model.retrieval.index_recall import (
    ENOUGH_QUERIES,
    RecallQueries,
    draw_queries,
    recall_queries,
)
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.retrieval.network_queries import network_encoder
from smar_model.retrieval.parted_index import cut_rows
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.query_tower import TOWER_FILE
from smar_model.retrieval.search_parameters import recall_by_speed, search_times, tune_search
from smar_model.retrieval.tower_export import check_any_query, check_query_tower, export_where_needed
from smar_model.training.model_files import load_model
from smar_model.training.model_folder import model_digest

Metrics = dict[str, float | str | list[dict[str, float | str]]]


def run(context: StageContext) -> Metrics:
    """Publish an index of the run's own model.

    Raises:
        InputError: recall is below the floor, or the query tower that is served differs from the model's; nothing is published.
    """
    settings, model_folder = context.settings.index, context.input("finetune").folder / "model"
    torch.set_num_threads(context.settings.training.threads)
    vectors = RoutedItems(load_embeddings(context.input("embed").folder))
    factory = settings.factory or choose_factory(len(vectors), vectors.shape[1], settings.minimum_recall)
    context.report(f"building {factory} over {len(vectors):,} items")
    index = _fill(context, train_index(vectors, factory), vectors)

    clicks = ds.dataset([str(f) for f in context.table("extract-clicks", "clicks")])
    days = ds.field("day").isin(context.run.training_days)
    texts = sorted(clicks.to_table(columns=["query"], filter=days)["query"].unique().to_pylist())
    if not texts:
        raise InputError("no query on the training days to measure the index by; check the click log")
    model = load_model(model_folder)
    encoder = network_encoder(model, model_folder / "tokenizer.json")
    texts, asked, routes, shares = draw_queries(encoder, texts)
    queries = recall_queries(vectors, asked, routes, shares)
    made = IndexDescription(
        model_digest=model_digest(model_folder),
        factory=factory,
        search_parameters=tune_search(index, vectors, queries, settings.minimum_recall),
        trained_on=len(vectors),
        shares=shares.tolist(),
    )
    made = _measured(context, index, vectors, queries, made)
    tower_file = context.output(TOWER_FILE)
    kind = export_where_needed(model, model_folder, tower_file, settings.query_tower)
    served = QueryEncoder.load(model_folder, tower_file)
    check = check_query_tower(served, encoder, texts, vectors, queries, kind)
    made = made.model_copy(update={"query_tower": kind, "query_tower_check": check})
    curve = recall_by_speed(index, vectors, queries, made.search_parameters)
    return _publish(context, index, vectors, queries, made) | {"recall_by_speed": curve}


def refresh(context: StageContext) -> Metrics:
    """Publish the index of the release that the run works on, with today's catalogue.

    Raises:
        InputError: there was no release, its index is damaged or was made before indexes could be refreshed, or recall is below
            the floor; nothing is published.
    """
    settings, release = context.settings.index, context.run.release
    if release is None:
        raise InputError(f"run {context.run.name}: met no release when it started, so there is no index to refresh")
    torch.set_num_threads(context.settings.training.threads)
    model_folder, index_folder = (released_folder(context.run, release, part) for part in ("model", "index"))
    manifest, (index, *_), old = open_index(index_folder, model_folder)  # every part is trained alike
    made: IndexDescription = manifest
    asked, routes = read_recall_queries(index_folder)
    vectors = RoutedItems(load_embeddings(context.input("embed-release").folder))
    factory = settings.factory or choose_factory(len(vectors), vectors.shape[1], settings.minimum_recall)
    is_near = made.trained_on / 2 <= len(vectors) <= 2 * made.trained_on
    is_kept = factory == made.factory or (not settings.factory and "Flat" not in (factory, made.factory) and is_near)
    if is_kept:
        context.report(f"filling {made.factory} with {len(vectors):,} items")
    else:
        context.report(f"training {factory} anew for {len(vectors):,} items; it was made for {made.trained_on:,}")
        index = train_index(vectors, factory)
        made = made.model_copy(update={"factory": factory, "search_parameters": "", "trained_on": len(vectors)})
    index = _fill(context, index, vectors)
    queries = recall_queries(vectors, asked, routes, np.array(made.shares))
    if not is_kept or queries.measure(index, vectors).worst < settings.minimum_recall:
        tuned = tune_search(index, vectors, queries, settings.minimum_recall)
        made = made.model_copy(update={"search_parameters": tuned})
    made = _measured(context, index, vectors, queries, made)
    made = _with_tower(context, made, model_folder, index_folder / TOWER_FILE)
    ids, before = set(vectors.embeddings.item_ids), set(old["item_id"].to_pylist())
    return _publish(context, index, vectors, queries, made) | {
        "trained_again": float(not is_kept),
        "items_added": float(len(ids - before)),
        "items_removed": float(len(before - ids)),
        "items_embedded": context.input("embed-release").metrics["items_embedded"],
        "refreshed_from": release.index_digest,
    }


def _with_tower(context: StageContext, made: IndexDescription, model_folder: Path, exported: Path) -> IndexDescription:
    """The release's own tower put into its refreshed index; one of an older version, which exported none, gets it now."""
    file = context.output(TOWER_FILE)
    if exported.is_file():
        file.write_bytes(exported.read_bytes())
        return made
    if made.query_tower == "words":
        return made
    model = load_model(model_folder)
    kind = export_where_needed(model, model_folder, file, "onnx")
    check_any_query(model, model_folder, file)
    return made.model_copy(update={"query_tower": kind})


def _fill(context: StageContext, index: faiss.Index, vectors: RoutedItems) -> faiss.Index:
    """`build_parts`, its files in a hidden folder, which is no part of what is published and which `_publish` removes."""
    return build_parts(index, vectors, context.settings.index.parts, context.output(".parts/any").parent)


def _measured(
    context: StageContext, index: faiss.Index, vectors: RoutedItems, queries: RecallQueries, made: IndexDescription
) -> IndexDescription:
    """With its recall, at or above the floor.

    Raises:
        InputError: it is below.
    """
    recall, floor = queries.measure(index, vectors), context.settings.index.minimum_recall
    if recall.worst < floor:
        worst = min(recall.buckets, key=lambda b: b.recall if b.queries >= ENOUGH_QUERIES else math.inf)
        raise InputError(
            f"index {made.factory}: recall@{recall.depth} against exact search is {recall.worst:.3f} where the share of pictures "
            f"is {worst.lower:g} to {worst.upper:g} ({recall.overall:.3f} over all), under index.minimum_recall "
            f"{floor}; choose a finer index.factory"
        )
    return made.model_copy(update={"recall": recall.model_copy(update={"floor": floor})})


def _publish(
    context: StageContext, index: faiss.Index, vectors: RoutedItems, queries: RecallQueries, made: IndexDescription
) -> Metrics:
    items = read_index_items(
        context.table("prepare-items", "catalogue"),
        vectors.embeddings.item_ids,
        offer_files=context.table("prepare-items", "offers"),
    )
    # Times belong to the machine, not to the index: they stand in the metrics, outside the content.
    times = search_times(index, queries)
    cuts = cut_rows(len(vectors), context.settings.index.parts)
    folder = context.output("index.json").parent
    write_index(folder, parts_of(index), items, queries.asked, queries.routes, made, cuts=cuts)
    shutil.rmtree(folder / ".parts")
    assert made.recall is not None, "it has been measured"
    return {
        "recall_at_100": made.recall.overall,
        "recall_at_100_worst": made.recall.worst,
        **{f"search_p{q}_ms": float(np.percentile(times, q)) for q in (50, 99)},
        "items": float(len(vectors)),
        "bytes_per_item": sum(file.stat().st_size for file in folder.glob("index*.faiss")) / len(vectors),
        "factory": made.factory,
        "search_parameters": made.search_parameters,
        "query_tower": made.query_tower,
    }
