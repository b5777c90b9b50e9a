"""A receiver of webhooks on this machine: what Airflow's notifier really sends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.patience import PATIENCE_SECONDS


@dataclass(slots=True, kw_only=True)
class Webhook:
    address: str
    received: list[dict[str, Any]] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """Environment of Airflow under which notices are sent here."""
        config = {"path": self.address.replace("http://", "json://"), "tag": ""}
        connection = {"conn_type": "apprise", "extra": {"config": config}}
        return {"SMAR_NOTICES": "search_team", "AIRFLOW_CONN_SEARCH_TEAM": json.dumps(connection)}

    def wait_for(self, *texts: str) -> dict[str, Any]:
        """The first notice with these texts in it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for notice in list(self.received):
                content = json.dumps(notice, ensure_ascii=False)
                if all(text in content for text in texts):
                    return notice
            assert time.monotonic() < deadline, f"no notice about {texts}; received: {self.received}"
            time.sleep(0.2)


@contextmanager
def listening_webhook() -> Iterator[Webhook]:
    webhook = Webhook(address="")

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            webhook.received.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        webhook.address = f"http://127.0.0.1:{server.server_address[1]}/notices"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
