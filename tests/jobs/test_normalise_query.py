"""The two forms of one rule: `normalise_query` in SQL and in Python."""

from __future__ import annotations

import unicodedata

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.spark_session import configure
from smar_model.data.query_text import normalise_query

MASKED = {
    "Send to Anna.Meier+shop@Example.co.uk please": "send to <email> please",
    "a@b.com,c@d.org": "<email>,<email>",
    "4111 1111 1111 1111": "<card>",
    "shoes size 5 4111111111111111": "shoes size 5 <card>",
    "3782-822463-10005 gift": "<card> gift",
    "4111 1111 1111 1112 (mistyped)": "<card> (mistyped)",
    "+49 (0)30 1234-5678": "<phone>",
    "0049 30 123456 red dress": "<phone> red dress",
    "(555) 123-4567": "<phone>",
    "call 555.123.4567": "call <phone>",
    "06 12 34 56 78": "<phone>",
    "030/1234567": "<phone>",
    "１３９１２３４５６７８": "<phone>",
}
NOT_MASKED = [
    *("ean 4006381333931", "12345678", "036000291452", "iphone 15 pro 256 gb", "2026-11-19", "size 38 40 42 44 46"),
    *("10 100 1000 switch", "@home", "a@b", "1920x1080", "rtx 4090 24 gb", "3.1415926535", "mens 501-0101 jeans", "t 2,5 x 3"),
]  # fmt: skip
ODD = [
    *("", " ", "\t\n", "  Red\u00a0 DRESS\u3000", "İstanbul", "STRASSE ß", "ΟΔΥΣΣΕΥΣ", "a\u200bb", "\x1fa\x85b\x1c", "Ǆ"),
    *("ﬁne ①", "e\u0301 \u0345\u0301α", "ｆｕｌｌ　ｗｉｄｔｈ", "\ufdfa", "x\u0345\u0327", "ᾳ\u0301", "\u1e9e", "ŉ", "\u0130\u0307"),
]  # fmt: skip
TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cn"]) | st.sampled_from("aÉſ0123456789 +-()./@.com\u0345\u0301")
)


def in_sql(spark: SparkSession, texts: list[str]) -> pd.DataFrame:
    frame = configure(spark).createDataFrame(pd.DataFrame({"text": texts}))
    return frame.selectExpr("text", "normalise_query(text) AS query").toPandas()


def test_both_agree_on_every_character(spark: SparkSession) -> None:
    known, unknown = [], []
    for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]):
        (unknown if unicodedata.category(c) == "Cn" else known).append(f"A{c}B{c} {c}")
    texts = [
        *(*ODD, *MASKED, *NOT_MASKED),
        *("|".join(known[n : n + 20]) for n in range(0, len(known), 20)),
        *("|".join(unknown[n : n + 20]) for n in range(0, len(unknown), 20)),
    ]
    assert len(known) > 250_000
    found = in_sql(spark, texts)
    differing = found[found["query"] != found["text"].map(normalise_query)]
    # ICU knows characters that came to Unicode after this Python: those alone may differ.
    assert not [text for text in differing["text"] if not any(unicodedata.category(c) == "Cn" for c in text)]
    assert len(differing) < 50


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=200, max_size=400))
def test_both_agree_on_any_text(spark: SparkSession, texts: list[str]) -> None:
    found = in_sql(spark, texts)
    assert found["query"].tolist() == [normalise_query(text) for text in texts]


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_the_form_of_a_form_is_itself(text: str) -> None:
    query = normalise_query(text)
    assert normalise_query(query) == query
    assert normalise_query(f" {text.upper()}\t") == normalise_query(text.upper())


@pytest.mark.parametrize(("text", "query"), MASKED.items())
def test_personal_data_is_masked(text: str, query: str) -> None:
    assert normalise_query(text) == query


@pytest.mark.parametrize("text", NOT_MASKED)
def test_numbers_that_shoppers_search_for_stay(text: str) -> None:
    assert normalise_query(text) == text


def test_the_rule() -> None:
    assert normalise_query("  Red\t\u3000SUMMER\n dress ") == "red summer dress"
    assert normalise_query(" \u2003 ") == ""
    assert normalise_query("Ｓtraße ﬁt ①") == "strasse fit 1"


def test_null_stays_null(spark: SparkSession) -> None:
    assert configure(spark).sql("SELECT normalise_query(CAST(NULL AS STRING))").first() == (None,)
