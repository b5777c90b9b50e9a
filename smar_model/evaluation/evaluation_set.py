"""The queries that judge a run: those of its evaluation days, each with the items that would have been right.

Two measures, never mixed (design, decision 9): *found* is what recall and MRR look for, *graded* what nDCG and
precision look for.

| log | one query is | found | graded | cluster |
| --- | --- | --- | --- | --- |
| of simulated shoppers | a request | the item the shopper had in mind | grade 1: items whose true attributes match all that the query names | the item |
| of a shop | a distinct query with clicks | items clicked for it | its judgments (of several raters the median) where people gave some; else clicked 1, ordered 2 | the query |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa

from smar_model.data.catalogue import numbers_in_catalogue
from smar_model.data.query_text import maskable_numbers, normalise_query
from smar_model.delivery.delivered_tables import read_whole_table
from smar_model.delivery.json_lines import is_json_lines, read_json_lines
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.evaluation.relevance import Relevance
from smar_model.lake.contracts import load_contract
from smar_model.lake.object_paths import AnyPath

CLICK_GRADE, ORDER_GRADE = 1, 2
SYNTHETIC_QUERIES, SYNTHETIC_WORDS = 4, 5
VISUAL_SHARE = 0.5
"""Without truth, a query is visual when at least this share of its clicks is on items of visual departments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Q queries; rows are of the catalogue sorted by item id."""

    basis: Literal["truth", "clicks"]
    query_ids: np.ndarray
    queries: np.ndarray
    """(Q,) normalised texts; requests may repeat one."""
    clusters: np.ndarray
    """(Q,) unit of the bootstrap."""
    is_visual: np.ndarray
    departments: np.ndarray
    """(Q,) that of the wanted item; of several clicked ones that of most clicks."""
    targets: np.ndarray
    """(Q,) int64 row of the wanted item; −1 where unknown."""
    found: Relevance
    graded: Relevance
    counts: dict[str, int]
    """What was read, left out and kept."""
    people: dict[int, dict[int, float]] = field(default_factory=dict)
    """Number of a query that people judged → row → their grade, 0 included."""

    def followed_by(self, other: EvaluationSet) -> EvaluationSet:
        """These queries, then the other's; basis and counts are of these."""

        def both(name: str) -> np.ndarray:
            return np.concatenate([getattr(self, name), getattr(other, name)])

        return replace(
            self,
            query_ids=both("query_ids"),
            queries=both("queries"),
            clusters=both("clusters"),
            is_visual=both("is_visual"),
            departments=both("departments"),
            targets=both("targets"),
            found=self.found.followed_by(other.found),
            graded=self.graded.followed_by(other.graded),
            people=self.people | {number + len(self.queries): each for number, each in other.people.items()},
        )

    def segments(self) -> dict[str, np.ndarray]:
        """Name → (Q,) bool."""
        return {
            "overall": np.ones(len(self.queries), dtype=bool),
            "fashion": self.is_visual,
            "not_fashion": ~self.is_visual,
        }


def build_evaluation_set(
    *,
    shop: ShopInputs,
    days: Sequence[date],
    clicks: pd.DataFrame,
    catalogue: pd.DataFrame,
    visual_departments: Iterable[str],
    maximum_queries: int,
    seed: int,
) -> EvaluationSet:
    """Queries of the given days, at most `maximum_queries` of them by a seeded draw.

    Args:
        clicks: table `clicks` of these days.
        catalogue: sorted by item id.

    Raises:
        InputError: there is nothing to judge by, or truth or judgments differ from their contracts.
    """
    is_visual = catalogue["department"].isin(list(visual_departments)).to_numpy()
    with_truth = [day for day in days if shop.truth_requests(day)]
    if shop.truth_items() and with_truth:
        if missing := sorted(set(days) - set(with_truth)):
            raise InputError(
                f"{shop.root}/truth/requests/dt={missing[0]}: missing, though other evaluation days have truth; "
                "let the shoppers write the day again"
            )
        requests, counts = _requests_with_truth(shop, days, clicks, catalogue)
        build = _build_from_truth
    else:
        requests, counts = _queries_with_clicks(clicks, catalogue)
        build = _build_from_clicks
    if requests.empty:
        read = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())
        raise InputError(
            f"{shop.root}: nothing to evaluate from {days[0]} to {days[-1]} ({read}); "
            "check the log of these days and the quarantine of extract-clicks"
        )
    if len(requests) > maximum_queries:
        kept = np.random.default_rng(seed).choice(len(requests), maximum_queries, replace=False)
        requests = requests.iloc[np.sort(kept)]
    counts["queries"] = len(requests)
    return build(requests.reset_index(drop=True), counts, shop, clicks, catalogue, is_visual)


def synthetic_evaluation_set(
    catalogue: pd.DataFrame, rows: np.ndarray, *, visual_departments: Iterable[str], seed: int
) -> EvaluationSet:
    """Queries as pretraining makes them, for the items in the given rows of the catalogue: random parts of their titles
    (Qiu et al. 2022, arXiv 2208.06150), SYNTHETIC_QUERIES an item, each of at most SYNTHETIC_WORDS words. Right is that item."""
    random = np.random.default_rng(seed)
    texts, targets = [], []
    for row, title in zip(rows, catalogue["title"].iloc[rows], strict=True):
        words = normalise_query(title, maskable_numbers([title])).split()
        for _ in range(SYNTHETIC_QUERIES if words else 0):
            length = int(random.integers(1, min(SYNTHETIC_WORDS, len(words)) + 1))
            start = int(random.integers(0, len(words) - length + 1))
            texts.append(" ".join(words[start : start + length]))
            targets.append(row)
    wanted = np.array(targets, dtype=np.int64)
    item_ids = catalogue["item_id"].to_numpy(object)[wanted]
    departments = catalogue["department"].to_numpy(object)[wanted]
    found = Relevance.from_targets(wanted, items=len(catalogue))
    return EvaluationSet(
        basis="truth",
        query_ids=np.array([f"synthetic:{number}" for number in range(len(texts))], dtype=object),
        queries=np.array(texts, dtype=object),
        clusters=item_ids,
        is_visual=np.isin(departments, list(visual_departments)),
        departments=departments,
        targets=wanted,
        found=found,
        graded=found,
        counts={},
    )


def _requests_with_truth(
    shop: ShopInputs, days: Sequence[date], clicks: pd.DataFrame, catalogue: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Requests with truth whose query survived the cleaning on that day and whose wanted item is in the catalogue."""
    parts = [read_contract_table("truth_requests", shop.truth_requests(day)).assign(day=day) for day in days]
    requests = pd.concat(parts, ignore_index=True)
    numbers = numbers_in_catalogue(catalogue)
    requests["query"] = [normalise_query(text, numbers) for text in requests["query"]]
    seen = clicks[["day", "query"]].drop_duplicates()
    survived = requests.merge(seen, on=["day", "query"], how="inner", validate="m:1")
    survived["target"] = pd.Index(catalogue["item_id"]).get_indexer(survived["item_id"])
    known = survived[survived["target"] >= 0]
    counts = {
        "requests": len(requests),
        "requests_without_surviving_event": len(requests) - len(survived),
        "requests_for_items_not_in_catalogue": len(survived) - len(known),
    }
    return known.sort_values(["day", "request_id"]), counts


def _build_from_truth(
    requests: pd.DataFrame,
    counts: dict[str, int],
    shop: ShopInputs,
    clicks: pd.DataFrame,
    catalogue: pd.DataFrame,
    is_visual: np.ndarray,
) -> EvaluationSet:
    truth_file = shop.truth_items()
    assert truth_file is not None
    truth = read_contract_table("truth_items", [truth_file])
    matching = _TrueAttributes(truth, catalogue["item_id"])
    targets = requests["target"].to_numpy(np.int64)
    numbers: dict[frozenset[tuple[str, str]] | int, int] = {}
    sets: list[tuple[np.ndarray, np.ndarray]] = []
    set_of_query = []
    for named, target in zip(requests["named"], targets, strict=True):
        # A query that names nothing fits everything; only the wanted item counts then.
        asked = frozenset((named or {}).items()) or int(target)
        if asked not in numbers:
            rows = np.array([asked]) if isinstance(asked, int) else matching.rows(asked)
            numbers[asked] = len(sets)
            sets.append((rows, np.ones(len(rows))))
        set_of_query.append(numbers[asked])
    return EvaluationSet(
        basis="truth",
        query_ids=requests["request_id"].to_numpy(object),
        queries=requests["query"].to_numpy(object),
        clusters=requests["item_id"].to_numpy(object),
        is_visual=is_visual[targets],
        departments=catalogue["department"].to_numpy(object)[targets],
        targets=targets,
        found=Relevance.from_targets(targets, items=len(catalogue)),
        graded=Relevance.from_sets(sets, set_of_query=np.array(set_of_query), items=len(catalogue)),
        counts=counts,
    )


class _TrueAttributes:
    """Which items match named attributes: a column of codes for each attribute, compared as a whole."""

    def __init__(self, truth: pd.DataFrame, item_ids: pd.Series) -> None:
        attributes = truth.set_index("item_id")["attributes"].reindex(item_ids)
        known = [value if isinstance(value, dict) else {} for value in attributes]
        self.items = len(known)
        names = sorted({name for item in known for name in item})
        self._values = {name: np.array([item.get(name) for item in known], dtype=object) for name in names}
        self._codes = {name: pd.factorize(values) for name, values in self._values.items()}

    def rows(self, named: Iterable[tuple[str, str]]) -> np.ndarray:
        fits = np.ones(self.items, dtype=bool)
        for name, value in named:
            codes, values = self._codes.get(name, (np.full(self.items, -1), np.empty(0, dtype=object)))
            code = np.flatnonzero(values == value)
            fits &= (codes == code[0]) if len(code) else False
        return np.flatnonzero(fits)


def _queries_with_clicks(clicks: pd.DataFrame, catalogue: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    clicked = clicks[clicks["clicks"] > 0]
    known = clicked[clicked["item_id"].isin(catalogue["item_id"])]
    requests = known[["query"]].drop_duplicates().sort_values("query")
    total = clicked["query"].nunique()
    return requests, {"clicked_queries": total, "clicked_queries_without_known_item": total - len(requests)}


def _build_from_clicks(
    requests: pd.DataFrame,
    counts: dict[str, int],
    shop: ShopInputs,
    clicks: pd.DataFrame,
    catalogue: pd.DataFrame,
    is_visual: np.ndarray,
) -> EvaluationSet:
    rows = clicks[clicks["clicks"] > 0].groupby(["query", "item_id"], as_index=False)[["clicks", "orders"]].sum()
    rows["row"] = pd.Index(catalogue["item_id"]).get_indexer(rows["item_id"])
    rows["number"] = pd.Index(requests["query"]).get_indexer(rows["query"])
    rows = rows[(rows["row"] >= 0) & (rows["number"] >= 0)].sort_values(["number", "row"])
    rows["grade"] = np.where(rows["orders"] > 0, ORDER_GRADE, CLICK_GRADE)
    clicked = [(part["row"].to_numpy(), part["grade"].to_numpy()) for _, part in rows.groupby("number", sort=True)]
    graded = list(clicked)
    judged = _judged_sets(shop.judgments(), requests["query"], catalogue)
    for number, entry in judged.items():
        graded[number] = entry
    rows["department"] = catalogue["department"].to_numpy(object)[rows["row"]]
    by_department = rows.groupby(["number", "department"], as_index=False)["clicks"].sum()
    most = by_department.sort_values(["number", "clicks"], kind="stable").drop_duplicates("number", keep="last")
    visual_clicks = np.bincount(rows["number"], rows["clicks"] * is_visual[rows["row"]], len(requests))
    all_clicks = np.bincount(rows["number"], rows["clicks"], len(requests))
    queries = requests["query"].to_numpy(object)
    numbers = np.arange(len(requests))
    return EvaluationSet(
        basis="clicks",
        query_ids=queries,
        queries=queries,
        clusters=queries,
        is_visual=visual_clicks / all_clicks >= VISUAL_SHARE,
        departments=most["department"].to_numpy(object),
        targets=np.full(len(requests), -1, dtype=np.int64),
        found=Relevance.from_sets(
            [(rows, np.ones(len(rows))) for rows, _ in clicked], set_of_query=numbers, items=len(catalogue)
        ),
        graded=Relevance.from_sets(graded, set_of_query=numbers, items=len(catalogue)),
        counts=counts | {"queries_with_judgments": len(judged)},
        people={
            number: dict(zip(rows.tolist(), grades.tolist(), strict=True)) for number, (rows, grades) in judged.items()
        },
    )


def read_judgments(file: AnyPath) -> pd.DataFrame:
    """People's grades as they were delivered.

    Raises:
        InputError: the file cannot be read, or a grade is none; names the first row.
    """
    judgments = read_contract_table("judgments", [file])
    outside = judgments[~judgments["grade"].between(0, 3)]
    if len(outside):
        first = outside.iloc[0]
        raise InputError(
            f"{file}: row {outside.index[0]} (query {first['query']!r}, item {first['item_id']!r}) has grade "
            f"{first['grade']}; grades are 0 to 3"
        )
    return judgments


def _judged_sets(
    file: AnyPath | None, queries: pd.Series, catalogue: pd.DataFrame
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Number of the query → (rows, grades) for the queries that people judged; of several grades the median.

    A query for which they found nothing relevant in this catalogue is left to its clicks.
    """
    if file is None:
        return {}
    judgments = read_judgments(file)
    numbers = numbers_in_catalogue(catalogue)
    asked = [normalise_query(text, numbers) for text in judgments["query"]]
    judgments["number"] = pd.Index(queries).get_indexer(asked)
    judgments["row"] = pd.Index(catalogue["item_id"]).get_indexer(judgments["item_id"])
    judgments = judgments[(judgments["number"] >= 0) & (judgments["row"] >= 0)]
    agreed = judgments.groupby(["number", "row"], as_index=False)["grade"].median()
    return {
        int(number): (part["row"].to_numpy(), part["grade"].to_numpy())
        for number, part in agreed.groupby("number")
        if (part["grade"] > 0).any()
    }


def _mended(table: pa.Table) -> pa.Table:
    """Rows as jobs take them too (`read_table` in jobs/spark_session.py): U+FFFD for what is not UTF-8, and of a map's key that is
    there several times all values."""
    as_bytes = table.cast(pa.schema([field.with_type(_bytes_type(field.type)) for field in table.schema]))
    rows = [{name: _decoded(value) for name, value in row.items()} for row in as_bytes.to_pylist()]
    return pa.Table.from_pylist(rows, schema=table.schema)


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_map(kind):
        return pa.map_(_bytes_type(kind.key_type), _bytes_type(kind.item_type))
    return pa.binary() if pa.types.is_string(kind) or pa.types.is_large_string(kind) else kind


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, list):  # a map's entries
        return value
    joined: dict[str, list[str]] = {}
    for name, text in value:
        texts = joined.setdefault(_decoded(name), [])
        if text is not None and (decoded := _decoded(text)) not in texts:
            texts.append(decoded)
    return {name: ", ".join(texts) if texts else None for name, texts in joined.items()}


def read_contract_table(table: str, files: Sequence[AnyPath], zone: ZoneInfo | None = None) -> pd.DataFrame:
    """Rows of a delivered table, maps as dicts; columns beyond the contract are left out.

    Args:
        zone: of times that say none.

    Raises:
        InputError: a file is unreadable or lacks a column of the contract, or a column is empty that may not be.
    """
    contract = load_contract(table)
    parts = [
        read_json_lines(file, contract, zone) if is_json_lines(file) else read_whole_table(table, file, zone)
        for file in files
    ]
    rows = pa.concat_tables(parts, promote_options="permissive")
    try:
        rows.validate(full=True)
        frame = rows.to_pandas(maps_as_pydicts="strict")
    except pa.ArrowException:
        frame = _mended(rows).to_pandas(maps_as_pydicts="strict")
    for column in contract.columns:
        if not column.nullable and (empty := np.flatnonzero(frame[column.name].isna())).size:
            raise InputError(f"{files[0].parent}: {table} row {empty[0]}: {column.name} is empty; every row needs one")
    return frame
