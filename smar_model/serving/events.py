"""`POST /events`: clicks, carts and orders that a shop's page reports. All that a row needs is in what the page sends, so that any server of the shop takes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from smar_model.data.query_text import visible_text
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.api_schemas import MAXIMUM_HITS, SessionName, UserName, bad_bodies_told
from smar_model.serving.event_item_ids import HeldIds, why_no_id
from smar_model.serving.log_rows import Action

MAXIMUM_EVENTS = 100
"""Of one request."""
MAXIMUM_EVENTS_BODY = 256_000
"""Bytes."""
MAXIMUM_EVENT_QUERY = 1_000
REQUEST_ID = re.compile("^[0-9a-f]{32}$", re.ASCII)
NO_LOG = "this server keeps no log, so it takes no events; start it with `smar serve --log PLACE`"


def _not_blank(text: str) -> str:
    if not visible_text(text).strip():
        raise ValueError("is empty")
    return text


def _of_an_answer(text: str) -> str:
    if not REQUEST_ID.fullmatch(text):
        raise ValueError("is no request_id; send the request_id of the /search answer that showed the item")
    return text


class Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    event: Literal["click", "cart", "order"]
    request_id: Annotated[
        str,
        Field(description="Of the answer that showed the item", json_schema_extra={"pattern": REQUEST_ID.pattern}),
        AfterValidator(_of_an_answer),
    ]
    item_id: Annotated[str, Field(min_length=1, max_length=200)]
    position: Annotated[int, Field(strict=True, ge=1, le=MAXIMUM_HITS, description="The item's rank in that answer")]
    query: Annotated[
        str,
        Field(min_length=1, max_length=MAXIMUM_EVENT_QUERY, description="What was asked; cut it if longer"),
        AfterValidator(_not_blank),
    ]
    user: UserName = None
    session: SessionName = None


class Events(BaseModel):
    model_config = ConfigDict(extra="forbid")

    events: Annotated[list[Event], Field(min_length=1, max_length=MAXIMUM_EVENTS)]


class TakenEvents(BaseModel):
    taken: int = Field(description="Events that will be written; the others found the log's queue full")


async def _read(request: Request) -> Events:
    """Whatever the content type says: `navigator.sendBeacon` sends text/plain without asking the server first."""
    with bad_bodies_told(faults=1):
        body = await request.body()
        if len(body) > MAXIMUM_EVENTS_BODY:
            raise HTTPException(
                413, f"events of {len(body):,} bytes, more than {MAXIMUM_EVENTS_BODY:,}; send fewer at once"
            )
        return Events.model_validate_json(body)


def _refuse_personal(sent: Events, held: Sequence[HeldIds]) -> None:
    for number, event in enumerate(sent.events):
        if why := why_no_id(event.item_id, held):
            raise HTTPException(422, f"events.{number}.item_id: {why}; send the id that the answer told")


def answer_events(
    app: FastAPI,
    log: AnswerLog | None,
    numbers: Callable[[], Collection[str]],
    held_ids: Callable[[], Sequence[HeldIds]],
) -> None:
    """Add the route. `numbers`: of the catalogue as it is now, which no mask takes; `held_ids`: of all pairs that are open."""
    schema: dict[str, Any] = Events.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs")
    schema["properties"]["events"]["items"] = definitions["Event"]
    content = {kind: {"schema": schema} for kind in ("application/json", "text/plain")}

    @app.post(
        "/events",
        status_code=202,
        tags=["log"],
        responses={202: {"model": TakenEvents}, 409: {"description": "The server keeps no log"}},
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def events(request: Request) -> Response:
        """What shoppers did with items of answers; written to the log soon after."""
        if log is None:
            raise HTTPException(409, NO_LOG)
        sent = await _read(request)
        _refuse_personal(sent, held_ids())
        catalogue_numbers = numbers()
        taken = log.offer(
            [
                Action(
                    kind=each.event,
                    request_id=each.request_id,
                    item_id=each.item_id,
                    position=each.position,
                    query=each.query,
                    user=each.user,
                    session=each.session,
                    catalogue_numbers=catalogue_numbers,
                )
                for each in sent.events
            ]
        )
        return Response(TakenEvents(taken=taken).model_dump_json(), 202, media_type="application/json")
