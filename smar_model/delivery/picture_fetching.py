"""Pictures that items name by URL: each is fetched until it has come, and kept under `<home>/fetched_pictures/`.

Only what decodes is kept. A page, an empty body or half a picture is no picture: its URL is asked again in the next run.

Hosts are asked politely: one connection to each, a pause between two requests, a User-Agent that says who asks, two
more tries at most, and `Retry-After` waited for. A request has one deadline over all it does: name look-up, connection, TLS,
headers, redirects, tries and the waits between them, body and trailers. A host that fails five times in a row, or whose slow and
failed requests take as long as ten deadlines, is left alone for this time.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from queue import Empty, Queue
from threading import Lock
from typing import Any
from urllib.parse import urljoin, urlsplit

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, ProtocolError

from smar_model.delivery.picture_formats import ACCEPT, decode_picture, is_picture
from smar_model.delivery.picture_stores import UnusablePicture, fetched_folder, fetched_path
from smar_model.lake.durable_files import HomeFolder
from smar_model.lake.object_paths import ObjectPath
from smar_model.lake.process_identity import temporary_beside
from smar_model.lake.shared_files import store
from smar_model.settings import Pictures

HOSTS_AT_ONCE = 8
FAILURES_IN_A_ROW = 5
DEADLINES_OF_A_HOST = 10
"""So many deadlines together may a host's failed and slow requests take."""
SLOW = 0.1
"""Share of the deadline from which a request is slow."""
MORE_TRIES = 2
REDIRECTS = 3
BUSY = (429, 500, 502, 503, 504)
MOVED = (301, 302, 303, 307, 308)
USER_AGENT = "smar/0.1 (pictures of a shop's own catalogue; each is fetched once)"
SECONDS_BETWEEN_REPORTS = 10.0
CHUNK = 1 << 16
LOOK_AGAIN_SECONDS = 20.0


def fetch_pictures(
    urls: Iterable[str],
    settings: Pictures,
    report: Callable[[str], None] = lambda message: None,
    *,
    seconds: float | None = None,
) -> dict[str, tuple[str, str]]:
    """Fetch what has not been fetched yet; returns (reason, detail) of each URL that could not be.

    Reasons: `unreachable` (no answer, another status than 200, a private address where
    `settings.fetch.private_addresses` is off), `too_large` and `undecodable`.

    Args:
        seconds: that all of them may take together; they are then asked in random order. None: as long as it takes.
    """
    ends = time.monotonic() + seconds if seconds is not None else float("inf")
    by_host, failures = _missing(urls, shuffled=seconds is not None)
    manager, lock = _manager(hosts=len(by_host)), Lock()
    missing, done, reported = sum(map(len, by_host.values())), 0, time.monotonic()

    def fetch_from_host(of_host: list[str]) -> None:
        nonlocal done, reported
        host = _Host(settings)
        for url in of_host:
            if failure := host.fetch(manager, url, ends=ends):
                failures[url] = (failure.reason, failure.detail)
            with lock:
                done += 1
                if time.monotonic() > reported + SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    report(f"fetched {done:,} of {missing:,} pictures by URL")

    with ThreadPoolExecutor(HOSTS_AT_ONCE) as threads:
        list(threads.map(fetch_from_host, by_host.values()))
    manager.clear()
    return failures


def _missing(urls: Iterable[str], *, shuffled: bool) -> tuple[dict[str, list[str]], dict[str, tuple[str, str]]]:
    """URLs that have not been fetched, by host; and those that are none, with (reason, detail)."""
    by_host, failures = dict[str, list[str]](), dict[str, tuple[str, str]]()
    in_order = sorted(set(urls))
    if shuffled:
        random.shuffle(in_order)
    for url in in_order:
        # What an older version kept of a URL may be no picture.
        if is_picture(fetched_path(fetched_folder(), url)):
            continue
        try:
            by_host.setdefault(urlsplit(url).netloc.lower(), []).append(url)
        except ValueError as error:
            failures[url] = ("unreachable", f"not a URL: {error}")
    return by_host, failures


@dataclass(slots=True)
class _Host:
    """A host that is asked for one picture after another, and how it has answered so far."""

    settings: Pictures
    asked: bool = False
    failures_in_a_row: int = 0
    spent: float = 0.0
    """Seconds of failed and slow requests."""
    left_alone: str = ""
    """Why it is asked no more."""

    def fetch(self, manager: PoolManager, url: str, *, ends: float) -> UnusablePicture | None:
        """Fetch a picture and keep it; returns why it could not be had. `ends`: `time.monotonic()` by which it is given up."""
        if self.asked and not self.left_alone:
            time.sleep(self.settings.fetch.delay_seconds)
        began, deadline = time.monotonic(), self.settings.fetch.timeout_seconds
        if began >= ends and not self.left_alone:
            self.left_alone = "no time left"
        if self.left_alone:
            return UnusablePicture("unreachable", self.left_alone)
        self.asked, failure = True, None
        try:
            content = _fetch(manager, url, self.settings, seconds=min(deadline, ends - began))
            decode_picture(content, (self.settings.width, self.settings.height))  # as prepare-items will
            _keep(fetched_path(fetched_folder(), url), content)
        except UnusablePicture as error:
            failure = error
        answers = failure is None or failure.reason != "unreachable" or failure.detail in ("status 404", "status 410")
        self.failures_in_a_row = 0 if answers else self.failures_in_a_row + 1
        took = time.monotonic() - began
        if failure or took > SLOW * deadline:
            self.spent += took
        if self.failures_in_a_row >= FAILURES_IN_A_ROW:
            self.left_alone = f"host left alone after {FAILURES_IN_A_ROW} failures in a row"
        elif self.spent > DEADLINES_OF_A_HOST * deadline:
            self.left_alone = f"host left alone after {self.spent:,.0f} seconds of slow and failed requests"
        return failure


def have_come(urls: list[str], settings: Pictures) -> bool:
    """Whether a picture that failed earlier is here by now. A short look: LOOK_AGAIN_SECONDS, at as many as that allows."""
    folder = fetched_folder()
    if any(is_picture(fetched_path(folder, url)) for url in urls):
        return True
    return len(fetch_pictures(urls, settings, seconds=LOOK_AGAIN_SECONDS)) < len(set(urls))


def forget_pictures(urls: Iterable[str]) -> None:
    """Remove what is kept of these URLs: they are asked again."""
    shared = store() or HomeFolder()
    for url in urls:
        shared.remove_file(fetched_path(fetched_folder(), url))


def share_pictures(urls: Iterable[str], store_url: str) -> ObjectPath:
    """Put what has been fetched of these URLs into the lake's object store, for workers that do not see this machine's disk; returns the
    folder there that has each by its `fetched_name`."""
    shared, folder = store(), fetched_folder()
    assert shared is not None
    there = shared.sizes(folder)
    paths = [path for url in urls if (path := fetched_path(folder, url)).is_file()]
    shared.share_files(path for path in paths if there.get(path) != path.stat().st_size)
    return ObjectPath(store_url) / folder.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What holds for the request that a thread is at."""

    ends: float
    """`time.monotonic()` by which it must be over, whatever it is at."""
    longest_wait: float
    """Seconds; a third of the whole: a try that gets no answer leaves time for the next."""
    private_addresses: bool

    def left(self) -> float:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def wait(self) -> float:
        return min(self.left(), self.longest_wait)


_thread = threading.local()


def _this_request() -> _Request:
    return _thread.request


def _fetch(manager: PoolManager, url: str, settings: Pictures, *, seconds: float) -> bytes:
    """A picture's bytes, decoded where the host has encoded them for the way.

    Raises:
        UnusablePicture: `unreachable` or `too_large`.
    """
    request = _thread.request = _Request(
        ends=time.monotonic() + seconds,
        longest_wait=seconds / 3,
        private_addresses=settings.fetch.private_addresses,
    )
    failed, redirects = 0, 0
    while True:
        asked_to_wait: float | None = None
        try:
            response = manager.urlopen(
                "GET", url, redirect=False, retries=False, preload_content=False, pool_timeout=request.left()
            )
            try:
                if response.status == 200:
                    return _body(response, settings.maximum_bytes)
            except BaseException:
                response.close()
                raise
            finally:
                if response.status != 200:
                    response.close()  # with what it goes on to send
                response.release_conn()
            detail = f"status {response.status}"
            location = response.headers.get("Location")
            if response.status in MOVED and location:
                redirects += 1
                url = urljoin(url, location)
                if redirects > REDIRECTS or not url.lower().startswith(("http://", "https://")):
                    raise UnusablePicture("unreachable", f"{detail}, moved to another place than http or too often")
                continue
            if response.status not in BUSY or failed == MORE_TRIES:
                raise UnusablePicture("unreachable", detail)
            asked_to_wait = _retry_after(response)
        except (HTTPError, OSError, ValueError) as error:
            if time.monotonic() >= request.ends:
                raise UnusablePicture("unreachable", f"not finished in {seconds:g} seconds") from error
            cause = error.args[1] if isinstance(error, ProtocolError) and len(error.args) > 1 else error
            detail = type(cause).__name__
            if failed == MORE_TRIES or isinstance(error, ValueError | LocationValueError):
                raise UnusablePicture("unreachable", detail) from error
        wait = asked_to_wait if asked_to_wait is not None else float(failed)
        if time.monotonic() + wait >= request.ends:
            raise UnusablePicture("unreachable", f"{detail}, and {wait:,.0f} seconds until the next try")
        time.sleep(wait)
        failed += 1


def _body(response: BaseHTTPResponse, maximum_bytes: int) -> bytes:
    content = bytearray()
    while chunk := response.read(CHUNK, decode_content=True):
        content += chunk
        if len(content) > maximum_bytes:
            raise UnusablePicture("too_large", f"over {maximum_bytes:,} bytes (settings.pictures.maximum_bytes)")
        _this_request().left()
    return bytes(content)


def _retry_after(response: BaseHTTPResponse) -> float | None:
    try:
        return Retry().get_retry_after(response)
    except (InvalidHeader, ValueError, OverflowError):  # a date of 40 digits, say
        return None


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _manager(*, hosts: int) -> PoolManager:
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    # Twice the hosts: they redirect to others, and a pool that is dropped could leave a second connection.
    manager = PoolManager(
        num_pools=2 * hosts + HOSTS_AT_ONCE,
        headers={"User-Agent": USER_AGENT, "Accept": ACCEPT, "Accept-Encoding": "identity"},
        maxsize=1,
        block=True,
        ssl_context=context,
    )
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


class _WithinRequest:
    """A socket none of whose waits is longer than the request has left, however little at a time the host sends."""

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self.settimeout(_this_request().wait())  # type: ignore[attr-defined]
        return super().recv_into(*arguments, **named)  # type: ignore[misc]

    def sendall(self, *arguments: Any, **named: Any) -> None:
        self.settimeout(_this_request().wait())  # type: ignore[attr-defined]
        super().sendall(*arguments, **named)  # type: ignore[misc]


class _Socket(_WithinRequest, socket.socket):
    pass


class _TLSSocket(_WithinRequest, ssl.SSLSocket):
    """Its handshake and each of its reads count their time as a whole."""


class _Connection(HTTPConnection):
    """Connects within the request's time, and to no private address unless they are allowed: what is looked at is the very address
    that is connected to, so names that resolve differently the second time and redirects are met as well."""

    def _new_conn(self) -> socket.socket:
        request, failure = _this_request(), OSError("the name has no address")
        for family, kind, protocol, _, address in _look_up(self._dns_host, self.port):
            if not request.private_addresses and not _is_public(address[0]):
                raise UnusablePicture("unreachable", "private address (settings.pictures.fetch.private_addresses)")
            connected = _Socket(family, kind, protocol)
            try:
                connected.settimeout(request.wait())
                connected.connect(address)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.settimeout(request.wait())
            except OSError as error:
                connected.close()
                failure = error
            else:
                return connected
        raise failure


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _look_up(host: str, port: int | None) -> list[Any]:
    """Addresses of a host. In a thread of its own: a resolver cannot be told how long it may take."""
    answer: Queue[list[Any] | Exception] = Queue(1)

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answer.get(timeout=_this_request().left())
    except Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


_EMBEDDING = [ip_network(name) for name in ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48")]
"""Networks of IPv6 addresses that stand for an IPv4 address, their last 32 bits: mapped, compatible, NAT64."""


def _is_public(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    within = [found]
    if isinstance(found, IPv6Address):
        if found in _EMBEDDING[0]:  # IPv4-mapped, which a host may be asked by
            within = []
        within += [found.sixtofour] if found.sixtofour else []
        within += list(found.teredo or ())
        if any(found in network for network in _EMBEDDING):
            within.append(IPv4Address(int(found) & 0xFFFFFFFF))
        if found.is_site_local:
            return False
    return all(each.is_global and not each.is_multicast for each in within)
