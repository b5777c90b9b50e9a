"""A front answers, by servers that hold a part of the index each, what one server with all of it answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from smar_model.errors import InputError
from smar_model.release import registry
from smar_model.release.stock import refresh_stock
from smar_model.retrieval.search import RoutedBy
from smar_model.serving import api_schemas, part_answers
from smar_model.serving import front as fronting
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.app import create_app
from smar_model.serving.front import create_front
from smar_model.serving.server import serve_front
from smar_model.settings import REPOSITORY
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.serving.test_answer_log import rows_of

PARTS = 3
QUERIES = ["red shirt", "blue novel for every day", "black", "rot  Kleid"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=2, index={"parts": PARTS}) as shop:
        stock = [{"item_id": f"item-{n:03}", "price": n, "currency": "EUR", "available": n % 2 == 0} for n in range(24)]
        (shop.home / "stock.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in stock), encoding="utf-8")
        refresh_stock(shop.settings, shop.home / "stock.jsonl", lambda: None, print)
        yield shop


@pytest.fixture
def parts(shop: ServingShop) -> list[FastAPI]:
    """Servers that look at the registry when a test tells them to."""
    shop.promote("1")
    apps = [create_app(shop.settings, part=part) for part in range(PARTS)]
    for app in apps:
        app.state.follower.look()
        app.state.stock.look()
    assert all(app.state.stock.state().is_used for app in apps)
    return apps


@pytest.fixture
def whole(shop: ServingShop, parts: list[FastAPI]) -> TestClient:
    app = create_app(shop.settings)
    app.state.follower.look()
    app.state.stock.look()
    return TestClient(app)


class Gone(httpx.AsyncBaseTransport):
    """A machine that is switched off."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route to host")


def front_of(
    parts: list[FastAPI], *, gone: int | None = None, answer_log: Callable[[CollectorRegistry], AnswerLog] | None = None
) -> TestClient:
    addresses = [f"http://part-{number}" for number in range(len(parts))]
    mounts = {
        address: Gone() if number == gone else httpx.ASGITransport(app)
        for number, (address, app) in enumerate(zip(addresses, parts, strict=True))
    }
    return TestClient(create_front(addresses, httpx.AsyncClient(mounts=mounts), answer_log=answer_log))


def test_a_part_answers_by_whichever_of_its_servers_does(parts: list[FastAPI], whole: TestClient) -> None:
    mounts: dict[str, httpx.AsyncBaseTransport] = {}
    for number, app in enumerate(parts):
        mounts |= {f"http://gone-{number}": Gone(), f"http://part-{number}": httpx.ASGITransport(app)}
    mounts["http://starting"] = httpx.ASGITransport(create_app(whole.app.state.follower.settings, part=0))
    addresses = [f"http://gone-{number}, http://part-{number}/" for number in range(PARTS)]
    addresses[0] += ",http://starting"
    front = TestClient(create_front(addresses, httpx.AsyncClient(mounts=mounts)))
    wanted = whole.post("/search", json=question()).json()["answers"][0]["hits"]
    for _ in range(4):  # each server in its turn
        answer = front.post("/search", json=question())
        assert answer.status_code == 200
        assert [hit["item_id"] for hit in answer.json()["answers"][0]["hits"]] == [hit["item_id"] for hit in wanted]
        assert front.get("/readyz").json()["ready"]


def question(**more: Any) -> dict[str, Any]:
    return {"queries": QUERIES, "k": 10} | more


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"k": 24},
        {"departments": ["Books"]},
        {"departments": ["Clothing", "Groceries"], "k": 3},
        {"routing": "text"},
        {"version": "2"},
        {"filters": ["attributes.colour:red|blue"], "k": 24},
        {"filters": ["-attributes.material:cotton", "brand:acme"], "departments": ["Clothing", "Books"], "k": 24},
        {"filters": ["available", "price:5..15.5"], "k": 24},
        {"filters": ["price>1000EUR"]},
    ],
)
def test_it_answers_as_one_server_does(more: dict[str, Any], parts: list[FastAPI], whole: TestClient) -> None:
    wanted = whole.post("/search", json=question(**more)).json()["answers"]
    found = front_of(parts).post("/search", json=question(**more)).json()["answers"]
    for one, other in zip(found, wanted, strict=True):
        assert [hit["item_id"] for hit in one["hits"]] == [hit["item_id"] for hit in other["hits"]]
        assert [hit["rank"] for hit in one["hits"]] == list(range(1, len(one["hits"]) + 1))
        scores = [[hit["score"] for hit in answer["hits"][:1]] for answer in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        own = {"hits", "request_id"}
        assert {n: one[n] for n in one if n not in own} == {n: other[n] for n in other if n not in own}
        assert one["request_id"] != other["request_id"]
    if filters := more.get("filters"):
        everything = whole.post("/search", json=question(k=24)).json()["answers"]
        assert all(len(one["hits"]) < len(every["hits"]) for one, every in zip(found, everything, strict=True))
        assert bool(found[0]["hits"]) == (filters != ["price>1000EUR"])
    alone = front_of(parts).get("/search", params={"q": QUERIES[0], "k": 10}).json()
    assert alone["hits"] == front_of(parts).post("/search", json=question()).json()["answers"][0]["hits"]


def test_a_front_logs_the_lists_that_it_answers(parts: list[FastAPI], tmp_path: Path) -> None:
    with front_of(parts, answer_log=partial(AnswerLog.at, str(tmp_path))) as client:
        answers = client.post("/search", json=question(k=4, user="anna")).json()["answers"]
        click = {
            "event": "click",
            "request_id": answers[0]["request_id"],
            "item_id": "x",
            "position": 1,
            "query": "red",
        }
        assert client.post("/events", json={"events": [click | {"user": "anna"}]}).status_code == 202
    rows = rows_of(tmp_path)
    shown = [(row["request_id"], row["position"], row["item_id"], row["version"]) for row in rows if row["version"]]
    assert sorted(shown) == sorted(
        (each["request_id"], hit["rank"], hit["item_id"], "1") for each in answers for hit in each["hits"]
    )
    assert len({row["user_id"] for row in rows}) == 1
    assert [row["event"] for row in rows].count("click") == 1


def test_what_can_be_asked_is_what_one_server_says(parts: list[FastAPI], whole: TestClient) -> None:
    found, wanted = front_of(parts).get("/versions").json(), whole.get("/versions").json()
    assert found["departments"] == wanted["departments"]
    assert (found["champion"], found["challenger"]) == (wanted["champion"], wanted["challenger"])
    assert found["filters"].keys() == wanted["filters"].keys()
    assert found["filters"]["attributes"].keys() == wanted["filters"]["attributes"].keys()
    assert found["text_only"] is None and "holds a part of an index" in found["text_only_missing"]
    assert front_of(parts).get("/").text == whole.get("/").text
    picture = front_of(parts).get("/picture", params={"name": "000.jpg"})
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"departments": ["Furniture"]}, 422),
        ({"queries": [" "]}, 422),
        ({"version": "9"}, 404),
        ({"version": "text-only"}, 503),
    ],
)
def test_what_the_parts_refuse_is_refused(more: dict[str, Any], status: int, parts: list[FastAPI]) -> None:
    answer = front_of(parts).post("/search", json=question(**more))
    assert answer.status_code == status and answer.json()["detail"], answer.text


def test_while_a_release_changes_it_waits_until_all_parts_serve_it(shop: ServingShop, parts: list[FastAPI]) -> None:
    front = front_of(parts)
    before = front.get("/readyz").json()
    shop.promote("2")
    parts[0].state.follower.look()
    assert front.get("/readyz").status_code == 503
    timer = threading.Timer(1, lambda: [part.state.follower.look() for part in parts[1:]])
    timer.start()
    answers = front.post("/search", json=question()).json()["answers"]
    timer.join()
    assert {answer["version"] for answer in answers} == {"2"}
    after = front.get("/readyz").json()
    assert (before["version"], after["version"], after["problems"]) == ("1", "2", [])


def test_parts_that_do_not_come_to_agree_are_no_answer(
    shop: ServingShop, parts: list[FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronting, "AGREE_SECONDS", 0.3)
    shop.promote("2")
    parts[0].state.follower.look()
    answer = front_of(parts).post("/search", json=question())
    assert answer.status_code == 503
    assert "do not serve the same: version 1 with index" in answer.json()["detail"]


def test_a_part_that_is_away_is_named(parts: list[FastAPI]) -> None:
    front = front_of(parts, gone=1)
    for answer in (front.post("/search", json=question()), front.get("/readyz")):
        assert answer.status_code == 503 and "http://part-1: does not answer" in answer.text
    assert front.get("/healthz").text == "ok\n"


class Balancer(BaseHTTPRequestHandler):
    """What stands before a part and answers in its place."""

    status, content_type, content, headers_more, slow = 200, "text/html", b"", (), 0.0

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        for name, value in (("Content-Type", self.content_type), *self.headers_more):
            self.send_header(name, value)
        self.end_headers()
        for at in range(0, len(self.content), 100):
            self.wfile.write(self.content[at : at + 100])
            time.sleep(self.slow)

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def balancer(**answer: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Balancer", (Balancer,), answer))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


PAGE = b"<html><body>502 Bad Gateway</body></html>"
PAIR = {"version": "1", "model_digest": "a", "index_digest": "b", "p": 0.5}
HIT = {"rank": 1, "item_id": "i", "title": "t", "department": "d", "score": 1.0, "pictures": []}


def given(*queries: str, **more: Any) -> bytes:
    answers = [PAIR | {"query": query, "hits": [HIT]} | more for query in queries]
    return json.dumps({"answers": answers, "milliseconds": 1}).encode()


ODD = {
    "a balancer's page": (502, {"status": 502, "content": PAGE}),
    "a page with 200": (502, {"content": PAGE}),
    "nothing": (502, {}),
    "half of an answer": (502, {"content": given(*QUERIES)[:-20], "content_type": "application/json"}),
    "another shape": (502, {"content": b"[1, 2]"}),
    "JSON of another service": (502, {"status": 503, "content": b'{"error": "down"}'}),
    "no status of a refusal": (502, {"status": 204}),
    "an empty batch": (502, {"content": given()}),
    "fewer answers": (502, {"content": given(*QUERIES[:-1])}),
    "answers to other queries": (502, {"content": given(*QUERIES[1:], QUERIES[0])}),
    "another version": (502, {"content": given(*QUERIES, version="3")}),
    "no number as a score": (502, {"content": given(*QUERIES, hits=[HIT | {"score": float("nan")}])}),
    "a redirect": (502, {"status": 302, "headers_more": (("Location", "http://127.0.0.1:1/"),)}),
    "a part's own fault": (502, {"status": 500, "content": b"Internal Server Error"}),
    "no text": (502, {"content": b"\xff\xfe" * 100}),
    "a broken encoding": (502, {"content": PAGE, "headers_more": (("Content-Encoding", "gzip"),)}),
    "too much": (502, {"content": b" " * 30_000}),
    "slowly": (503, {"content": b" " * 10_000, "slow": 0.1}),
    "a part's refusal": (503, {"status": 503, "content": b'{"detail": "too many searches at once"}'}),
    "what a part does not know": (404, {"status": 404, "content": b'{"detail": "no such version"}'}),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_answer_of_a_part_is_named_in_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, answer = ODD[kind]
    if kind == "too much":
        monkeypatch.setattr(part_answers, "MAXIMUM_PART_ANSWER", 20_000)
    elif kind == "slowly":
        monkeypatch.setattr(part_answers, "PART_SECONDS", 1.0)
    with balancer(**answer) as address, TestClient(create_front([address])) as front:
        search = front.post("/search", json=question(version="1"))
        detail = search.json()["detail"]
        assert search.status_code == status and "\n" not in detail and len(detail) < 600, search.text
        assert kind.endswith(("refusal", "know")) or detail.startswith(address)
        assert front.get("/search", params={"q": "red"}).status_code in {status, 502}
        for path, answered in (
            ("/versions", {200, 404, 502, 503}),
            ("/readyz", {503}),
            ("/picture?name=a.jpg", {404, 502, 503}),
        ):
            assert front.get(path).status_code in answered, path
        assert front.get("/healthz").status_code == front.head("/healthz").status_code == 200
    with TestClient(create_front([address])) as front:
        gone = front.get("/picture?name=a.jpg")
        assert gone.status_code == 503 and gone.json()["detail"] == f"{address}: does not answer (ConnectError)"


def test_an_index_without_that_part_is_not_served(shop: ServingShop) -> None:
    app = create_app(shop.settings, part=PARTS)
    app.state.follower.look()
    answer = TestClient(app).get("/readyz")
    assert answer.status_code == 503 and f"has {PARTS} part(s), from 0, so no part {PARTS}" in answer.text


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match=r"--front part-0:8000: no address"):
        serve_front(["part-0:8000"], host="127.0.0.1", port=0)


def test_a_front_needs_no_library_of_models_indexes_or_registries() -> None:
    script = """
import sys
sys.modules |= dict.fromkeys(("torch", "faiss", "mlflow", "transformers", "onnxruntime", "PIL", "pyspark"))
import smar_model.serving.server
from smar_model.serving.front import create_front
print(sorted(create_front(["http://one:8000"]).openapi()["paths"]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (
        done.stdout == "['/encode', '/events', '/healthz', '/metrics', '/picture', '/readyz', '/search', '/versions']\n"
    ), done.stderr


def test_its_words_are_those_of_the_registry_and_of_search() -> None:
    """It has them for itself, as it loads neither."""
    assert (api_schemas.CHAMPION, api_schemas.CHALLENGER) == (registry.CHAMPION, registry.CHALLENGER)
    assert set(get_args(api_schemas.Routing)) == set(get_args(RoutedBy))
