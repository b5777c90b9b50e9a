"""The two forms of one rule: `normalise_query` in SQL and in Python."""

from __future__ import annotations

import unicodedata

import pandas as pd
from pyspark.sql import SparkSession

from jobs.spark_session import configure
from smar_model.data.query_text import normalise_query

ODD = [
    "",
    " ",
    "\t\n",
    "  Red\u00a0 DRESS\u3000",
    "İstanbul",
    "STRASSE ß",
    "ΟΔΥΣΣΕΥΣ",
    "a\u200bb",
    "\x1fa\x85b\x1c",
    "Ǆ",
]


def test_both_agree_on_every_character(spark: SparkSession) -> None:
    characters = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) not in {"Cn", "Cs", "Co"}]
    texts = ODD + [f"A{c}B{c} {c}" for c in characters]
    frame = configure(spark).createDataFrame(pd.DataFrame({"text": texts}))
    found = frame.selectExpr("text", "normalise_query(text) AS query").toPandas()
    assert len(found) == len(texts) > 100_000
    differing = found[found["query"] != found["text"].map(normalise_query)]
    assert differing.empty, differing.head(20)


def test_the_rule() -> None:
    assert normalise_query("  Red\t\u3000SUMMER\n dress ") == "red summer dress"
    assert normalise_query(" \u2003 ") == ""
