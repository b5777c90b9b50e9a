"""Clients that no server should suffer from, by plain sockets: each sends or reads what no ordinary client does."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlparse

from PIL import Image

LIGATURES = "\ufdfa" * 10_000
"""Each stands for 18 characters."""
MARKS = "a" + "\u0316\u0301" * 4_999
"""Which Unicode puts in another order."""
PATIENCE = 300.0
"""Seconds until a client that the server should have answered or closed gives up."""


def connected(address: str, *, receive_buffer: int | None = None) -> socket.socket:
    where = urlparse(address)
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE)
    client.connect((where.hostname, where.port))
    return client


def send(client: socket.socket, data: bytes) -> None:
    """As much of it as the server takes."""
    with suppress(OSError):
        client.sendall(data)


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes the connection.

    Raises:
        TimeoutError: it does not.
    """
    received = b""
    with suppress(ConnectionError):
        while data := client.recv(1 << 16):
            received += data
    client.close()
    return received


def status_of(answer: bytes) -> int | None:
    """None: closed without an answer."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def search_request(queries: Sequence[str], k: int) -> bytes:
    body = json.dumps({"queries": queries, "k": k}, ensure_ascii=False).encode()
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def get_request(path: str, *, close: bool = True) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n".encode()


def ask(address: str, request: bytes) -> bytes:
    client = connected(address)
    send(client, request)
    return everything(client)


def ask_at_once(address: str, request: bytes, times: int) -> list[bytes]:
    with ThreadPoolExecutor(times) as clients:
        return list(clients.map(lambda _: ask(address, request), range(times)))


def half_sent(address: str, count: int) -> list[socket.socket]:
    """Connections with half a head, with half a body, and with nothing, a third each."""
    beginnings = [b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", search_request(["red shirt"], 3)[:-10], b""]
    clients = [connected(address) for _ in range(count)]
    for number, client in enumerate(clients):
        send(client, beginnings[number % 3])
    return clients


def drip(clients: Sequence[socket.socket], seconds: float) -> None:
    """One more byte on each connection every half second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client in clients:
            send(client, b"a")
        time.sleep(0.5)


def endless_headers(address: str, count: int, size: int) -> list[socket.socket]:
    """Connections with so many bytes of headers each that do not end."""
    clients = [connected(address) for _ in range(count)]
    for number, client in enumerate(clients):
        client.settimeout(5)
        line = b"X-A: " + b"a" * (4_000 if number % 2 else size) + b"\r\n"
        send(client, b"GET /healthz HTTP/1.1\r\n" + line * max(1, size // len(line)))
        client.settimeout(PATIENCE)
    return clients


def sent_ahead(address: str, path: str, count: int) -> list[socket.socket]:
    """Connections that send 1,000 requests each before the first is answered."""
    clients = [connected(address) for _ in range(count)]
    for client in clients:
        send(client, get_request(path, close=False) * 1_000)
    return clients


def unread_answers(address: str, count: int, *, queries: int, k: int) -> list[socket.socket]:
    """Connections that ask for a large answer and do not read it."""
    clients = [connected(address, receive_buffer=4_096) for _ in range(count)]
    for client in clients:
        send(client, search_request([f"red shirt {n}" for n in range(queries)], k))
    return clients


def cut_picture(side: int) -> bytes:
    """The first half of a PNG of so many pixels a side."""
    whole = io.BytesIO()
    Image.effect_noise((256, 256), 50).resize((side, side), Image.Resampling.NEAREST).save(
        whole, "PNG", compress_level=1
    )
    return whole.getvalue()[: len(whole.getvalue()) // 2]
