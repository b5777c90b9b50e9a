#!/usr/bin/env python3
"""Counters, gauges and timers sent to UDP port 9125 with InfluxDB's labels, shown on port 9102 as Prometheus reads them.

Timers become a sum and a count, not histograms; of the mapping's file it is only seen that it can be read.
"""

from __future__ import annotations

import re
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LINE = re.compile(r"(?P<name>[^,:]+)(?P<labels>(?:,[^=,:]+=[^,:]*)*):(?P<value>[-+.\de]+)\|(?P<kind>c|g|ms)")
VALUES: dict[str, float] = {}
LOCK = threading.Lock()


def take(line: str) -> None:
    found = LINE.match(line)
    if not found:
        return
    name = re.sub(r"[^a-zA-Z0-9_]", "_", found["name"])
    pairs = [pair.split("=", 1) for pair in found["labels"].split(",") if pair]
    labels = "{" + ",".join(f'{key}="{value}"' for key, value in sorted(pairs)) + "}"
    value = float(found["value"])
    with LOCK:
        if found["kind"] == "g":
            VALUES[name + labels] = value
        elif found["kind"] == "c":
            VALUES[name + labels] = VALUES.get(name + labels, 0) + value
        else:
            for part, more in (("_sum", value / 1_000), ("_count", 1)):
                VALUES[name + part + labels] = VALUES.get(name + part + labels, 0) + more


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        for line in self.request[0].decode("utf-8", "replace").splitlines():
            take(line)


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with LOCK:
            body = "".join(f"{name} {value}\n" for name, value in sorted(VALUES.items()))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write((body if self.path == "/metrics" else "ok\n").encode())

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Path(sys.argv[1].partition("=")[2]).read_text(encoding="utf-8")
    server = socketserver.ThreadingUDPServer(("0.0.0.0", 9125), Datagram)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("0.0.0.0", 9102), Page).serve_forever()
