"""Pictures by URL: fetched once, politely, within limits."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smar_model.delivery import picture_fetching
from smar_model.delivery.picture_fetching import fetch_pictures
from smar_model.delivery.picture_stores import fetched_folder, fetched_path
from smar_model.settings import Fetch, Pictures
from tests.picture_server import serve


def encoded(colour: str, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 80), colour).save(buffer, format)
    return buffer.getvalue()


PICTURE = encoded("red")
PAGE = b"<html>sold out</html>"


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
    with serve({"/a.jpg": PICTURE, "/b.jpg": encoded("blue")}) as (address, seen):
        for _ in range(2):
            assert fetch_pictures([f"{address}/a.jpg", f"{address}/b.jpg", f"{address}/a.jpg"], polite()) == {}
        assert sorted(path for _, path in seen) == ["/a.jpg", "/b.jpg"]
        assert fetched(f"{address}/a.jpg") == PICTURE


def test_a_host_gets_one_connection_and_pauses_and_hears_who_asks() -> None:
    agents = []

    def slow(request: BaseHTTPRequestHandler) -> None:
        agents.append(request.headers["User-Agent"])
        time.sleep(0.03)
        answer(200, body=PICTURE)(request)

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
        (answer(429, Retry_After="1") if len(calls) == 1 else answer(200, body=PICTURE))(request)

    with serve({"/a": busy_once, "/b": answer(503, Retry_After="0")}) as (address, seen):
        failures = fetch_pictures([f"{address}/a", f"{address}/b"], polite())
    assert fetched(f"{address}/a") == PICTURE
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
        "/there": PICTURE,
    }
    with serve(pages) as (address, _):
        urls = {name: f"{address}/{name}" for name in ("gone", "big", "liar", "drip", "away", "moved")}
        bad = ["http://[half/1.jpg", "https://127.0.0.1:1/2.jpg"]
        failures = fetch_pictures([*urls.values(), *bad], polite(maximum_bytes=1_000, timeout_seconds=1))
    assert fetched(urls["moved"]) == PICTURE
    reasons = {name: failures[url][0] for name, url in urls.items() if url in failures}
    assert reasons == dict.fromkeys(["gone", "liar", "drip", "away"], "unreachable") | {"big": "too_large"}
    assert failures[urls["gone"]][1] == "status 404"
    assert {failures[url][0] for url in bad} == {"unreachable"}
    assert [fetched(url) for url in failures] == [None] * 7


def test_private_addresses_are_not_asked_unless_allowed() -> None:
    with serve({"/secret": PICTURE}) as (address, seen):
        port = address.rsplit(":", 1)[1]
        urls = [f"{address}/secret", f"http://localhost:{port}/secret", f"http://2130706433:{port}/secret"]
        failures = fetch_pictures(urls, polite(private_addresses=False))
        assert {failures[url][0] for url in urls} == {"unreachable"}
        assert all("private address" in failures[url][1] for url in urls)
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


def test_formats_are_asked_for_that_are_read() -> None:
    """A host that may choose sends AVIF to whom takes any image."""
    asked = []

    def negotiated(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.headers["Accept"])
        kind = "AVIF" if "image/avif" in asked[-1] or "image/*" in asked[-1] else "JPEG"
        answer(200, body=encoded("red", kind))(request)

    with serve({"/a": negotiated}) as (address, _):
        assert fetch_pictures([f"{address}/a"], polite()) == {}
    assert "*" not in asked[0] and "image/jpeg" in asked[0] and "image/svg" not in asked[0]


def test_what_is_no_picture_is_not_kept_and_asked_again() -> None:
    pages: dict[str, Any] = {
        "/page": PAGE,
        "/empty": b"",
        "/half": PICTURE[: len(PICTURE) // 2],
        "/liar": answer(200, body=PICTURE, length=5_000),
        "/unread": answer(200, body=b"?" * 40, Content_Encoding="br"),
        "/svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }
    with serve(pages) as (address, seen):
        urls = [f"{address}{path}" for path in pages]
        failures = fetch_pictures(urls, polite())
        assert {url: reason for url, (reason, _) in failures.items()} == dict.fromkeys(urls, "undecodable") | {
            f"{address}/liar": "unreachable"
        }
        assert not any(map(fetched, urls))
        pages.update(dict.fromkeys(pages, PICTURE))
        seen.clear()
        assert fetch_pictures(urls, polite()) == {}
        assert sorted(path for _, path in seen) == sorted(pages)
        assert set(map(fetched, urls)) == {PICTURE}


def test_encoded_bodies_are_decoded_within_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    pages = {
        "/gzip": answer(200, body=gzip.compress(PICTURE), Content_Encoding="gzip"),
        "/deflate": answer(200, body=zlib.compress(PICTURE), Content_Encoding="deflate"),
        "/twice": answer(200, body=gzip.compress(gzip.compress(PICTURE)), Content_Encoding="gzip, gzip"),
        "/bomb": answer(200, body=bomb, Content_Encoding="gzip"),
        "/bombs": answer(200, body=gzip.compress(bomb), Content_Encoding="gzip, gzip"),
    }
    assert len(bomb) < 100_000
    with serve(pages) as (address, _):
        urls = [f"{address}{path}" for path in pages]
        failures = fetch_pictures(urls, polite(maximum_bytes=100_000))
    assert {url.rsplit("/", 1)[1]: reason for url, (reason, _) in failures.items()} == {
        "bomb": "too_large",
        "bombs": "too_large",
    }
    assert [fetched(url) for url in urls[:3]] == [PICTURE] * 3


def test_what_an_older_version_kept_of_a_page_is_asked_again() -> None:
    with serve({f"/{n}": PICTURE for n in range(3)}) as (address, seen):
        urls = [f"{address}/{n}" for n in range(3)]
        for url, content in zip(urls, [PAGE, b"", gzip.compress(PICTURE)], strict=True):
            path = fetched_path(fetched_folder(), url)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        assert fetch_pictures(urls, polite()) == {}
        assert len(seen) == 3
        assert set(map(fetched, urls)) == {PICTURE}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
DRIPS: dict[str, tuple[bytes, bytes, float]] = {
    # What is sent at once, what is sent again and again, and the pause before each.
    "status line": (b"", b"H", 0.05),
    "header bytes": (HEAD + b"X-Slow: ", b"x", 0.05),
    "headers": (HEAD, b"X-More: " + b"x" * 8_000 + b"\r\n", 0),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b"x", 0.05),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 8_000, 0.001),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;x=" + b"y" * 30_000 + b"\r\nx\r\n", 0.001),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: x\r\n", 0.02),
    "redirects": (b"HTTP/1.1 302 Found\r\nLocation: /again\r\nX-Slow: ", b"x", 0.05),
    "body of a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 900000000\r\n\r\n",
        b"x" * 8_000,
        0.001,
    ),
}


@contextmanager
def dripping(first: bytes, again: bytes, pause: float) -> Iterator[tuple[str, list[float]]]:
    """A host that never ends an answer; yields its address and when it was asked."""
    asked: list[float] = []
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65_536)
                connection.sendall(first)
                while not over.wait(pause):
                    connection.sendall(again)
            except OSError:
                pass  # nobody listens any more

    def accept(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            asked.append(time.monotonic())
            threading.Thread(target=drip, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=[server], daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)


def ends(work: Callable[[], Any]) -> Any:
    """What a function returns; it must, some day."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it is held by the host"
    return results[0]


@pytest.mark.parametrize("drip", DRIPS)
def test_a_host_that_drips_holds_nobody(drip: str) -> None:
    with dripping(*DRIPS[drip]) as (address, _):
        url = f"http://{address}/1.jpg"
        failures = ends(lambda: fetch_pictures([url], polite(timeout_seconds=0.6)))
        assert failures[url][0] == "unreachable"
        assert fetched(url) is None


def test_a_dripping_handshake_holds_nobody() -> None:
    # A handshake record of 16 kB that comes byte by byte.
    with dripping(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"x", 0.05) as (address, _):
        url = f"https://{address}/1.jpg"
        assert ends(lambda: fetch_pictures([url], polite(timeout_seconds=0.6)))[url][0] == "unreachable"


def test_a_dripping_host_is_left_alone_though_some_of_its_pictures_come() -> None:
    """Every second request is answered at once, so that no five fail in a row."""

    def slow(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(20):
            request.wfile.write(b"x")
            time.sleep(0.05)

    def hidden(request: BaseHTTPRequestHandler) -> None:
        try:
            slow(request)
        except OSError:
            request.close_connection = True

    pages: dict[str, Any] = {f"/{n:02}": PICTURE if n % 2 else hidden for n in range(80)}
    with serve(pages) as (address, _):
        urls = [f"{address}{path}" for path in pages]
        failures = fetch_pictures(urls, polite(timeout_seconds=0.2))
    assert "slow and failed requests" in failures[urls[-1]][1]
    assert fetched(urls[1]) == PICTURE


def test_a_wait_that_does_not_fit_is_not_waited_for() -> None:
    with serve({"/a": answer(429, Retry_After="50")}) as (address, _):
        failures = ends(lambda: fetch_pictures([f"{address}/a"], polite(timeout_seconds=1)))
    assert failures == {f"{address}/a": ("unreachable", "status 429, and 50 seconds until the next try")}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        *(
            (address, False)
            for address in ("127.0.0.1", "10.0.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fec0::1", "ff02::1")
        ),
        *(
            (address, False)
            for address in ("::ffff:127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::")
        ),
    ],
)
def test_addresses_within_a_shop_s_network_are_known_in_every_writing(address: str, public: bool) -> None:
    assert picture_fetching._is_public(address) is public


def test_a_host_that_names_no_day_to_come_back_is_asked_again_at_once() -> None:
    never = "Mon, 01 Jan " + "9" * 40 + " 00:00:00 GMT"
    with serve({"/a": answer(503, Retry_After=never)}) as (address, _):
        assert fetch_pictures([f"{address}/a"], polite())[f"{address}/a"][0] == "unreachable"
