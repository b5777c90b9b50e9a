"""A web server on this machine with pictures to fetch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Seen(list[tuple[float, str]]):
    """Requests as (time, path), and how many were open at the same time at most."""

    open = most_open = 0


@contextmanager
def serve(pages: dict[str, bytes | Answer]) -> Iterator[tuple[str, Seen]]:
    """Serve bytes, or what a function answers, under their paths; yields the address and the requests seen."""
    seen, lock = Seen(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                seen.append((time.monotonic(), self.path))
                seen.open += 1
                seen.most_open = max(seen.open, seen.most_open)
            page = pages.get(self.path)
            if isinstance(page, bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)
            elif page:
                page(self)
            else:
                self.send_error(404)
            with lock:
                seen.open -= 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
