"""`smar serve`: the API against the searcher itself, hostile requests, and what releases and faults do to a server that runs."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from typer.testing import CliRunner

from smar_model.cli import app as command_line
from smar_model.errors import InputError
from smar_model.release.registry import LAST_GOOD, Registry
from smar_model.retrieval.search import Searcher
from smar_model.serving.app import create_app
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.serving.abusive_clients import connected, send
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.tiny_shop import ITEMS, draw_picture

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&amp; {{7*7}} ${7*7}",
    "10,000 characters": "red shirt " * 1_000,
    "10,000 letters": "ш" * 10_000,
    "other scripts": "红色连衣裙 赤いドレス فستان أحمر लाल पोशाक 👗🏽 ﷽",
    "right to left override": "red \u202eshirt\u202c \u200b\u200d",
    "NUL and controls": "red\x00shirt\x1b[31m\r\n\x7f",
    "combining marks": "r" + "\u0301" * 500,
    "only punctuation": "?!%_'; DROP TABLE items; --",
    "a path": "../../etc/passwd",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with serving_shop(tmp_path_factory, versions=2) as shop:
            yield shop


@pytest.fixture(scope="module")
def client(shop: ServingShop) -> Iterator[TestClient]:
    with TestClient(create_app(shop.settings, poll_seconds=0.1)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture
def as_released(shop: ServingShop, client: TestClient) -> Iterator[None]:
    """Afterwards version 1 answers again, with the index that it was released with."""
    yield
    for version in shop.runs:
        shop.point_to(version, None)
    shop.promote("1")
    wait_until(lambda: served(client) == (*pair_of(shop, "1"), []))


def served(client: TestClient) -> tuple[str, str, str, list[str]]:
    state = client.get("/readyz").json()
    return state["version"], state["model_digest"], state["index_digest"], state["problems"]


def pair_of(shop: ServingShop, version: str, *, refreshed: bool = False) -> tuple[str, str, str]:
    run = shop.runs[version]
    index = shop.refreshed[version] if refreshed else run.output("index")
    return version, run.output("finetune").manifest["content"]["model"], index.digest


def named(answer: dict[str, Any]) -> tuple[str, str, str]:
    return answer["version"], answer["model_digest"], answer["index_digest"]


def searcher_of(shop: ServingShop, version: str) -> Searcher:
    run = shop.runs[version]
    return Searcher.load(run.output("finetune").folder / "model", run.output("index").folder)


def metric(client: TestClient, name: str, **labels: str) -> float:
    """Sum over the samples of this name that have these labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [s for family in families for s in family.samples if s.name == name]
    assert samples, f"no metric {name}"
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def test_it_answers_as_the_searcher_does(shop: ServingShop, client: TestClient) -> None:
    answer = client.get("/search", params={"q": "red shirt", "k": 24}).json()
    found, p = searcher_of(shop, "1").search(["red shirt"], k=24)
    assert answer["p"] == pytest.approx(float(p[0]))
    assert answer["query"] == "red shirt"
    assert named(answer) == pair_of(shop, "1")
    assert [h["rank"] for h in answer["hits"]] == list(range(1, 25))
    for given, hit in zip(answer["hits"], found[0], strict=True):
        assert (given["item_id"], given["title"], given["department"]) == (hit.item_id, hit.title, hit.department)
        assert given["score"] == pytest.approx(hit.score)
        assert len(given["pictures"]) == len(hit.images)


def test_a_batch_answers_each_query_as_alone(client: TestClient) -> None:
    queries = ["red shirt", "novel", "red shirt", *HOSTILE.values()]
    batch = client.post("/search", json={"queries": queries, "k": 5, "departments": ["Books", "Clothing"]}).json()
    assert [answer["query"] for answer in batch["answers"]] == queries
    assert batch["milliseconds"] > 0
    for query, answer in zip(queries[:2], batch["answers"], strict=False):
        alone = client.get("/search", params={"q": query, "k": 5, "department": ["Books", "Clothing"]}).json()
        assert [h["item_id"] for h in alone["hits"]] == [h["item_id"] for h in answer["hits"]]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_queries_are_answered_like_others(client: TestClient, kind: str) -> None:
    batch = client.post("/search", json={"queries": [HOSTILE[kind]], "k": 3})
    assert batch.status_code == 200
    assert batch.headers["content-type"] == "application/json"
    answer = batch.json()["answers"][0]
    assert answer["query"] == HOSTILE[kind]
    assert len(answer["hits"]) == 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"queries": [""]}, "queries.0: String should have at least 1 character"),
        ({"queries": ["red", " \t\u3000"]}, "query 2 is empty"),
        ({"queries": []}, "queries: List should have at least 1 item"),
        ({"queries": ["x" * 10_001]}, "at most 10000 characters"),
        ({"queries": ["red"] * 257}, "at most 256 items"),
        ({"queries": ["red"], "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"queries": ["red"], "k": 1_001}, "k: Input should be less than or equal to 1000"),
        ({"queries": ["red"] * 256, "k": 51}, "256 queries with k = 51 are 13,056 hits, more than 12,800"),
        ({"queries": ["red"], "departments": ["x" * 1_001]}, "departments.0: String should have at most 1000"),
        ({"queries": ["red"], "routing": "best"}, "routing: Input should be 'soft', 'hard', 'text' or 'pictures'"),
        ({"queries": ["red"], "version": "../1"}, "version: String should match pattern"),
        ({"queries": ["red"], "departments": ["Shoes"]}, "department 'Shoes': this index has no item in it"),
        ({"queries": "red"}, "queries: Input should be a valid array"),
        ({"queries": ["red"], "filter": ["available"]}, "filter: Extra inputs are not permitted"),
        ({}, "queries: Field required"),
    ],
)
def test_what_cannot_be_answered_is_named(client: TestClient, body: dict[str, Any], says: str) -> None:
    refused = client.post("/search", json=body)
    assert refused.status_code == 422
    assert says in refused.json()["detail"]
    assert len(refused.json()["detail"]) < 500


def test_a_misspelt_filter_is_no_answer_without_it(client: TestClient) -> None:
    refused = client.get("/search", params={"q": "red", "filters": "available"})
    assert refused.status_code == 422
    assert "no parameter is named 'filters'; there are q, k, department, filter" in refused.json()["detail"]
    assert client.post("/encode", json={"queries": ["red"], "k": 3}).status_code == 422


@pytest.mark.parametrize("body", [b'{"queries": ["\\ud800"]}', b"\xff\xfe", b"[" * 5_000, b"null", b""])
def test_what_is_no_text_or_no_json_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/search", content=body, headers={"Content-Type": "application/json"}).status_code in {400, 422}


def test_filters_are_those_of_all_items(client: TestClient) -> None:
    for routing in (None, "text", "pictures", "hard", "soft"):
        asked = {"queries": ["red shirt", "novel"], "k": ITEMS, "routing": routing}
        every = client.post("/search", json=asked).json()["answers"]
        for departments in (["Books"], ["Clothing", "Groceries"]):
            found = client.post("/search", json=asked | {"departments": departments}).json()["answers"]
            for some, all_of_it in zip(found, every, strict=True):
                wanted = [h["item_id"] for h in all_of_it["hits"] if h["department"] in departments]
                assert [h["item_id"] for h in some["hits"]] == wanted


def test_versions_can_be_asked_side_by_side(shop: ServingShop, client: TestClient) -> None:
    known = client.get("/versions").json()
    assert (known["champion"], known["challenger"]) == ("1", "2")
    assert [v["version"] for v in known["versions"]] == ["2", "1"]
    assert known["versions"][1]["index_digest"] == shop.runs["1"].output("index").digest
    assert known["departments"] == [
        {"name": "Clothing", "items": 12},
        {"name": "Books", "items": 6},
        {"name": "Groceries", "items": 6},
    ]
    assert 0 < len(known["examples"]) <= 8
    assert any("shirts" in example for example in known["examples"])
    for name, version in (("challenger", "2"), ("2", "2"), ("1", "1"), ("champion", "1")):
        answer = client.get("/search", params={"q": "red shirt", "version": name, "k": 3}).json()
        assert named(answer) == pair_of(shop, version)
        wanted = searcher_of(shop, version).search(["red shirt"], k=3)[0][0]
        assert [h["item_id"] for h in answer["hits"]] == [hit.item_id for hit in wanted]
    missing = client.get("/search", params={"q": "red shirt", "version": "77"})
    assert (missing.status_code, "no '77'" in missing.json()["detail"]) == (404, True)


def test_the_text_only_baseline_of_the_champion_s_run_can_be_asked(shop: ServingShop, client: TestClient) -> None:
    assert client.get("/versions").json()["text_only"] == "run-1"
    answer = client.get("/search", params={"q": "red shirt", "version": "text-only", "k": ITEMS}).json()
    assert (answer["version"], answer["p"], answer["index_digest"]) == ("text-only", 0, None)
    assert answer["model_digest"] == shop.runs["1"].output("train-text-only").manifest["content"]["model"]
    red = {"q": "red shirt", "k": ITEMS, "filter": "attributes.colour:red"}
    found, own = (client.get("/search", params=red | more).json()["hits"] for more in ({"version": "text-only"}, {}))
    assert 0 < len(found) < ITEMS and {hit["item_id"] for hit in found} == {hit["item_id"] for hit in own}
    assert len(answer["hits"]) == ITEMS
    assert len({hit["item_id"] for hit in answer["hits"]}) == ITEMS
    without = [hit for hit in answer["hits"] if not hit["pictures"]]
    assert {hit["item_id"] for hit in without} == {f"item-{n:03}" for n in range(0, ITEMS, 5)}


def test_without_the_run_s_record_there_is_no_baseline_and_why(shop: ServingShop, client: TestClient) -> None:
    record = shop.runs["1"].folder / "train-text-only.json"
    content = record.read_bytes()
    record.unlink()
    try:
        wait_until(lambda: client.get("/versions").json()["text_only"] is None)
        assert "'train-text-only' has no finished output" in client.get("/versions").json()["text_only_missing"]
    finally:
        record.write_bytes(content)
    wait_until(lambda: client.get("/versions").json()["text_only"] == "run-1")


def test_pictures_are_small_jpegs_of_the_shop_and_nothing_else(shop: ServingShop, client: TestClient) -> None:
    hits = client.get("/search", params={"q": "red shirt", "k": ITEMS}).json()["hits"]
    shown = [picture for hit in hits for picture in hit["pictures"]]
    assert len(shown) == ITEMS - 5
    for uri in shown:
        picture = client.get("/" + uri)
        assert picture.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(picture.content)).size) <= 320
    folder = shop.home / "shop" / "pictures"
    (folder / "large and odd ? # %.png").write_bytes(draw_picture("red", size=(2_000, 3_000), file_format="PNG"))
    (folder / "no_picture.jpg").write_text("secret", encoding="utf-8")
    odd = client.get("/picture", params={"name": "large and odd ? # %.png"})
    assert max(Image.open(io.BytesIO(odd.content)).size) == 320
    for name in (
        *("../items.parquet", "../../mlflow.db", "/etc/passwd", "a/../../../etc/passwd", "..\\mlflow.db", "no\x00.jpg"),
        *("no_picture.jpg", "not_there.jpg", ".", "x" * 3_000, "http://127.0.0.1:1/a.jpg", "file:///etc/passwd"),
    ):
        refused = client.get("/picture", params={"name": name})
        assert refused.status_code == 404, name
        assert b"secret" not in refused.content


NAMES = {
    "5,000 characters": "x" * 5_000,
    "a component of 256 bytes": "a/" + "x" * 256,
    "a path beyond PATH_MAX": "abc/" * 1_020 + "x.jpg",
    "10,000 bytes of 4-byte characters": "👗" * 2_500,
    "NUL": "a\0.jpg",
    "upwards": "../shop/pictures/000.jpg",
    "upwards in the middle": "a/../../pictures/000.jpg",
    "an encoded slash": "..%2f..%2fetc%2fpasswd",
    "a file as a folder": "000.jpg/inside.jpg",
    "a folder": "./",
    "a long URL": "http://x/" + "y" * 4_000,
    "a device": "/dev/zero",
    "separators": "/" * 4_000,
}


@pytest.mark.parametrize("kind", NAMES)
def test_no_name_of_a_picture_is_a_fault_of_the_server(client: TestClient, kind: str) -> None:
    refused = client.get("/picture", params={"name": NAMES[kind]})
    assert refused.status_code in {404, 422}
    assert 0 < len(refused.json()["detail"]) < 500


@pytest.mark.parametrize("raw", ["%ed%a0%80.jpg", "%ff%fe", "%00", "%2e%2e%2fitems.parquet", "%f0%9f%91%97" * 1_000])
def test_no_bytes_of_a_name_are_a_fault_of_the_server(client: TestClient, raw: str) -> None:
    assert client.get(f"/picture?name={raw}").status_code in {404, 422}


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/versions", "/openapi.json", "/search?q=red", "/search", "/picture?name=000.jpg", "/none"])  # fmt: skip
def test_head_says_what_get_would_without_the_body(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers.keys() == get.headers.keys()
    assert head.headers["content-type"] == get.headers["content-type"]
    assert client.put("/search").status_code == 405


def test_the_document_describes_what_is_answered(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {
        *("/search", "/versions", "/picture", "/healthz", "/readyz", "/metrics", "/events", "/encode")
    }
    answer = document["components"]["schemas"]["SearchAnswer"]
    given = client.get("/search", params={"q": "red shirt"}).json()
    assert set(answer["properties"]) == set(answer["required"]) == set(given)
    assert {p["name"] for p in document["paths"]["/search"]["get"]["parameters"]} == {
        *("q", "k", "department", "filter", "version", "routing", "user", "session", "log")
    }
    assert client.get("/docs").status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.findall(r"https?://|@import|<link(?! rel=\"icon\" href=\"data:,\")|<script[^>]+src", page.text)
    assert "innerHTML" not in page.text


def test_metrics_count_what_happened(shop: ServingShop, client: TestClient) -> None:
    before = metric(client, "smar_requests_total", path="/search", status="200")
    timed = metric(client, "smar_request_seconds_count", path="/search")
    client.get("/search", params={"q": "red shirt"})
    client.get("/search")
    client.get("/no/such/path")
    assert metric(client, "smar_requests_total", path="/search", status="200") == before + 1
    assert metric(client, "smar_requests_total", path="/search", status="422") >= 1
    assert metric(client, "smar_request_seconds_count", path="/search") == timed + 2
    assert metric(client, "smar_requests_total", path="none", status="404") >= 1
    version, model, index = pair_of(shop, "1")
    assert metric(client, "smar_serving", version=version, model_digest=model, index_digest=index) == 1
    assert metric(client, "smar_serving") == 1
    assert metric(client, "smar_registry_seen_timestamp_seconds") == pytest.approx(time.time(), abs=PATIENCE_SECONDS)
    assert client.get("/healthz").text == "ok\n"


@pytest.mark.usefixtures("as_released")
def test_promotion_refresh_and_rollback_are_followed(shop: ServingShop, client: TestClient) -> None:
    reloads = metric(client, "smar_reloads_total")
    steps: list[tuple[Callable[[], None], tuple[str, str, str], int]] = [
        (lambda: shop.promote("2"), pair_of(shop, "2"), ITEMS),
        (lambda: shop.point_to("2", shop.refreshed["2"]), pair_of(shop, "2", refreshed=True), ITEMS - 1),
        (lambda: shop.promote("1"), pair_of(shop, "1"), ITEMS),
    ]
    for number, (change, wanted, items) in enumerate(steps, start=1):
        change()
        wait_until(lambda wanted=wanted: served(client) == (*wanted, []))  # type: ignore[misc]
        answer = client.get("/search", params={"q": "red shirt", "k": 100}).json()
        assert named(answer) == wanted
        assert len(answer["hits"]) == items
        assert metric(client, "smar_reloads_total") == reloads + number
        assert metric(client, "smar_serving") == 1


@pytest.mark.usefixtures("as_released")
@pytest.mark.parametrize("damage", ["one byte", "cut off", "another model's", "items of another", "gone"])
def test_a_bad_index_is_reported_and_the_last_good_pair_goes_on(
    shop: ServingShop, client: TestClient, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = shop.refreshed["1"]
    folder = tmp_path / "index"
    shutil.copytree(good.folder, folder)
    content = (folder / "index.faiss").read_bytes()
    if damage == "one byte":
        (folder / "index.faiss").write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "cut off":
        (folder / "index.faiss").write_bytes(content[: len(content) // 2])
    elif damage == "another model's":
        folder = shop.refreshed["2"].folder
    elif damage == "items of another":
        shutil.copytree(
            shop.runs["1"].output("index").folder / "index_items", folder / "index_items", dirs_exist_ok=True
        )
    else:
        shutil.rmtree(folder)
    before = metric(client, "smar_failed_reloads_total")
    # A pair that is open already, whole, would be taken again instead of its files.
    client.app.state.follower._others.clear()  # type: ignore[attr-defined]
    for tag, value in (("index_source", folder.as_uri()), ("index", good.digest)):
        shop.registry.client.set_model_version_tag("smar", "1", tag, value)
    wait_until(lambda: bool(served(client)[3]))
    *pair, problems = served(client)
    assert tuple(pair) == pair_of(shop, "1")
    assert client.get("/readyz").status_code == 200
    assert "is not served" in problems[0]
    assert ("is gone" if damage == "gone" else "damaged, or another index") in problems[0]
    assert metric(client, "smar_failed_reloads_total") == before + 1
    assert [r.levelname for r in caplog.records if "is not served" in r.message] == ["ERROR"]
    assert named(client.get("/search", params={"q": "red shirt"}).json()) == pair_of(shop, "1")
    # A whole one in its place is taken at the next look, not only after the wait before a new try.
    shop.point_to("1", good)
    wait_until(lambda: served(client) == (*pair_of(shop, "1", refreshed=True), []))


@pytest.mark.usefixtures("as_released")
def test_an_index_that_another_model_built_is_refused(shop: ServingShop, client: TestClient) -> None:
    client.app.state.follower._others.clear()  # type: ignore[attr-defined]
    shop.point_to("1", shop.refreshed["2"])
    wait_until(lambda: bool(served(client)[3]))
    assert "signed for another model_digest" in served(client)[3][0]
    assert named(client.get("/search", params={"q": "red shirt"}).json()) == pair_of(shop, "1")


def test_another_version_that_cannot_be_opened_fails_its_own_requests_alone(
    shop: ServingShop, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.app.state.follower._others.clear()  # type: ignore[attr-defined]
    index = Path(shop.registry.release("2").index_folder) / "index.faiss"
    whole = index.read_bytes()
    index.unlink()
    index.write_bytes(whole[:100])
    try:
        refused = [client.get("/search", params={"q": "red shirt", "version": "2"}) for _ in range(3)]
        assert {answer.status_code for answer in refused} == {503}
        assert all("index.faiss: damaged, or changed" in answer.json()["detail"] for answer in refused)
        assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1, "it was opened again for each request"
        assert served(client) == (*pair_of(shop, "1"), [])
        assert client.get("/search", params={"q": "red shirt"}).status_code == 200
    finally:
        index.write_bytes(whole)
        client.app.state.follower._unopened.clear()  # type: ignore[attr-defined]
    assert client.get("/search", params={"q": "red shirt", "version": "2"}).status_code == 200


def test_a_registry_that_is_down_does_not_stop_serving(shop: ServingShop, client: TestClient) -> None:
    follower = client.app.state.follower  # type: ignore[attr-defined]
    elsewhere = shop.settings.model_copy(
        update={"release": shop.settings.release.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})}
    )
    whole, follower._registry = follower._registry, Registry(elsewhere)
    try:
        wait_until(lambda: bool(served(client)[3]))
        assert "the registry does not answer" in served(client)[3][0]
        assert metric(client, "smar_registry_failures_total") >= 1
        assert named(client.get("/search", params={"q": "red shirt"}).json()) == pair_of(shop, "1")
        assert client.get("/versions").json()["champion"] == "1"
    finally:
        follower._registry = whole
    wait_until(lambda: served(client)[3] == [])


@pytest.mark.usefixtures("as_released")
def test_in_the_place_of_a_champion_that_cannot_be_opened_the_last_good_release_answers(shop: ServingShop) -> None:
    registry = shop.registry
    registry.client.set_registered_model_tag("smar", LAST_GOOD, " ".join(pair_of(shop, "1")[::2]))
    shop.point_to("2", shop.refreshed["1"])
    shop.promote("2")
    try:
        with TestClient(create_app(shop.settings, poll_seconds=0.1)) as client:
            wait_until(lambda: client.get("/readyz").status_code == 200)
            *pair, problems = served(client)
            assert tuple(pair) == pair_of(shop, "1")
            assert "version 2 with index" in problems[0] and "signed for another model_digest" in problems[0]
            assert "version 1 with index" in problems[0] and "answers in its place" in problems[0]
            assert client.get("/readyz").json()["is_champion"] is False
            assert metric(client, "smar_serving_champion") == 0
            assert named(client.get("/search", params={"q": "red shirt"}).json()) == pair_of(shop, "1")
            # Its own index is followed meanwhile.
            shop.point_to("1", shop.refreshed["1"])
            refreshed = pair_of(shop, "1", refreshed=True)
            registry.client.set_registered_model_tag("smar", LAST_GOOD, " ".join(refreshed[::2]))
            wait_until(lambda: served(client)[:3] == refreshed)
            shop.point_to("2", None)
            wait_until(lambda: served(client) == (*pair_of(shop, "2"), []))
            assert client.get("/readyz").json()["is_champion"] is True
            assert metric(client, "smar_serving_champion") == 1
    finally:
        registry.client.delete_registered_model_tag("smar", LAST_GOOD)


def test_before_the_first_release_it_lives_but_is_not_ready(shop: ServingShop) -> None:
    release = shop.settings.release.model_copy(update={"model": "another"})
    with TestClient(create_app(shop.settings.model_copy(update={"release": release}), poll_seconds=0.1)) as client:
        wait_until(lambda: bool(client.get("/readyz").json()["problems"]))
        state = client.get("/readyz")
        assert (state.status_code, state.json()["ready"]) == (503, False)
        assert "`make retrain` trains and promotes one" in state.json()["problems"][0]
        assert client.get("/healthz").status_code == 200
        refused = client.get("/search", params={"q": "red shirt"})
        assert (refused.status_code, "make retrain" in refused.json()["detail"]) == (503, True)
        assert client.get("/").status_code == client.get("/versions").status_code == 200


def test_a_server_for_the_champion_alone_opens_no_other(shop: ServingShop) -> None:
    with TestClient(create_app(shop.settings, poll_seconds=0.1, others_kept=0)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        refused = client.get("/search", params={"q": "red shirt", "version": "2"})
        assert (refused.status_code, "--others 0" in refused.json()["detail"]) == (503, True)
        assert client.get("/search", params={"q": "red shirt", "version": "1"}).status_code == 200


def test_the_server_imports_neither_airflow_nor_spark(shop: ServingShop) -> None:
    script = f"""
import os, signal, socket, sys, threading, time, urllib.error, urllib.request
from pathlib import Path
import smar_model.cli
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]

def get(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{{port}}/{{path}}", timeout={PATIENCE_SECONDS}) as answer:
        return answer.status

def ask():
    while True:
        try:
            if get("readyz") == 200:
                break
        except urllib.error.URLError:
            time.sleep(0.1)
    answered = [get("search?q=red&version=" + v) for v in ("champion", "2", "text-only")] + [get("picture?name=001.jpg")]
    names = {{name.split(".")[0] for name, module in list(sys.modules.items()) if module}}
    heavy = {{"airflow", "pyspark", "py4j", "great_expectations", "torch", "timm", "transformers", "onnxscript", "pandas", "scipy"}}
    print(answered, sorted(names & heavy), flush=True)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=ask).start()
sys.argv = ["smar", "serve", "--settings", {str(shop.settings_file)!r}, "--port", str(port), "--poll-seconds", "0.1"]
try:
    smar_model.cli.main()
except KeyboardInterrupt:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.stdout.splitlines()[-1:] == ["[200, 200, 200, 200] []"], done.stdout + done.stderr


def test_the_command_serves_until_it_is_told_to_end(shop: ServingShop) -> None:
    command = [sys.executable, "-m", "smar_model.cli", "serve", "--settings", str(shop.settings_file)]
    options = ["--port", "0", "--drain-seconds", "1"]
    process = subprocess.Popen(
        [*command, *options], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        assert address, said

        def ready() -> bool:
            with urllib.request.urlopen(f"{address[0]}/versions", timeout=PATIENCE_SECONDS) as answer:
                return json.loads(answer.read())["champion"] == "1"

        wait_until(ready)
        taken = subprocess.run([*command, "--port", address[1]], cwd=REPOSITORY, capture_output=True, text=True)
        assert taken.returncode == 2
        assert "choose --host and --port" in taken.stderr
        half_sent = connected(address[0])
        send(half_sent, b"GET /healthz HTTP/1.1\r\n")
        process.send_signal(signal.SIGTERM)
        # Although a client has not sent all of its request.
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        half_sent.close()
        assert "INFO smar.serving: serving version 1 with index" in process.stderr.read()
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_the_terminal_asks_as_the_server_does(shop: ServingShop, client: TestClient) -> None:
    words = ["search", "red shirt", "-k", "24", "--json", "--settings", str(shop.settings_file)]
    done = CliRunner().invoke(
        command_line, [*words, "--department", "Books", "--department", "Clothing", "--routing", "text"]
    )
    answer = json.loads(done.stdout)
    asked = {"q": "red shirt", "k": 24, "department": ["Books", "Clothing"], "routing": "text"}
    served_hits = client.get("/search", params=asked).json()["hits"]
    assert [h["item_id"] for h in answer["hits"]] == [h["item_id"] for h in served_hits]
    assert len(served_hits) == 18
    wrong = CliRunner().invoke(command_line, [*words, "--department", "Shoes"])
    assert isinstance(wrong.exception, InputError)
