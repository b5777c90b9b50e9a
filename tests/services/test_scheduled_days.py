"""Three days of the sample shop through the real scheduler, on PostgreSQL, with a real MLflow server.

Day 1 releases the first model. On day 2 the log that is delivered has four times the requests: promoted. On day 3 an export has dealt
the clicks to the wrong items: a data check refuses it and says so to people; with that check off the gate refuses what was
learned from it, by a cold start and by a warm one; delivered again, the red run is cleared and ends green.

Time is moved by logical date: each run is made with that of its morning at 04:00, as the schedule would, and reads the day before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from smar_model.release.registry import CHAMPION, Registry
from smar_model.settings import load_settings
from tests.services.airflow_api import AirflowApi
from tests.services.growing_shop import GrowingShop, make_growing_shop, write_growing_settings
from tests.services.results import record
from tests.services.run_times import describe_times
from tests.services.stack import Stack
from tests.services.webhook import Webhook

DAG = "smar_retrain"
DAY_1, DAY_2, DAY_3 = date(2026, 11, 17), date(2026, 11, 18), date(2026, 11, 19)
WINDOW = 3
FEW, MANY = 800, 3_200
"""Requests a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    shop: GrowingShop
    settings: Path
    unchecked: Path
    """The same without the check that shuffled clicks break."""
    airflow: AirflowApi
    stack: Stack

    def morning_after(self, day: date, **conf: Any) -> str:
        """The run that the schedule makes in the morning after a day: its id."""
        morning = datetime.combine(day + timedelta(days=1), time(4), tzinfo=UTC)
        return self.airflow.trigger(DAG, logical_date=morning, **{"settings": str(self.settings)} | conf)

    def ended(self, run: str, state: str) -> dict[str, str]:
        """States of the tasks of a run that must have ended so."""
        found = self.airflow.wait(DAG, run)
        states = self.airflow.states(DAG, run)
        assert found == state, (states, self.said(run))
        return states

    def said(self, run: str) -> dict[str, str]:
        """What failed steps of a run say."""
        said = {}
        for file in self.folder(run).glob("*.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("state") == "failed":
                said[content["stage"]] = content["message"]
        return said

    def step(self, run: str, step: str) -> dict[str, Any]:
        return json.loads((self.folder(run) / f"{step}.json").read_text(encoding="utf-8"))

    def folder(self, run: str) -> Path:
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in run)
        return self.stack.home / "runs" / name

    def champion(self) -> str | None:
        return Registry(load_settings(self.settings)).aliased(CHAMPION)


def window(day: date) -> list[date]:
    return [day - timedelta(days=n) for n in reversed(range(WINDOW))]


@pytest.fixture(scope="module")
def deployment(stack: Stack, airflow: AirflowApi) -> Iterator[Deployment]:
    airflow.turn_on(DAG)
    shop = make_growing_shop(stack.home / "shops" / "growing")
    settings, unchecked = (
        write_growing_settings(stack.home / f"{name}.yaml", shop, days=WINDOW, tracking_uri=stack.mlflow, **changes)
        for name, changes in (("growing", {}), ("unchecked", {"checks": {"minimum_agreement": 0.01}}))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(stack.home))
        yield Deployment(shop=shop, settings=settings, unchecked=unchecked, airflow=airflow, stack=stack)


def test_three_days(deployment: Deployment, webhook: Webhook) -> None:
    shop = deployment.shop
    shop.deliver(window(DAY_1), requests_per_day=FEW)
    first = deployment.morning_after(DAY_1)
    deployment.ended(first, "success")
    assert deployment.champion() == "1"
    assert deployment.step(first, "start")["metrics"]["pretraining"].startswith("its own")

    shop.deliver(window(DAY_2), requests_per_day=MANY)
    second = deployment.morning_after(DAY_2)
    deployment.ended(second, "success")
    assert deployment.champion() == "2"
    assert f"that of run {deployment.folder(first).name}" in deployment.step(second, "start")["metrics"]["pretraining"]

    shop.deliver(window(DAY_3), requests_per_day=MANY)
    shop.shuffle(window(DAY_3))
    third = deployment.morning_after(DAY_3)
    states = deployment.ended(third, "failed")
    assert states["check-data"] == "failed" and states["pretrain"] == "upstream_failed"
    message = deployment.said(third)["check-data"]
    assert "settings.checks.minimum_agreement" in message and str(shop.root / "click_log") in message
    assert deployment.champion() == "2"
    assert webhook.wait_for(f"{DAG} failed: check-data", third)

    verdicts = {}
    for name, reuse in (("warm", "auto"), ("cold", "never")):
        run = deployment.airflow.trigger(
            DAG, settings=str(deployment.unchecked), date=str(DAY_3), pretraining=reuse, note=f"unchecked, {name} start"
        )
        deployment.ended(run, "success")
        verdicts[name] = deployment.step(run, "gate")["metrics"]
        assert verdicts[name]["decision"] == "keep", verdicts[name]
        started_from = deployment.step(run, "finetune")["metrics"]["started_from"]
        assert started_from.startswith({"warm": "version 2", "cold": "pretraining"}[name]), started_from
        assert deployment.champion() == "2"

    shop.deliver(window(DAY_3), requests_per_day=MANY)
    deployment.airflow.clear(DAG, third, "shop-open")
    deployment.ended(third, "success")
    outcome = deployment.step(third, "promote")["metrics"]["text"]

    lines = [
        f"The sample shop, {WINDOW} days of {FEW} (day 1) or {MANY:,} requests, one after the other:",
        "",
        *describe_times(
            deployment.airflow,
            DAG,
            {
                "day 1, first release": (first, deployment.folder(first)),
                "day 2, warm start": (second, deployment.folder(second)),
            },
        ),
        "",
        *(f"Day 3 with shuffled clicks, {name} start: {metrics['verdict']}" for name, metrics in verdicts.items()),
        f"Day 3 repaired: {outcome}",
    ]
    print("\n" + "\n".join(lines))
    record("Three scheduled days", lines)
