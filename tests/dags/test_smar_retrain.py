"""`smar_retrain` as Airflow reads it: every stage after its inputs, turns in pools, and who lets a model become the champion."""

from __future__ import annotations

from typing import Any

import pytest

from smar_model.stages import STAGES


@pytest.fixture(scope="module")
def dag(dags: dict[str, Any]) -> dict[str, Any]:
    return dags["smar_retrain"]


def test_the_report_is_a_click_away_from_the_run(dag: dict[str, Any]) -> None:
    assert {name: task["links"] for name, task in dag["tasks"].items() if task["links"]} == {"track": ["Report"]}
    assert {"gate", "evaluate"} <= set(dag["tasks"]["report"]["all_upstream"]), "it tells the decision"
    assert "report" in dag["tasks"]["register"]["all_upstream"], "the model version holds it"


def test_every_stage_is_a_task_and_its_inputs_are_upstream(dag: dict[str, Any]) -> None:
    others = {"reconcile", "reconciled", "shop-open", "start", "text_only_settled"}
    others |= {"plan-index", "fill-index-part", "tune-index-part"}
    others |= {"register", "describe-decision", "ask", "promote", "released", "track", "prune", "watcher"}
    assert set(dag["tasks"]) == set(STAGES) | others
    for stage in STAGES.values():
        task = dag["tasks"][stage.name]
        missing = {*stage.inputs, *stage.optional_inputs, "start"} - set(task["all_upstream"])
        assert not missing, f"{stage.name} would run before {missing}"
        assert task["arguments"] == [stage.name, "--run", "{{ run_name(run_id) }}"]


def test_a_failed_baseline_or_a_broken_champion_does_not_block_the_release(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    for settled, before, after in (
        ("text_only_settled", "train-text-only", ("evaluate", "report", "promote")),
        ("reconciled", "reconcile", ("start",)),
    ):
        assert tasks[settled] | {"rule": "all_done", "upstream": [before]} == tasks[settled]
        assert before not in {up for name in after for up in tasks[name]["upstream"]}
    assert "reconcile" in tasks["start"]["all_upstream"], "the run must meet the champion that a person has chosen"


def test_what_always_runs_stands_after_the_release_and_is_watched(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    always = {name for name, task in tasks.items() if task["rule"] == "all_done"}
    assert always == {"text_only_settled", "reconciled", "track", "prune"}
    assert {"track", "prune", "promote", "reconcile", "train-text-only"} <= set(tasks["watcher"]["upstream"])
    assert tasks["watcher"] | {"rule": "one_failed", "retries": 0} == tasks["watcher"]
    assert "promote" in tasks["prune"]["all_upstream"], "what is pruned must know the champion"


def test_parts_of_the_index_are_filled_and_then_tuned_wherever_there_is_room(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    assert tasks["plan-index"]["upstream"] == ["embed"]
    assert "plan-index" in tasks["fill-index-part"]["upstream"]
    assert "fill-index-part" in tasks["tune-index-part"]["upstream"], "what is best of all is known once all are filled"
    assert {"embed", "tune-index-part"} <= set(tasks["index"]["upstream"])
    assert tasks["index"]["rule"] == "none_failed", "it runs where there are no parts"
    assert {tasks[name]["pool"] for name in ("fill-index-part", "tune-index-part")} == {"indexing"}


def test_training_takes_turns(dag: dict[str, Any]) -> None:
    pools: dict[str, set[str]] = {}
    for name, task in dag["tasks"].items():
        pools.setdefault(task["pool"], set()).add(name)
    torch = {"adapt-vision", "encode-pictures", "pretrain", "finetune", "train-text-only", "embed", "index", "evaluate"}
    assert pools["training"] == torch | {"mine-negatives", "plan-index"}
    assert pools["spark"] == {name for name, stage in STAGES.items() if stage.summary.startswith("Spark")}
    assert dag["schedule"] == "0 4 * * *"
    assert {"data", "training", "judging", "release"} <= set(dag["groups"])


def test_a_person_is_asked_between_register_and_promote_and_silence_keeps_the_champion(dag: dict[str, Any]) -> None:
    tasks = dag["tasks"]
    assert tasks["ask"]["upstream"] == ["describe-decision"]
    assert tasks["describe-decision"]["upstream"] == ["register"]
    assert tasks["promote"]["upstream"] == ["ask", "register"]
    assert tasks["promote"]["rule"] == "none_failed", "it runs where nobody is asked"
    assert tasks["ask"]["defaults"] == ["Reject"]
    assert 3_600 <= tasks["ask"]["answer_seconds"] < 24 * 3_600, "the next day's run waits for this one"


def test_dates_work_on_manual_runs_without_a_logical_date(dag: dict[str, Any]) -> None:
    given = dag["tasks"]["start"]["arguments"]
    date = given[given.index("--date") + 1]
    assert "{{ ds }}" not in date
    assert "dag_run.run_after" in date
