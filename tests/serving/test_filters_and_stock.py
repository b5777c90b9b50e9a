"""Filters over HTTP, and a stock table that a running server takes up under load with no failed request."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from smar_model.cli import app as command_line
from smar_model.errors import InputError
from smar_model.release.stock_tables import current_stock, stock_folder
from smar_model.serving.app import create_app
from smar_model.settings import REPOSITORY, load_settings
from tests.patience import wait_until
from tests.serving.serving_shop import ServingShop, serving_shop

ITEMS = [f"item-{n:03}" for n in range(24)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=1) as shop:
        yield shop


def publish(shop: ServingShop, rows: list[dict[str, object]], folder: Path) -> str:
    """What `smar refresh-stock` says."""
    file = folder / "new_stock.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    done = CliRunner().invoke(
        command_line, ["refresh-stock", "--settings", str(shop.settings_file), "--from", str(file)]
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def found(client: TestClient, *filters: str) -> set[str]:
    answer = client.get("/search", params={"q": "plain shirt", "k": 24, "filter": filters})
    assert answer.status_code == 200, answer.text
    return {hit["item_id"] for hit in answer.json()["hits"]}


def test_filters_in_get_and_post_and_what_is_none(shop: ServingShop) -> None:
    app = create_app(shop.settings)
    app.state.follower.look()
    client = TestClient(app)
    everything = found(client)
    red = found(client, "attributes.colour:RED")
    assert red and red < everything
    assert found(client, "-attributes.colour:red") == everything - red
    assert found(client, "attributes.colour:red", "attributes.material:cotton") < red
    posted = client.post("/search", json={"queries": ["plain shirt"], "k": 24, "filters": ["attributes.colour:red"]})
    assert {hit["item_id"] for hit in posted.json()["answers"][0]["hits"]} == red
    for text, said in (
        ("color:red", "there is no 'color'; known: attributes.NAME"),
        ("attributes.color:red", "there are colour, material"),
    ):
        refused = client.get("/search", params={"q": "x", "filter": text})
        assert refused.status_code == 422 and said in refused.json()["detail"]
    assert client.get("/search", params={"q": "x", "filter": ["brand:a"] * 33}).status_code == 422


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        (["attributes.colour:redd"], "nothing found: no item matches 'attributes.colour:redd'; there are red"),
        (["attributes.colour:zzz"], "no item matches 'attributes.colour:zzz'; there are "),
        (
            ["attributes.colour:red", "-attributes.colour:red"],
            "no item matches all of 'attributes.colour:red', '-attrib",
        ),
    ],
)
def test_a_search_that_finds_nothing_says_why(shop: ServingShop, filters: list[str], says: str) -> None:
    options = [part for text in filters for part in ("--filter", text)]
    settings = ["--settings", str(shop.settings_file)]
    done = CliRunner().invoke(command_line, ["search", "shirt", *options, *settings])
    assert done.exit_code == 0 and says in done.output and "score" not in done.output


def test_what_can_be_filtered_by_is_said_and_the_first_example_works(shop: ServingShop) -> None:
    app = create_app(shop.settings)
    app.state.follower.look()
    client = TestClient(app)
    known = client.get("/versions").json()["filters"]
    assert (known["prices"], known["stock"]) == (False, False)
    assert set(known["attributes"]) == {"colour", "material"}
    for name, value in known["attributes"].items():
        assert found(client, f"attributes.{name}:{value}")
    hit = client.get("/search", params={"q": "shirt"}).json()["hits"][0]
    assert (hit["price"], hit["currency"], hit["available"]) == (None, None, None)
    page = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    example = re.search(r"`GET (/search[?][^`]+)`", page)
    assert example and client.get(example[1]).json()["hits"]


def test_stock_is_seen_under_load_with_no_failed_request(shop: ServingShop, tmp_path: Path) -> None:
    said = publish(
        shop,
        [{"item_id": i, "price": f"{n}.50", "currency": "EUR", "available": n % 2} for n, i in enumerate(ITEMS)]
        + [{"item_id": "gone", "price": "-1", "currency": "euro", "available": 1}],
        tmp_path,
    )
    assert "prices that are negative or more than 99,999,999,999,999, left empty: 1, such as gone: -1" in said
    assert "currencies that are no ISO 4217 code, left empty: 1" in said
    assert "unknown: 1 item that the index does not have, such as 'gone'" in said
    app = create_app(shop.settings, poll_seconds=0.1)
    failed: list[str] = []
    stopped = threading.Event()
    with TestClient(app) as client:
        wait_until(
            lambda: client.get("/readyz").json().get("stock") and client.get("/readyz").json()["stock"]["is_used"]
        )
        assert found(client, "price<5") == set(ITEMS[:5])
        assert found(client, "available", "price>=20.5") == {"item-021", "item-023"}
        known = client.get("/versions").json()["filters"]
        assert (known["prices"], known["stock"]) == (True, True)
        hit = client.get("/search", params={"q": "x", "filter": ["available", "price:21.50..21.50"]}).json()["hits"][0]
        assert (hit["price"], hit["currency"], hit["available"]) == (21.5, "EUR", True)
        ready = client.get("/readyz").json()["stock"]
        assert (ready["items"], ready["items_of_index"]) == (25, 24)
        assert "smar_stock_items 25.0" in client.get("/metrics").text

        def ask() -> None:
            while not stopped.is_set():
                answer = client.get("/search", params={"q": "red shirt", "filter": ["available", "price<100"]})
                if answer.status_code != 200:
                    failed.append(answer.text)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        publish(shop, [{"item_id": ITEMS[0], "price": 99.0, "currency": "EUR", "available": True}], tmp_path)
        wait_until(lambda: found(client, "price<100") == {ITEMS[0]})
        # A table that is damaged changes nothing but what is said.
        pointer = current_stock(load_settings(shop.settings_file))
        assert pointer is not None
        publish(shop, [{"item_id": ITEMS[1], "price": 1, "currency": "EUR", "available": True}], tmp_path)
        wait_until(lambda: found(client, "price<100") == {ITEMS[1]})
        current = stock_folder(shop.settings) / "current.json"
        (stock_folder(shop.settings) / f"{pointer.digest}.parquet").write_bytes(b"PAR1")
        current.write_text(pointer.model_dump_json(), encoding="utf-8")
        wait_until(lambda: any("damaged" in problem for problem in client.get("/readyz").json()["problems"]))
        assert found(client, "price<100") == {ITEMS[1]}
        stopped.set()
        for thread in threads:
            thread.join()
    assert not failed


def test_a_table_that_cannot_be_used_is_refused_whole(shop: ServingShop, tmp_path: Path) -> None:
    publish(shop, [{"item_id": ITEMS[0], "price": 1}], tmp_path)
    before = current_stock(shop.settings)
    for rows, said in (
        ([{"item_id": "x", "price": "cheap"}], r"row 0: price: 'cheap' is no number"),
        ([{"item_id": "x", "price": 1}], r"none of its 1 items is in the champion's index, as 'x'"),
        ([{"item_id": None, "price": 1}], r"no row with an item_id|item_id"),
        ([{"item_id": ITEMS[0], "available": "maybe"}], r"'maybe' is neither true nor false"),
    ):
        with pytest.raises(InputError, match=said):
            publish(shop, rows, tmp_path)
    with pytest.raises(InputError, match=r"stock.parquet: no such file, nor stock.jsonl"):
        CliRunner().invoke(
            command_line, ["refresh-stock", "--settings", str(shop.settings_file)], catch_exceptions=False
        )
    assert current_stock(shop.settings) == before
