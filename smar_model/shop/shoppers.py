"""Simulated shoppers: they write a day of the click log over any catalogue whose true attributes are known.

1. Visits: a shopper (a few visit often) makes one to six requests, each with one item in mind, popular ones more often.
2. She types some of its true attributes in her own words (`wording.py`); some words nobody types before a day that settings
   name (`synonyms.py`).
3. She sees a list by one of four rankers, drawn by `POLICIES`; neighbours are swapped at random in half of the lists,
   so that what a place does to clicks can be told apart from what the item does.
4. She looks at place k with `EXAMINATION[k]`, clicks by how well the item fits, then may put it in the cart and order.

A day depends on the catalogue, the settings, the seed and the date alone: the same bytes whenever it is written.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random

import bm25s
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import Simulation
from smar_model.shop.catalogue import read_truth
from smar_model.shop.faults import add_log_faults
from smar_model.shop.log_files import files_not_served, simulated_log
from smar_model.shop.shop_writer import write_parquet
from smar_model.shop.synonyms import forms_on
from smar_model.shop.vocabulary import Forms, typed_forms
from smar_model.shop.wording import word_query

LIST_LENGTH = 12
POLICIES = {"title": 0.35, "popularity": 0.10, "relevant": 0.45, "random": 0.10}
"""Share of requests by the ranker of the list: BM25 on what the seller wrote; the department's best sellers; any
items that match all named attributes; any items at all."""
EXAMINATION = np.array([1.0, 0.85, 0.73, 0.63, 0.55, 0.48, 0.42, 0.37, 0.33, 0.29, 0.26, 0.23])
"""Chance that a shopper looks at a place of the list, from the top."""
CLICKS = {"wanted": 0.85, "matches": 0.25, "other": 0.015}
"""Chance of a click on an item looked at: the one in mind, one with all named attributes, any other."""
CARTS = {"wanted": 0.50, "matches": 0.20, "other": 0.05}
"""Chance of the cart after a click."""
ORDERED = 0.5
"""Chance of an order after the cart."""
WANTED_SHOWN = 0.8
"""Share of the `relevant` lists in which the wanted item is present."""
SWAPPED_LISTS, SWAPPED_PAIRS = 0.5, 0.5
SAME_ITEM_AGAIN = 0.4
"""Share of later requests of a visit that reword the former one's wish."""
VISIT_LENGTHS = {1: 0.45, 2: 0.25, 3: 0.14, 4: 0.08, 5: 0.05, 6: 0.03}
REQUESTS_PER_SHOPPER = 2
"""Requests of a day divided by the number of shoppers; their visits are skewed."""
HOURS = np.array([2, 1, 1, 1, 1, 2, 3, 5, 6, 7, 7, 7, 8, 8, 7, 7, 7, 8, 10, 12, 13, 12, 8, 4], dtype=float)
"""Visits by hour of the day (UTC), relative."""
LONGEST_VISIT_SECONDS = 1_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Requests of simulated shoppers, in the order of their visits."""

    visits: pd.DataFrame
    """One row a request: number of the visit and the shopper, second of the day, row of the item in mind."""
    queries: list[str]
    named: list[dict[str, str]]
    """True attributes that each query names."""
    matches: np.ndarray
    """(requests, N) bool: which items have all of them."""


@dataclass(slots=True, kw_only=True)
class Shoppers:
    """A catalogue as its shoppers know it: rows are items in the order of their ids, only those with truth."""

    simulation: Simulation
    item_ids: np.ndarray
    """(N,) of str objects."""
    truths: list[dict[str, str]]
    visual: np.ndarray
    """(N,) bool: whether the item's department is one in which pictures matter."""
    departments: np.ndarray
    """(N,) codes."""
    popularity: np.ndarray
    """(N,) chance that a request is about the item."""
    title_ranker: bm25s.BM25
    values: dict[tuple[str, str], np.ndarray]
    """(attribute, true value) → (N,) bool."""

    @classmethod
    def load(cls, root: Path, *, simulation: Simulation, visual_departments: Sequence[str]) -> Shoppers:
        """Read a shop's catalogue and truth.

        Raises:
            InputError: the shop has no catalogue or no truth, or they share no item.
        """
        shop = ShopInputs(root)
        truth_file = shop.truth_items()
        if not isinstance(truth_file, Path):
            raise InputError(
                f"{root / 'truth' / 'items.parquet'}: no true attributes; shoppers can be simulated only over a catalogue that "
                "`smar shop make` or `smar shop import` wrote"
            )
        truth = read_truth([truth_file])
        columns = ["item_id", "title", "category", "brand", "attributes"]
        items = pd.concat([pq.read_table(f, columns=columns).to_pandas() for f in shop.items()])
        items = (
            items[items["item_id"].isin(truth.keys())]
            .drop_duplicates("item_id")
            .sort_values("item_id", ignore_index=True)
        )
        truths = [truth[i] for i in items["item_id"]]
        if not len(items) or not all(truths):
            raise InputError(
                f"{truth_file}: has true attributes for no item of the catalogue, or empty ones; import the catalogue again"
            )

        department = items["category"].str.split(" > ").str[0]
        texts = items["title"] + " " + items["category"] + " " + items["brand"].fillna("")
        texts += [" " + " ".join(value for _, value in a) if a is not None else "" for a in items["attributes"]]
        ranker = bm25s.BM25()
        ranker.index([_words(text) for text in texts], show_progress=False)
        # Weight falls with the rank as a power, flattened at the top: the best seller draws ten times the mean.
        rank = np.random.default_rng([simulation.seed, 1]).permutation(len(items))
        popularity = (rank + 10.0) ** -0.6
        values: dict[tuple[str, str], np.ndarray] = {}
        for row, attributes in enumerate(truths):
            for pair in attributes.items():
                values.setdefault(pair, np.zeros(len(items), dtype=bool))[row] = True
        return cls(
            simulation=simulation,
            item_ids=items["item_id"].to_numpy(dtype=object),
            truths=truths,
            visual=department.isin(visual_departments).to_numpy(),
            departments=pd.factorize(department, sort=True)[0],
            popularity=popularity / popularity.sum(),
            title_ranker=ranker,
            values=values,
        )

    def write_day(self, root: Path, day: date) -> dict[str, int]:
        """Write the day's click log and truth, each file whole or not at all, the log last; returns counts.

        Raises:
            InputError: the day's log is there already and comes from elsewhere.
        """
        log_file, truth_folder = simulated_log(root, day), root / "truth" / "requests" / f"dt={day}"
        others = set(files_not_served(log_file.parent)) - {log_file}
        if others or (log_file.exists() and not truth_folder.exists()):
            raise InputError(
                f"{log_file.parent}: this day's log was not written by simulated shoppers; move it away or choose another date"
            )
        requests, events = self.simulate_day(day)
        # What is half-written lies outside the folders that readers list.
        writing = root / ".writing"
        shutil.rmtree(writing, ignore_errors=True)
        write_parquet(writing / "requests" / "part-0.parquet", requests)
        write_parquet(writing / "log" / log_file.name, events)
        # The log is the first to go and the last to come: where it stands, the day is complete.
        for number, old in enumerate((log_file, truth_folder)):
            old.parent.mkdir(parents=True, exist_ok=True)
            if old.exists():
                os.rename(old, writing / f"old-{number}")
        os.rename(writing / "requests", truth_folder)
        os.rename(writing / "log" / log_file.name, log_file)
        shutil.rmtree(writing)
        return {"requests": requests.num_rows, "events": events.num_rows}

    def wish(self, count: int, rng: np.random.Generator, forms: Forms = typed_forms) -> Wishes:
        """What shoppers want within a day, in `count` requests, in these words."""
        random = Random(int(rng.integers(2**63)))
        visits = self._visits(count, rng)
        queries, named = [], []
        for item in visits["item"]:
            query, attributes = word_query(
                self.truths[item], visual=bool(self.visual[item]), random=random, forms=forms
            )
            queries.append(query)
            named.append(attributes)
        return Wishes(visits=visits, queries=queries, named=named, matches=self._matches(named))

    def simulate_day(self, day: date) -> tuple[pa.Table, pa.Table]:
        """Truth of the day's requests (`truth_requests`) and its events (`click_log`) in the order of time."""
        rng = np.random.default_rng([self.simulation.seed, day.toordinal()])
        wishes = self.wish(self.simulation.requests_per_day, rng, forms_on(day, self.simulation))
        visits, queries, count = wishes.visits, wishes.queries, len(wishes.queries)
        policies = rng.choice(np.array(list(POLICIES)), size=count, p=list(POLICIES.values()))
        shown = self._lists(rng, visits["item"].to_numpy(), queries, wishes.matches, policies)

        stamp = f"{day:%Y%m%d}"
        request_ids = np.array([f"r{stamp}-{n:06d}" for n in range(count)], dtype=object)
        session_ids = np.array([f"s{stamp}-{n:06d}" for n in visits["visit"]], dtype=object)
        user_ids = np.array([f"u{n:06d}" for n in visits["shopper"]], dtype=object)
        requests = pa.Table.from_pydict(
            {
                "request_id": request_ids,
                "query": queries,
                "item_id": self.item_ids[visits["item"]],
                "named": [sorted(n.items()) for n in wishes.named],
                "policy": policies.astype(object),
            },
            schema=load_contract("truth_requests").arrow_schema(),
        )
        happened = self.react(wishes, shown, rng)
        request = happened["request"].to_numpy()
        midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1_000_000)
        events = pd.DataFrame(
            {
                "event_time": midnight + (happened["second"] * 1_000_000).astype("int64"),
                "event": happened["event"],
                "request_id": request_ids[request],
                "session_id": session_ids[request],
                "user_id": user_ids[request],
                "query": np.array(queries, dtype=object)[request],
                "item_id": self.item_ids[happened["item"]],
                "position": happened["position"].astype("int32"),
            }
        )
        if self.simulation.faults:
            events = add_log_faults(events, share=self.simulation.faults, day=day, rng=rng).drop(columns="fault")
        # Stable: at one moment a list stays in the order of its places.
        events = events.sort_values("event_time", kind="stable", ignore_index=True)
        # A log as it is delivered promises nothing about nulls, and has none of the columns that a server adds.
        columns = load_contract("click_log").arrow_schema()
        schema = pa.schema([field.with_nullable(True) for field in columns if field.name in events.columns])
        return requests, pa.Table.from_pandas(events, schema=schema, preserve_index=False).replace_schema_metadata(None)

    def _visits(self, count: int, rng: np.random.Generator) -> pd.DataFrame:
        """As `Wishes.visits`."""
        lengths = rng.choice(list(VISIT_LENGTHS), size=count, p=list(VISIT_LENGTHS.values()))
        visit = np.repeat(np.arange(count), lengths)[:count]
        place = np.arange(count) - np.searchsorted(visit, visit)
        visits = visit[-1] + 1

        shoppers = max(20, count // REQUESTS_PER_SHOPPER)
        activity = (np.arange(shoppers) + 5.0) ** -0.6
        shopper = rng.choice(shoppers, size=visits, p=activity / activity.sum())
        hour = rng.choice(24, size=visits, p=HOURS / HOURS.sum())
        start = np.minimum((hour + rng.random(visits)) * 3600, 24 * 3600 - LONGEST_VISIT_SECONDS)
        item = rng.choice(len(self.item_ids), size=count, p=self.popularity)
        again = (place > 0) & (rng.random(count) < SAME_ITEM_AGAIN)
        # The wish that is reworded is the last one that was new.
        item = item[np.maximum.accumulate(np.where(again, 0, np.arange(count)))]
        second = start[visit] + place * 120 + rng.random(count) * 100
        return pd.DataFrame({"visit": visit, "shopper": shopper[visit], "second": second, "item": item})

    def _matches(self, named: list[dict[str, str]]) -> np.ndarray:
        """(requests, N) bool: which items have all named attributes."""
        matches = np.ones((len(named), len(self.item_ids)), dtype=bool)
        for row, attributes in enumerate(named):
            for pair in attributes.items():
                matches[row] &= self.values[pair]
        return matches

    def _lists(
        self,
        rng: np.random.Generator,
        wanted: np.ndarray,
        queries: list[str],
        matches: np.ndarray,
        policies: np.ndarray,
    ) -> np.ndarray:
        """(requests, length) rows of the items shown, from the top; no item twice in a list."""
        items = len(self.item_ids)
        length = min(LIST_LENGTH, items)
        shown = np.empty((len(queries), length), dtype=np.int64)
        for row, policy in enumerate(policies):
            noise = rng.random(items, dtype=np.float32)
            if policy == "title":
                score = self.title_ranker.get_scores(_words(queries[row])) + 1e-3 * noise
            elif policy == "popularity":
                # Nearly the best sellers: the same dozen for everybody would teach nothing.
                score = self.popularity * (0.5 + noise) + (self.departments == self.departments[wanted[row]])
            elif policy == "relevant":
                score = noise + matches[row]
                score[wanted[row]] = noise[wanted[row]] / length + 3 if rng.random() < WANTED_SHOWN else -1
            else:
                score = noise
            best = np.argpartition(-score, length - 1)[:length]
            best = best[np.lexsort((best, -score[best]))]
            # Any order will do where all of them fit alike.
            shown[row] = rng.permutation(best) if policy == "relevant" else best
        swapped_lists = rng.random(len(queries)) < SWAPPED_LISTS
        first = rng.integers(0, 2, len(queries))
        for pair in range(length - 1):
            rows = np.flatnonzero(swapped_lists & (pair % 2 == first) & (rng.random(len(queries)) < SWAPPED_PAIRS))
            shown[rows, pair], shown[rows, pair + 1] = shown[rows, pair + 1], shown[rows, pair]
        return shown

    def react(self, wishes: Wishes, shown: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        """What shoppers see and do, given a list for each request.

        Args:
            shown: (requests, up to LIST_LENGTH) rows of the items, from the top.

        Returns:
            One row an event: row of the request, event, row of the item, position from 1, second of the day.
        """
        visits, length = wishes.visits, shown.shape[1]
        fit = np.where(np.take_along_axis(wishes.matches, shown, axis=1), "matches", "other")
        fit[shown == visits["item"].to_numpy()[:, None]] = "wanted"

        def chance(table: dict[str, float]) -> np.ndarray:
            return np.select([fit == name for name in table], list(table.values()))

        clicked = rng.random(shown.shape) < EXAMINATION[:length] * chance(CLICKS)
        carted = clicked & (rng.random(shown.shape) < chance(CARTS))
        ordered = carted & (rng.random(shown.shape) < ORDERED)
        seen_at = np.repeat(visits["second"].to_numpy()[:, None], length, axis=1)
        clicked_at = seen_at + 2 + 3 * np.arange(length) + 5 * rng.random(shown.shape)
        carted_at = clicked_at + 10 + 60 * rng.random(shown.shape)
        ordered_at = carted_at + 30 + 300 * rng.random(shown.shape)
        parts = []
        for event, mask, second in (
            ("impression", np.ones_like(clicked), seen_at),
            ("click", clicked, clicked_at),
            ("cart", carted, carted_at),
            ("order", ordered, ordered_at),
        ):
            request, place = np.nonzero(mask)
            parts.append(
                pd.DataFrame(
                    {
                        "request": request,
                        "event": event,
                        "item": shown[mask],
                        "position": place + 1,
                        "second": second[mask],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
