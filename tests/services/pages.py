"""What a person does on Airflow's and MLflow's pages, in a real browser.

SMAR_SCREENSHOTS names a folder that keeps what was seen.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

from tests.services.stack import Stack


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("SMAR_SCREENSHOTS"):
        page.wait_for_load_state("networkidle")
        page.screenshot(path=Path(folder) / f"{name}.png")


def log_in(page: Page, stack: Stack) -> None:
    page.goto(stack.airflow)
    page.get_by_label("Username").fill(stack.user)
    page.get_by_label("Password").fill(stack.password)
    keep(page, "airflow_login")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("link", name="Dags")).to_be_visible()


def open_form(page: Page, stack: Stack, dag: str) -> Locator:
    """The trigger form of a DAG."""
    page.goto(f"{stack.airflow}/dags/{dag}")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Run Parameters")).to_be_visible()
    return form


def run_page(stack: Stack, dag: str, run: str, task: str = "") -> str:
    return f"{stack.airflow}/dags/{dag}/runs/{quote(run)}" + (f"/tasks/{task}" if task else "")


def aliases(page: Page, stack: Stack, model: str) -> dict[str, str]:
    """Alias → version, as the table of a model's versions shows them in MLflow."""
    page.goto(f"{stack.mlflow}/#/models/{model}")
    rows = page.get_by_role("row").filter(has_text=re.compile(r"Version \d+"))
    expect(rows.first).to_be_visible()
    found = {}
    for text in rows.all_inner_texts():
        version = re.search(r"Version (\d+)", text)
        assert version
        found |= {alias: version[1] for alias in re.findall(r"@\s*(\w+)", text)}
    return found
