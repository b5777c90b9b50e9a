#!/usr/bin/env python3
"""Spans sent to port 4318 as OTLP over HTTP, shown on port 16686 as Jaeger's API has them: all traces in which a service takes part.

Of a span: name, ids, parent, tags and service. No page, no storage, no times.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACES: dict[str, list[dict[str, Any]]] = {}
LOCK = threading.Lock()


def take(request: ExportTraceServiceRequest) -> None:
    for of in request.resource_spans:
        service = next((a.value.string_value for a in of.resource.attributes if a.key == "service.name"), "")
        for span in (span for scope in of.scope_spans for span in scope.spans):
            trace = span.trace_id.hex()
            parent = [{"refType": "CHILD_OF", "traceID": trace, "spanID": span.parent_span_id.hex()}]
            tags = [{"key": a.key, "value": getattr(a.value, a.value.WhichOneof("value"))} for a in span.attributes]
            found = {
                **{"traceID": trace, "spanID": span.span_id.hex(), "operationName": span.name, "tags": tags},
                **{"references": parent if span.parent_span_id else [], "process": {"serviceName": service}},
            }
            with LOCK:
                TRACES.setdefault(trace, []).append(found)


class Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        take(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        service = parse_qs(urlsplit(self.path).query).get("service", [""])[0]
        with LOCK:
            data = [
                {"traceID": trace, "spans": spans}
                for trace, spans in TRACES.items()
                if any(span["process"]["serviceName"] == service for span in spans)
            ]
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    threading.Thread(target=ThreadingHTTPServer(("0.0.0.0", 4318), Collector).serve_forever, daemon=True).start()
    ThreadingHTTPServer(("0.0.0.0", 16686), Api).serve_forever()
