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
        page.wait_for_timeout(1_000)  # pages that ask again and again are never idle
        page.screenshot(path=Path(folder) / f"{name}.png")


def log_in(page: Page, stack: Stack) -> None:
    page.goto(stack.airflow)
    page.get_by_label("Username").fill(stack.user)
    page.get_by_label("Password").fill(stack.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("link", name="Dags", exact=True).first).to_be_visible()


def open_form(page: Page, stack: Stack, dag: str) -> tuple[Locator, Locator]:
    """The trigger form of a DAG, and its button."""
    page.goto(f"{stack.airflow}/dags/{dag}")
    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Run Parameters")).to_be_visible()
    return form, form.get_by_role("contentinfo").get_by_role("button", name="Trigger")


def trigger(page: Page, button: Locator, dag: str) -> None:
    """Press the form's button; Airflow then shows the new run."""
    button.click()
    expect(page).to_have_url(re.compile(rf"/dags/{dag}/runs/manual"))


def answer(page: Page, stack: Stack, dag: str, run: str, option: str, *, comment: str) -> None:
    """Answer what the task `ask` of a run asks."""
    page.goto(f"{_address(stack, dag, run, 'ask')}/required_actions")
    page.locator("[name=element_comment]").fill(comment)
    expect(page.get_by_text("Report in MLflow")).to_be_visible()
    keep(page, "ask")
    page.get_by_role("button", name=option).click()
    expect(page.get_by_text("response successful").first).to_be_visible()


def show_run(page: Page, stack: Stack, dag: str, run: str) -> None:
    """The grid of a run, all groups open."""
    page.goto(_address(stack, dag, run))
    expect(page.get_by_role("row").first).to_be_visible()
    groups = page.get_by_role("button", name="Expand all task groups")
    if groups.count() and groups.is_enabled():
        groups.click()


def show_log(page: Page, stack: Stack, dag: str, run: str, task: str, text: str) -> None:
    """The log of a task, which has to hold the text."""
    page.goto(_address(stack, dag, run, task))
    expect(page.get_by_text(text).first).to_be_visible()


def clear_task(page: Page, stack: Stack, dag: str, run: str, task: str) -> None:
    """Clear a task with everything downstream, as is offered."""
    page.goto(_address(stack, dag, run, task))
    page.get_by_role("button", name="Press shift+c to clear").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(re.compile(r"Affected Tasks: [1-9]"))).to_be_visible()
    keep(page, f"clear_{task}")
    with page.expect_response(
        lambda answer: "clearTaskInstances" in answer.url and '"dry_run":false' in (answer.request.post_data or "")
    ):  # else the run still counts as ended
        dialog.get_by_role("button", name="Confirm").click()
    expect(dialog).to_be_hidden()


def _address(stack: Stack, dag: str, run: str, task: str = "") -> str:
    return f"{stack.airflow}/dags/{dag}/runs/{quote(run)}" + (f"/tasks/{task}" if task else "")


def aliases(page: Page, stack: Stack, model: str) -> dict[str, str]:
    """Alias → version, as MLflow's page of a model shows them."""
    rows = _versions(page, stack, model)
    found = {}
    for row in rows.all():
        version = re.search(r"Version (\d+)", row.inner_text())
        assert version
        shown = [label.strip() for label in row.get_by_role("status").all_inner_texts()]
        found |= {label[1:].strip(): version[1] for label in shown if label.startswith("@")}
    return found


def move_alias(page: Page, stack: Stack, model: str, alias: str, *, version: str) -> None:
    """Give an alias to a version on MLflow's page."""
    link = page.get_by_role("link", name=f"Version {version}", exact=True)
    row = _versions(page, stack, model).filter(has=link)
    row.get_by_role("cell").nth(-2).get_by_role("button").click()
    dialog = page.get_by_role("dialog").filter(has_text="alias")
    dialog.get_by_role("combobox").fill(alias)
    page.keyboard.press("Enter")
    keep(page, "mlflow_alias_dialog")
    dialog.get_by_role("button", name="Save aliases").click()
    expect(dialog).to_be_hidden()
    # Once saved, the list shows what it showed before, until the page is loaded anew (MLflow 3.17).
    row = _versions(page, stack, model).filter(has=link)
    expect(row.get_by_role("status").filter(has_text=re.compile(rf"@\s*{alias}"))).to_be_visible()


def _versions(page: Page, stack: Stack, model: str) -> Locator:
    """Rows of a model's versions."""
    page.goto("about:blank")  # else another part of the same page
    page.goto(f"{stack.mlflow}/#/models/{model}")
    rows = page.get_by_role("row").filter(has_text=re.compile(r"Version \d+"))
    expect(rows.first).to_be_visible()
    close = page.get_by_role("button", name="Close")  # of MLflow's assistant
    if close.count():
        close.first.click()
    rows.first.scroll_into_view_if_needed()
    return rows
