"""Fields of the trigger forms. Airflow refuses a value that breaks a field's type or bounds, in the form and by API alike."""

from __future__ import annotations

import os

from airflow.sdk import Param

VARIANTS = (
    "default",
    "dpsr",
    "text_only",
    "image_only",
    "smar",
    "smar_adapted",
    "smar_nc",
    "smar_ni",
    "smar_nt",
    "smar_nm",
    "concat",
    "concat_adapted",
    "beyond_text",
    "beyond_text_rerank",
    "oracle",
)
"""Names in `smar_model/network/variants.py`, which no DAG imports; a test compares the two."""
AS_SET = {"null": "as in the settings"}
NOT_BLANK = r"\S"

DATE_FIELD = Param(
    None,
    type=["null", "string"],
    format="date",
    title="Date",
    description="Last day of the click log to read. Empty: the day before the run.",
)

SETTINGS_FIELD = Param(
    os.environ.get("SMAR_SETTINGS", "configs/sample_shop.yaml"),
    type="string",
    minLength=1,
    maxLength=1_000,
    pattern=NOT_BLANK,
    title="Settings file",
    description="One file per shop, as in configs/.",
)

WINDOW_FIELD = Param(
    None,
    type=["null", "integer"],
    minimum=2,
    maximum=366,
    title="Days of the log",
    description="That day and those before it; the last is held out to judge the model. Empty: the settings'.",
)

VARIANT_FIELD = Param(
    None,
    type=["null", "string"],
    enum=[None, *VARIANTS],
    values_display=AS_SET,
    title="Variant",
    description="Of the network (docs/variants.md). Empty: the settings'. Another than theirs pretrains anew.",
)

PRETRAINING_FIELD = Param(
    None,
    type=["null", "string"],
    enum=[None, "auto", "always", "never"],
    values_display=AS_SET
    | {
        "auto": "auto: that of an earlier run, at most 7 days old",
        "always": "always: however old",
        "never": "never: pretrain anew, a cold start",
    },
    title="Reuse pretraining",
    description="Whether tokenizer, vision encoder and pretraining are taken from an earlier run. Empty: the settings'.",
)

SEED_FIELD = Param(
    None,
    type=["null", "integer"],
    minimum=0,
    maximum=2**31 - 1,
    title="Seed",
    description="Of every draw in training. Empty: the settings'.",
)

SAMPLE_SHARE_FIELD = Param(
    None,
    type=["null", "number"],
    exclusiveMinimum=0,
    maximum=1,
    title="Share of the clicks",
    description="Above 0, at most 1: train on this share of the log, to try something out quickly. Empty: the settings'.",
)

PROMOTION_FIELD = Param(
    os.environ.get("SMAR_PROMOTION", "automatic"),
    type="string",
    enum=["automatic", "ask", "never"],
    values_display={
        "automatic": "automatic: it becomes the champion",
        "ask": "ask: a person approves or rejects it, here in Airflow",
        "never": "never: it is registered and judged, the champion stays",
    },
    title="Promotion",
    description="What happens to a model that passes the gate. One that does not is never promoted. Backfills: never.",
)


# Airflow's form asks for a text that may not be null: the button would stay off until something is written.
NOTE_FIELD = Param(
    None,
    type=["null", "string"],
    maxLength=2_000,
    title="Note",
    description="Why this run is started; stands in its record and in MLflow.",
)

RELEASE_FIELD = Param(
    "previous",
    type="string",
    pattern=r"^(previous|[1-9][0-9]{0,8})$",
    title="Release",
    description="`previous`, the champion before this one, or the number of a version as `smar history` and MLflow show it.",
)

REASON_FIELD = Param(
    type="string",
    minLength=3,
    maxLength=2_000,
    pattern=NOT_BLANK,
    title="Reason",
    description="Why; stands in the history of releases. Must not be empty.",
)

COMPARISON_FIELD = Param(
    os.environ.get("SMAR_COMPARISON", "configs/compare_sample_shop.yaml"),
    type="string",
    minLength=1,
    maxLength=1_000,
    pattern=NOT_BLANK,
    title="Comparison file",
    description="Rows, seeds, day and training time, as in configs/compare_….yaml.",
)

ROWS_FIELD = Param(
    [],
    type="array",
    items={"type": "string", "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "maxLength": 100},
    uniqueItems=True,
    maxItems=100,
    title="Rows",
    description="Names of rows (variants, baselines, oracles) in the comparison file, one a line. Empty: all.",
)

SEEDS_FIELD = Param(
    [],
    type="array",
    items={"type": "integer", "minimum": 0},
    uniqueItems=True,
    maxItems=100,
    title="Seeds",
    description="Of those that the comparison file names, as [0, 1]. Empty: all.",
)

COMPARED_DATE_FIELD = Param(
    None,
    type=["null", "string"],
    format="date",
    title="Date",
    description="Last day of the click log. Empty: the comparison file's; the weekly run takes the day before it.",
)

COMMENT_FIELD = Param(
    None,
    type=["null", "string"],
    maxLength=2_000,
    title="Comment",
    description="Why; stands in the history of releases.",
)
