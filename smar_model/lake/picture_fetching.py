"""Pictures that items name by URL: each is fetched once, and kept under `<home>/fetched_pictures/`.

Hosts are asked politely: one connection to each, a pause between two requests, a User-Agent that says who asks, two
more tries at most, `Retry-After` waited for, and a host that fails five times in a row is left alone for this time.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from socket import socket
from threading import Lock
from urllib.parse import urlsplit

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, MaxRetryError

from smar_model.lake.picture_stores import UnusablePicture, fetched_folder, fetched_path
from smar_model.settings import Pictures

HOSTS_AT_ONCE = 8
FAILURES_IN_A_ROW = 5
LONGEST_RETRY_AFTER = 60
USER_AGENT = "smar/0.1 (pictures of a shop's own catalogue; each is fetched once)"
SECONDS_BETWEEN_REPORTS = 10.0


def fetch_pictures(
    urls: Iterable[str], settings: Pictures, report: Callable[[str], None] = lambda message: None
) -> dict[str, tuple[str, str]]:
    """Fetch what has not been fetched yet; returns (reason, detail) of each URL that could not be.

    Reasons: `unreachable` (no answer, another status than 200, a private address where
    `settings.fetch.private_addresses` is off) and `too_large`.
    """
    folder = fetched_folder()
    by_host: dict[str, list[str]] = {}
    failures: dict[str, tuple[str, str]] = {}
    for url in sorted(set(urls)):
        if fetched_path(folder, url).is_file():
            continue
        try:
            by_host.setdefault(urlsplit(url).netloc.lower(), []).append(url)
        except ValueError as error:
            failures[url] = ("unreachable", f"not a URL: {error}")
    missing = sum(map(len, by_host.values()))
    if not missing:
        return failures
    manager = _manager(settings, hosts=len(by_host))
    done, reported, lock = 0, time.monotonic(), Lock()

    def fetch_from_host(of_host: list[str]) -> None:
        nonlocal done, reported
        in_a_row = 0
        for number, url in enumerate(of_host):
            if number and in_a_row < FAILURES_IN_A_ROW:
                time.sleep(settings.fetch.delay_seconds)
            try:
                if in_a_row >= FAILURES_IN_A_ROW:
                    raise UnusablePicture("unreachable", f"host left alone after {FAILURES_IN_A_ROW} failures in a row")
                _keep(fetched_path(folder, url), _fetch(manager, url, settings))
                in_a_row = 0
            except UnusablePicture as error:
                failures[url] = (error.reason, error.detail)
                host_answers = error.reason == "too_large" or error.detail in ("status 404", "status 410")
                in_a_row = 0 if host_answers else in_a_row + 1
            with lock:
                done += 1
                if time.monotonic() > reported + SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    report(f"fetched {done:,} of {missing:,} pictures by URL")

    with ThreadPoolExecutor(HOSTS_AT_ONCE) as threads:
        list(threads.map(fetch_from_host, by_host.values()))
    manager.clear()
    return failures


def _fetch(manager: PoolManager, url: str, settings: Pictures) -> bytes:
    seconds, most = settings.fetch.timeout_seconds, settings.maximum_bytes
    try:
        response = manager.request("GET", url, preload_content=False, decode_content=False)
        try:
            if response.status != 200:
                raise UnusablePicture("unreachable", f"status {response.status}")
            content = bytearray()
            deadline = time.monotonic() + seconds
            while chunk := response.read1(1 << 16):
                content += chunk
                if len(content) > most:
                    raise UnusablePicture("too_large", f"over {most:,} bytes (settings.pictures.maximum_bytes)")
                if time.monotonic() > deadline:
                    raise UnusablePicture("unreachable", f"not finished in {seconds:g} seconds")
            return bytes(content)
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()
    except (HTTPError, OSError, ValueError) as error:
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        raise UnusablePicture("unreachable", type(cause).__name__) from error


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _manager(settings: Pictures, *, hosts: int) -> PoolManager:
    retries = Retry(
        total=5,
        connect=2,
        read=2,
        status=2,
        other=0,
        redirect=3,
        status_forcelist=(429, 500, 502, 503, 504),
        backoff_factor=0.5,
        raise_on_status=False,
        retry_after_max=LONGEST_RETRY_AFTER,
    )
    # Twice the hosts: they redirect to others, and a pool that is dropped could leave a second connection.
    manager = PoolManager(
        num_pools=2 * hosts + HOSTS_AT_ONCE,
        headers={"User-Agent": USER_AGENT, "Accept": "image/*"},
        maxsize=1,
        block=True,
        timeout=Timeout(connect=settings.fetch.timeout_seconds, read=settings.fetch.timeout_seconds),
        retries=retries,
    )
    if not settings.fetch.private_addresses:
        manager.pool_classes_by_scheme = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}
    return manager


class _PublicOnly(HTTPConnection):
    """Refuses private addresses by the peer that it is connected to, before anything is sent: names that resolve
    differently the second time and redirects are met as well."""

    def _new_conn(self) -> socket:
        connected = super()._new_conn()
        address = ip_address(connected.getpeername()[0])
        if not (getattr(address, "ipv4_mapped", None) or address).is_global:
            connected.close()
            raise UnusablePicture("unreachable", "private address (settings.pictures.fetch.private_addresses)")
        return connected


class _PublicHTTPSConnection(_PublicOnly, HTTPSConnection):
    pass


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicOnly


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection
