"""`smar serve` as a process under clients that send too much, too slowly or nothing, and do not read: they are ended, others are served."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest

from smar_model.serving.connections import MAXIMUM_BODIES, MAXIMUM_BODY, MAXIMUM_CONNECTIONS
from smar_model.settings import REPOSITORY
from tests.patience import wait_until
from tests.serving.abusive_clients import (
    LIGATURES,
    MARKS,
    PATIENCE,
    ask,
    ask_at_once,
    connected,
    cut_picture,
    drip,
    endless_headers,
    everything,
    get_request,
    half_sent,
    search_request,
    send,
    sent_ahead,
    status_of,
    unread_answers,
)
from tests.serving.serving_shop import ServingShop, make_serving_shop
from tests.tiny_shop import tiny_items

TRIES = 10
ROOM = 200_000_000
"""Bytes of memory beyond what a server has when it is ready."""


@dataclass
class Server:
    address: str
    process: psutil.Process
    folder: Path
    log: Path
    """What it says on standard error."""

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=120) as answer:
            return answer.read()

    def get_in_the_end(self, path: str) -> Any:
        """Asked again where too many search at once, as a client is told to, a few times."""
        for _ in range(TRIES):
            try:
                return self.get(path)
            except urllib.error.HTTPError as error:
                if error.code != 503 or "too many searches" not in error.read().decode():
                    raise
                time.sleep(float(error.headers["Retry-After"]))
        raise AssertionError(f"{path}: turned away {TRIES} times")

    def closed(self, reason: str) -> float:
        return self.metric(f'smar_closed_connections_total{{reason="{reason}"}}')

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)", self.get("metrics").decode(), re.M)
        return float(found[1]) if found else 0.0


def is_idle(server: Server) -> bool:
    try:
        return server.metric("smar_searches_in_progress") == 0
    except urllib.error.HTTPError as error:
        # What clients asked of /metrics before they went still fills its bounded queue.
        if error.code != 503:
            raise
        return False


@contextmanager
def started(log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "smar_model.cli", "serve", "--port", "0", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert address
        yield address[0], process
    finally:
        process.kill()
        process.wait()


def answers(address: str, path: str) -> int | None:
    """Status; None: no connection."""
    try:
        with urllib.request.urlopen(f"{address}/{path}", timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        return None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    items = [
        item | {"item_id": f"{item['item_id']}-{n}", "title": f"{item['title']} of {n}" + " and more of it" * 10}
        for item in tiny_items()
        for n in range(3)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        shop: ServingShop = make_serving_shop(home, versions=1, refreshed_items=items)
        shop.point_to("1", shop.refreshed["1"])
        options = ["--settings", str(shop.settings_file), "--drain-seconds", "600"]
        with started(home / "log", *options) as (address, process):
            wait_until(lambda: answers(address, "readyz") == 200)
            yield Server(address, psutil.Process(process.pid), home / "shop" / "pictures", home / "log")


@pytest.fixture
def others_are_served(server: Server) -> Iterator[None]:
    """While the test runs an ordinary client asks: each of its requests is answered, if need be when it asks again as it is told to. Memory stays
    within its room."""
    began, done, problems, asked = server.process.memory_info().rss, threading.Event(), [], 0
    largest = began

    def go_on() -> None:
        nonlocal asked, largest
        while not done.is_set():
            try:
                assert server.get("healthz") == b"ok\n"
                assert len(json.loads(server.get_in_the_end("search?q=red+shirt&k=5"))["hits"]) == 5
            except Exception as error:
                problems.append(repr(error))
            asked += 1
            largest = max(largest, server.process.memory_info().rss)
            done.wait(0.05)

    client = threading.Thread(target=go_on)
    client.start()
    yield
    done.set()
    client.join()
    assert problems == []
    assert asked
    assert largest - began < ROOM


@pytest.mark.usefixtures("others_are_served")
def test_requests_that_do_not_come_whole_are_ended(server: Server) -> None:
    clients = half_sent(server.address, 99)
    dripping = threading.Thread(target=drip, args=(clients[:30], 15))
    dripping.start()
    statuses = [[status_of(everything(client)) for client in clients[kind::3][-20:]] for kind in range(3)]
    dripping.join()
    assert statuses == [[408] * 20, [408] * 20, [None] * 20]
    assert {status_of(everything(client)) for client in clients[:30]} <= {400, 408, 422, None}


@pytest.mark.usefixtures("others_are_served")
def test_headers_are_bounded(server: Server) -> None:
    endless = [everything(client) for client in endless_headers(server.address, 60, 2_000_000)]
    many = ask(server.address, b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n")
    long = ask(server.address, get_request("/search?q=" + "a" * 200_000))
    for answer in (*endless, many, long):
        assert status_of(answer) in {431, None}
        assert not answer or b"bytes or 100 lines of headers" in answer
    assert status_of(many) == status_of(long) == 431
    assert status_of(ask(server.address, get_request("/search?q=" + "a" * 10_000))) == 200
    assert status_of(ask(server.address, b"no HTTP\r\n\r\n")) == 400


@pytest.mark.usefixtures("others_are_served")
def test_a_body_that_is_too_large_is_refused_while_it_is_sent(server: Server) -> None:
    large = ask_at_once(server.address, search_request(["a" * 5_000_000], 3), 10)
    assert {status_of(answer) for answer in large} == {413}
    assert b'{"detail":"a body of more than 1,000,000 bytes; ask for less at once"}' in large[0]
    numbers = b'{"queries": ["red"], "more": [' + b"1," * 400_000 + b"1]}"
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(numbers)
    assert {status_of(answer) for answer in ask_at_once(server.address, head + numbers, 20)} <= {422, 503}


def test_bodies_are_bounded_before_they_are_read(server: Server) -> None:
    def status(length: str) -> int | None:
        """Of a request whose body never comes."""
        return status_of(ask(server.address, f"POST /search HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode()))

    before = server.closed("request_entity_too_large")
    assert status(f"Content-Length: {MAXIMUM_BODY + 1}") == status("Content-Length: 9999999999999999999") == 413
    assert server.closed("request_entity_too_large") == before + 2
    assert status("Transfer-Encoding: chunked") == 411
    assert status("Content-Length: -1") == status("Content-Length: 99999999999999999999999") == 400


@pytest.mark.usefixtures("others_are_served")
def test_no_more_large_bodies_are_read_at_once_than_there_is_room_for(server: Server) -> None:
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAXIMUM_BODY
    clients = [connected(server.address) for _ in range(MAXIMUM_BODIES // MAXIMUM_BODY + 3)]
    for client in clients:
        send(client, head)
    statuses = [status_of(everything(client)) for client in clients]
    assert statuses.count(503) == 3 and statuses.count(408) == len(clients) - 3
    assert status_of(ask(server.address, search_request(["red" + " " * 9_000] * 20, 5))) == 200, "there is room again"


@pytest.mark.usefixtures("others_are_served")
def test_answers_that_nobody_reads_are_bounded_and_ended(server: Server) -> None:
    assert status_of(ask(server.address, search_request(["red"] * 256, 1_000))) == 422
    before = server.closed("answer_not_read")
    clients = unread_answers(server.address, 60, queries=256, k=50)
    wait_until(lambda: server.closed("answer_not_read") > before)
    seen = [everything(client) for client in clients]
    refused = [answer for answer in seen if status_of(answer) == 503]
    assert refused and all(b"\r\nretry-after: 1\r\n" in answer for answer in refused)
    assert any(b"too many large searches at once" in answer for answer in refused)
    wait_until(lambda: status_of(ask(server.address, search_request(["red"] * 256, 50))) == 200)


@pytest.mark.usefixtures("others_are_served")
def test_texts_that_grow_when_they_are_normalised_cost_no_more_than_others(server: Server) -> None:
    for text in (LIGATURES, MARKS, "\u1e9e" * 10_000):
        found = ask_at_once(server.address, search_request([text], 5), 16)
        assert {status_of(answer) for answer in found} == {200}


@pytest.mark.usefixtures("others_are_served")
def test_pictures_cannot_take_all_memory(server: Server) -> None:
    for name, side in (("cut.png", 9_900), ("smaller cut.png", 5_000)):
        (server.folder / name).write_bytes(cut_picture(side))
        found = ask_at_once(server.address, get_request("/picture?name=" + name.replace(" ", "%20")), 60)
        assert {status_of(answer) for answer in found} == {404}
    assert b"undecodable" in found[0]


@pytest.mark.usefixtures("others_are_served")
def test_among_too_many_connections_those_go_that_have_waited_longest_for_a_request(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    clients = [connected(server.address) for _ in range(MAXIMUM_CONNECTIONS + 50)]
    assert everything(clients[0]) == b""
    send(clients[-1], get_request("/healthz"))
    assert status_of(everything(clients[-1])) == 200
    for client in clients[1:-1]:
        client.close()


@pytest.mark.usefixtures("others_are_served")
def test_half_sent_bodies_take_no_connection_from_whom_is_served(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    ordinary = HTTPConnection(urlparse(server.address).netloc, timeout=PATIENCE)
    clients = []
    for _ in range(0, MAXIMUM_CONNECTIONS + 200, 100):
        for _ in range(100):
            clients.append(connected(server.address))
            send(clients[-1], search_request(["red shirt"], 3)[:-10])
        ordinary.request("GET", "/healthz")
        assert ordinary.getresponse().read() == b"ok\n"
    assert status_of(everything(clients[0])) == 503
    for client in clients[1:]:
        client.close()


def test_one_connection_cannot_ask_for_much_at_once(server: Server) -> None:
    client = connected(server.address)
    send(client, b"GET /search?q=red&k=200 HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
    assert everything(client).count(b"HTTP/1.1 200") < 1_000


@pytest.mark.usefixtures("others_are_served")
def test_nothing_is_worked_on_for_connections_that_sent_too_much_ahead(server: Server) -> None:
    counted = 'smar_requests_total{path="/versions",status="200"}'
    ended, answered = server.closed("pipelined"), server.metric(counted)
    for client in sent_ahead(server.address, "/versions", 100):
        everything(client)
    assert server.closed("pipelined") == ended + 100
    assert server.metric(counted) < answered + 50


@pytest.mark.usefixtures("others_are_served")
def test_clients_that_go_before_they_are_answered_are_no_fault_of_the_server(server: Server) -> None:
    for path in ("/search?q=red&k=256", "/metrics"):
        clients = [connected(server.address) for _ in range(200)]
        for client in clients:
            send(client, get_request(path, close=False) * 3)
        assert server.get("healthz") == b"ok\n"
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            client.close()
        assert server.get("healthz") == b"ok\n"
    wait_until(lambda: is_idle(server))
    assert "Traceback" not in server.log.read_text()


def test_no_body_is_sent_where_the_head_alone_was_asked_for(server: Server) -> None:
    whole = ask(server.address, get_request("/versions"))
    head = ask(server.address, get_request("/versions").replace(b"GET", b"HEAD", 1))
    assert status_of(head) == 200 and head.endswith(b"\r\n\r\n") and head.count(b"\r\n\r\n") == 1
    body = whole.partition(b"\r\n\r\n")[2]
    assert b"content-length: %d\r\n" % len(body) in head


def test_told_to_end_it_answers_but_is_not_ready_and_a_second_signal_ends_it_at_once(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: answers(server.address, "readyz") == 503)
    assert b"it has been told to end" in ask(server.address, get_request("/readyz"))
    assert answers(server.address, "search?q=red") == 200
    client = connected(server.address)
    send(client, get_request("/healthz", close=False))
    assert b"connection: close" in everything(client)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=600)
    assert answers(server.address, "healthz") is None
