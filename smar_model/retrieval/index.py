"""Stages index and refresh-index: a FAISS index routed by P(q), its recall measured against exact search before it is published
(`index_files.py`).

1. Choose a factory string by the size of the catalogue and the recall asked for: exact search while it is quick; above, inverted
   lists of 4-bit product quantiser codes (FAISS's fast scan), the best of which are scored again in half precision.
2. Train it on a sample, add the items block by block (`index_building.py`): no more than a block of vectors is in memory beside the index.
3. Search with real queries, as many of each share of S_m (where few have it, others are asked with it), and compare with exact search
   (`index_recall.py`): the cheapest search parameters whose recall reaches the floor with a margin in the worst bucket are kept
   (`search_parameters.py`). Below the floor nothing is published.

With `index.parts` each part is filled and tuned by itself, here or by other processes on other machines before (`index_parts.py`); the stage
does what is left, puts together what they found, and publishes all as one index.

A refresh of the same model's index takes its trained parts and search parameters and skips training. FAISS removes items by reading
all lists, so it is filled anew, and the result is what a full build with those trained parts would be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.release_copies import released_folder
from smar_model.lake.stage import StageContext
from smar_model.retrieval.index_building import RoutedItems, choose_factory, fill_index, train_index
from smar_model.retrieval.index_files import (
    IndexDescription,
    Recall,
    describe_index,
    open_index,
    read_recall_queries,
    write_index,
)
from smar_model.retrieval.index_items import read_index_items
from smar_model.retrieval.index_parts import (
    EMBEDDINGS,
    PART_FILE,
    PLAN,
    Plan,
    do_step,
    fill_part,
    filled,
    gather,
    is_parted,
    kept_best,
    tune_part,
    tuned,
)
from smar_model.retrieval.index_recall import (
    ENOUGH_QUERIES,
    draw_queries,
    recall_queries,
)
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.retrieval.network_queries import network_encoder
from smar_model.retrieval.parted_index import cut_rows
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.query_tower import TOWER_FILE
from smar_model.retrieval.search_parameters import recall_by_speed, search_times, tune_search
from smar_model.retrieval.tower_export import (
    check_any_query,
    check_query_tower,
    compare_towers,
    export_where_needed,
    judge_tower,
)
from smar_model.training.model_files import load_model
from smar_model.training.model_folder import model_digest

Metrics = dict[str, Any]


def run(context: StageContext) -> Metrics:
    """Publish an index of the run's own model.

    Raises:
        InputError: recall is below the floor, or the query tower that is served differs from the model's; nothing is published.
    """
    settings = context.settings.index
    torch.set_num_threads(context.settings.training.threads)
    if is_parted(context):
        return _publish_parts(context)
    vectors, index, made = _trained(context)
    fill_index(index, vectors)
    model_folder, texts, encoder, asked, routes, shares = _training_queries(context)
    queries = recall_queries(vectors, asked, routes, shares)
    parameters = tune_search(index, vectors, queries, settings.minimum_recall)
    made = made.model_copy(update={"search_parameters": parameters, "shares": tuple(shares.tolist())})
    recall = _over_floor(context, queries.measure(index, vectors), made)
    kind, served = _exported_tower(context, model_folder, context.output(TOWER_FILE))
    check = check_query_tower(served, encoder, texts, vectors, queries, kind)
    made = made.model_copy(update={"recall": recall, "query_tower": kind, "query_tower_check": check})
    curve = recall_by_speed(index, vectors, queries, parameters)
    times = search_times(index, queries.asked)
    return _publish(context, [index], asked, routes, made, times) | {"recall_by_speed": curve}


def refresh(context: StageContext) -> Metrics:
    """Publish the index of the release that the run works on, with today's catalogue.

    Raises:
        InputError: there was no release, its index is damaged or was made before indexes could be refreshed, or recall is below
            the floor; nothing is published.
    """
    settings = context.settings.index
    torch.set_num_threads(context.settings.training.threads)
    if is_parted(context):
        return _publish_parts(context)
    vectors, index, made, is_kept = _of_release(context)
    fill_index(index, vectors)
    asked, routes = read_recall_queries(_released(context, "index"))
    queries = recall_queries(vectors, asked, routes, np.array(made.shares))
    is_tuned = is_kept and made.part_parameters is None
    if not is_tuned or queries.measure(index, vectors).worst < settings.minimum_recall:
        tuned_to = tune_search(index, vectors, queries, settings.minimum_recall)
        made = made.model_copy(update={"search_parameters": tuned_to})
    recall = _over_floor(context, queries.measure(index, vectors), made)
    made = _with_tower(context, made.model_copy(update={"recall": recall, "part_parameters": None}))
    times = search_times(index, queries.asked)
    return _publish(context, [index], asked, routes, made, times) | _refreshed(context, is_kept)


def plan_parts(context: StageContext, folder: Path) -> Metrics:
    """The step that all parts wait for; writes what `Plan` holds, the empty index `trained.faiss`, and the exported query tower."""
    context = replace(context, folder=folder)
    torch.set_num_threads(context.settings.training.threads)
    if context.stage.name == "refresh-index":
        return _plan_refresh(context)
    vectors, index, made = _trained(context)
    model_folder, texts, encoder, asked, routes, shares = _training_queries(context)
    kind, served = _exported_tower(context, model_folder, context.output(TOWER_FILE))
    theirs, difference = compare_towers(served, encoder, texts)
    made = made.model_copy(update={"shares": tuple(shares.tolist()), "query_tower": kind})
    plan = Plan(
        items=len(vectors),
        parts=context.settings.index.parts,
        asked=asked,
        routes=routes,
        shares=shares,
        served=theirs,
        made=made.model_dump(mode="json", by_alias=True),
        difference=difference,
        kept=(),
    )
    return _write_plan(context, plan, index)


def _plan_refresh(context: StageContext) -> Metrics:
    vectors, index, made, is_kept = _of_release(context)
    asked, routes = read_recall_queries(_released(context, "index"))
    made = _with_tower(context, made)
    parts, kept = context.settings.index.parts, made.part_parameters or ()
    plan = Plan(
        items=len(vectors),
        parts=parts,
        asked=asked,
        routes=routes,
        shares=np.array(made.shares),
        served=np.empty((0, vectors.shape[1]), np.float32),
        made=made.model_dump(mode="json", by_alias=True),
        difference=0.0,
        kept=kept if is_kept and len(kept) == len(cut_rows(len(vectors), parts)) else (),
    )
    return _write_plan(context, plan, index) | {"is_kept": is_kept}


def _write_plan(context: StageContext, plan: Plan, index: faiss.Index) -> Metrics:
    plan.write(context.folder)
    faiss.write_index(index, str(context.output("trained.faiss")))
    return {"parts": len(plan.cuts)}


def _publish_parts(context: StageContext) -> Metrics:
    """Do the steps that nobody has done for this output, put together what the parts found, and publish all as one index."""
    embed = context.input(EMBEDDINGS[context.stage.name])
    planned = do_step(context, PLAN, lambda folder: plan_parts(context, folder))
    plan = Plan.read(planned)
    numbers = range(len(plan.cuts))
    context.report(f"{plan.made['factory']} over {plan.items:,} items in {len(numbers)} parts")

    def fill(number: int) -> Artifact:
        return do_step(context, filled(number), lambda folder: fill_part(folder, embed, planned, number))

    def tune(number: int) -> Artifact:
        floor = context.settings.index.minimum_recall
        return do_step(
            context, tuned(number), lambda folder: tune_part(folder, embed, planned, fills, number, floor=floor)
        )

    fills = list(map(fill, numbers))
    tunes = list(map(tune, numbers))
    used, around = gather(plan, fills, tunes)
    made = IndexDescription.model_validate(plan.made)
    recall = _over_floor(context, used.recall, made)
    changes: dict[str, Any] = {"recall": recall, "part_parameters": used.parameters}
    changes["search_parameters"] = _joined(used.parameters)
    if len(plan.served):
        changes["query_tower_check"] = judge_tower(plan.difference, kept_best(plan, fills), made.query_tower)
    if TOWER_FILE in planned.manifest["files"]:
        context.output(TOWER_FILE).write_bytes(planned.file(TOWER_FILE).read_bytes())
    files = [fill.file(PART_FILE) for fill in fills]
    metrics = _publish(context, files, plan.asked, plan.routes, made.model_copy(update=changes), used.milliseconds)
    if context.stage.name == "refresh-index":
        return metrics | _refreshed(context, planned.metrics["is_kept"])
    points = {
        _joined(one.parameters): {
            "parameters": _joined(one.parameters),
            "ms": float(np.median(one.milliseconds)),
            "recall": one.recall.overall,
            "worst": one.recall.worst,
        }
        for one in around
    }
    return metrics | {"recall_by_speed": list(points.values())}


def _joined(parameters: Sequence[str]) -> str:
    """Search parameters of all parts, for people."""
    return parameters[0] if len(set(parameters)) == 1 else " / ".join(parameters)


def _trained(context: StageContext) -> tuple[RoutedItems, faiss.Index, IndexDescription]:
    """The run's vectors, an empty index trained on a sample of them, and what is known of it."""
    settings = context.settings.index
    vectors = RoutedItems(load_embeddings(context.input("embed").folder))
    factory = settings.factory or choose_factory(len(vectors), vectors.shape[1], settings.minimum_recall)
    context.report(f"building {factory} over {len(vectors):,} items")
    made = IndexDescription(
        model_digest=model_digest(context.input("finetune").folder / "model"), factory=factory, trained_on=len(vectors)
    )
    return vectors, train_index(vectors, factory), made


def _training_queries(
    context: StageContext,
) -> tuple[Path, list[str], QueryEncoder, np.ndarray, np.ndarray, np.ndarray]:
    """Folder of the model; texts, the network that encodes them, and the other results of `draw_queries`."""
    clicks = ds.dataset([str(f) for f in context.table("extract-clicks", "clicks")])
    days = ds.field("day").isin(context.run.training_days)
    texts = sorted(clicks.to_table(columns=["query"], filter=days)["query"].unique().to_pylist())
    if not texts:
        raise InputError("no query on the training days to measure the index by; check the click log")
    model_folder = context.input("finetune").folder / "model"
    encoder = network_encoder(load_model(model_folder), model_folder / "tokenizer.json")
    texts, asked, routes, shares = draw_queries(encoder, texts)
    return model_folder, texts, encoder, asked, routes, shares


def _exported_tower(context: StageContext, model_folder: Path, file: Path) -> tuple[str, QueryEncoder]:
    """Which kind of query tower serves, and that tower."""
    kind = export_where_needed(load_model(model_folder), model_folder, file, context.settings.index.query_tower)
    return kind, QueryEncoder.load(model_folder, file)


def _released(context: StageContext, part: Literal["model", "index"]) -> Path:
    """Folder of the model or index that is refreshed."""
    release = context.run.release
    if release is None:
        raise InputError(f"run {context.run.name}: met no release when it started, so there is no index to refresh")
    return released_folder(context.run, release, part)


def _of_release(context: StageContext) -> tuple[RoutedItems, faiss.Index, IndexDescription, bool]:
    """Today's vectors, an index to fill with them, what is known of it, and whether it is the release's own."""
    settings = context.settings.index
    index_folder, model_folder = _released(context, "index"), _released(context, "model")
    manifest, (index,), _ = open_index(index_folder, model_folder, part=0)  # every part is trained alike
    made = IndexDescription.model_validate(
        manifest.model_dump(include=set(IndexDescription.model_fields), by_alias=True)
    )
    vectors = RoutedItems(load_embeddings(context.input("embed-release").folder))
    factory = settings.factory or choose_factory(len(vectors), vectors.shape[1], settings.minimum_recall)
    is_near = made.trained_on / 2 <= len(vectors) <= 2 * made.trained_on
    is_kept = factory == made.factory or (not settings.factory and "Flat" not in (factory, made.factory) and is_near)
    if is_kept:
        context.report(f"filling {made.factory} with {len(vectors):,} items")
        if made.part_parameters:  # as it was trained, without what is set for the part
            index = faiss.read_index(str(describe_index(index_folder)[1][0][0]))
        index.reset()
        return vectors, index, made, True
    context.report(f"training {factory} anew for {len(vectors):,} items; it was made for {made.trained_on:,}")
    changes = {"factory": factory, "search_parameters": "", "part_parameters": None, "trained_on": len(vectors)}
    return vectors, train_index(vectors, factory), made.model_copy(update=changes), False


def _refreshed(context: StageContext, is_kept: bool) -> Metrics:
    """What a refresh changed."""
    assert context.run.release
    _, files = describe_index(_released(context, "index"))
    before = {item for _, items in files for item in pq.ParquetFile(items).read(["item_id"])["item_id"].to_pylist()}
    ids = set(_item_ids(context))
    return {
        "trained_again": float(not is_kept),
        "items_added": float(len(ids - before)),
        "items_removed": float(len(before - ids)),
        "items_embedded": context.input("embed-release").metrics["items_embedded"],
        "refreshed_from": context.run.release.index_digest,
    }


def _item_ids(context: StageContext) -> list[str]:
    ids = np.load(context.input(EMBEDDINGS[context.stage.name]).file("embeddings/item_ids.npy"), mmap_mode="r")
    return [item.decode() for item in ids.tolist()]


def _with_tower(context: StageContext, made: IndexDescription) -> IndexDescription:
    """The release's own tower put into its refreshed index; one of an older version, which exported none, gets it now."""
    file, exported, model_folder = (
        context.output(TOWER_FILE),
        _released(context, "index") / TOWER_FILE,
        _released(context, "model"),
    )
    if exported.is_file():
        file.write_bytes(exported.read_bytes())
        return made
    if made.query_tower == "words":
        return made
    model = load_model(model_folder)
    kind = export_where_needed(model, model_folder, file, "onnx")
    check_any_query(model, model_folder, file)
    return made.model_copy(update={"query_tower": kind})


def _over_floor(context: StageContext, recall: Recall, made: IndexDescription) -> Recall:
    """Recall at or above the floor, which it names.

    Raises:
        InputError: it is below.
    """
    floor = context.settings.index.minimum_recall
    if recall.worst < floor:
        worst = min(recall.buckets, key=lambda b: b.recall if b.queries >= ENOUGH_QUERIES else math.inf)
        raise InputError(
            f"index {made.factory}: recall@{recall.depth} against exact search is {recall.worst:.3f} where the share of pictures "
            f"is {worst.lower:g} to {worst.upper:g} ({recall.overall:.3f} over all), under index.minimum_recall "
            f"{floor}; choose a finer index.factory"
        )
    return recall.model_copy(update={"floor": floor})


def _publish(
    context: StageContext,
    parts: Sequence[faiss.Index | Path],
    asked: np.ndarray,
    routes: np.ndarray,
    made: IndexDescription,
    times: np.ndarray,
) -> Metrics:
    """Write the index's files.

    Args:
        times: milliseconds of some queries; they belong to the machine, not to the index, and stand in the metrics, outside the content.
    """
    item_ids = _item_ids(context)
    items = read_index_items(
        context.table("prepare-items", "catalogue"), item_ids, offer_files=context.table("prepare-items", "offers")
    )
    folder = context.output("index.json").parent
    cuts = cut_rows(len(items), context.settings.index.parts)
    write_index(folder, parts, items, asked, routes, made, cuts=cuts)
    assert made.recall is not None, "it has been measured"
    return {
        "recall_at_100": made.recall.overall,
        "recall_at_100_worst": made.recall.worst,
        **{f"search_p{q}_ms": float(np.percentile(times, q)) for q in (50, 99)},
        "items": float(len(items)),
        "bytes_per_item": sum(file.stat().st_size for file in folder.glob("index*.faiss")) / len(items),
        "factory": made.factory,
        "search_parameters": made.search_parameters,
        "query_tower": made.query_tower,
    }
