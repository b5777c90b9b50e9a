"""Importer of JDsearch (Liu et al., SIGIR 2023, arXiv 2305.14810): JD's items and what its shoppers did, as encoded ids.

A row of the behaviour file is a shopper: a last search with what was shown, and before it a history of actions. The
files know spans of time but no date: the caller names the day of all last searches (12:00 UTC), and the spans give the
days of the history. What the files do not say is filled in as follows, and not to be learned from:

- places: the published order puts engaged items first, so every event has position 1;
- moments: an item is shown `LOOK` before it is acted on (not before midnight);
- requests: actions under the same query are of one request until midnight or a pause longer than `PAUSE`;
- a cart or an order also counts as the click that led to it, and a follow as a click.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.published_rows import find_file, require, separated_rows
from smar_model.shop.shop_writer import ShopWriter

SOURCE = "jdsearch"
LOOK = timedelta(seconds=30)
PAUSE = timedelta(minutes=30)
PRODUCT_COLUMNS = (
    "wid", "name", "brand_id", "brand_name", "cate_id_1", "cate_name_1", "cate_id_2", "cate_name_2", "cate_id_3", "cate_name_3",
    "cate_id_4", "cate_name_4", "shop_id",
)  # fmt: skip
BEHAVIOUR_COLUMNS = (
    "query", "candidate_wid_list", "candidate_label_list", "history_qry_list", "history_wid_list", "history_type_list",
    "history_time_list",
)  # fmt: skip
_HISTORY = {"CLICK": ("click",), "FLW": ("click",), "CART": ("click", "cart"), "ORD": ("click", "order")}
_LABELS = {"0.0": (), "1.0": ("click",), "2.0": ("click", "cart"), "3.0": ("click", "order")}
_NO_QUERY = "-1"
_NUMBER = re.compile(r"(?<![0-9])(?=[0-9])")


def import_jdsearch(folder: Path, writer: ShopWriter, *, last_day: date, days: int) -> None:
    """Add all products, and the events of the `days` days up to `last_day`, that of the last searches.

    Raises:
        InputError: a file is missing or damaged, or a row's lists do not fit together.
    """
    # The second names are those of the first release.
    products = find_file(folder, "product_meta_data.txt", "product_data.txt")
    for where, row in separated_rows(products, (), delimiter="\t", quotes=False, header=PRODUCT_COLUMNS):
        require(where, row, "wid")
        category = (words_of_ids(row[f"cate_name_{level}"]) for level in range(1, 5))
        writer.add_item(
            where,
            item_id=f"{SOURCE}-{row['wid']}",
            title=words_of_ids(row["name"]),
            category=" > ".join(filter(None, category)),
            brand=words_of_ids(row["brand_name"]),
        )
    behaviour = find_file(folder, "user_behavior_data.txt", "release_data.txt")
    rows = separated_rows(behaviour, (), delimiter="\t", quotes=False, header=BEHAVIOUR_COLUMNS)
    for number, (where, row) in enumerate(rows):
        shopper = _Shopper(where, f"{SOURCE}-{number:06d}", last_day - timedelta(days=days - 1), writer)
        shopper.add(row, datetime.combine(last_day, time(12), UTC))


class _Shopper:
    def __init__(self, where: str, user_id: str, first_day: date, writer: ShopWriter) -> None:
        self._where, self._user_id, self._first_day, self._writer = where, user_id, first_day, writer
        self._logged: set[tuple[str, str]] = set()
        """(item, event) of the request at hand."""
        self._requests = 0

    def add(self, row: dict[str, str], searched: datetime) -> None:
        history = self._lists(row, "history_qry_list", "history_wid_list", "history_type_list")
        gaps = row["history_time_list"].split("_") if row["history_time_list"] else ["0"]
        if len(gaps) != len(history) + 1:
            self._refuse(f"history_time_list has {len(gaps)} entries, expected {len(history) + 1}")
        if not all(gap.isdecimal() for gap in gaps):
            self._refuse("history_time_list holds an entry that is no whole number of seconds")
        seconds = list(accumulate(map(int, gaps)))
        last_query, last_acted = "", datetime.min.replace(tzinfo=UTC)
        for (query, item, kind), second in zip(history, seconds, strict=False):
            if kind not in _HISTORY:
                self._refuse(f"history_type_list holds {kind!r}; expected {', '.join(_HISTORY)}")
            acted = searched - timedelta(seconds=seconds[-1] - second)
            if query != last_query or acted - last_acted > PAUSE or acted.date() != last_acted.date():
                self._next_request()
            last_query, last_acted = query, acted
            if query == _NO_QUERY:
                self._writer.leave_out("actions without a query", self._where)
            elif acted.date() < self._first_day:
                self._writer.leave_out(f"actions before {self._first_day}", self._where)
            else:
                midnight = datetime.combine(acted.date(), time(), UTC)
                self._log(words_of_ids(query), item, max(acted - LOOK, midnight), acted, _HISTORY[kind])
        self._next_request()
        query = words_of_ids(row["query"])
        for item, label in self._lists(row, "candidate_wid_list", "candidate_label_list"):
            if label not in _LABELS:
                self._refuse(f"candidate_label_list holds {label!r}; expected {', '.join(_LABELS)}")
            self._log(query, item, searched, searched + LOOK, _LABELS[label])

    def _next_request(self) -> None:
        self._logged.clear()
        self._requests += 1

    def _log(self, query: str, item: str, shown: datetime, acted: datetime, actions: tuple[str, ...]) -> None:
        for event in ("impression", *actions):
            if (item, event) in self._logged:
                continue
            self._logged.add((item, event))
            self._writer.add_event(
                shown if event == "impression" else acted,
                event=event,
                request_id=f"{self._user_id}-{self._requests}",
                session_id=f"{self._user_id}-{acted.date()}",
                user_id=self._user_id,
                query=query,
                item_id=f"{SOURCE}-{item}",
                position=1,
            )

    def _lists(self, row: dict[str, str], *columns: str) -> list[tuple[str, ...]]:
        lists = [row[column].split("_") if row[column] else [] for column in columns]
        if len(set(map(len, lists))) > 1:
            found = ", ".join(f"{column} {len(entries)}" for column, entries in zip(columns, lists, strict=True))
            self._refuse(f"lists of different lengths ({found})")
        return list(zip(*lists, strict=True))

    def _refuse(self, problem: str) -> None:
        raise InputError(f"{self._where}: {problem}; correct or remove the row")


def words_of_ids(text: str) -> str:
    """Encoded terms as words, `64817571 60257419` → `t64817571 t60257419`: bare numbers in queries look like those of
    telephones and cards, which the cleaning masks."""
    return _NUMBER.sub("t", text.replace("\x18", " "))
