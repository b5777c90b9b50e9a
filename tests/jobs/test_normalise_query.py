"""The two forms of one rule: `normalise_query` in SQL and in Python."""

from __future__ import annotations

import unicodedata

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.spark_session import configure
from smar_model.data.query_text import normalise_query, numbers_of
from tests.data.test_query_text import JOINED, KEPT, MASKED, TEXT, WRITTEN

ODD = [
    *("", " ", "\t\n", "  Red\u00a0 DRESS\u3000", "İstanbul", "STRASSE ß", "ΟΔΥΣΣΕΥΣ", "a\u200bb", "\x1fa\x85b\x1c", "Ǆ"),
    *("ﬁne ①", "e\u0301 \u0345\u0301α", "ｆｕｌｌ　ｗｉｄｔｈ", "\ufdfa", "x\u0345\u0327", "ᾳ\u0301", "\u1e9e", "ŉ", "\u0130\u0307"),
]  # fmt: skip


SQL = {
    "query": "normalise_query(text)",
    "with_catalogue": f"normalise_query(text, array({', '.join(repr(number) for number in KEPT)}))",
    "numbers": "numbers_of(text)",
}


def in_sql(spark: SparkSession, texts: list[str], *columns: str) -> pd.DataFrame:
    frame = configure(spark).createDataFrame(pd.DataFrame({"text": texts}))
    return frame.selectExpr("text", *(f"{SQL[column]} AS {column}" for column in columns)).toPandas()


def test_both_agree_on_every_character(spark: SparkSession) -> None:
    known, unknown = [], []
    for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]):
        (unknown if unicodedata.category(c) == "Cn" else known).append(f"A{c}B{c} {c}")
    texts = [
        *(*ODD, *MASKED, *WRITTEN),
        *("|".join(known[n : n + 20]) for n in range(0, len(known), 20)),
        *("|".join(unknown[n : n + 20]) for n in range(0, len(unknown), 20)),
    ]
    assert len(known) > 250_000
    found = in_sql(spark, texts, "query")
    differing = found[found["query"] != found["text"].map(normalise_query)]
    # ICU knows characters that came to Unicode after this Python: those alone may differ.
    assert not [text for text in differing["text"] if not any(unicodedata.category(c) == "Cn" for c in text)]
    assert len(differing) < 50


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT | JOINED, min_size=200, max_size=400))
def test_both_agree_on_any_text(spark: SparkSession, texts: list[str]) -> None:
    found = in_sql(spark, texts, *SQL)
    assert found["query"].tolist() == [normalise_query(text) for text in texts]
    assert found["with_catalogue"].tolist() == [normalise_query(text, KEPT) for text in texts]
    assert [set(numbers) for numbers in found["numbers"]] == [numbers_of(text) for text in texts]


def test_null_stays_null(spark: SparkSession) -> None:
    assert configure(spark).sql("SELECT normalise_query(CAST(NULL AS STRING))").first() == (None,)
