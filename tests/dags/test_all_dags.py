"""What holds for every DAG: it needs nothing but Airflow, refuses bad values, is bounded, documented, and cannot hide a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from smar_model.network.variants import VARIANTS
from smar_model.release.start import with_changes
from smar_model.settings import REPOSITORY, load_settings

NAMES = {
    "smar_retrain",
    "smar_refresh_index",
    "smar_refresh_stock",
    "smar_compare",
    "smar_rollback",
    "smar_oracle",
    "smar_promote_challenger",
}
POOLS = json.loads((REPOSITORY / "dags" / "pools.json").read_text(encoding="utf-8"))


def test_the_folder_needs_airflow_alone(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_task_is_bounded_and_its_pool_is_there(dags: dict[str, Any], name: str) -> None:
    assert dags[name]["max_active_runs"] == 1
    assert dags[name]["catchup"] is False
    for task, how in dags[name]["tasks"].items():
        assert how["pool"] in {"default_pool", *POOLS}, task
        assert how["timeout"] or how["answer_seconds"], f"{task} could run for ever"
        assert bool(how["arguments"]) <= (how["retries"] > 0), f"{task}: a lost connection would fail it at once"
    assert POOLS["training"]["slots"] == POOLS["indexing"]["slots"] == POOLS["release"]["slots"] == 1


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_writes_to_the_registry_takes_its_turn(dags: dict[str, Any], name: str) -> None:
    writers = {"promote", "rollback", "publish-index", "reconcile", "prune"}
    for task, how in dags[name]["tasks"].items():
        assert (how["pool"] == "release") == (task.rpartition(".")[2] in writers), task


@pytest.mark.parametrize("name", sorted(NAMES))
def test_any_failure_turns_the_run_red(dags: dict[str, Any], name: str) -> None:
    """A run is as its leaves are: every task's failure must reach a leaf that then is not green."""
    tasks = dags[name]["tasks"]

    def reached(task: str) -> bool:
        if tasks[task]["rule"] == "one_failed" or not tasks[task]["downstream"]:
            return True  # the watcher fails with it, and a leaf is itself
        return any(
            tasks[below]["rule"] == "one_failed" or (tasks[below]["rule"] in PASS_ON and reached(below))
            for below in tasks[task]["downstream"]
        )

    for task in tasks:
        assert reached(task), f"a failure of {task} would end green"


PASS_ON = {"all_success", "none_failed"}
"""Trigger rules under which a failure before a task fails the task too."""


@pytest.mark.parametrize("name", sorted(NAMES))
def test_its_page_says_what_it_does_and_what_to_do_when_it_is_red(dags: dict[str, Any], name: str) -> None:
    page = dags[name]["doc"]
    assert page.lstrip().startswith(f"# {name}: ")
    assert "**A red run" in page
    assert "dags/pools.json" in page
    for field in dags[name]["params"]:
        assert f"`{field}`" in page, f"the page does not explain {field}"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_field_has_a_type_a_title_and_help(dags: dict[str, Any], name: str) -> None:
    for field, schema in dags[name]["params"].items():
        Draft202012Validator.check_schema(schema_of(schema))
        assert schema["type"] and schema["title"] and schema["description"], field
        if not schema["required"]:
            assert accepts(schema, schema["default"]), f"{field}: its own default is refused"


def schema_of(field: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if key not in {"default", "required", "description"}}


def accepts(field: dict[str, Any], value: Any) -> bool:
    """As Airflow checks a value, in the form's submission and for its API alike (`airflow.sdk.Param.resolve`)."""
    return Draft202012Validator(schema_of(field), format_checker=FormatChecker()).is_valid(value)


@pytest.mark.parametrize(
    ("dag", "field", "good", "bad"),
    [
        ("smar_retrain", "date", [None, "2026-11-19"], ["19.11.2026", "2026-13-01", 7]),
        ("smar_retrain", "window_days", [None, 2, 366], [1, 367, 2.5, "6"]),
        ("smar_retrain", "settings", ["configs/real_products.yaml"], ["", "   ", None]),
        ("smar_retrain", "variant", [None, "smar_nc"], ["", "smar_xx", 1]),
        ("smar_retrain", "pretraining", [None, "auto", "always", "never"], ["sometimes", ""]),
        ("smar_retrain", "seed", [None, 0, 17], [-1, 2**31, 0.5, "1"]),
        ("smar_retrain", "sample_share", [None, 0.01, 1], [0, -0.1, 1.01, "0.5"]),
        ("smar_retrain", "promotion", ["automatic", "ask", "never"], [None, "yes", ""]),
        ("smar_retrain", "note", ["", None, "new titles"], [7, "x" * 2_001]),
        ("smar_refresh_index", "settings", ["configs/real_products.yaml"], [""]),
        (
            "smar_rollback",
            "release",
            ["previous", "1", "123"],
            ["", "0", "-1", "1.5", "champion", "previous; ls", None],
        ),
        ("smar_rollback", "reason", ["too many books"], ["", "  ", "\n\n\n", None]),
        ("smar_compare", "rows", [[], ["default", "smar"]], ["default", [1], ["a b"], ["--minutes"], ["a", "a"]]),
        ("smar_compare", "seeds", [[], [0, 1]], [["0"], [-1], [0, 0], 1, [0.5]]),
        ("smar_compare", "date", [None, "2026-11-19"], ["tomorrow"]),
        ("smar_oracle", "date", [None, "2026-11-19"], ["tomorrow"]),
    ],
)
def test_a_bad_value_is_refused(dags: dict[str, Any], dag: str, field: str, good: list[Any], bad: list[Any]) -> None:
    schema = dags[dag]["params"][field]
    assert [value for value in good if not accepts(schema, value)] == []
    assert [value for value in bad if accepts(schema, value)] == []


def test_what_the_form_offers_is_what_settings_take(dags: dict[str, Any]) -> None:
    fields = dags["smar_retrain"]["params"]
    assert set(fields["variant"]["enum"]) == {None, *VARIANTS}
    sample = load_settings(REPOSITORY / "configs" / "sample_shop.yaml")
    for policy in fields["pretraining"]["enum"][1:]:
        changed = with_changes(sample, [f"training.reuse_pretraining={policy}"])
        assert changed.training.reuse_pretraining == policy
    assert all((REPOSITORY / dags[name]["params"]["settings"]["default"]).is_file() for name in NAMES)


def test_who_follows_what_is_named(dags: dict[str, Any]) -> None:
    sent = {
        (name, task.rpartition(".")[2], asset)
        for name in NAMES
        for task, how in dags[name]["tasks"].items()
        for asset in how["outlets"]
    }
    assert sent == {
        ("smar_retrain", "check-data", "smar_tables"),
        ("smar_retrain", "register", "smar_model"),
        ("smar_retrain", "released", "smar_release"),
        ("smar_refresh_index", "publish-index", "smar_index"),
        ("smar_promote_challenger", "released", "smar_release"),
        ("smar_rollback", "publish-index", "smar_index"),
        ("smar_rollback", "rollback", "smar_release"),
    }
    assert {name: dags[name]["follows"] for name in NAMES if dags[name]["follows"]} == {
        "smar_refresh_index": ["smar_items"]
    }
    for name, _, asset in sent:
        assert f"`{asset}`" in dags[name]["doc"]


def test_notices_are_sent_only_where_a_connection_is_named(
    dags: dict[str, Any], parse: Callable[..., dict[str, Any]]
) -> None:
    assert not any(dags[name]["notices"] or dags[name]["deadline"] for name in NAMES)
    wired = parse(SMAR_NOTICES="people", SMAR_NOTICES_ABOUT="failed late", SMAR_PROMOTION="ask", SMAR_ANSWER_HOURS="3")
    assert wired["errors"] == {}
    assert all(wired["dags"][name]["notices"] and wired["dags"][name]["deadline"] for name in NAMES)
    retrain = wired["dags"]["smar_retrain"]
    assert retrain["params"]["promotion"]["default"] == "ask"
    assert retrain["tasks"]["ask"]["answer_seconds"] == 3 * 3_600


def test_no_file_of_the_dag_folder_names_this_machine_or_a_day() -> None:
    for file in (REPOSITORY / "dags").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert str(REPOSITORY) not in text
        assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text), f"{file.name}: {date.today()} will not stay"


def test_modules_without_dags_are_not_parsed_again_and_again() -> None:
    folder = REPOSITORY / "dags"
    ignored = {line for line in (folder / ".airflowignore").read_text().splitlines() if not line.startswith("#")}
    assert ignored == {f.name for f in folder.glob("*.py")} - {f"{name}.py" for name in NAMES}
