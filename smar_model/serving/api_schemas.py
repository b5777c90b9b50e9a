"""What is asked and answered over HTTP: `/openapi.json` is made of these. A server and a front (`front.py`) have them in common.

What a request may cost is known, and bounded, before work on it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, TypeVar

from fastapi import Depends, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from smar_model.serving.middleware import ASKED_BY_HEAD

CHAMPION, CHALLENGER, TEXT_ONLY = "champion", "challenger", "text-only"
"""What a version may be asked for by besides its number: the registry's aliases, and the baseline of the champion's run."""
MAXIMUM_QUERY = 10_000
"""Characters; the model reads the first few words."""
MAXIMUM_QUERIES = 256
"""Of one batch."""
MAXIMUM_HITS = 1_000
"""A query."""
MAXIMUM_ANSWER_HITS = 12_800
"""Over all queries of a batch: 50 each of the largest."""
MAXIMUM_USER = 200
"""Characters."""
MAXIMUM_NAME = 4_096
"""Characters of a picture's name."""

ENCODED_HITS = 16
"""As many hits weigh what one encoded query does: 3D numbers of 12 bytes or so."""
Question = TypeVar("Question", bound=BaseModel)

QueryText = Annotated[str, Field(min_length=1, max_length=MAXIMUM_QUERY, description="What a shopper typed")]
HitCount = Annotated[int, Field(ge=1, le=MAXIMUM_HITS, description="Hits a query")]
VersionName = Annotated[
    str,
    Field(
        pattern=rf"^({CHAMPION}|{CHALLENGER}|{TEXT_ONLY}|[0-9]{{1,9}})$",
        description=f"`{CHAMPION}`, `{CHALLENGER}`, `{TEXT_ONLY}` (the baseline of the champion's run) or a version's number",
    ),
]
Routing = Literal["soft", "hard", "text", "pictures"]
RoutingName = Annotated[
    Routing | None,
    Field(
        description="How text and pictures are weighed in the place of the model's own way: `text` and `pictures` ask one of both"
    ),
]
Department = Annotated[str, Field(max_length=1_000)]
Departments = Annotated[list[Department], Field(max_length=100, description="Only their items; none: all")]
UserName = Annotated[
    str | None,
    Field(
        min_length=1, max_length=MAXIMUM_USER, description="Who asks, by the shop's own key; hashed before it is logged"
    ),
]
SessionName = Annotated[str | None, Field(min_length=1, max_length=200, description="Key of the visit; likewise")]
IsLogged = Annotated[bool, Field(description="Whether the log is to have the answer: false for what no shopper sees")]
Filter = Annotated[str, Field(min_length=1, max_length=1_000)]
Filters = Annotated[
    list[Filter],
    Field(
        max_length=32,
        description="Only items that match all: `attributes.colour:red`, `price<50`, `available`, `-brand:acme`",
    ),
]
PictureName = Annotated[str, Query(min_length=1, max_length=MAXIMUM_NAME)]


class HitAnswer(BaseModel):
    rank: int
    item_id: str
    title: str
    department: str
    score: float
    pictures: list[str] = Field(description="URI references, relative to this answer's address, the main one first")
    price: float | None = Field(default=None, description="By which filters go; null: nobody says")
    currency: str | None = Field(default=None, description="Of the price, where it names one")
    available: bool | None = Field(default=None, description="Whether it can be bought; null: nobody says")


class SearchAnswer(BaseModel):
    request_id: str = Field(
        description="Key of this answer, to be sent with what a shopper does with it (`POST /events`)"
    )
    query: str
    p: float = Field(description="P(q), 0 to 1: the probability that pictures matter for this query")
    version: str = Field(
        description=f"Number of the model version that answered, or `{TEXT_ONLY}`; `3+5` where both did, interleaved"
    )
    model_digest: str = Field(description="Of the model that answered; of two, joined by `+`")
    index_digest: str | None = Field(
        description="Of the index that answered, built by that model; null of the text-only baseline"
    )
    hits: list[HitAnswer] = Field(description="Best first")


class BatchQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    queries: Annotated[list[QueryText], Field(min_length=1, max_length=MAXIMUM_QUERIES)]
    k: HitCount = 10
    departments: Departments = []
    filters: Filters = []
    version: VersionName = CHAMPION
    routing: RoutingName = None
    user: UserName = None
    session: SessionName = None
    log: IsLogged = True


class SearchParameters(BaseModel):
    """Of `GET /search`, which asks one query."""

    q: QueryText
    k: HitCount = 10
    department: Annotated[list[Department], Field(max_length=100, description="Repeatable; none: all")] = []
    filter: Annotated[list[Filter], Field(max_length=32, description="Repeatable; an item matches all")] = []
    version: VersionName = CHAMPION
    routing: RoutingName = None
    user: UserName = None
    session: SessionName = None
    log: IsLogged = True


_REPEATABLE = {"department", "filter"}


def one_question(request: Request) -> BatchQuestion:
    """What `GET /search` asks. A misspelt filter would else be an answer without it; HEAD shows nobody a list, so that no log has it.

    Read at once by one model: as arguments of a route FastAPI looks each of them up by itself, a fifth of all Python that a search takes.
    """
    sent, names = request.query_params, SearchParameters.model_fields
    if unknown := sorted(set(sent) - names.keys()):
        raise HTTPException(422, f"no parameter is named {unknown[0][:100]!r}; there are {', '.join(names)}")
    with _faults_told("query"):
        asked = SearchParameters.model_validate(
            {name: sent.getlist(name) if name in _REPEATABLE else sent[name] for name in sent}
        )
    return _checked(
        BatchQuestion.model_construct(
            queries=[asked.q],
            k=asked.k,
            departments=asked.department,
            filters=asked.filter,
            version=asked.version,
            routing=asked.routing,
            user=asked.user,
            session=asked.session,
            log=asked.log and ASKED_BY_HEAD not in request.scope,
        )
    )


async def batch_question(request: Request) -> BatchQuestion:
    """What `POST /search` asks."""
    return _checked(await _read_body(request, BatchQuestion))


async def _read_body(request: Request, kind: type[Question]) -> Question:
    """Pydantic reads the JSON itself: a value that is none of the question's is never made."""
    with bad_bodies_told():
        return kind.model_validate_json(await request.body())


@contextmanager
def bad_bodies_told(*, faults: int | None = None) -> Iterator[None]:
    """A body that is read in the block and does not come whole, or is no such JSON, is the client's fault.

    Args:
        faults: of one body that are told; None: all.
    """
    try:
        with _faults_told("body", faults):
            yield
    except ClientDisconnect:  # nobody is there to be told
        raise HTTPException(400, "the body has not come whole") from None


@contextmanager
def _faults_told(place: str, faults: int | None = None) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:faults]
        raise RequestValidationError([e | {"loc": (place, *e["loc"])} for e in found]) from None


def _refuse_empty(queries: list[str]) -> None:
    for number, query in enumerate(queries, start=1):
        if not query.strip():
            raise HTTPException(422, f"query {number} is empty")


def _checked(question: BatchQuestion) -> BatchQuestion:
    _refuse_empty(question.queries)
    hits = len(question.queries) * question.k
    if hits > MAXIMUM_ANSWER_HITS:
        raise HTTPException(
            422,
            f"{len(question.queries)} queries with k = {question.k} are {hits:,} hits, more than {MAXIMUM_ANSWER_HITS:,}",
        )
    return question


SentQuestion = Annotated[BatchQuestion, Depends(batch_question)]
_DESCRIBED = SearchParameters.model_json_schema()
QUESTION_PARAMETERS = {
    "parameters": [
        {"name": name, "in": "query", "required": name in _DESCRIBED["required"], "schema": schema}
        for name, schema in _DESCRIBED["properties"].items()
    ]
}
QUESTION_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": BatchQuestion.model_json_schema()}}}
}
"""For the document: FastAPI does not see what `one_question` and `batch_question` read."""


class BatchAnswer(BaseModel):
    answers: list[SearchAnswer] = Field(description="One a query, in their order, all from the same version")
    milliseconds: float = Field(description="That the search itself took, waiting not counted")


class EncodeQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    queries: Annotated[list[QueryText], Field(min_length=1, max_length=MAXIMUM_QUERIES)]
    version: VersionName = CHAMPION
    routing: RoutingName = None

    @property
    def k(self) -> int:
        """Hits that weigh as much as one encoded query."""
        return ENCODED_HITS


async def encode_question(request: Request) -> EncodeQuestion:
    """What `POST /encode` asks."""
    question = await _read_body(request, EncodeQuestion)
    _refuse_empty(question.queries)
    return question


SentEncodeQuestion = Annotated[EncodeQuestion, Depends(encode_question)]
ENCODE_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": EncodeQuestion.model_json_schema()}}}
}


class EncodedQuery(BaseModel):
    query: str
    p: float = Field(description="P(q), 0 to 1: the probability that pictures matter for this query")
    share: float = Field(description="p of [Q ; p·Q]: the share of pictures by which the query is routed")
    embeddings: list[list[float]] = Field(description="Q: D numbers, for each of the model's K heads")
    vectors: list[list[float]] = Field(
        description="[Q ; p·Q], 2D numbers a head: what an index is asked with, by inner product"
    )


class EncodeAnswer(BaseModel):
    """What another engine is asked with (`docs/engines.md`)."""

    version: str = Field(description=f"Number of the model version that encoded, or `{TEXT_ONLY}`")
    model_digest: str = Field(
        description="Of the model that encoded: export.json of the vectors that are asked must name the same"
    )
    index_digest: str | None = Field(description="Of the index that it is served with; null of the text-only baseline")
    dimension: int = Field(description="D")
    heads: int = Field(description="K: 1, but for a model whose queries have several")
    head_temperature: float | None = Field(
        description="β, where K > 1: an item's score is Σ_k softmax_k(score_k / β) · score_k; null where K is 1"
    )
    answers: list[EncodedQuery] = Field(description="One a query, in their order")
    milliseconds: float = Field(description="That the encoding itself took, waiting not counted")


class ListedVersion(BaseModel):
    name: str = Field(description="What to ask for it by")
    version: str
    date: str | None = Field(description="Last day of its run's click log")
    run: str | None
    index_digest: str | None
    recall_at_50: float | None = Field(description="When it was judged")


class DepartmentSize(BaseModel):
    name: str
    items: int


class KnownFilters(BaseModel):
    """What the champion's items can be filtered by."""

    prices: bool = Field(default=False, description="Whether any item has a price")
    stock: bool = Field(default=False, description="Whether any item says if it is available")
    attributes: dict[str, str] = Field(default={}, description="Some attributes, each with a value that items have")


class VersionsAnswer(BaseModel):
    champion: str | None = Field(
        description="The version that answers; while a new champion is being opened, the one before"
    )
    challenger: str | None
    text_only: str | None = Field(description="Run whose text-only baseline can be asked")
    text_only_missing: str | None = Field(description="Why there is no text-only baseline to ask")
    versions: list[ListedVersion] = Field(description="The newest hundred, newest first")
    departments: list[DepartmentSize] = Field(description="Of the champion's items, the largest first")
    examples: list[str] = Field(description="Queries to try")
    filters: KnownFilters = Field(default=KnownFilters(), description="What `filter` can ask of the champion's items")
    registry_seen_at: float | None = Field(description="When the registry last answered, seconds since 1970")


class StockState(BaseModel):
    digest: str = Field(description="Of the stock table that was read last")
    published_at: float = Field(description="When it was published, seconds since 1970")
    age_seconds: float
    items: int = Field(description="Of the table")
    items_of_index: int = Field(description="Of the index that answers, about which it says something")
    is_used: bool = Field(description="Whether what answers filters by it already")


class ReadyAnswer(BaseModel):
    ready: bool
    version: str | None
    model_digest: str | None
    index_digest: str | None
    is_champion: bool = Field(description="Whether it is what the registry names; else it is the last good release")
    stock: StockState | None = Field(
        default=None, description="What filters go by; null: by the index's own prices and stock"
    )
    problems: list[str] = Field(description="Why what answers is not what it should be; it answers all the same")
