"""Does `evaluate` name the better of two engines from the log of one of them? Prints the tables of incumbent.md.

    python benchmarks/incumbent.py                      # the drawn sample shop: ten minutes
    python benchmarks/incumbent.py --shop FOLDER        # a mixture of rankers over a shop that `smar shop import` wrote

People are the project's simulated shoppers. The judge sees a log, as the table `shown_lists` has it, and nothing of their truth:

1. Shoppers make 5,000 requests. An incumbent answers each with 12 items; neighbours are swapped at random in half of the lists.
2. Propensities are estimated from that log by the estimator of extract-clicks (`jobs/position_bias.py`); nobody tells them.
3. A candidate orders the items of each shown list; `order_within_lists` compares it with the incumbent's order as shown.
4. Better is said if the difference is positive at p ≤ .01, two-sided by the permutation of clusters, worse likewise.

Which one is better is known by truth (`by_truth`): what each order of the shown lists is worth, had everybody looked at all places. In an
A/A pair the candidate is a draw of the very distribution that made the shown order: the same scores, noise and swaps of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from jobs.position_bias import estimate_propensities
from smar_model.evaluation.evaluation_record import Difference, Estimate
from smar_model.evaluation.incumbent import ClickedLists, discounted, order_within_lists
from smar_model.evaluation.measured_rows import circumstances
from smar_model.evaluation.shown_lists import ShownLists
from smar_model.settings import REPOSITORY, Simulation
from smar_model.shop.catalogue import write_catalogue
from smar_model.shop.sample_shop import draw_sample_shop
from smar_model.shop.shoppers import LIST_LENGTH, SWAPPED_LISTS, SWAPPED_PAIRS, Shoppers, Wishes

REQUESTS, DRAWS, LEVEL = 5_000, 20, 0.01
SAMPLES, PERMUTATIONS = 200, 2_000
PAGE = REPOSITORY / "benchmarks" / "incumbent.md"

Scores = Callable[[Wishes, np.random.Generator], np.ndarray]
"""(requests, N) of all items, higher is better."""


def bm25(shoppers: Shoppers, *, noise: float = 0.0) -> Scores:
    """BM25 on what sellers wrote, scores divided by the best of the query; `noise` is the standard deviation of what is added."""

    def score(wishes: Wishes, rng: np.random.Generator) -> np.ndarray:
        rows = np.stack([shoppers.title_ranker.get_scores(query.split()) for query in wishes.queries])
        rows = rows / np.maximum(rows.max(axis=1, keepdims=True), 1e-9)
        return rows + (noise or 1e-3) * rng.standard_normal(rows.shape, dtype=np.float32)

    return score


def popularity(shoppers: Shoppers) -> Scores:
    """Best sellers, with the noise of a day's sales."""

    def score(wishes: Wishes, rng: np.random.Generator) -> np.ndarray:
        count = len(wishes.queries)
        return (shoppers.popularity / shoppers.popularity.max()) * rng.uniform(
            0.5, 1.5, (count, len(shoppers.item_ids))
        )

    return score


def mixture(*parts: tuple[float, Scores]) -> Scores:
    """Weighted sum of rankers' scores: an engine that looks at words and at sales."""

    def score(wishes: Wishes, rng: np.random.Generator) -> np.ndarray:
        return np.sum([weight * part(wishes, rng) for weight, part in parts], axis=0)

    return score


@dataclass(frozen=True, kw_only=True)
class Log:
    """What an incumbent showed and what came of it."""

    wishes: Wishes
    lists: ShownLists
    propensities: np.ndarray


def swap_neighbours(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As the shop's log has them (`shoppers.py`): without, places could not be told from items."""
    shown = shown.copy()
    swapped, first = rng.random(len(shown)) < SWAPPED_LISTS, rng.integers(0, 2, len(shown))
    for place in range(shown.shape[1] - 1):
        rows = np.flatnonzero(swapped & (place % 2 == first) & (rng.random(len(shown)) < SWAPPED_PAIRS))
        shown[rows, place], shown[rows, place + 1] = shown[rows, place + 1], shown[rows, place]
    return shown


def show_lists(shoppers: Shoppers, engine: Scores, requests: int, rng: np.random.Generator) -> Log:
    wishes = shoppers.wish(requests, rng)
    scores = engine(wishes, rng)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :LIST_LENGTH]
    shown = swap_neighbours(best, rng)
    events = shoppers.react(wishes, shown, rng)
    clicks = events[events["event"] == "click"]
    clicked = np.zeros(shown.shape, dtype=bool)
    clicked[clicks["request"], clicks["position"] - 1] = True
    lists = ShownLists(
        request_ids=np.arange(requests).astype(str).astype(object),
        queries=np.array(wishes.queries, dtype=object),
        rows=shown.astype(np.int32),
        positions=np.broadcast_to(np.arange(1, shown.shape[1] + 1, dtype=np.int32), shown.shape),
        clicked=clicked,
        versions={},
        counts={},
    )
    return Log(wishes=wishes, lists=lists, propensities=propensities(lists))


def propensities(lists: ShownLists) -> np.ndarray:
    """As extract-clicks has them: from pairs of query and item that were shown at several places and clicked."""
    _, query = np.unique(lists.queries.astype(str), return_inverse=True)
    places = lists.rows.shape[1]
    items = int(lists.rows.max()) + 1
    pair = (query[:, None].astype(np.int64) * items + lists.rows).ravel()
    seen, cell = np.unique(pair * places + (lists.positions.ravel() - 1), return_inverse=True)
    impressions, clicks = np.bincount(cell), np.bincount(cell, lists.clicked.ravel())
    _, number = np.unique(seen // places, return_inverse=True)
    told = (np.bincount(number) > 1) & (np.bincount(number, clicks) > 0)
    kept = told[number]
    _, renumbered = np.unique(number[kept], return_inverse=True)
    theta, _ = estimate_propensities(
        renumbered, seen[kept] % places + 1, impressions[kept], clicks[kept], positions=places
    )
    return theta


def reorder(engine: Scores, log: Log, rng: np.random.Generator) -> np.ndarray:
    """(R, L) scores of the shown items by another engine."""
    return np.take_along_axis(engine(log.wishes, rng), log.lists.rows.astype(np.int64), axis=1)


def like_the_incumbent(engine: Scores, log: Log, rng: np.random.Generator) -> np.ndarray:
    """The shown items in an order that the incumbent might as well have shown: its own noise and swaps, drawn anew."""
    order = np.argsort(-reorder(engine, log, rng), axis=1, kind="stable")
    order = swap_neighbours(order, rng)
    scores = np.empty(order.shape)
    np.put_along_axis(scores, order, np.broadcast_to(-np.arange(order.shape[1], dtype=float), order.shape), axis=1)
    return scores


def compare(
    log: Log, candidates: dict[str, np.ndarray], *, seed: int
) -> tuple[dict[str, Estimate], dict[str, Difference], float]:
    """Figures and differences from the incumbent's order, and effective clicks, by the code of evaluate."""
    clicked = ClickedLists.of(log.lists, log.propensities, maximum=len(log.lists), seed=seed)
    assert clicked is not None
    gains = {
        name: discounted(scores[clicked.numbers], clicked.rows, clicked.weights) for name, scores in candidates.items()
    }
    found = order_within_lists(clicked, gains, samples=SAMPLES, permutations=PERMUTATIONS, seed=seed)
    return found.models, found.differences, found.effective_clicks


def by_truth(log: Log, scores: np.ndarray) -> float:
    """What an order is worth, told the truth: Σ a / log2(1 + rank) / Σ a over the shown items, a the chance of a click on one looked at."""
    wanted = log.wishes.visits["item"].to_numpy()[:, None]
    fits = np.take_along_axis(log.wishes.matches, log.lists.rows.astype(np.int64), axis=1)
    attraction = np.where(log.lists.rows == wanted, 0.85, np.where(fits, 0.25, 0.015))
    return float(discounted(scores, log.lists.rows, attraction).sum() / attraction.sum())


def as_shown(log: Log) -> np.ndarray:
    return np.broadcast_to(-np.arange(log.lists.rows.shape[1], dtype=float), log.lists.rows.shape)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    incumbent: Scores
    candidate: Scores | None
    """None: an A/A pair."""


def run_case(shoppers: Shoppers, case: Case, *, draws: int, requests: int) -> str:
    """A row of the page."""
    right, called, means, truths, effective = 0, 0, [], [], []
    for draw in range(draws):
        rng = np.random.default_rng([draw, 22])
        log = show_lists(shoppers, case.incumbent, requests, rng)
        other = reorder(case.candidate, log, rng) if case.candidate else like_the_incumbent(case.incumbent, log, rng)
        truths.append(by_truth(log, other) - by_truth(log, as_shown(log)))
        _, differences, clicks = compare(log, {"candidate": other}, seed=draw)
        found = differences["candidate"]
        assert found.mean is not None and found.p is not None
        means.append(found.mean)
        effective.append(clicks)
        if found.p <= LEVEL:
            called += 1
            right += np.sign(found.mean) == np.sign(np.mean(truths))
    spread = f"{100 * np.mean(means):+.2f} ({100 * min(means):+.2f} to {100 * max(means):+.2f})"
    verdict = f"{right} of {draws}" if case.candidate else "–"
    print(case.name, f"truth {100 * np.mean(truths):+.2f}", spread, f"called {called}", verdict, flush=True)
    cells = [case.name, f"{100 * np.mean(truths):+.2f}", spread, f"{np.mean(effective):,.0f}", verdict]
    return f"| {' | '.join([*cells, f'{called} of {draws}']).replace('-', '−')} |"


def sample_shop(folder: Path, *, items: int) -> Shoppers:
    simulation = Simulation(seed=7, items=items, requests_per_day=100, masked={"colour": 0.6, "type": 0.2})
    write_catalogue(folder, draw_sample_shop(simulation))
    return Shoppers.load(folder, simulation=simulation, visual_departments=["Clothing", "Shoes"])


def cases(shoppers: Shoppers) -> list[Case]:
    good, sellers = bm25(shoppers), popularity(shoppers)
    return [
        Case(name="BM25 with noise 0.1 → BM25", incumbent=bm25(shoppers, noise=0.1), candidate=good),
        Case(name="BM25 → BM25 with noise 0.25", incumbent=good, candidate=bm25(shoppers, noise=0.25)),
        Case(name="BM25 and twice best sellers → BM25", incumbent=mixture((1, good), (2, sellers)), candidate=good),
        Case(name="small: BM25 → BM25 and best sellers", incumbent=good, candidate=mixture((1, good), (1, sellers))),
        Case(name="A/A: BM25", incumbent=good, candidate=None),
        Case(name="A/A: BM25 and best sellers", incumbent=mixture((1, good), (0.5, sellers)), candidate=None),
        Case(name="errors of its own: BM25 with noise 0.25", incumbent=bm25(shoppers, noise=0.25), candidate=None),
    ]


ENGINES = {"BM25": 0.6, "best sellers": 0.25, "any items": 0.15}
"""The mixture of rankers that answers on real products: share of requests."""


def real_products(root: Path, *, requests: int, seed: int) -> str:
    """The table of a mixture of rankers as incumbent, over a shop with truth."""
    simulation = Simulation(seed=1, requests_per_day=requests, masked={"colour": 0.7, "type": 0.3})
    shoppers = Shoppers.load(root, simulation=simulation, visual_departments=["Apparel", "Accessories", "Footwear"])
    good, sellers = bm25(shoppers), popularity(shoppers)

    def any_of_them(wishes: Wishes, rng: np.random.Generator) -> np.ndarray:
        count, items = len(wishes.queries), len(shoppers.item_ids)
        parts = np.stack([good(wishes, rng), sellers(wishes, rng), rng.random((count, items))])
        drawn = rng.choice(len(ENGINES), count, p=list(ENGINES.values()))
        return parts[drawn, np.arange(count)]

    rng = np.random.default_rng([seed, 22])
    log = show_lists(shoppers, any_of_them, requests, rng)
    orders = {
        "BM25": good,
        "BM25 with noise 0.25": bm25(shoppers, noise=0.25),
        "BM25 and best sellers": mixture((1, good), (1, sellers)),
        "best sellers": sellers,
    }
    scores = {name: reorder(engine, log, rng) for name, engine in orders.items()}
    models, differences, effective = compare(log, scores, seed=seed)
    rows = [
        f"{len(shoppers.item_ids):,} items, {requests:,} requests, {effective:,.0f} effective clicks, propensity of place 12: "
        f"{log.propensities[-1]:.2f}",
        "",
        "| order of the shown list | %, 95 % interval | minus the incumbent, points | p | by truth, points |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, figure in models.items():
        level = f"{100 * (figure.mean or 0):.1f} ({100 * (figure.low or 0):.1f} to {100 * (figure.high or 0):.1f})"
        if name in differences:
            d = differences[name]
            assert d.mean is not None and d.low is not None and d.high is not None
            truth = by_truth(log, scores[name]) - by_truth(log, as_shown(log))
            cells = [
                f"{100 * d.mean:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})",
                f"{d.p:.4f}",
                f"{100 * truth:+.1f}",
            ]
        else:
            cells = ["", "", ""]
        rows.append(f"| {' | '.join([name, level, *cells]).replace('-', '−')} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--items", type=int, default=1_500)
    parser.add_argument("--case", help="only cases whose name holds this")
    parser.add_argument("--shop", type=Path, help="a shop with truth: its table alone")
    options = parser.parse_args()
    started = datetime.now(UTC)
    if options.shop:
        print(circumstances())
        print(real_products(options.shop, requests=options.requests, seed=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        shoppers = sample_shop(Path(folder), items=options.items)
        rows = [
            run_case(shoppers, case, draws=options.draws, requests=options.requests)
            for case in cases(shoppers)
            if not options.case or options.case in case.name
        ]
    print(circumstances(), (datetime.now(UTC) - started).seconds, "s")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
