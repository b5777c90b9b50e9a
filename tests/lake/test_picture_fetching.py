"""Pictures by URL: fetched once, politely, within limits."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from smar_model.lake import picture_fetching
from smar_model.lake.picture_fetching import fetch_pictures
from smar_model.lake.picture_stores import fetched_folder, fetched_path
from smar_model.settings import Fetch, Pictures
from tests.picture_server import serve


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))


def polite(**changes: Any) -> Pictures:
    fetch = {"delay_seconds": 0, "timeout_seconds": 2, "private_addresses": True}
    sizes = {"maximum_bytes": changes.pop("maximum_bytes")} if "maximum_bytes" in changes else {}
    return Pictures(fetch=Fetch(**fetch | changes), **sizes)


def answer(status: int, *, body: bytes = b"", length: int | None = None, **headers: str) -> Any:
    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = length is not None

    return send


def fetched(url: str) -> bytes | None:
    path = fetched_path(fetched_folder(), url)
    return path.read_bytes() if path.is_file() else None


def test_a_picture_is_fetched_once() -> None:
    with serve({"/a.jpg": b"a", "/b.jpg": b"b"}) as (address, seen):
        for _ in range(2):
            assert fetch_pictures([f"{address}/a.jpg", f"{address}/b.jpg", f"{address}/a.jpg"], polite()) == {}
        assert sorted(path for _, path in seen) == ["/a.jpg", "/b.jpg"]
        assert fetched(f"{address}/a.jpg") == b"a"


def test_a_host_gets_one_connection_and_pauses_and_hears_who_asks() -> None:
    agents = []

    def slow(request: BaseHTTPRequestHandler) -> None:
        agents.append(request.headers["User-Agent"])
        time.sleep(0.03)
        answer(200, body=b"x")(request)

    with serve({f"/{n}": slow for n in range(5)}) as (address, seen):
        assert fetch_pictures([f"{address}/{n}" for n in range(5)], polite(delay_seconds=0.1)) == {}
    times = [at for at, _ in seen]
    assert min(b - a for a, b in pairwise(times)) >= 0.1
    assert seen.most_open == 1
    assert agents[0].startswith("smar/")


def test_a_busy_host_is_asked_again_after_the_time_that_it_names() -> None:
    calls = []

    def busy_once(request: BaseHTTPRequestHandler) -> None:
        calls.append(time.monotonic())
        (answer(429, Retry_After="1") if len(calls) == 1 else answer(200, body=b"now"))(request)

    with serve({"/a": busy_once, "/b": answer(503, Retry_After="0")}) as (address, seen):
        failures = fetch_pictures([f"{address}/a", f"{address}/b"], polite())
    assert fetched(f"{address}/a") == b"now"
    assert calls[1] - calls[0] >= 1
    assert failures == {f"{address}/b": ("unreachable", "status 503")}
    assert [path for _, path in seen].count("/b") == 3


def test_what_cannot_be_had_is_told_and_nothing_of_it_kept() -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        for _ in range(20):
            request.wfile.write(b"x")
            time.sleep(0.05)

    pages = {
        "/big": answer(200, body=b"x" * 2_000),
        "/liar": answer(200, body=b"x" * 500, length=5_000),
        "/drip": drip,
        "/away": answer(302, Location="file:///etc/passwd"),
        "/moved": answer(302, Location="/there"),
        "/there": b"here",
    }
    with serve(pages) as (address, _):
        urls = {name: f"{address}/{name}" for name in ("gone", "big", "liar", "drip", "away", "moved")}
        bad = ["http://[half/1.jpg", "https://127.0.0.1:1/2.jpg"]
        failures = fetch_pictures([*urls.values(), *bad], polite(maximum_bytes=1_000, timeout_seconds=0.4))
    assert fetched(urls["moved"]) == b"here"
    reasons = {name: failures[url][0] for name, url in urls.items() if url in failures}
    assert reasons == dict.fromkeys(["gone", "liar", "drip", "away"], "unreachable") | {"big": "too_large"}
    assert failures[urls["gone"]][1] == "status 404"
    assert {failures[url][0] for url in bad} == {"unreachable"}
    assert [fetched(url) for url in failures] == [None] * 7


def test_private_addresses_are_not_asked_unless_allowed() -> None:
    with serve({"/secret": b"secret", "/a": b"a"}) as (address, seen):
        port = address.rsplit(":", 1)[1]
        urls = [f"{address}/secret", f"http://localhost:{port}/secret", f"http://2130706433:{port}/secret"]
        failures = fetch_pictures(urls, polite(private_addresses=False))
        assert {failures[url][0] for url in urls} == {"unreachable"}
        assert all("private address" in failures[url][1] for url in urls[:2])
        assert seen == []
        assert [fetched(url) for url in urls] == [None] * 3


def test_a_host_that_is_down_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_fetching, "FAILURES_IN_A_ROW", 2)
    with serve({f"/{n}": answer(500, Retry_After="0") for n in range(5)}) as (address, seen):
        failures = fetch_pictures([f"{address}/{n}" for n in range(5)], polite())
    assert {path for _, path in seen} == {"/0", "/1"}
    assert [detail for _, (_, detail) in sorted(failures.items())] == ["status 500"] * 2 + [
        "host left alone after 2 failures in a row"
    ] * 3
