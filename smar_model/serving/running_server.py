"""The `smar serve` that runs on this machine for a model, so that `smar search` can ask it in place of opening the release itself.

<home>/servers/MODEL.json   its address and process, written when it listens and removed when it ends; of several, the one that began last
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import NoAnswer
from smar_model.lake.process_identity import process_state, temporary_beside, this_process
from smar_model.release.search_answer import Hit, SearchAnswer, SearchQuestion
from smar_model.settings import Settings, home

log = logging.getLogger("smar.serving")

LOOK_SECONDS = 2.0
"""To say which versions it has; a server that is slower than this is not asked."""
ANSWER_SECONDS = 30.0


@contextmanager
def announced(settings: Settings, address: str) -> Iterator[None]:
    """While this lasts `ask_running_server` finds this process at an address."""
    file = _file(settings)
    note = {"address": address, "process": this_process(), "registry": settings.tracking_uri}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(file)
        temporary.write_text(json.dumps(note), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:  # it serves all the same
        log.warning("%s: cannot be written (%s), so `smar search` does not ask this server", file, error.strerror)
    try:
        yield
    finally:
        if _read(file).get("process") == note["process"]:
            with suppress(OSError):
                file.unlink()


def ask_running_server(settings: Settings, asked: SearchQuestion) -> SearchAnswer | None:
    """What `search_release` would answer, by the server that runs for this home's model; None: none does, or it has no such answer, whose
    reason `search_release` then says."""
    known = _read(_file(settings))
    address = known.get("address")
    process = known.get("process")
    if not isinstance(address, str) or not isinstance(process, dict) or known.get("registry") != settings.tracking_uri:
        return None
    if process_state(process) != "alive":
        return None
    body = {
        "queries": [asked.query],
        "k": asked.k,
        "version": asked.version or "champion",
        "departments": list(asked.departments),
        "filters": list(asked.filters),
        "routing": asked.routing,
        "log": False,
    }
    try:
        if not _get(f"{address}/versions", LOOK_SECONDS).get("champion"):
            return None
        answer = _get(f"{address}/search", ANSWER_SECONDS, body)["answers"][0]
        pictures = ShopInputs.of(settings).pictures()
        hits = [
            Hit(
                rank=hit["rank"],
                item_id=hit["item_id"],
                title=hit["title"],
                department=hit["department"],
                score=round(hit["score"], 4),
                pictures=[pictures.address(_picture_name(reference)) for reference in hit["pictures"]],
            )
            for hit in answer["hits"]
        ]
        found = SearchAnswer(
            query=asked.query,
            version=answer["version"],
            p=round(answer["p"], 4),
            hits=hits,
            nothing_found=[],
            server=address,
        )
    except (NoAnswer, URLError, HTTPException, OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return found if hits else None


def _file(settings: Settings) -> Path:
    return home() / "servers" / f"{quote(settings.release.model, safe='')}.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _get(url: str, seconds: float, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json"})
    # It is on this machine: no proxy that the environment names.
    with build_opener(ProxyHandler({})).open(request, timeout=seconds) as answer:
        found = json.loads(answer.read())
    if not isinstance(found, dict):
        raise ValueError(f"{url}: no answer of smar serve")
    return found


def _picture_name(reference: str) -> str:
    return parse_qs(urlsplit(reference).query)["name"][0]
