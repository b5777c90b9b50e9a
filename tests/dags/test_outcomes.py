"""What a command hands over reaches Airflow as data, of this attempt alone; what decides about a release is nothing that a command prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smar_model.release.steps import OUTCOME_FILE, report_outcome
from smar_model.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS

COMMAND = """#!{python}
# Stands in for the interpreter of the commands. Says that a version was promoted, whatever it hands over.
import os, sys
print("[x] promote: promoted: version 3 is the champion, see https://example.com/printed")
if os.environ["HANDS_OVER"]:
    with open(os.environ["SMAR_OUTCOME"], "w") as file:
        file.write(os.environ["HANDS_OVER"])
sys.exit(int(os.environ["ENDS"]))
"""

EXECUTE = """
import json, os, sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from stages import OutcomeOperator, ReportLink, TrackOperator

def end(operator, context):
    try:
        return operator.execute(context)
    except Exception as error:
        return type(error).__name__

def tell(attempts):
    left = {}
    ti = SimpleNamespace(xcom_push=left.__setitem__, xcom_pull=lambda task_ids, key: left.get(key))
    context = {"dag": SimpleNamespace(dag_id="d"), "run_id": "r", "ti": ti, "outlet_events": {}}
    command = TrackOperator(task_id="command", arguments=["track"])
    for outcome, code in attempts:
        os.environ |= {"HANDS_OVER": json.dumps(outcome) if outcome else "", "ENDS": str(code)}
        ended = end(command, context)
    released = end(OutcomeOperator(task_id="released", of="command"), context)
    link = ReportLink().get_link(command, ti_key=None)
    return {"ended": ended, "left": left.get("outcome"), "link": link, "released": released}

print("JSON:" + json.dumps({name: tell(attempts) for name, attempts in json.loads(sys.argv[2]).items()}))
"""

KEPT = {"outcome": "kept", "text": "version 3 is not promoted", "version": "3"}


PROMOTED = KEPT | {"outcome": "promoted", "text": "version 3 is the champion"}
ATTEMPTS: dict[str, list[tuple[dict[str, str] | None, int]]] = {
    "kept": [(KEPT, 0)],
    "promoted": [(PROMOTED, 0)],
    "unchanged": [(KEPT | {"outcome": "unchanged"}, 0)],
    "nothing": [(None, 0)],
    "nothing again": [(PROMOTED, 1), (None, 0)],
    "kept again": [(PROMOTED, 1), (KEPT | {"report": "https://example.com/report"}, 0)],
}
"""What a command hands over and the code that it ends with, attempt by attempt."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How the operators end, and what they leave; by plan."""
    folder = tmp_path_factory.mktemp("outcomes")
    command = folder / "command"
    command.write_text(COMMAND.format(python=sys.executable), encoding="utf-8")
    command.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(REPOSITORY / "dags"), json.dumps(ATTEMPTS)],
        env=os.environ | {"SMAR_PYTHON": str(command), "AIRFLOW_HOME": str(folder / "airflow")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert "JSON:" in done.stdout, done.stderr
    told: dict[str, dict[str, Any]] = json.loads(done.stdout.split("JSON:")[1])
    return told


def test_released_goes_by_what_was_handed_over_and_not_by_what_was_printed(found: dict[str, dict[str, Any]]) -> None:
    assert {name: told["released"] for name, told in found.items()} == {
        "kept": "AirflowSkipException",
        "promoted": PROMOTED["text"],
        "unchanged": KEPT["text"],
        "nothing": "AirflowFailException",
        "nothing again": "AirflowFailException",
        "kept again": "AirflowSkipException",
    }
    assert all(told["ended"].endswith("https://example.com/printed") for told in found.values()), (
        "the last line, as ever"
    )


def test_an_attempt_finds_nothing_of_the_one_before(found: dict[str, dict[str, Any]]) -> None:
    assert found["nothing again"]["left"] is None
    assert found["kept again"]["left"] == ATTEMPTS["kept again"][1][0]


def test_the_report_is_where_the_command_has_handed_it_over(found: dict[str, dict[str, Any]]) -> None:
    links = {name: told["link"] for name, told in found.items() if told["link"]}
    assert links == {"kept again": "https://example.com/report"}


def test_a_command_hands_over_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OUTCOME_FILE, raising=False)
    report_outcome(outcome="kept")
    monkeypatch.setenv(OUTCOME_FILE, str(tmp_path / "outcome.json"))
    report_outcome(outcome="kept", text="“kept”")
    assert json.loads((tmp_path / "outcome.json").read_text(encoding="utf-8")) == {"outcome": "kept", "text": "“kept”"}
