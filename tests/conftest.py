"""Rules for all tests: threads that wait sleep, Spark and MLflow stay quiet, a skip says what would make it run."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

UNSTATED = {"", "unconditional skip"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """A skipped test without a reason fails: it would be a hole that nobody sees."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if reason.removeprefix("Skipped").lstrip(": ").strip() in UNSTATED:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped without a reason; say what would make it run"
    return report
