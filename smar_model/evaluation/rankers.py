"""The models that answer a run's held-out queries: baselines, the run's own, the champion, the anchors, an oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smar_model.evaluation.baselines import BM25, Popularity
from smar_model.evaluation.oracle import VISIBLE, reveal_truth
from smar_model.lake.release_copies import released_folder
from smar_model.retrieval.ranking import Ranker

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

_NO_RIVAL = {
    "champion": "as there was no release before this run or it is this very model",
    "best_release": "as none of the 28 days before was better than the champion",
    "cold_start": "as none of the 28 days before is another model than the champion",
}


def find_rankers(
    context: StageContext, catalogue: pd.DataFrame, training_clicks: pd.DataFrame, basis: str
) -> tuple[dict[str, Callable[[], Ranker]], dict[str, str]]:
    """Name → how to make the ranker, and name → why there is none. Made one at a time: models are large."""
    from smar_model.retrieval.item_embedder import embed_catalogue
    from smar_model.retrieval.network_queries import DenseRanker
    from smar_model.retrieval.search import Searcher
    from smar_model.training.model_files import load_model

    catalogue_files = context.table("prepare-items", "catalogue")
    picture_files = context.table("prepare-items", "pictures")

    def dense(folder: Path, files: Sequence[Path] = catalogue_files) -> Ranker:
        """Embeds today's catalogue with a model and searches it exactly."""
        model, tokenizer = load_model(folder), folder / "tokenizer.json"
        return DenseRanker(model, tokenizer, embed_catalogue(model, tokenizer, files, picture_files))

    rankers: dict[str, Callable[[], Ranker]] = {
        "popularity": lambda: Popularity(catalogue["item_id"].tolist(), training_clicks),
        "bm25": lambda: BM25(catalogue),
        # What would be released: the index as it is served, its approximation included.
        "challenger": lambda: Searcher.load(context.input("finetune").folder / "model", context.input("index").folder),
    }
    not_measured = {}
    if text_only := context.inputs.get("train-text-only"):
        rankers["text_only"] = lambda: _text_only(context, text_only.folder / "model", catalogue_files)
    else:
        not_measured["text_only"] = "as train-text-only has no finished output in this run"
    rivals = context.run.rivals()
    for name, why in _NO_RIVAL.items():
        if name in rivals:
            rankers[name] = partial(dense, released_folder(context.run, rivals[name], "model"))
        else:
            not_measured[name] = why
    if basis != "truth":
        not_measured["oracle"] = "as the shop has no truth to tell it"
    elif context.run.oracle:
        rankers["oracle"] = lambda: _told(dense, context)
    else:
        not_measured["oracle"] = (
            "as no oracle was trained on this shop's days up to this run's (smar train-oracle trains one)"
        )
    return rankers, not_measured


def _text_only(context: StageContext, folder: Path, catalogue_files: Sequence[Path]) -> Ranker:
    """The baseline over today's catalogue; what a server needs to answer with it is kept in the output."""
    from smar_model.retrieval import baseline_files
    from smar_model.retrieval.embed_baseline import embed_baseline
    from smar_model.retrieval.network_queries import DenseRanker
    from smar_model.retrieval.query_tower import TOWER_FILE
    from smar_model.training.model_files import load_model

    model, kept = load_model(folder), context.output(f"{baseline_files.FOLDER}/{TOWER_FILE}").parent
    embeddings = embed_baseline(model, folder, catalogue_files, kept)
    return DenseRanker(model, folder / "tokenizer.json", embeddings)


def _told(dense: Callable[[Path, Sequence[Path]], Ranker], context: StageContext) -> Ranker:
    """The oracle over today's catalogue, told today's truth."""
    truth, oracle = context.shop.truth_items(), context.run.oracle
    assert truth is not None and oracle is not None
    with tempfile.TemporaryDirectory(dir=context.folder, prefix=".oracle-") as folder:
        file = Path(folder) / "catalogue.parquet"
        names = VISIBLE if oracle.truth == "visible" else None
        reveal_truth(context.table("prepare-items", "catalogue"), truth, names, file)
        return dense(released_folder(context.run, oracle, "model"), [file])
