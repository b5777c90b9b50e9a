#!/usr/bin/env python3
"""`weed server` as docker/compose.yaml calls it, by moto: an S3 server that asks for a known access key, and keeps objects while it runs.

Bodies lie in the folder of `-dir`, so whoever may not write there cannot serve. Signatures are not verified, unlike SeaweedFS's.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

FLAGS = {"ip", "ip.bind", "volume.max", "master.volumeSizeLimitMB", "dir", "s3", "s3.port", "s3.config"}
KEY = re.compile(r"Credential=([^/,]+)/")
DENIED = b"<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>unknown access key</Message></Error>"
Start = Callable[..., Any]


def read_flags(words: list[str]) -> dict[str, str]:
    if words[0] != "server":
        sys.exit(f"weed {words[0]}: this stand-in knows `server` alone")
    flags = dict(word.removeprefix("-").partition("=")[::2] for word in words[1:])
    if unknown := set(flags) - FLAGS:
        sys.exit(f"weed: unknown flags {', '.join(sorted(unknown))}")
    return flags


class WithKeys:
    """The S3 server behind a check of the access key; /healthz for everybody."""

    def __init__(self, served: Any, keys: set[str]) -> None:
        self.served, self.keys = served, keys

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/healthz":
            start("200 OK", [("Content-Type", "text/plain")])
            return [b""]
        # MLflow hands addresses with a signature in them to its clients.
        signed = environ.get("HTTP_AUTHORIZATION") or unquote(environ.get("QUERY_STRING", ""))
        found = KEY.search(signed)
        if not found or found[1] not in self.keys:
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [DENIED]
        return self.served(environ, start)


def main() -> None:
    flags = read_flags(sys.argv[1:])
    identities = json.loads(Path(flags["s3.config"]).read_text(encoding="utf-8"))["identities"]
    keys = {credential["accessKey"] for identity in identities for credential in identity["credentials"]}
    tempfile.tempdir = flags["dir"]
    with tempfile.NamedTemporaryFile():  # fails where the folder cannot be written
        pass
    served = WithKeys(DomainDispatcherApplication(create_backend_app), keys)
    run_simple(flags["ip.bind"], int(flags["s3.port"]), served, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
