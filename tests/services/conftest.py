"""One set of services for all tests that need them: starting it takes half a minute."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.services.airflow_api import AirflowApi
from tests.services.operated_shop import operated_settings
from tests.services.stack import Stack, running_stack
from tests.services.webhook import Webhook, listening_webhook

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """Where notices of failures go."""
    with listening_webhook() as webhook:
        yield webhook


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator[Stack]:
    # Ended from outside, pytest would leave without ending what it has started.
    signal.signal(signal.SIGTERM, _interrupt)
    home: Path = tmp_path_factory.mktemp("stack") / "var"
    quiet = {
        # What no test turns on stays off: a refresh at the full hour would be one more.
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        # The files do not change meanwhile; by default all are parsed twice a minute.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        # Its client would knock for four minutes at a server that a test has stopped, and Airflow try three times.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        # Three minutes for an answer; after 36 seconds a daily run is late.
        "SMAR_ANSWER_HOURS": "0.05",
        "SMAR_LATE_HOURS": "0.01",
    }
    with running_stack(home, webhook.variables | operated_settings(home) | quiet) as stack:
        yield stack


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> AirflowApi:
    return AirflowApi(address=stack.airflow, user=stack.user, password=stack.password)
