"""The loop with its real parts: a day is served and logged, one kill in it; the next day's DAG reads it, trains, judges and promotes.

`make test-live` serves 20,000 requests, `make test-services` fewer (SMAR_TEST_LIVE_REQUESTS).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import yaml

from jobs.extract_click_days import BOT_CLICKS
from smar_model.lake.runs import load_run
from smar_model.release.promote import promote_run
from smar_model.release.register import register_run
from smar_model.release.registry import CHAMPION, Registry
from smar_model.settings import REPOSITORY, Simulation
from smar_model.shop.shoppers import Shoppers
from tests.evaluation.published_run import NETWORK
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.release.judged_runs import EASY, judged_run
from tests.services.live_shoppers import Book, send_shoppers
from tests.tiny_shop import QUICK_JVM, tiny_settings, write_tiny_shop

REQUESTS = int(os.environ.get("SMAR_TEST_LIVE_REQUESTS", "1500"))
CLIENTS = 16
KILL_AFTER = 0.6
"""Share of the requests."""
LOST_SECONDS = 1.0
"""Before a kill: what was answered within them may be lost."""
ACTIONS = ("click", "cart", "order")


@dataclass(frozen=True, kw_only=True)
class LivedDay:
    home: Path
    settings: Path
    day: date
    book: Book
    killed_at: float
    restarted_at: float
    log: list[dict[str, Any]]
    """All rows that the server wrote."""


def start_server(home: Path, settings: Path, port: int) -> tuple[subprocess.Popen[str], int]:
    """A server that logs into the shop's own click log, and its port. It may not be ready yet."""
    options = {"--settings": settings, "--port": port, "--log": home / "shop" / "click_log", "--drain-seconds": 0}
    process = subprocess.Popen(
        [sys.executable, "-m", "smar_model.cli", "serve", *(str(word) for pair in options.items() for word in pair)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=(home / "server.log").open("a"),
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
    assert found, said + (home / "server.log").read_text(encoding="utf-8")
    return process, int(found[1])


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return bool(json.loads(answer.read())["ready"])
    except OSError:
        return False


def wait_for_a_day_that_lasts() -> date:
    """Today in UTC, which does not end while the test serves it."""
    while (now := datetime.now(UTC)).time() > (datetime(2026, 1, 1, 23, 40)).time():
        time.sleep(20)
    return now.date()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivedDay]:
    home = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        write_tiny_shop(home / "shop")
        first = judged_run(home, "first", seed=1)
        register_run(first)
        promote_run(first, approved_by="", rejected_by="", comment="")
        day = wait_for_a_day_that_lasts()
        simulation = Simulation(requests_per_day=REQUESTS)
        shoppers = Shoppers.load(home / "shop", simulation=simulation, visual_departments=["Clothing"])
        for before in (day - timedelta(days=2), day - timedelta(days=1)):
            shoppers.write_day(home / "shop", before)
        # What shoppers have in mind they alone know.
        shutil.rmtree(home / "shop" / "truth")
        settings = live_settings(home)
        book, killed_at, restarted_at = serve_a_day(home, settings, shoppers)
        files = sorted((home / "shop" / "click_log" / f"dt={day}").iterdir())
        assert all(file.suffix == ".jsonl" and not file.name.startswith(".") for file in files), files
        log = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        yield LivedDay(
            home=home,
            settings=settings,
            day=day,
            book=book,
            killed_at=killed_at,
            restarted_at=restarted_at,
            log=log,
        )


def live_settings(home: Path) -> Path:
    # A day's shoppers come within minutes here, which in a shop nobody but bots would.
    content = tiny_settings(
        home / "shop",
        network=NETWORK,
        gate=EASY,
        clicks={"bot_requests_per_day": 10**6, "bot_requests_per_minute": 10**6},
    ).model_dump(mode="json")
    content["spark"]["options"] = {"spark.driver.extraJavaOptions": QUICK_JVM}
    path = home / "live.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def serve_a_day(home: Path, settings: Path, shoppers: Shoppers) -> tuple[Book, float, float]:
    """Serve all requests, with a kill in their midst; returns what the shoppers know, when the kill was and when a server was there again."""
    book, killed_at, restarted_at = Book(), 0.0, 0.0
    server, port = start_server(home, settings, 0)
    try:
        wait_until(lambda: is_ready(port), still_possible=lambda: server.poll() is None)

        async def kill_and_restart() -> None:
            nonlocal server, killed_at, restarted_at
            while len(book.answered) < KILL_AFTER * REQUESTS:
                await asyncio.sleep(0.01)
            killed_at = time.time()
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            server, _ = await asyncio.to_thread(start_server, home, settings, port)
            restarted_at = time.time()

        send_shoppers(
            f"http://127.0.0.1:{port}",
            shoppers,
            REQUESTS,
            book,
            clients=CLIENTS,
            seed=11,
            meanwhile=kill_and_restart,
        )
        server.terminate()
        assert server.wait(timeout=PATIENCE_SECONDS) == 0
    finally:
        server.kill()
        server.wait()
    return book, killed_at, restarted_at


def is_sure(lived: LivedDay, at: float) -> bool:
    # What the killed server had sent may be read when it is gone.
    return not lived.killed_at - LOST_SECONDS <= at <= lived.restarted_at


def test_every_durable_answer_is_there_once_as_it_was_given(lived: LivedDay) -> None:
    assert len(lived.book.answered) == REQUESTS
    impressions = [row for row in lived.log if row["event"] == "impression"]
    places = Counter((row["request_id"], row["position"]) for row in impressions)
    assert max(places.values()) == 1, "nothing is written twice"
    shown: dict[str, dict[int, str]] = {}
    for row in impressions:
        shown.setdefault(row["request_id"], {})[row["position"]] = row["item_id"]
    answered = {each.request_id: each for each in lived.book.answered}
    lost = [each for each in answered.values() if each.request_id not in shown]
    assert not [each for each in lost if is_sure(lived, each.at)]
    assert len(shown.keys() - answered.keys()) <= lived.book.unanswered <= CLIENTS
    for request_id in shown.keys() & answered.keys():
        assert shown[request_id] == dict(enumerate(answered[request_id].items, start=1))
    assert {row["version"] for row in impressions} == {"1"}
    assert {row["routing"] for row in impressions} == {"shipped"}
    print(
        f"{len(answered):,} answers, {len(lost)} lost within {LOST_SECONDS:g} s of the kill, {lived.book.unanswered} broken"
    )


def test_every_durable_event_is_there_once(lived: LivedDay) -> None:
    actions = [row for row in lived.log if row["event"] != "impression"]
    written = Counter((row["event"], row["request_id"], row["item_id"]) for row in actions)
    assert max(written.values()) == 1, "nothing is written twice"
    taken = {each.key: each for each in lived.book.taken}
    in_doubt = {each.key for each in lived.book.in_doubt}
    assert not [each for key, each in taken.items() if key not in written and is_sure(lived, each.at)]
    assert written.keys() <= taken.keys() | in_doubt
    assert {kind for kind, _, _ in written} == set(ACTIONS)
    print(f"{len(taken):,} events taken, {len(taken.keys() - written.keys())} lost, {len(in_doubt)} in doubt")


def test_nothing_in_the_log_tells_who_the_shoppers_are(lived: LivedDay) -> None:
    assert not [row for row in lived.log if re.search("shopper-|visit-", json.dumps(row))]
    asked = {each.request_id for each in lived.book.answered}
    assert 1 < len({row["user_id"] for row in lived.log}) < len(asked), "a shopper is the same one all day"


@pytest.fixture(scope="module")
def next_day(lived: LivedDay) -> Path:
    """Folder of the run that has read the day that was served."""
    done = subprocess.run(
        [sys.executable, "-m", "laptop.retrain", "--settings", str(lived.settings), "--date", str(lived.day)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return max((lived.home / "runs").glob("manual*"), key=lambda folder: folder.stat().st_ctime)


def shown_to_people(lived: LivedDay) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows that the next day has to count, and how many it has to leave out, by reason.

    Of a list that the kill has taken only what happened to it may be left, which cannot be judged; and where a session has much of that,
    the session looks like a program's.
    """
    shown = {(row["request_id"], row["item_id"]) for row in lived.log if row["event"] == "impression"}
    orphans = [row for row in lived.log if (row["request_id"], row["item_id"]) not in shown]
    of_session = Counter(row["session_id"] for row in orphans)
    like_programs = {session for session, count in of_session.items() if count >= BOT_CLICKS}
    of_people = [row for row in lived.log if row["session_id"] not in like_programs]
    kept = [row for row in of_people if (row["request_id"], row["item_id"]) in shown]
    left_out = Counter(
        bot_impossible=len(lived.log) - len(of_people), action_without_impression=len(of_people) - len(kept)
    )
    return kept, left_out


def test_the_next_day_counts_what_the_shoppers_did(lived: LivedDay, next_day: Path) -> None:
    output = load_run(next_day.name).output("extract-clicks")
    table = of_day(output.files("clicks"), lived.day)
    kept, left_out = shown_to_people(lived)
    counted = {
        kind: pc.sum(table[column]).as_py()
        for kind, column in zip(("impression", *ACTIONS), ("impressions", "clicks", "carts", "orders"), strict=True)
    }
    assert counted == Counter(row["event"] for row in kept)
    unused = of_day(output.files("quarantine_counts"), lived.day)
    assert dict(zip(unused["reason"].to_pylist(), unused["rows"].to_pylist(), strict=True)) == dict(+left_out)
    print(f"counted {counted}, left out {dict(left_out)}")


def of_day(files: list[Path], day: date) -> pa.Table:
    table = ds.dataset([str(file) for file in files]).to_table()
    return table.filter(pc.equal(table["day"], day))


def test_it_trains_judges_by_yesterdays_answers_and_promotes(lived: LivedDay, next_day: Path) -> None:
    run = load_run(next_day.name)
    evaluation = json.loads(run.output("evaluate").file("evaluation.json").read_text(encoding="utf-8"))
    incumbent = evaluation["incumbent"]
    kept, _ = shown_to_people(lived)
    shown = {row["request_id"] for row in kept}
    clicked = {row["request_id"] for row in kept if row["event"] == "click"}
    assert (incumbent["lists"], incumbent["versions"]) == (len(shown), {"1": len(shown)})
    within = incumbent["within_list"]
    assert within["requests"] == min(len(clicked), run.settings.evaluation.maximum_queries)
    assert {"incumbent", "champion", "challenger", "bm25"} <= within["models"].keys()
    # What answered yesterday is the champion; it is judged on today's catalogue, as the stages read it, with all pictures.
    assert within["differences"]["champion"]["mean"] == pytest.approx(0.0, abs=0.01)
    assert incumbent["graded"] is None, (
        "nobody has judged what was served, and what shoppers had in mind is told to no judge"
    )
    assert Registry(run.settings).aliased(CHAMPION) == "2"
