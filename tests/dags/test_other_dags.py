"""The DAGs beside the daily one, as Airflow reads them."""

from __future__ import annotations

import itertools
from typing import Any

from smar_model.stages import REFRESH_STAGES, STAGES


def test_the_oracle_is_trained_on_checked_tables_and_only_where_asked_for(dags: dict[str, Any]) -> None:
    oracle = dags["smar_oracle"]
    assert oracle["paused"] is True, "most shops have no truth"
    assert oracle["schedule"] == "0 12 * * 0"
    tasks = oracle["tasks"]
    assert [name for name, task in tasks.items() if not task["downstream"]] == ["train-oracle"]
    assert set(tasks) - {"shop-open", "start", "train-oracle"} < set(STAGES)
    for stage in set(tasks) & set(STAGES):
        assert {*STAGES[stage].inputs, "start"} <= set(tasks[stage]["all_upstream"])
    needed = {*STAGES["train-tokenizer"].inputs, "start"}
    assert needed <= set(tasks["train-oracle"]["all_upstream"])
    assert tasks["train-oracle"]["pool"] == "training"
    assert all(task["arguments"][0] in {name, "shop"} for name, task in tasks.items())
    assert tasks["start"]["arguments"][-2:] == ["--promotion", "never"]


def test_both_releases_are_refreshed_whatever_becomes_of_the_other(dags: dict[str, Any]) -> None:
    dag = dags["smar_refresh_index"]
    assert dag["schedule"] == "0 * * * *"
    tasks = dag["tasks"]
    for release in ("champion", "previous", "challenger"):
        stages = ["start", "prepare-items", *REFRESH_STAGES, "publish-index"]
        for before, after in itertools.pairwise(stages):
            assert f"{release}.{before}" in tasks[f"{release}.{after}"]["upstream"]
            assert tasks[f"{release}.{after}"]["arguments"][0] == after
        assert tasks[f"{release}.start"]["arguments"][-2:] == ["--release", release]
        assert tasks[f"{release}.start"]["required"] is False, "no release yet is a normal end"
        assert {tasks[f"{release}.{name}"]["pool"] for name in REFRESH_STAGES} == {"indexing"}, "not behind a training"
    runs = {tasks[f"{release}.publish-index"]["arguments"][-1] for release in ("champion", "previous", "challenger")}
    assert len(runs) == 3, "two runs of one name would be one"
    # The catalogue is made once, and the index of one release does not wait for the other's.
    for other in ("previous", "challenger"):  # each may be skipped without the other
        assert tasks[f"{other}.start"]["upstream"] == ["champion.prepare-items"]
    assert "champion.embed-release" not in tasks["previous.publish-index"]["all_upstream"]


def test_stock_is_refreshed_hourly_beside_everything_else_once_it_is_turned_on(dags: dict[str, Any]) -> None:
    dag = dags["smar_refresh_stock"]
    assert dag["schedule"] == "15 * * * *" and dag["paused"]
    (task,) = dag["tasks"].values()
    assert task["arguments"] == ["refresh-stock", "--settings", "{{ params.settings }}"]
    assert task["pool"] == "default_pool" and task["upstream"] == []


def test_a_rollback_refreshes_first_and_switches_last(dags: dict[str, Any]) -> None:
    dag = dags["smar_rollback"]
    assert dag["schedule"] is None
    tasks = dag["tasks"]
    stages = ["start", "prepare-items", *REFRESH_STAGES, "publish-index", "rollback"]
    assert set(tasks) == set(stages)
    for before, after in itertools.pairwise(stages):
        assert tasks[after]["upstream"] == [before]
        assert tasks[after]["rule"] == "all_success"
    assert tasks["start"]["required"] is True, "no such release is a failure here"
    assert not {task["pool"] for task in tasks.values()} & {"training"}, "it waits for no training"
    assert dag["params"]["reason"]["required"] is True


def test_rows_are_mapped_and_the_page_is_written_whatever_becomes_of_one(dags: dict[str, Any]) -> None:
    dag = dags["smar_compare"]
    assert dag["paused"] is True, "it trains for hours"
    assert dag["schedule"] == "0 14 * * 0"
    tasks = dag["tasks"]
    assert [name for name, task in tasks.items() if task["mapped"]] == ["compare"]
    assert tasks["compare"] | {"pool": "training", "upstream": ["list"]} == tasks["compare"]
    assert tasks["report"] | {"rule": "all_done", "upstream": ["compare"]} == tasks["report"]
    assert tasks["report"]["arguments"][-1] == "--page-only"
    assert set(tasks["watcher"]["upstream"]) == {"list", "compare", "report"}


def test_the_version_that_waits_is_looked_at_daily_once_that_is_turned_on(dags: dict[str, Any]) -> None:
    dag = dags["smar_promote_challenger"]
    assert dag["paused"] is True, "most shops ask for no interleaving"
    assert dag["schedule"] == "0 6 * * *"
    tasks = dag["tasks"]
    for before, after in itertools.pairwise(["describe-decision", "ask", "promote", "released"]):
        assert tasks[after]["upstream"] == [before]
    assert tasks["promote"]["rule"] == "none_failed", "where nobody is asked, shoppers alone decide"
    assert {"--challenger"} <= {*tasks["promote"]["arguments"]} & {*tasks["describe-decision"]["arguments"]}
    assert tasks["ask"]["defaults"] == ["Reject"]
    assert tasks["released"]["outlets"] == ["smar_release"]
