"""Every stage of the pipeline, in one table: what it reads and which function does the work.

`smar <stage> --run RUN` runs one; `dags/smar_retrain.py` puts them in order.
"""

from __future__ import annotations

from smar_model.lake.stage import Stage

_MODEL_SETTINGS = (
    *("network", "tokenizer", "training.seed", "training.text_first_share", "training.modality_weights"),
    *("training.token_dropout", "training.threads", "training.step_threads"),
    *("training.precision", "training.compile", "training.gradients"),
)
_RIVALS = ("champion", "best_release", "cold_start")
_TRAINING_TABLES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion", "check-data")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="prepare-items",
            summary="Spark: catalogue snapshot, thumbnails; unusable items and pictures to quarantine.",
            work="jobs.prepare_items:run",
            raw=("items", "pictures"),
            mended="jobs.prepare_items:has_mended",
            settings=("pictures",),
            dated=False,
            release="earlier_catalogue",
        ),
        Stage(
            name="extract-clicks",
            summary="Spark: cleaned clicks, one row a query, item and day; faulty events to quarantine.",
            work="jobs.extract_clicks:run",
            inputs=("prepare-items",),
            raw=("click_log",),
            settings=("clicks",),
        ),
        Stage(
            name="generate-queries",
            summary="Spark: synthetic queries from what sellers wrote, over 100 for each true one.",
            work="jobs.generate_queries:run",
            inputs=("prepare-items", "extract-clicks"),
            settings=("synthetic_queries",),
        ),
        Stage(
            name="measure-drift",
            summary="How synthetic queries differ from true ones: figures, plots.",
            work="smar_model.evaluation.query_drift:run",
            inputs=("generate-queries",),
        ),
        Stage(
            name="label-fashion",
            summary="Spark: which queries are for departments where pictures matter.",
            work="jobs.label_fashion:run",
            inputs=("prepare-items", "extract-clicks"),
            settings=("labels", "shop.visual_departments"),
        ),
        Stage(
            name="check-data",
            summary="Spark, Great Expectations: every table and the run; a failed check ends the run before training.",
            work="jobs.check_data:run",
            inputs=("prepare-items", "extract-clicks", "generate-queries", "label-fashion", "measure-drift"),
            settings=("checks", "synthetic_queries", "shop.visual_departments"),
        ),
        Stage(
            name="train-tokenizer",
            summary="Subword tokenizer from titles and training queries; token ids of all items and training pairs.",
            work="smar_model.training.tokenizer:run",
            inputs=_TRAINING_TABLES,
            settings=("tokenizer", "network.text.pretrained", "segments.novel_bucket"),
            base="read",
            encoders=("text",),
        ),
        Stage(
            name="mine-negatives",
            summary="Hard negatives: what a release ranks high for clicked queries; none unless asked for.",
            work="smar_model.retrieval.mine_negatives:run",
            inputs=("extract-clicks", "train-tokenizer"),
            settings=(
                *("training.mining", "training.pretrain.hard_negatives", "training.finetune.hard_negatives"),
                *("training.threads", "segments.novel_bucket"),
            ),
            release="mined_from",
        ),
        Stage(
            name="adapt-vision",
            summary="Vision encoder to product pictures (Beyond Text, stage 1).",
            work="smar_model.training.adapt_vision:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer"),
            settings=(
                "network",
                "tokenizer",
                "training.adapt_vision",
                "training.seed",
                "training.token_dropout",
                "training.threads",
                "training.precision",
                "training.compile",
                "training.gradients",
            ),
            shared=True,
            base="taken",
            encoders=("text", "vision"),
        ),
        Stage(
            name="encode-pictures",
            summary="Patch tokens of every picture under the adapted vision encoder; new pictures alone are encoded.",
            work="smar_model.training.encode_pictures:run",
            inputs=("prepare-items", "adapt-vision"),
            settings=("training.picture_views", "training.threads"),
            dated=False,
        ),
        Stage(
            name="pretrain",
            summary="SMAR's three losses on synthetic queries.",
            work="smar_model.training.pretrain:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer", "adapt-vision", "encode-pictures"),
            optional_inputs=("mine-negatives",),
            settings=(
                *(*_MODEL_SETTINGS, "training.pretrain", "training.modality_weighting"),
                *("training.other_modality_weights", "shop.visual_departments"),
            ),
            shared=True,
            base="taken",
            encoders=("text", "vision"),
        ),
        Stage(
            name="finetune",
            summary="Clicks and the prediction header P(q).",
            work="smar_model.training.finetune:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer", "encode-pictures", "pretrain"),
            optional_inputs=("mine-negatives",),
            settings=(*_MODEL_SETTINGS, "training.finetune"),
            shared=True,
            release="warm_start",
        ),
        Stage(
            name="train-text-only",
            summary="The text-only baseline with the same budget; off the promotion path.",
            work="smar_model.training.text_only:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer"),
            optional_inputs=("mine-negatives",),
            settings=(*_MODEL_SETTINGS, "training.pretrain", "training.finetune"),
            shared=True,
            encoders=("text",),
        ),
        Stage(
            name="assign-segments",
            summary="Spark: what kind of query, item and pair each clicked pair of the evaluation days is.",
            work="jobs.assign_segments:run",
            inputs=("prepare-items", "extract-clicks", "generate-queries", "check-data"),
            settings=("segments", "shop.visual_departments"),
        ),
        Stage(
            name="embed",
            summary="Text and multimodal embedding of every item; under the same model, of changed ones alone.",
            work="smar_model.retrieval.embed:run",
            inputs=("prepare-items", "encode-pictures", "finetune"),
            optional_inputs=("train-tokenizer",),
            settings=("training.threads",),
            dated=False,
            shared=True,
        ),
        Stage(
            name="index",
            summary="FAISS index routed by P(q), its recall measured against exact search.",
            work="smar_model.retrieval.index:run",
            inputs=("prepare-items", "extract-clicks", "finetune", "embed"),
            settings=("index", "training.threads"),
            offers=True,
        ),
        Stage(
            name="evaluate",
            summary="The model, the baselines, the champion, the anchors and an oracle on the held-out days, by segment.",
            work="smar_model.evaluation.evaluate:run",
            inputs=(
                "prepare-items",
                "extract-clicks",
                "label-fashion",
                "assign-segments",
                "finetune",
                "embed",
                "index",
            ),
            optional_inputs=("train-text-only",),
            raw=("judgments_and_truth",),
            settings=("evaluation", "shop.visual_departments", "segments.novel_bucket"),
            rivals=_RIVALS,
            release="oracle",
        ),
        Stage(
            name="gate",
            summary="Checks and figures against floors, the champion and the anchors: one decision with its reasons.",
            work="smar_model.release.gate:run",
            inputs=("check-data", "index", "evaluate"),
            settings=("gate", "index.minimum_recall"),
            rivals=_RIVALS,
        ),
        Stage(
            name="report",
            summary="One self-contained page: the decision, figures by segment, curves, queries with the pictures found.",
            work="smar_model.evaluation.report:run",
            inputs=(
                *("prepare-items", "measure-drift", "check-data", "adapt-vision", "pretrain", "finetune"),
                *("index", "evaluate", "gate"),
            ),
            optional_inputs=("train-text-only",),
            settings=("evaluation",),
            rivals=_RIVALS,
        ),
    )
}

_JUDGE_SETTINGS = ("evaluation", "shop.visual_departments", "segments.novel_bucket")

COMPARISON_STAGES: dict[str, Stage] = STAGES | {
    stage.name: stage
    for stage in (
        *(
            Stage(
                name=name,
                summary="The catalogue with true attributes, for oracles alone.",
                work=f"smar_model.evaluation.oracle:{work}",
                inputs=("prepare-items",),
                raw=("judgments_and_truth",),
            )
            for name, work in (("reveal-truth", "run"), ("reveal-visible-truth", "run_visible"))
        ),
        Stage(
            name="judge-baselines",
            summary="Popularity and BM25 on every query of the evaluation days, by segment.",
            work="smar_model.evaluation.judge:run_baselines",
            inputs=("prepare-items", "extract-clicks", "assign-segments"),
            raw=("judgments_and_truth",),
            settings=_JUDGE_SETTINGS,
        ),
        Stage(
            name="judge",
            summary="One model, alone and with BM25, likewise.",
            work="smar_model.evaluation.judge:run",
            inputs=("prepare-items", "extract-clicks", "assign-segments", "finetune", "embed"),
            raw=("judgments_and_truth",),
            settings=(*_JUDGE_SETTINGS, "training.threads"),
        ),
    )
}
"""Those of the pipeline, and the ones that `smar compare` alone runs: no command, no task of the daily run."""

REFRESH_STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="embed-release",
            summary="The run's catalogue under the release that it refreshes: new and changed items alone.",
            work="smar_model.retrieval.embed:run_release",
            inputs=("prepare-items",),
            settings=("training.threads",),
            dated=False,
            shared=True,
            release="release",
        ),
        Stage(
            name="refresh-index",
            summary="That release's index with the run's catalogue, without training; its recall measured again.",
            work="smar_model.retrieval.index:refresh",
            inputs=("prepare-items", "embed-release"),
            settings=("index", "training.threads"),
            offers=True,
            dated=False,
            release="release",
        ),
    )
}
"""A release's index brought up to today's catalogue, between two trainings: start, prepare-items, these, then publish-index."""

PARTS = {"extract-clicks-day": "jobs.extract_click_days"}
"""Outputs that a stage publishes beside its own, under keys of their own: which module makes them."""
