"""Every stage of the pipeline, in one table: what it reads and which function does the work.

`smar <stage> --run RUN` runs one; `dags/smar_retrain.py` puts them in order.
"""

from __future__ import annotations

from smar_model.lake.stage import Stage

_SPARK = ("jobs/spark_session.py", "sql/functions.sql", "smar_model/lake/contracts.py")
_NETWORK = ("smar_model/network", "smar_model/data", "smar_model/training")
_MODEL_SETTINGS = (
    *("network", "tokenizer", "training.seed", "training.text_first_share", "training.modality_weights"),
    *("training.token_dropout", "training.picture_views", "training.threads", "segments.novel_bucket"),
)
_TRAINING_TABLES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion", "check-data")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="prepare-items",
            summary="Spark: catalogue snapshot, thumbnails; unusable items and pictures to quarantine.",
            work="jobs.prepare_items:run",
            raw=("items", "pictures"),
            settings=("pictures",),
            code=(
                "jobs/prepare_items.py",
                "sql/prepare_items.sql",
                "sql/prepare_pictures.sql",
                "schemas/catalogue.yaml",
                "schemas/pictures.yaml",
                *_SPARK,
            ),
            dated=False,
        ),
        Stage(
            name="extract-clicks",
            summary="Spark: cleaned clicks, one row a query, item and day; faulty events to quarantine.",
            work="jobs.extract_clicks:run",
            inputs=("prepare-items",),
            raw=("click_log",),
            settings=("clicks",),
            code=("jobs/extract_clicks.py", "sql/extract_clicks.sql", "schemas/clicks.yaml", *_SPARK),
        ),
        Stage(
            name="generate-queries",
            summary="Spark: synthetic queries from what sellers wrote, over 100 for each true one.",
            work="jobs.generate_queries:run",
            inputs=("prepare-items", "extract-clicks"),
            settings=("synthetic_queries",),
            code=("jobs/generate_queries.py", "sql/generate_queries.sql", "schemas/synthetic_queries.yaml", *_SPARK),
        ),
        Stage(
            name="label-fashion",
            summary="Spark: which queries are for departments where pictures matter.",
            work="jobs.label_fashion:run",
            inputs=("prepare-items", "extract-clicks"),
            settings=("labels", "shop.visual_departments"),
            code=("jobs/label_fashion.py", "sql/label_fashion.sql", "schemas/fashion_labels.yaml", *_SPARK),
        ),
        Stage(
            name="check-data",
            summary="Great Expectations over every table; a failed check ends the run before training.",
            work="smar_model.lake.checks:run",
            inputs=("prepare-items", "extract-clicks", "generate-queries", "label-fashion"),
            settings=("checks", "synthetic_queries"),
            code=("smar_model/lake/checks.py", "schemas"),
        ),
        Stage(
            name="train-tokenizer",
            summary="Subword tokenizer from titles and training queries.",
            work="smar_model.training.tokenizer:run",
            inputs=_TRAINING_TABLES,
            settings=("tokenizer", "network.text.pretrained"),
            code=("smar_model/training/tokenizer.py",),
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
                "segments.novel_bucket",
            ),
            code=_NETWORK,
        ),
        Stage(
            name="pretrain",
            summary="SMAR's three losses on synthetic queries.",
            work="smar_model.training.pretrain:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer", "adapt-vision"),
            settings=(*_MODEL_SETTINGS, "training.pretrain"),
            code=_NETWORK,
        ),
        Stage(
            name="finetune",
            summary="Clicks and the prediction header P(q).",
            work="smar_model.training.finetune:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer", "pretrain"),
            settings=(*_MODEL_SETTINGS, "training.finetune"),
            code=_NETWORK,
        ),
        Stage(
            name="train-text-only",
            summary="The text-only baseline with the same budget; off the promotion path.",
            work="smar_model.training.text_only:run",
            inputs=(*_TRAINING_TABLES, "train-tokenizer"),
            settings=("network", "tokenizer", "training", "segments.novel_bucket"),
            code=_NETWORK,
        ),
        Stage(
            name="assign-segments",
            summary="Spark: what kind of query, item and pair each clicked pair of the evaluation days is.",
            work="jobs.assign_segments:run",
            inputs=("prepare-items", "extract-clicks", "generate-queries", "check-data"),
            settings=("segments", "shop.visual_departments"),
            code=("jobs/assign_segments.py", "sql/assign_segments.sql", "schemas/segments.yaml", *_SPARK),
        ),
        Stage(
            name="embed",
            summary="Text and multimodal embedding of every item.",
            work="smar_model.retrieval.embed:run",
            inputs=("prepare-items", "finetune"),
            settings=("training.threads",),
            code=("smar_model/retrieval/embed.py", "smar_model/network", "smar_model/data"),
            dated=False,
        ),
        Stage(
            name="index",
            summary="FAISS index routed by P(q), its recall measured against exact search.",
            work="smar_model.retrieval.index:run",
            inputs=("prepare-items", "extract-clicks", "finetune", "embed"),
            settings=("index",),
            code=("smar_model/retrieval", "smar_model/network", "smar_model/data"),
        ),
        Stage(
            name="evaluate",
            summary="The model, the baselines and the champion on the held-out days.",
            work="smar_model.evaluation.evaluate:run",
            inputs=("prepare-items", "extract-clicks", "finetune", "embed", "index"),
            optional_inputs=("train-text-only",),
            raw=("judgments_and_truth",),
            settings=("evaluation", "shop.visual_departments"),
            code=(
                "smar_model/evaluation",
                "smar_model/retrieval",
                "smar_model/network",
                "smar_model/data",
                "schemas/query_results.yaml",
            ),
            champion=True,
        ),
        Stage(
            name="report",
            summary="One self-contained page: table, curves, queries with the pictures found.",
            work="smar_model.evaluation.report:run",
            inputs=("prepare-items", "check-data", "adapt-vision", "pretrain", "finetune", "index", "evaluate"),
            optional_inputs=("train-text-only",),
            settings=("evaluation",),
            code=("smar_model/evaluation",),
            champion=True,
        ),
        Stage(
            name="gate",
            summary="Checks and figures against floors and the champion: one decision with its reasons.",
            work="smar_model.release.gate:run",
            inputs=("check-data", "index", "evaluate"),
            settings=("gate", "index.minimum_recall"),
            code=("smar_model/release/gate.py",),
            champion=True,
        ),
    )
}
