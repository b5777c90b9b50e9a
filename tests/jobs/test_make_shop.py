"""Shops of any size: made by contract, the same on any partitioning, by the shoppers' model, ready for the stages."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from jobs import make_shop
from jobs.make_shop import Size
from smar_model import cli
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_rows
from smar_model.settings import Spark
from smar_model.shop.shoppers import EXAMINATION, LIST_LENGTH

LAST_DAY = date(2026, 11, 19)
SIZE = Size(items=2_500, days=2, requests_per_day=2_000, seed=3)


def read(files: list[Path]) -> pd.DataFrame:
    return ds.dataset([str(f) for f in files]).to_table().to_pandas(maps_as_pydicts="strict")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> ShopInputs:
    root = tmp_path_factory.mktemp("made") / "shop"
    counts = make_shop.make_shop(root, SIZE, last_day=LAST_DAY, spark=Spark())
    assert counts["requests"] == 4_000
    assert counts["events"] == sum(len(read(ShopInputs(root).click_log(LAST_DAY - timedelta(days=n)))) for n in (0, 1))
    return ShopInputs(root)


def test_everything_agrees_with_the_contracts_of_a_shop(shop: ShopInputs) -> None:
    load_contract("items").verify_files(shop.items())
    load_contract("click_log").verify_files(shop.click_log(LAST_DAY))
    truth_items = shop.truth_items()
    assert truth_items is not None
    load_contract("truth_items").verify_files([truth_items])
    load_contract("truth_requests").verify_files(shop.truth_requests(LAST_DAY))
    items = read(shop.items())
    assert items["item_id"].is_unique
    assert len(items) == SIZE.items
    assert not items.drop(columns=["brand", "price", "currency", "available"]).isna().to_numpy().any()
    assert (shop.root / "pictures").is_dir()


def test_lists_clicks_and_truth_follow_the_shoppers_model(shop: ShopInputs) -> None:
    log, wishes = read(shop.click_log(LAST_DAY)), read(shop.truth_requests(LAST_DAY))
    assert not log.drop(columns=["version", "routing", "team"]).isna().to_numpy().any()
    assert set(log["event_time"].dt.date) == {LAST_DAY}
    seen = log[log["event"] == "impression"]
    lists = seen.groupby("request_id").agg(
        positions=("position", "nunique"), items=("item_id", "nunique"), rows=("item_id", "size")
    )
    assert (lists == LIST_LENGTH).all(axis=None)
    clicks = log[log["event"] == "click"]
    assert not clicks.duplicated(["request_id", "item_id"]).any()
    # What was done was shown before, at that place.
    keys = ["request_id", "item_id", "position", "query", "session_id", "user_id"]
    joined = log[log["event"] != "impression"].merge(seen, on=keys, how="left", suffixes=("", "_seen"))
    assert (joined["event_time"] > joined["event_time_seen"]).all()
    # Truth: each item named by its own true attributes; clicks prefer the wanted item.
    truth = read([shop.truth_items()]).set_index("item_id")["attributes"]  # type: ignore[list-item]
    for wish in wishes.itertuples():
        assert wish.named.items() <= truth[wish.item_id].items()
    shown = seen.merge(wishes, on="request_id", suffixes=("", "_wanted"))
    wanted = shown[shown["item_id"] == shown["item_id_wanted"]]
    clicked = wanted.merge(clicks, on=["request_id", "item_id"], how="left", suffixes=("", "_click"))
    by_place = clicked.groupby("position")["event_click"].count() / clicked.groupby("position").size()
    expected = pd.Series(0.85 * EXAMINATION, index=range(1, LIST_LENGTH + 1))
    assert (by_place - expected).abs().max() < 0.17  # about 100 lists a place: standard error 5 points
    assert (by_place - expected).abs().mean() < 0.06


def test_a_day_is_the_same_on_any_partitioning_and_beside_other_days(
    shop: ShopInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_shop, "REQUESTS_PER_FILE", 300)
    monkeypatch.setattr(make_shop, "ITEMS_PER_FILE", 900)
    one_day = Size(items=SIZE.items, days=1, requests_per_day=SIZE.requests_per_day, seed=SIZE.seed)
    make_shop.make_shop(tmp_path / "other", one_day, last_day=LAST_DAY, spark=Spark())
    other = ShopInputs(tmp_path / "other")
    assert len(other.click_log(LAST_DAY)) > len(shop.click_log(LAST_DAY))
    assert digest_rows(other.items()) == digest_rows(shop.items())
    assert digest_rows(other.click_log(LAST_DAY)) == digest_rows(shop.click_log(LAST_DAY))
    assert digest_rows(other.truth_requests(LAST_DAY)) == digest_rows(shop.truth_requests(LAST_DAY))


def test_a_shop_is_not_made_over_another(shop: ShopInputs) -> None:
    with pytest.raises(InputError, match="holds items, pictures, click_log, truth already"):
        make_shop.make_shop(shop.root, SIZE, last_day=LAST_DAY, spark=Spark())


def test_the_command_asks_for_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    arguments = ["smar", "shop", "make", "--settings", "configs/sample_shop.yaml", "--to", str(tmp_path / "shop")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--to, --items, --days and --date go together" in capsys.readouterr().err
    assert not (tmp_path / "shop").exists()
