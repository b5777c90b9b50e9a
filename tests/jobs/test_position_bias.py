"""Position bias: the estimate against the shoppers' own habits, which it does not read."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.position_bias import estimate_propensities
from jobs.spark_session import configure, run_sql
from smar_model.settings import Simulation
from smar_model.shop.catalogue import write_catalogue
from smar_model.shop.sample_shop import draw_sample_shop
from smar_model.shop.shoppers import EXAMINATION, LIST_LENGTH, Shoppers

DAYS = [date(2026, 11, 1) + timedelta(days=n) for n in range(10)]


def counted(events: pd.DataFrame) -> pd.DataFrame:
    """Impressions and clicks by query, item and position."""
    by_kind = events.groupby(["query", "item_id", "position", "event"]).size().unstack(fill_value=0)
    return by_kind.rename(columns={"impression": "impressions", "click": "clicks"}).reset_index()


def estimate(table: pd.DataFrame, positions: int) -> tuple[np.ndarray, np.ndarray]:
    pair = table.groupby(["query", "item_id"]).ngroup().to_numpy()
    columns = (table[name].to_numpy() for name in ("position", "impressions", "clicks"))
    return estimate_propensities(pair, *columns, positions=positions)


def test_a_million_impressions_tell_where_shoppers_look(tmp_path: Path) -> None:
    simulation = Simulation(seed=7, items=1500, requests_per_day=-(-1_000_000 // LIST_LENGTH // len(DAYS)))
    write_catalogue(tmp_path, draw_sample_shop(simulation))
    shoppers = Shoppers.load(tmp_path, simulation=simulation, visual_departments=["Clothing", "Shoes"])
    table = counted(pd.concat([shoppers.simulate_day(day)[1].to_pandas() for day in DAYS]))
    assert table["impressions"].sum() >= 1_000_000
    theta, error = estimate(table, LIST_LENGTH)
    assert theta[0] == 1 and error[0] == 0
    assert theta[:10] / EXAMINATION[:10] == pytest.approx(np.ones(10), abs=0.1)
    assert (np.abs(theta - EXAMINATION)[1:] < 3 * error[1:]).all()
    assert error[1:10].max() < 0.03
    # What clicks alone would say: the rankers put relevant items on top, and the bias of the place is mixed with it.
    by_place = table.groupby("position")[["impressions", "clicks"]].sum()
    raw = (by_place["clicks"] / by_place["impressions"]).to_numpy()
    assert np.abs(raw / raw[0] / EXAMINATION - 1).max() > 0.4


@pytest.mark.parametrize("seed", [0, 1])
def test_errors_are_as_large_as_they_say(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = np.array([1.0, 0.7, 0.5, 0.2])
    deviations = []
    for _ in range(60):
        pair = np.repeat(np.arange(400), 4)
        position = np.tile(np.arange(1, 5), 400)
        shown = random.integers(1, 5, 1600)
        clicks = random.poisson(shown * truth[position - 1] * random.uniform(0.05, 0.6, 400)[pair])
        theta, error = estimate_propensities(pair, position, shown, clicks, positions=4)
        deviations.append(((theta - truth) / np.where(error > 0, error, 1))[1:])
    assert np.std(deviations, axis=0) == pytest.approx(np.ones(3), abs=0.3)
    assert np.mean(deviations, axis=0) == pytest.approx(np.zeros(3), abs=0.45)


def test_places_without_data_follow_their_neighbours_and_say_that_they_are_unsure() -> None:
    none = np.array([], dtype=np.int64)
    theta, error = estimate_propensities(none, none, none, none, positions=3)
    assert theta.tolist() == [1, 1, 1]
    assert error == pytest.approx([0, 1, np.sqrt(2)])
    # A hundred pairs at places 1 and 2 alone; nobody ever clicked at 2.
    pair, position = np.repeat(np.arange(100), 2), np.tile([1, 2], 100)
    theta, error = estimate_propensities(pair, position, np.full(200, 10), np.tile([1, 0], 100), positions=4)
    assert 0 < theta[1] < 0.05
    assert theta[2] == theta[3] == pytest.approx(theta[1])
    assert error[1] < error[2] < error[3]


def test_spark_gathers_pairs_that_were_seen_at_several_places_and_clicked(spark: SparkSession) -> None:
    day, later = DAYS[0], DAYS[1]
    rows = [
        (day, "red", "a", 1, 5, 1),
        (later, "red", "a", 1, 1, 1),
        (day, "red", "a", 3, 2, 0),
        (day, "red", "b", 2, 9, 9),  # at one place only
        (day, "blue", "b", 2, 1, 0),  # never clicked
        (day, "blue", "b", 1, 1, 0),
        (day, "blue", "a", 70, 1, 1),  # both beyond the last place
        (day, "blue", "a", 60, 1, 0),
        (day, "blue", "c", 60, 4, 1),
        (day, "blue", "c", 2, 1, 0),
        (DAYS[2], "red", "b", 1, 9, 9),  # not a training day
        (day, "red", "unknown", 1, 3, 1),  # not in the catalogue
        (day, "red", "unknown", 2, 3, 0),
    ]
    columns = ["day", "query", "item_id", "position", "impressions", "clicks"]
    frame = configure(spark).createDataFrame(pd.DataFrame(rows, columns=columns))
    frame.createOrReplaceTempView("clicks_by_position")
    spark.createDataFrame([("a",), ("b",), ("c",)], "item_id string").createOrReplaceTempView("catalogue")
    run_sql(spark, "extract_clicks_totals", first_day=day, last_day=later, positions=50)
    run_sql(spark, "extract_clicks_positions", share=1.0, pairs=10)
    pairs: pa.Table = spark.table("position_pairs").toArrow()
    assert sorted(map(str, pairs.to_pylist())) == sorted(
        map(
            str,
            [
                {"positions": [1, 3], "impressions": [6, 2], "clicks": [2, 0]},
                {"positions": [2, 50], "impressions": [1, 4], "clicks": [0, 1]},
            ],
        )
    )
    totals = {row.position: (row.impressions, row.clicks) for row in spark.table("position_totals").collect()}
    assert totals == {1: (7, 2), 2: (11, 9), 3: (2, 0), 50: (6, 2)}
    run_sql(spark, "extract_clicks_positions", share=1.0, pairs=1)
    assert spark.table("position_pairs").count() == 1
    run_sql(spark, "extract_clicks_positions", share=0.0, pairs=10)
    assert spark.table("position_pairs").count() == 0
