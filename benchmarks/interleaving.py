"""Whether interleaving names the better of two rankers, by simulation: `python benchmarks/interleaving.py` writes benchmarks/interleaving.md.

1. The project's simulated shoppers want items of the sample shop (`Shoppers.wish`), 5,000 requests in 14 days, and react to what they
   see (`Shoppers.react`); some come again, on other days too.
2. Both rankers order by BM25 on what sellers wrote; one of them with more noise added. Which is the better one, and by how much, is known
   by truth: how often the wanted item is among the first ten.
3. A list interleaves both by the server's own team draft, 10 items; log files are written as `smar serve --interleave` writes them, a day each.
4. The judge reads those files alone, by the code of `smar interleaving`, and looks at the end of every day.

Then `smar interleaving` reads a log of ten million events (`write_large_log`), all of interleaved lists, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from smar_model.evaluation.interleaved_experiments import read_experiments
from smar_model.evaluation.preference import LEVEL, Preference
from smar_model.lake.checkout import commit
from smar_model.lake.contracts import load_contract
from smar_model.serving.team_draft import draft
from smar_model.settings import REPOSITORY, Settings, load_settings
from smar_model.shop.open_shop import make_shop
from smar_model.shop.shop_writer import write_parquet
from smar_model.shop.shoppers import Shoppers, Wishes, _words

SETTINGS = REPOSITORY / "configs" / "sample_shop.yaml"
REQUESTS, DAYS, LENGTH = 5_000, 14, 10
FIRST_DAY = date(2026, 11, 1)
CHAMPION, CHALLENGER = "3", "5"
PLAIN, LESS, MORE = 1.0, 1.2, 1.3
"""Standard deviation of the noise on BM25's scores."""
EVENTS = 10_000_000
EARLIER = f"""\
The correction for looks and the gap of 6 points of the first two rows were chosen after other seeds, 0 to 19, had been seen. There the first version, which spent
{LEVEL:g}/(k (k + 1)) at look k, named the better one at a gap of 4 points in 20 and 17 of 20 draws (either of the two better), and at 2 points in 4 of 20.
The present correction then named, on the same seeds, at 6 points 20 and 20 of 20, at 4 points 18 of 20, and of both pairs of equals 0 of 20; at 2 points it
has not been run. The rows above are of seeds that nobody had run before, once, and stand as they came."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One experiment, as its judge and as the truth see it."""

    found: Preference
    champion: float
    """Share of the requests with the wanted item among the first ten."""
    challenger: float


def rank(shoppers: Shoppers, wishes: Wishes, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(requests, LENGTH) rows of the best items."""
    ranked = np.empty((len(wishes.queries), LENGTH), dtype=np.int64)
    for row, query in enumerate(wishes.queries):
        scores = shoppers.title_ranker.get_scores(_words(query))
        scores = scores + noise * rng.standard_normal(len(scores), dtype=np.float32)
        best = np.argpartition(-scores, LENGTH)[:LENGTH]
        ranked[row] = best[np.argsort(-scores[best])]
    return ranked


def write_log(
    root: Path, shoppers: Shoppers, wishes: Wishes, shown: np.ndarray, teams: np.ndarray, rng: np.random.Generator
) -> None:
    """The click log of these requests, as a server writes it."""
    events = shoppers.react(wishes, shown, rng)
    request = events["request"].to_numpy()
    visits = wishes.visits
    day = (visits["visit"].to_numpy() * DAYS // (visits["visit"].max() + 1))[request]
    midnight = int(datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC).timestamp()) * 1_000_000
    team = teams[request, events["position"].to_numpy() - 1]
    log = pd.DataFrame(
        {
            "event_time": midnight + day * 86_400_000_000 + (events["second"].to_numpy() * 1_000_000).astype("int64"),
            "event": events["event"],
            "request_id": [f"r{number:06d}" for number in request],
            "session_id": [f"s{number:06d}" for number in visits["visit"].to_numpy()[request]],
            "user_id": [f"u{number:06d}" for number in visits["shopper"].to_numpy()[request]],
            "query": np.array(wishes.queries, dtype=object)[request],
            "item_id": shoppers.item_ids[events["item"]],
            "position": events["position"].astype("int32"),
            "version": np.where(team == "champion", CHAMPION, CHALLENGER),
            "routing": "shipped",
            "team": team,
        }
    )
    schema = load_contract("click_log").arrow_schema()
    for number, rows in log.groupby(day):
        table = pa.Table.from_pandas(rows.sort_values("event_time", kind="stable"), schema=schema, preserve_index=False)
        write_parquet(root / f"dt={FIRST_DAY + timedelta(days=int(number))}" / "part-0.parquet", table)


def simulate(settings: Settings, shoppers: Shoppers, champion: float, challenger: float, seed: int) -> Draw:
    rng = np.random.default_rng([22, seed])
    wishes = shoppers.wish(REQUESTS, rng)
    lists = [rank(shoppers, wishes, noise, rng) for noise in (champion, challenger)]
    shown, teams = np.empty_like(lists[0]), np.empty(lists[0].shape, dtype=object)
    for row, ranked in enumerate(zip(*lists, strict=True)):
        # By rows as text, as the server drafts ids.
        names = [[str(item) for item in one] for one in ranked]
        for place, pick in enumerate(draft(names[0], names[1], LENGTH, f"{seed}-{row}")):
            shown[row, place], teams[row, place] = ranked[pick.from_challenger][pick.place], pick.team
    wanted = wishes.visits["item"].to_numpy()[:, None]
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "click_log", shoppers, wishes, shown, teams, rng)
        experiments = read_experiments(settings, log=Path(folder) / "click_log")
    (found,) = experiments.preferences
    recalls = [float((ranked == wanted).any(axis=1).mean()) for ranked in lists]
    return Draw(found=found, champion=recalls[0], challenger=recalls[1])


def describe(name: str, draws: list[Draw], better: str | None) -> str:
    named = Counter(drawn.found.verdict for drawn in draws)
    alone = sum(drawn.found.last.p <= LEVEL for drawn in draws)
    daily = sum(any(look.p <= LEVEL for look in drawn.found.looks) for drawn in draws)
    days = [
        len([k for k in d.found.looks if d.found.decided_on and k.day <= d.found.decided_on])
        for d in draws
        if d.found.decided_on
    ]
    preferences = [drawn.found.preference for drawn in draws]
    truth = [np.mean([d.champion for d in draws]), np.mean([d.challenger for d in draws])]
    called = named[better] if better in named else len(draws) - named["open"] if better is None else 0
    wrong = len(draws) - named["open"] - called
    return (
        f"| {name} | {100 * truth[0]:.1f} | {100 * truth[1]:.1f} | {np.mean(preferences):.3f} ({min(preferences):.3f}–{max(preferences):.3f}) | "
        f"**{called} of {len(draws)}** | {wrong} | {f'{np.median(days):g} ({min(days)}–{max(days)})' if days else '–'} | {alone} | {daily} |"
    )


def write_large_log(log: Path) -> int:
    """A log of EVENTS rows or a few more in DAYS days, all of interleaved lists: a request shows 10 items, 40 % have a click; 300,000 shoppers."""
    requests, rows = EVENTS * 5 // 52 // DAYS + 1, 0
    schema = load_contract("click_log").arrow_schema()
    for number in range(DAYS):
        day = FIRST_DAY + timedelta(days=number)
        table = (
            duckdb.sql(f"""
            WITH requests AS (
              SELECT r, hash(r, {number}) AS h, TIMESTAMPTZ '{day} 00:00:00+00' + to_microseconds(r * 80000000000 // {requests}) AS moment
              FROM range({requests}) AS t(r)
            ), shown AS (SELECT *, unnest(range(1, {LENGTH + 1})) AS place, NULL AS kind FROM requests), events AS (
              SELECT *, moment AS event_time, 'impression' AS event FROM shown
              UNION ALL
              SELECT *, moment + INTERVAL 20 SECOND, 'click' FROM shown WHERE h % 5 < 2 AND place = 1 + h // 7 % {LENGTH}
            )
            SELECT
              event_time, event, '{day}-' || r AS request_id, '{day}-' || h % 300000 AS session_id, 'u' || h % 300000 AS user_id,
              'query ' || h % 20000 AS query, 'i' || (h // 11 + place) % 100000 AS item_id, place::INT AS position,
              if((h // 13 + place) % 2 = 0, '{CHAMPION}', '{CHALLENGER}') AS version, 'shipped' AS routing,
              if((h // 13 + place) % 2 = 0, 'champion', 'challenger') AS team
            FROM events ORDER BY event_time, request_id, event DESC, place
            """)
            .arrow()
            .read_all()
        )
        table = pa.table(
            [
                table[name].cast(schema.field(name).type)
                if name in table.column_names
                else pa.nulls(len(table), schema.field(name).type)
                for name in schema.names
            ],
            schema=schema,
        )
        write_parquet(log / f"dt={day}" / "part-0.parquet", table)
        rows += len(table)
    return rows


def measure_large_log() -> str:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "click_log"
        rows = write_large_log(log)
        command = [
            sys.executable,
            "-m",
            "smar_model.cli",
            "interleaving",
            "--settings",
            str(SETTINGS),
            "--log",
            str(log),
        ]
        load, began = os.getloadavg()[0], time.monotonic()
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return (
        f"`smar interleaving` on a log of {rows:,} events, all of interleaved lists, {DAYS} days in Parquet: {seconds:.0f} s, {peak:,.0f} MB at most "
        f"(load average of the machine before: {load:.1f}). "
        "Its clicks are arithmetic, which favours the challenger's items a little (50.5 % of them): the verdict says nothing of any ranker. It printed:\n\n"
        + "".join(f"    {line}\n" for line in done.stdout.strip().splitlines() if line)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--write", type=Path, default=REPOSITORY / "benchmarks" / "interleaving.md")
    arguments = parser.parse_args()
    settings = load_settings(SETTINGS)
    make_shop(settings)
    assert settings.shop.simulation
    shoppers = Shoppers.load(
        settings.shop_folder, simulation=settings.shop.simulation, visual_departments=settings.shop.visual_departments
    )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.draws)
    lines = [
        f"# Interleaving, simulated, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Written whole by `python benchmarks/interleaving.py --draws {arguments.draws} --first-seed {arguments.first_seed}`, commit {commit()}, "
        f"{os.cpu_count()} cores, {platform.machine()}; seeds {seeds[0]} to {seeds[-1]} for each row.",
        "The head of that file says how shoppers, rankers and lists are simulated; the judge is the code of `smar interleaving`, which reads log files alone.",
        "",
        f"{REQUESTS:,} interleaved requests each, over {DAYS} days, a look a day. Truth: requests with the wanted item among the first ten, per cent.",
        "*Named*: draws in which the better one (of equal ones: either) was shown to be preferred, corrected for all looks.",
        "",
        "| champion and challenger | truth, champion | challenger | preference (range) | named | named wrongly | day of the verdict (range) | p ≤ .05 at the last look | at any look, uncorrected |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, champion, challenger, better in (
        ("the challenger is better", MORE, PLAIN, "challenger"),
        ("the champion is better", PLAIN, MORE, "champion"),
        ("equal, other lists (A/A)", MORE, MORE, None),
        ("equal and better, other lists (A/A)", PLAIN, PLAIN, None),
        ("the challenger is better, by less", LESS, PLAIN, "challenger"),
    ):
        draws = [simulate(settings, shoppers, champion, challenger, seed) for seed in seeds]
        lines.append(describe(name, draws, better))
        print(lines[-1], flush=True)
    lines += ["", EARLIER, "", "## Ten million events", "", measure_large_log()]
    arguments.write.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
