"""`smar serve --log` and `--interleave` as shops run them: what is answered and clicked is read back from the log, by its contract and by `smar shop check`."""

from __future__ import annotations

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from smar_model.cli import app as command_line
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.serving import log_folder
from smar_model.serving.answer_log import AnswerLog
from smar_model.serving.app import create_app
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS, wait_until
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.serving.test_answer_log import rows_of


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=2) as shop:
        yield shop


@contextmanager
def served(shop: ServingShop, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "smar_model.cli", "serve", "--settings", str(shop.settings_file), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--drain-seconds", "0", *options], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = re.search(r"http://[0-9.]+:\d+", process.stdout.readline())
        assert address
        with httpx.Client(base_url=address[0], timeout=PATIENCE_SECONDS) as client:
            wait_until(lambda: client.get("/readyz").status_code == 200)
            yield process, client
    finally:
        process.kill()
        process.wait()


def full_disk(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def click(answer: dict[str, Any], rank: int = 2, **more: Any) -> dict[str, Any]:
    named = {"request_id": answer["request_id"], "item_id": answer["hits"][rank - 1]["item_id"], "position": rank}
    return {"event": "click", "query": answer["query"]} | named | more


@contextmanager
def logging_app(shop: ServingShop, place: Path, **options: Any) -> Iterator[TestClient]:
    log = partial(AnswerLog.at, str(place))
    with TestClient(create_app(shop.settings, poll_seconds=0.1, answer_log=log, **options)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


def test_a_served_day_is_a_day_of_the_shop_s_log(shop: ServingShop, tmp_path: Path) -> None:
    root = tmp_path / "shop"
    shutil.copytree(shop.home / "shop", root)
    place = root / "click_log"
    before = set(place.glob("dt=*/*"))
    person = {"user": "anna@example.com", "session": "visit 1"}
    with served(shop, "--log", str(place)) as (_, one), served(shop, "--log", str(place)) as (process, two):
        first = one.get("/search", params={"q": "red shirt 0171 2345678", "k": 3, **person}).json()
        batch = one.post("/search", json={"queries": ["novel", "cereals"], "k": 2, "routing": "text", "version": "2"})
        one.get("/search", params={"q": "seen by nobody", "log": False})
        # By another server than the one that answered, as `navigator.sendBeacon` sends it.
        body = json.dumps({"events": [click(first, **person), click(first, event="order", **person)]})
        told = two.post("/events", content=body, headers={"Content-Type": "text/plain;charset=UTF-8"})
        assert (told.status_code, told.json()) == (202, {"taken": 2})
        wait_until(lambda: 'smar_log_events_total{event="click"} 1.0' in two.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        one_s = [*place.glob("dt=*/.*")]
        assert len(one_s) == 1, "the other one still writes"
        wait_until(lambda: 'smar_log_events_total{event="impression"} 7.0' in one.get("/metrics").text)
    killed = CliRunner().invoke(command_line, ["finish-log", str(place)])
    assert "finished" in killed.output, killed.output
    files = [file for file in place.glob("dt=*/*") if file not in before]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    contract = load_contract("click_log")
    assert all({*row} == {column.name for column in contract.columns} for row in rows)
    assert Counter(row["event"] for row in rows) == {"impression": 7, "click": 1, "order": 1}
    of_first = [row for row in rows if row["request_id"] == first["request_id"]]
    assert {row["query"] for row in of_first} == {"red shirt <phone>"}
    assert len({row["user_id"] for row in of_first}) == len({row["session_id"] for row in of_first}) == 1
    places = {row["position"]: row["item_id"] for row in of_first if row["event"] == "impression"}
    assert places == {hit["rank"]: hit["item_id"] for hit in first["hits"]}
    assert {(row["version"], row["routing"]) for row in of_first if row["event"] == "impression"} == {("1", "shipped")}
    others = [row for row in rows if row not in of_first]
    assert {row["request_id"] for row in others} == {answer["request_id"] for answer in batch.json()["answers"]}
    assert {(row["version"], row["routing"], row["team"]) for row in others} == {("2", "text", None)}
    assert len({row["user_id"] for row in others}) == 2, "each request without a user is a visit of its own"
    assert not any("anna" in file.read_text() or "2345678" in file.read_text() for file in files)
    checked = CliRunner().invoke(command_line, ["shop", "check", str(root)])
    assert "9 events" in checked.output and "844 events on 4 days" in checked.output, checked.output
    assert "smar-" not in checked.output, f"the check has something to say of the log's files: {checked.output}"


def test_head_shows_nobody_a_list(shop: ServingShop, tmp_path: Path) -> None:
    with logging_app(shop, tmp_path / "log") as client:
        assert client.head("/search", params={"q": "asked by a probe"}).status_code == 200
        assert client.get("/search", params={"q": "asked by a shopper"}).status_code == 200
    assert {row["query"] for row in rows_of(tmp_path / "log")} == {"asked by a shopper"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"events": []}, "events: List should have at least 1 item"),
        ({"events": [{}] * 101}, "events"),
        ({"events": [{"event": "impression"}]}, "events.0.event: Input should be 'click', 'cart' or 'order'"),
        (
            {"events": [{"request_id": "anna@example.com"}]},
            "send the request_id of the /search answer that showed the item",
        ),
        ({"events": [{"position": 0}]}, "events.0.position: Input should be greater than or equal to 1"),
        ({"events": [{"item_id": "anna@example.com"}]}, "events.0.item_id: looks like an e-mail address"),
        ({"events": [{"item_id": "ann＠example.com"}]}, "looks like an e-mail address"),
        ({"events": [{"item_id": "+49 171 2345678"}]}, "looks like an e-mail address, a phone"),
        ({"events": [{"item_id": "01712345678"}]}, "send the id that the answer told"),
        ({"events": [{"item_id": "4111 1111 1111 1111"}]}, "a phone or card number"),
        ({"events": [{"item_id": "a\x1b[2J"}]}, "events.0.item_id: has control characters"),
        ({"events": [{"item_id": "  "}]}, "events.0.item_id: is empty"),
        ({"events": [{"query": " \u200b\t"}]}, "events.0.query: Value error, is empty"),
        ({"events": [{"position": True}]}, "events.0.position: Input should be a valid integer"),
        ({"events": [{"position": "3"}]}, "events.0.position: Input should be a valid integer"),
        ({"events": [{"query": "x" * 1_001}]}, "events.0.query: String should have at most 1000 characters"),
        ({"events": [{"price": 3}]}, "events.0.price: Extra inputs are not permitted"),
        ([], "Input should be an object"),
        ("x" * 300_000, "more than 256,000"),
        (b"\xff{", "Invalid JSON"),
    ],
)
def test_events_that_cannot_be_taken_are_named_in_one_line(
    shop: ServingShop, tmp_path: Path, body: Any, says: str
) -> None:
    whole = {"event": "click", "request_id": "ab" * 16, "item_id": "a", "position": 1, "query": "red"}
    if isinstance(body, dict) and len(body["events"]) == 1:
        body = {"events": [whole | body["events"][0]]}
    with logging_app(shop, tmp_path / "log") as client:
        refused = client.post("/events", content=body if isinstance(body, bytes) else json.dumps(body))
        assert refused.status_code in {413, 422}
        assert says in refused.json()["detail"]
        assert len(refused.json()["detail"].splitlines()) == 1 and len(refused.json()["detail"]) < 300
        assert client.get("/events").status_code == 405
    assert rows_of(tmp_path / "log") == []


def test_without_a_log_no_event_is_taken(shop: ServingShop) -> None:
    with TestClient(create_app(shop.settings)) as client:
        refused = client.post("/events", json={"events": []})
        assert (refused.status_code, "smar serve --log" in refused.json()["detail"]) == (409, True)


def test_a_disk_that_refuses_is_a_problem_of_the_server(
    shop: ServingShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logging_app(shop, tmp_path / "log") as client:
        with monkeypatch.context() as patch:
            patch.setattr(log_folder.os, "pwrite", full_disk)
            client.get("/search", params={"q": "red", "k": 3})
            wait_until(lambda: client.get("/readyz").json()["problems"])
            state = client.get("/readyz")
            (problem,) = state.json()["problems"]
            assert state.status_code == 200
            assert f"--log {tmp_path / 'log'}" in problem and "3 rows wait" in problem and "No space left" in problem
            assert "smar_log_queued 3.0" in client.get("/metrics").text
        wait_until(lambda: client.get("/readyz").json()["problems"] == [])
        assert "smar_log_queued 0.0" in client.get("/metrics").text


def test_without_a_challenger_nothing_is_said_to_be_missing(shop: ServingShop, tmp_path: Path) -> None:
    name, client_of_registry = shop.registry.name, shop.registry.client
    client_of_registry.delete_registered_model_alias(name, "challenger")
    try:
        with logging_app(shop, tmp_path / "log", interleave=("champion", "challenger")) as client:
            (problem,) = client.get("/readyz").json()["problems"]
    finally:
        client_of_registry.set_registered_model_alias(name, "challenger", "2")
    assert "no challenger waits; users of the share get the champion's lists" in problem


def test_a_share_of_the_users_gets_interleaved_lists(shop: ServingShop, tmp_path: Path) -> None:
    place = tmp_path / "log"
    with logging_app(shop, place, interleave=("champion", "challenger"), share=0.5) as client:
        wait_until(lambda: client.get("/readyz").json()["problems"] == [])
        answers = {}
        for number in range(40):
            asked = {"queries": ["red shirt"], "k": 6, "departments": ["Clothing"], "user": f"user {number}"}
            (answers[number],) = client.post("/search", json=asked).json()["answers"]
            assert client.post("/search", json=asked).json()["answers"][0]["version"] == answers[number]["version"]
        versions = Counter(answer["version"] for answer in answers.values())
        assert set(versions) == {"1", "1+2"} and 5 < versions["1+2"] < 35
        assert "team" not in json.dumps(answers)
        for other in ({"version": "2"}, {"routing": "text"}, {"log": False}):
            asked = {"queries": ["red shirt"] * 20, "k": 2, **other}
            plain = client.post("/search", json=asked).json()["answers"]
            assert not [answer for answer in plain if "+" in answer["version"]]
        assert "smar_interleaved_requests_total" in client.get("/metrics").text
        by_version = {
            name: client.get(
                "/search", params={"q": "red shirt", "k": 6, "department": "Clothing", "version": name, "log": False}
            ).json()
            for name in ("1", "2")
        }
    rows = rows_of(place)
    for answer in answers.values():
        listed = sorted((r for r in rows if r["request_id"] == answer["request_id"]), key=lambda row: row["position"])
        assert [row["item_id"] for row in listed] == [hit["item_id"] for hit in answer["hits"]]
        teams = [row["team"] for row in listed]
        if answer["version"] == "1":
            assert set(teams) == {None}
            continue
        assert Counter(teams) == {"champion": 3, "challenger": 3}
        assert [row["version"] for row in listed] == ["1" if team == "champion" else "2" for team in teams]
        for team, version in (("champion", "1"), ("challenger", "2")):
            mine = [row["item_id"] for row in listed if row["team"] == team]
            ranked = [hit["item_id"] for hit in by_version[version]["hits"]]
            assert mine == [item for item in ranked if item in mine]


def test_what_a_server_has_interleaved_is_judged_from_its_log(shop: ServingShop, tmp_path: Path) -> None:
    place, options = tmp_path / "click_log", ("--interleave", "champion:challenger", "--share", "1")
    clicked = {}
    with served(shop, "--log", str(place), *options) as (process, client):
        wait_until(lambda: client.get("/readyz").json()["problems"] == [])
        for number in range(12):
            person = {"user": f"user {number}", "session": f"visit {number}"}
            answer = client.get("/search", params={"q": "red shirt", "k": 6, "department": "Clothing", **person}).json()
            assert answer["version"] == "1+2"
            rank = 1 + number % 3
            told = client.post("/events", json={"events": [click(answer, rank, **person)]})
            assert told.status_code == 202
            clicked[answer["request_id"]] = answer["hits"][rank - 1]["item_id"]
        wait_until(lambda: 'smar_log_events_total{event="click"} 12.0' in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    shown = [row for row in rows_of(place) if row["event"] == "impression"]
    won = Counter(row["team"] for row in shown if clicked[row["request_id"]] == row["item_id"])
    done = CliRunner().invoke(
        command_line, ["interleaving", "--settings", str(shop.settings_file), "--log", str(place), "--json"]
    )
    assert done.exit_code == 0, done.output
    judged = json.loads(done.stdout)
    assert judged["left_out"] == []
    (found,) = judged["pairs"]
    assert found["pair"] == {"champion": 1, "challenger": 2}
    look = found["looks"][-1]
    assert (look["requests"], look["shoppers"], look["ties"]) == (12, 12, 0)
    assert (look["wins"], look["losses"]) == (won["challenger"], won["champion"])


def test_where_the_challenger_cannot_be_opened_the_champion_answers(shop: ServingShop, tmp_path: Path) -> None:
    with logging_app(shop, tmp_path / "log", interleave=("champion", "77"), share=1.0) as client:
        answer = client.get("/search", params={"q": "red shirt", "user": "anna"}).json()
        assert answer["version"] == "1"
        (problem,) = client.get("/readyz").json()["problems"]
        assert "'77'" in problem and "get the champion's lists" in problem
        assert "smar_not_interleaved_requests_total 1.0" in client.get("/metrics").text
    assert {row["team"] for row in rows_of(tmp_path / "log")} == {None}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--interleave", "champion:challenger"], "add --log PLACE"),
        (["--log", "{log}", "--interleave", "champion"], "champion:challenger"),
        (["--log", "{log}", "--interleave", "3:3"], "two different versions"),
        (["--log", "{log}", "--interleave", "3:5", "--others", "1"], "--others 2 at least"),
        (["--log", "{log}", "--part", "0"], "give --log to the front"),
        (["--log", "{log}", "--front", "http://one:8000", "--interleave", "3:5"], "leave out --interleave"),
        (["--log", "{log}", "--interleave", "01:1"], "two different versions"),
        (["--log", "{log}", "--share", "0.2"], "Add --interleave"),
        (["--log", ""], "no place is named"),
        (["--log", "ftp://host/log"], "no object store"),
        (["--log", "s3://"], "write s3://BUCKET/FOLDER"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    shop: ServingShop, tmp_path: Path, options: list[str], says: str
) -> None:
    words = [word.replace("{log}", str(tmp_path / "log")) for word in options]
    done = CliRunner().invoke(command_line, ["serve", "--settings", str(shop.settings_file), *words])
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
