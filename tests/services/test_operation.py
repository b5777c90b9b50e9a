"""A person at work in a real browser, with Airflow's real scheduler on PostgreSQL and a real MLflow server.

The tests go on from each other, in order: the first release is approved on a page, a second follows, it is rolled back, variants are
compared, aliases are moved by hand in MLflow, and failures of the runbook happen and are mended as it says.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from smar_model.release.history import read_history
from smar_model.release.registry import CHAMPION, Registry
from smar_model.settings import REPOSITORY, load_settings
from tests.services import pages
from tests.services.airflow_api import AirflowApi
from tests.services.operated_shop import COMPARED, MODEL, write_operated_shop
from tests.services.pages import keep
from tests.services.stack import Stack
from tests.services.webhook import Webhook
from tests.tiny_shop import LAST_DAY

expect.set_options(timeout=120_000)  # on a machine that others use as well
RETRAIN = "smar_retrain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    stack: Stack
    airflow: AirflowApi
    settings: Path
    root: Path

    def smar(self, *arguments: str) -> tuple[int, str]:
        """A command typed by hand: its exit code and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "smar_model.cli", *arguments],
            env=self.stack.variables,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def alias(self, name: str = CHAMPION) -> str | None:
        return Registry(load_settings(self.settings)).aliased(name)

    def history(self) -> list[dict[str, Any]]:
        return read_history(MODEL)

    def retrain(self, **conf: Any) -> str:
        return self.airflow.trigger(RETRAIN, **{"date": str(LAST_DAY)} | conf)


@pytest.fixture(scope="module")
def shop(stack: Stack, airflow: AirflowApi) -> Iterator[Shop]:
    settings = write_operated_shop(stack.home, tracking_uri=stack.mlflow)
    for dag in (RETRAIN, "smar_rollback", "smar_compare"):
        airflow.turn_on(dag)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(stack.home))
        yield Shop(stack=stack, airflow=airflow, settings=settings, root=stack.home / "shops" / "tiny")


@pytest.fixture(scope="module")
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page whose person is logged in to Airflow."""
    login = {
        "username": stack.variables["MLFLOW_TRACKING_USERNAME"],
        "password": stack.variables["MLFLOW_TRACKING_PASSWORD"],
        "origin": stack.mlflow,
    }
    with browser.new_context(viewport={"width": 1_400, "height": 900}, http_credentials=login) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        pages.log_in(page, stack)
        yield page


def test_the_form_refuses_bad_values(shop: Shop, page: Page) -> None:
    form, button = pages.open_form(page, shop.stack, RETRAIN)
    settings = form.locator("[name=element_settings]")
    expect(settings).to_have_value(str(shop.settings))
    expect(button).to_be_enabled()
    settings.fill("")
    expect(button).to_be_disabled()
    expect(form.get_by_text("This field is required")).to_be_visible()
    form.get_by_role("button", name="Close").click()

    form, button = pages.open_form(page, shop.stack, "smar_rollback")
    form.locator("[name=element_release]").fill("the last one")
    form.locator("[name=element_reason]").fill("finds no dresses")
    button.click()
    expect(form.get_by_text("Invalid input for param release: 'the last one' does not match")).to_be_visible()
    keep(page, "form_refuses")
    form.get_by_role("button", name="Close").click()
    assert shop.airflow.runs(RETRAIN) == shop.airflow.runs("smar_rollback") == []


@pytest.fixture(scope="module")
def first(shop: Shop, page: Page) -> str:
    """The first run, triggered by the form with a person to be asked, at the point where it waits: its id."""
    form, button = pages.open_form(page, shop.stack, RETRAIN)
    form.locator("[name=element_date]").fill(str(LAST_DAY))
    form.get_by_role("combobox", name="Promotion").click()
    page.get_by_role("option", name="ask: ").click()
    form.locator("[name=element_note]").fill("first release, looked at by a person")
    keep(page, "form_filled")
    pages.trigger(page, button, RETRAIN)
    (run,) = shop.airflow.runs(RETRAIN)
    shop.airflow.wait_for_task(RETRAIN, run["dag_run_id"], "ask", ["deferred", "awaiting_input"])
    # Answered before the scheduler has heard that the process which asked has ended, Airflow 3.3 takes that for a failure and asks anew.
    time.sleep(20)
    return run["dag_run_id"]


def test_a_person_approves_and_the_champion_changes(shop: Shop, page: Page, first: str, webhook: Webhook) -> None:
    assert shop.alias() is None
    assert webhook.wait_for("a person is asked to approve a release")
    assert webhook.wait_for("smar_retrain is late", first)
    pages.answer(page, shop.stack, RETRAIN, first, "Approve", comment="looks right to me")
    assert shop.airflow.wait(RETRAIN, first) == "success"
    pages.show_run(page, shop.stack, RETRAIN, first)
    keep(page, "retrain_green")
    states = shop.airflow.states(RETRAIN, first)
    assert {states[task] for task in ("promote", "released", "track")} == {"success"} and states["watcher"] == "skipped"
    assert pages.aliases(page, shop.stack, MODEL)[CHAMPION] == "1"
    keep(page, "mlflow_champion")
    (entry,) = shop.history()
    assert (entry["action"], entry["from"], entry["to"]) == ("promote", None, "1")
    assert (entry["by"], entry["reason"]) == (shop.stack.user, "looks right to me")


def test_a_second_release_is_rolled_back_from_the_page(shop: Shop, page: Page, first: str) -> None:
    run = shop.retrain(seed=1, promotion="automatic")
    assert shop.airflow.wait(RETRAIN, run) == "success", shop.airflow.states(RETRAIN, run)
    assert shop.alias() == "2"
    form, button = pages.open_form(page, shop.stack, "smar_rollback")
    form.locator("[name=element_reason]").fill("shoppers find no dresses")
    keep(page, "rollback_form")
    pages.trigger(page, button, "smar_rollback")
    (back,) = shop.airflow.runs("smar_rollback")
    assert shop.airflow.wait("smar_rollback", back["dag_run_id"]) == "success"
    pages.show_run(page, shop.stack, "smar_rollback", back["dag_run_id"])
    keep(page, "rollback_green")
    assert pages.aliases(page, shop.stack, MODEL)[CHAMPION] == "1"
    moves = [entry for entry in shop.history() if entry["action"] in {"promote", "rollback"}]
    assert [(move["action"], move["from"], move["to"]) for move in moves[1:]] == [
        ("promote", "1", "2"),
        ("rollback", "2", "1"),
    ]
    assert moves[-1]["reason"] == "shoppers find no dresses" and moves[-1]["by"] == shop.stack.user


def test_two_variants_are_compared_from_the_page(shop: Shop, page: Page) -> None:
    form, button = pages.open_form(page, shop.stack, "smar_compare")
    form.locator("[name=element_rows]").fill("\n".join(COMPARED))
    pages.trigger(page, button, "smar_compare")
    (run,) = shop.airflow.runs("smar_compare")
    assert shop.airflow.wait("smar_compare", run["dag_run_id"]) == "success"
    tasks = [task for task in shop.airflow.tasks("smar_compare", run["dag_run_id"]) if task["task_id"] == "compare"]
    assert len(tasks) == len(COMPARED)
    pages.show_run(page, shop.stack, "smar_compare", run["dag_run_id"])
    keep(page, "compare_green")
    report = (shop.stack.home / "comparisons" / "tiny.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| [^|]+ \(`(\w+)`\) \| ([^|]+) \|", report, re.M))
    assert {row for row, recall in rows.items() if recall != "not measured yet"} == set(COMPARED)


def test_an_alias_moved_by_hand_is_respected_and_recorded(shop: Shop, page: Page) -> None:
    pages.move_alias(page, shop.stack, MODEL, CHAMPION, version="2")
    keep(page, "mlflow_alias_by_hand")
    assert shop.alias() == "2"
    code, said = shop.smar("reconcile", "--settings", str(shop.settings))
    assert code == 0 and "moved by hand from version 1 to 2" in said, said
    entry = shop.history()[-1]
    assert (entry["action"], entry["from"], entry["to"], entry["by"]) == ("by hand", "1", "2", "unknown")
    _, said = shop.smar("history")
    assert "by hand" in said


def test_a_champion_that_cannot_serve_is_reported_while_the_last_good_one_serves(
    shop: Shop, page: Page, webhook: Webhook
) -> None:
    """Runbook, smar_retrain, `reconcile`."""
    registry = Registry(load_settings(shop.settings))
    source = registry.version("1").source
    made = registry.client.create_model_version(
        MODEL, source=source, model_id=source.removeprefix("models:/"), description="Made by hand."
    )
    pages.move_alias(page, shop.stack, MODEL, CHAMPION, version=str(made.version))
    run = shop.retrain(promotion="never")
    assert shop.airflow.wait(RETRAIN, run) == "failed"
    states = shop.airflow.states(RETRAIN, run)
    assert states["reconcile"] == "failed" and states["promote"] == "success", states
    log = shop.airflow.log(RETRAIN, run, "reconcile")
    assert "lacks the tag" in log and "version 2 goes on serving" in log, log
    assert webhook.wait_for("smar_retrain failed: reconcile", run, "version 2 goes on serving")
    pages.show_log(page, shop.stack, RETRAIN, run, "reconcile", "goes on serving")
    keep(page, "reconcile_red")
    code, said = shop.smar("champion", "--settings", str(shop.settings), "--json")
    assert code == 0 and json.loads(said[said.index("{") :])["version"] == "2", said
    # As the runbook says: the alias back to the version that is named, then clear the task.
    pages.move_alias(page, shop.stack, MODEL, CHAMPION, version="2")
    pages.clear_task(page, shop.stack, RETRAIN, run, "reconcile")
    assert shop.airflow.wait(RETRAIN, run) == "success", shop.airflow.states(RETRAIN, run)
    assert shop.alias() == "2"


def test_a_damaged_log_file_is_named_and_mended(shop: Shop, page: Page, webhook: Webhook) -> None:
    """Runbook, smar_retrain, `extract-clicks`."""
    (file,) = (shop.root / "click_log" / f"dt={LAST_DAY}").glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        run = shop.retrain(promotion="never")
        assert shop.airflow.wait(RETRAIN, run) == "failed"
        states = shop.airflow.states(RETRAIN, run)
        assert states["extract-clicks"] == "failed", states
        assert webhook.wait_for("smar_retrain failed: extract-clicks", run, str(file))
        assert shop.alias() == "2"
    finally:
        file.write_bytes(whole)
    pages.clear_task(page, shop.stack, RETRAIN, run, "extract-clicks")
    assert shop.airflow.wait(RETRAIN, run) == "success", shop.airflow.states(RETRAIN, run)


def test_mlflow_away_while_training_ends(shop: Shop, page: Page) -> None:
    """Runbook, smar_retrain, `register` … : connection refused."""
    run = shop.retrain(seed=2)
    shop.airflow.wait_for_task(RETRAIN, run, "pretrain", ["running"])
    shop.stack.stop_mlflow()
    try:
        shop.airflow.wait_for_task(RETRAIN, run, "register", ["failed"])
    finally:
        shop.stack.start_mlflow()
    assert shop.airflow.wait(RETRAIN, run) == "failed"
    states = shop.airflow.states(RETRAIN, run)
    assert {states["finetune"], states["report"]} == {"success"}, states
    assert "MLflow's server does not answer" in shop.airflow.log(RETRAIN, run, "register")
    assert shop.alias() == "2"
    pages.clear_task(page, shop.stack, RETRAIN, run, "register")
    assert shop.airflow.wait(RETRAIN, run) == "success", shop.airflow.states(RETRAIN, run)
    assert shop.alias() == "4"


def test_nobody_answers_and_the_champion_stays(shop: Shop, first: str, webhook: Webhook) -> None:
    champion, changes = shop.alias(), len(shop.history())
    run = shop.retrain(seed=3, promotion="ask")
    assert shop.airflow.wait(RETRAIN, run) == "success", shop.airflow.states(RETRAIN, run)
    states = shop.airflow.states(RETRAIN, run)
    assert (states["ask"], states["promote"], states["released"]) == ("success", "success", "skipped"), states
    assert webhook.wait_for("the champion stays", run)
    assert (shop.alias(), len(shop.history())) == (champion, changes)


def test_a_backfill_takes_what_is_finished_and_promotes_nothing(shop: Shop, first: str) -> None:
    champion, changes = shop.alias(), len(shop.history())
    run = shop.airflow.backfill(RETRAIN, LAST_DAY + timedelta(days=1))
    assert shop.airflow.wait(RETRAIN, run) == "success", shop.airflow.states(RETRAIN, run)
    assert shop.airflow.states(RETRAIN, run)["released"] == "skipped"
    folder = next((shop.stack.home / "runs").glob("backfill*"))
    for stage in ("prepare-items", "extract-clicks", "generate-queries", "check-data", "train-tokenizer", "pretrain"):
        assert json.loads((folder / f"{stage}.json").read_text(encoding="utf-8"))["reused"], stage
    assert (shop.alias(), len(shop.history())) == (champion, changes)
