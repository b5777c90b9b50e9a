"""Rows of Google Analytics 4's BigQuery export (tables `events_YYYYMMDD`), from Parquet and from JSON lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.lake.contracts import read_parquet_schema
from smar_model.shop.importers.delivered_files import numbered_lines, opened, refuse_spread_json
from smar_model.shop.importers.event_fields import id_of, microseconds, place_of, text_of, time_of
from smar_model.shop.importers.item_ids import has_lost_digits

SEARCH, LIST, SELECT, VIEW, CART, ORDER = (
    "view_search_results", "view_item_list", "select_item", "view_item", "add_to_cart", "purchase",
)  # fmt: skip
READ = (SEARCH, LIST, SELECT, VIEW, CART, ORDER)
"""Events that are read, in the order in which they happen at one moment."""
_COLUMNS = ("event_date", "event_timestamp", "event_name", "user_pseudo_id", "event_params", "items")
_INNER = {"key", "string_value", "int_value", "float_value", "double_value", "item_id", "item_list_id", "item_list_name", "item_list_index"}  # fmt: skip
_BATCH = 4_096
_DATE = re.compile(r"\d{8}")
_NOT_SET = {"", "(not set)", "(other)"}


@dataclass(frozen=True, slots=True)
class ListedItem:
    item_id: str
    place: int | None
    """`item_list_index`, as the tracker counts."""
    list_name: str
    """Name, else id, of the list; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Ga4Event:
    where: str
    name: str
    date: str | None
    """`event_date`, YYYYMMDD in the property's time zone: the table that the row is of."""
    time: int | None
    """Microseconds since 1970."""
    shopper: str | None
    session: str | None
    term: str | None
    items: list[ListedItem]
    nameless: int
    """Items without an id."""
    mangled: int = 0
    """Items whose id has lost digits."""


@dataclass(frozen=True, slots=True)
class OtherEvents:
    """Events that are not read; of lines without an event's name, `name` is empty."""

    where: str
    name: str
    count: int


def read_events(path: Path) -> Iterator[Ga4Event | OtherEvents]:
    """All rows of a file.

    Raises:
        InputError: the file is damaged, or no table of such events.
    """
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    yield from _parquet_events(path) if is_parquet else _json_events(path)


def _parquet_events(path: Path) -> Iterator[Ga4Event | OtherEvents]:
    schema = read_parquet_schema(path)
    if missing := [name for name in _COLUMNS if name not in schema.names and name != "event_date"]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(schema.names)[:300]}")
    number = 0
    try:
        file = pq.ParquetFile(path)
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        wanted = [leaf for leaf in leaves if _is_wanted(leaf.split("."))]
        for batch in file.iter_batches(_BATCH, columns=wanted):
            names = batch["event_name"].cast(pa.string())
            chosen = pc.fill_null(pc.is_in(names, value_set=pa.array(READ)), False)
            for name, count in Counter(names.filter(pc.invert(chosen)).to_pylist()).items():
                first = pc.index(names, name).as_py() if name is not None else 0
                yield OtherEvents(f"{path} row {number + first + 1}", name or "", count)
            rows = batch.filter(chosen).to_pylist()
            for index, row in zip(pc.indices_nonzero(chosen).to_pylist(), rows, strict=True):
                yield _event(f"{path} row {number + index + 1}", row)
            number += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} row {number + 1}: damaged ({error}); export or copy it again") from None


def _is_wanted(parts: list[str]) -> bool:
    return parts[0] in _COLUMNS and (len(parts) == 1 or parts[-1] in _INNER)


def _json_events(path: Path) -> Iterator[Ga4Event | OtherEvents]:
    with opened(path) as streams:
        for name, stream in streams:
            for where, line in numbered_lines(name, stream):
                refuse_spread_json(where, line)
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                event_name = text_of(row.get("event_name")) if isinstance(row, dict) else None
                if event_name is None or event_name not in READ:
                    yield OtherEvents(where, event_name or "", 1)
                else:
                    yield _event(where, row)


def _event(where: str, row: dict[str, Any]) -> Ga4Event:
    params = _params(row.get("event_params"))
    items: list[ListedItem] = []
    nameless = mangled = 0
    list_name = _name(params.get("item_list_name")) or _name(params.get("item_list_id"))
    for item in _listed(row.get("items")):
        item_id = id_of(item.get("item_id")) if isinstance(item, dict) else None
        if item_id is None or item_id in _NOT_SET:
            nameless += 1
            continue
        if has_lost_digits(item_id):
            mangled += 1
            continue
        own_list = _name(item.get("item_list_name")) or _name(item.get("item_list_id"))
        items.append(ListedItem(item_id, place_of(item.get("item_list_index")), own_list or list_name))
    time = time_of(row.get("event_timestamp"))
    date = str(row.get("event_date") or "").replace("-", "")
    return Ga4Event(
        where=where,
        name=row["event_name"],
        date=date if _DATE.fullmatch(date) else None,
        time=microseconds(time) if time else None,
        shopper=id_of(row.get("user_pseudo_id")),
        session=id_of(params.get("ga_session_id")),
        term=_name(params.get("search_term")) or None,
        items=items,
        nameless=nameless,
        mangled=mangled,
    )


def _params(content: Any) -> dict[str, Any]:
    """Key → value, from the export's list of keys and values, or from an object."""
    if isinstance(content, dict) and "list" not in content:
        return content
    params: dict[str, Any] = {}
    for pair in _listed(content):
        if not isinstance(pair, dict) or not isinstance(pair.get("key"), str):
            continue
        value = pair.get("value")
        if isinstance(value, dict):
            value = next((part for part in value.values() if part is not None), None)
        params.setdefault(pair["key"], value)
    return params


def _listed(content: Any) -> list[Any]:
    """The elements of a list; also of one that was written as {"list": [{"element": …}]}."""
    if isinstance(content, dict):
        content = content.get("list")
    if not isinstance(content, list):
        return []
    return [part["element"] if isinstance(part, dict) and part.keys() == {"element"} else part for part in content]


def _name(value: Any) -> str:
    text = text_of(value) or ""
    return "" if text in _NOT_SET else text
