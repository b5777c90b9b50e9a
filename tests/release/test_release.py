"""From a run's outputs to a champion that answers, with the real registry (SQLite), index and model."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
import pytest
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.errors import InputError
from smar_model.lake.earlier_outputs import Base
from smar_model.lake.publishing import Attempt
from smar_model.lake.release_manifest import WITHIN_VERSION
from smar_model.lake.runs import Run, create_run, find_runs
from smar_model.release.history import read_history
from smar_model.release.promote import promote_run
from smar_model.release.register import register_run
from smar_model.release.registry import Registry, serving_or_version, signature_tag
from smar_model.release.start import start_run
from smar_model.release.starting_points import (
    PromotedVersion,
    best_release,
    find_anchors,
    find_best_release,
    find_cold_start,
)
from smar_model.release.tracking import track_run
from smar_model.retrieval.search import Searcher
from smar_model.settings import load_settings
from smar_model.stages import STAGES
from smar_model.training.model_folder import model_digest
from tests.release.judged_runs import EASY, judged_run, write_settings
from tests.tiny_shop import DAYS, LAST_DAY, write_rows, write_tiny_shop

ALL_STEPS = {"start", *STAGES, "register", "promote"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder))
        write_tiny_shop(folder / "shop")
        yield folder


@pytest.fixture(scope="module")
def first(home: Path) -> Run:
    """The first release."""
    run = judged_run(home, "first", seed=1)
    assert run.champion is None
    register_run(run)
    assert promote_run(run) == "promoted"
    return run


def test_the_released_pair_answers_from_the_registry(home: Path, first: Run) -> None:
    found = serving_or_version(first.settings, None)
    assert found is not None
    assert found.version == "1"
    assert found.cutoff == first.cutoff.isoformat()
    assert found.started_from == "pretraining"
    assert found.model_digest == model_digest(first.output("finetune").folder / "model")
    assert found.index_digest == first.output("index").digest
    served = Searcher.load(Path(found.model_folder), Path(found.index_folder))
    made = Searcher.load(first.output("finetune").folder / "model", first.output("index").folder)
    assert served.search(["red shirt"], k=5)[0] == made.search(["red shirt"], k=5)[0]
    pickles = [f for f in Path(found.folder).rglob("*") if f.suffix in {".pkl", ".pickle", ".bin", ".pt"}]
    assert pickles == []
    assert (Path(found.folder) / "artifacts" / "report.html").stat().st_size > 1_000
    assert load_settings(Path(found.folder) / "artifacts" / "settings.yaml") == first.settings


def test_mlflow_itself_serves_the_version(first: Run) -> None:
    import mlflow

    mlflow.set_tracking_uri(first.settings.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/smar@champion")
    answer = model.predict(pd.DataFrame({"query": ["red shirt", "novel"]}), params={"k": 3})
    assert answer["query"].tolist() == ["red shirt", "novel"]
    assert [len(items) for items in answer["item_id"]] == [3, 3]
    assert all(scores == sorted(scores, reverse=True) for scores in answer["score"])
    assert answer["p"].between(0, 1).all()
    answer = model.predict(pd.DataFrame({"query": ["red shirt"]}), params={"k": 24})
    pictures = dict(zip(answer["item_id"][0], answer["pictures"][0], strict=True))
    assert pictures["item-000"] == []
    assert all(Path(unquote(urlparse(uri).path)).is_file() for uris in pictures.values() for uri in uris)
    assert {urlparse(uri).scheme for uris in pictures.values() for uri in uris} == {"file"}
    with pytest.raises(mlflow.exceptions.MlflowException, match="query"):
        model.predict(pd.DataFrame({"text": ["red shirt"]}))


def test_registering_and_promoting_again_changes_nothing(first: Run) -> None:
    lines = len(read_history())
    assert register_run(first) == "1"
    assert promote_run(first) == "unchanged"
    registry = Registry(first.settings)
    assert [str(v.version) for v in registry.client.search_model_versions("name = 'smar'")].count("1") == 1
    assert len(read_history()) == lines


def test_a_run_that_trained_the_champion_again_has_no_rival(home: Path, first: Run) -> None:
    path = write_settings(home, gate=EASY)
    again = start_run(
        settings_path=path, name="again-the-same", day=LAST_DAY, window_days=None, promotion="automatic", steps=()
    )
    assert set(again.rivals()) == {"champion"}
    again.write_state("finetune", "finished", key=first.output("finetune").key)
    assert again.rivals() == {}


def test_history_tells_what_from_and_why(first: Run) -> None:
    entry = read_history()[0]
    assert (entry["from"], entry["to"], entry["run"], entry["date"]) == (None, "1", "first", str(LAST_DAY))
    assert {r["rule"] for r in entry["evidence"]["reasons"]} >= {"over_bm25", "data_checks"}
    assert entry["evidence"]["answered"]["found"] > 0


def test_tracking_is_complete_and_repeatable(first: Run, capsys: pytest.CaptureFixture[str]) -> None:
    parent = track_run(first)
    registry = Registry(first.settings)
    address = f"/#/experiments/{registry.experiment_id()}/runs/{parent}/artifacts/report.html"
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith(f": http://127.0.0.1:5000{address}")

    def children() -> dict[str, Any]:
        runs = registry.client.search_runs([registry.experiment_id()], f"tags.`mlflow.parentRunId` = '{parent}'")
        return {r.data.tags["smar.stage"]: r for r in runs}

    before = children()
    states = {step for step in ALL_STEPS if first.state(step)}
    assert set(before) == states == ALL_STEPS
    assert before["finetune"].data.metrics["loss"] == pytest.approx(1 / 1_500)
    for name in ("text", "watched/gate_share", "pairs_per_second"):
        assert len(registry.client.get_metric_history(before["finetune"].info.run_id, name)) == 1_500
    assert before["finetune"].data.metrics["pairs_per_second"] == 15_000
    assert before["finetune"].data.tags["input.pretrain"] == "abc"
    assert before["finetune"].data.params["training.seed"] == "1"
    read = {i.dataset.name: i.dataset.digest for i in before["gate"].inputs.dataset_inputs}
    assert read == {n: d[:36] for n, d in first.output("gate").manifest["inputs"].items()}
    assert track_run(first) == parent
    assert {name: r.info.run_id for name, r in children().items()} == {n: r.info.run_id for n, r in before.items()}
    run = registry.client.get_run(parent)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{LAST_DAY} first"
    assert run.data.params["network.dimension"] == "16"
    assert 0 <= run.data.metrics["challenger_overall_recall_at_50"] <= 1
    named = {"report.html", "evaluation.json", "checks.json", "decision.json"}
    assert {f.path for f in registry.client.list_artifacts(parent)} >= named
    assert len(run.data.tags["smar.lock"]) == 64
    assert run.data.tags["smar.version.torch"].startswith("2.")
    assert "**gate**: promote" in run.data.tags["mlflow.note.content"]


def test_a_rejected_challenger_is_a_normal_end(home: Path, first: Run) -> None:
    run = judged_run(home, "rejected", seed=2, drawn=False, minimum_queries=10_000)
    assert run.champion is not None
    assert run.champion.version == "1"
    assert register_run(run) == "2"
    assert promote_run(run) == "kept"
    assert version_of(run) == "1"
    state = run.state("promote")
    assert state is not None
    assert "10,000" in state["metrics"]["text"]
    assert "10,000" in json.loads(run.output("gate").file("decision.json").read_text())["verdict"]


@pytest.fixture(scope="module")
def followers(home: Path, first: Run) -> list[Run]:
    """Two runs that met the first champion, both fit to follow it."""
    runs = [judged_run(home, name, seed=seed, drawn=False) for name, seed in (("follower", 3), ("late", 4))]
    for run in runs:
        register_run(run)
    return runs


def version_of(alias_holder: Run) -> str:
    now = serving_or_version(alias_holder.settings, None)
    assert now is not None
    return now.version


def test_without_leave_nothing_is_promoted(followers: list[Run]) -> None:
    assert promote_run(replace(followers[0], promotion="never")) == "kept"
    assert version_of(followers[0]) == "1"


def test_a_version_that_does_not_answer_stays_out_and_shows_as_failed(home: Path, followers: list[Run]) -> None:
    run = followers[0]
    registry, number = Registry(run.settings), "3"
    index = Path(registry.release(number).index_folder) / "index.faiss"
    whole = index.read_bytes()
    index.write_bytes(b"cut off")
    with pytest.raises(InputError, match="damaged"):
        promote_run(run)
    index.write_bytes(whole)

    foreign = Path(registry.release("1").index_folder).as_uri()
    registry.tag(number, "index_source", foreign)
    with pytest.raises(InputError, match="has no signature"):
        promote_run(run)
    tag = signature_tag(registry.version(number).tags["index"])
    registry.tag(number, tag, "{}")
    with pytest.raises(InputError, match="its signature is not readable"):
        promote_run(run)
    registry.tag(number, "index_source", WITHIN_VERSION)
    registry.client.delete_model_version_tag("smar", number, tag)

    assert version_of(run) == "1"
    assert not (home / "registry.lock").exists()
    parent = registry.client.get_run(track_run(run))
    assert parent.info.status == "FAILED"
    assert parent.data.tags["smar.failed"] == "promote"


def test_a_better_one_follows_and_who_met_the_old_champion_must_start_again(followers: list[Run]) -> None:
    follower, late = followers
    assert promote_run(follower) == "promoted"
    assert (read_history()[-1]["from"], read_history()[-1]["to"]) == ("1", "3")
    assert promote_run(late) == "kept"
    state = late.state("promote")
    assert state is not None
    assert "start a new run" in state["metrics"]["text"]
    assert version_of(late) == "3"
    # What failed before is tracked as finished once it has.
    registry = Registry(follower.settings)
    assert registry.client.get_run(track_run(follower)).info.status == "FINISHED"


def test_the_next_day_meets_the_best_release_and_the_newest_cold_start(home: Path, followers: list[Run]) -> None:
    now = serving_or_version(followers[0].settings, None)
    registry = Registry(followers[0].settings)
    promoted = [v for v in registry.client.search_model_versions("name = 'smar'") if "smar.promoted_at" in v.tags]
    assert {str(v.version) for v in promoted} == {"1", "3"}
    assert all("smar.over_bm25" in v.tags for v in promoted)
    next_day = replace(followers[0], name="next", date=LAST_DAY + timedelta(days=1))
    registered = [run.name for run in find_runs() if (run.state("register") or {}).get("state") == "finished"]
    assert len(registered) >= 3

    registry.client.set_model_version_tag("smar", "1", "smar.over_bm25", "0.9")
    anchors = find_anchors(next_day, now)
    assert (anchors["best_release"].version, anchors["best_release"].run) == ("1", "first")
    assert anchors["best_release"].model_digest == registry.release("1").model_digest
    assert Path(anchors["best_release"].model_folder).is_dir()
    # Promoted or not, the newest is the anchor; but not one that went on from a release or an earlier pretraining, or a comparison.
    assert anchors["cold_start"].run == max(registered)
    others: dict[str, dict[str, Any]] = {
        "z-warm": {"warm_start": now},
        "z-based": {"base": Base(run="first", cutoff=now.cutoff, keys={})},
        "z-compared": {},
    }
    for name, points in others.items():
        other = create_run(replace(followers[0], name=name, **points))
        other.take(followers[0].output("finetune"), stage="finetune")
        if name != "z-compared":
            other.write_state("register", "finished", version="9")
    assert find_anchors(next_day, now) == anchors
    assert set(replace(next_day, champion=now, anchors=anchors).rivals()) == {"champion", "best_release", "cold_start"}

    assert find_anchors(next_day, None) == {}, "floors alone decide about a first release"
    assert find_anchors(replace(next_day, date=LAST_DAY + timedelta(days=29)), now) == {}, "too old"
    assert find_anchors(replace(next_day, date=LAST_DAY - timedelta(days=1)), now) == {}, (
        "they have seen its evaluation day"
    )
    assert find_best_release(replace(next_day, date=LAST_DAY)) is not None, "up to the same moment"
    assert find_cold_start(replace(next_day, date=LAST_DAY)) is None, (
        "none of the same day: a run again finds what it found"
    )

    registry.client.set_model_version_tag("smar", "1", "smar.over_bm25", "-0.9")
    assert "best_release" not in find_anchors(next_day, now), "the best is the champion"
    folder = Path(registry.release("3").model_folder)
    folder.rename(folder.with_name("gone"))
    assert find_anchors(next_day, now)["best_release"].version == "1", "whose files are gone is passed over"
    folder.with_name("gone").rename(folder)


def test_of_releases_the_best_is_by_its_own_day_and_not_too_old() -> None:
    cutoff = datetime(2026, 11, 29, tzinfo=UTC)

    def release(version: str, day: str, over_bm25: float) -> PromotedVersion:
        return PromotedVersion(version=version, cutoff=f"2026-{day}T00:00:00+00:00", over_bm25=over_bm25)

    old, first, second, later = (
        *(release("1", "10-31", 0.9), release("2", "11-01", 0.3)),
        *(release("9", "11-28", 0.3), release("10", "11-30", 0.8)),
    )
    assert best_release([old, first, later], cutoff) == first, "28 days, and none that knows the evaluation days"
    assert best_release([first, second], cutoff) == second, "of equals the newest"
    tenth = replace(second, version="10")
    assert best_release([tenth, second], cutoff) == tenth, "ten comes after nine"
    assert best_release([old], cutoff) is None


def test_smar_search_answers_from_the_champion(home: Path, first: Run) -> None:
    settings = str(write_settings(home))
    done = CliRunner().invoke(
        app, ["search", "red shirt", "-k", "24", "--json", "--version", "1", "--settings", settings]
    )
    answer = json.loads(done.stdout)
    assert answer["version"] == "1"
    assert 0 <= answer["p"] <= 1
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 25))
    pictures = [picture for hit in answer["hits"] for picture in hit["pictures"]]
    assert pictures
    assert all(Path(picture).is_file() for picture in pictures)
    readable = CliRunner().invoke(app, ["search", "red shirt", "--version", "1", "--settings", settings]).stdout
    assert answer["hits"][0]["title"].split()[1] in readable
    missing = CliRunner().invoke(app, ["search", "red shirt", "--version", "99", "--settings", settings])
    assert isinstance(missing.exception, InputError)
    assert "no version '99'" in str(missing.exception)
    nothing = CliRunner().invoke(app, ["search", " ", "--settings", settings])
    assert "the query is empty" in str(nothing.exception)
    unset = CliRunner().invoke(app, ["search", "red", "--version", "", "--settings", settings])
    assert "--version is empty" in str(unset.exception)
    no_text = CliRunner().invoke(
        app, ["search", b"dr\xed\xa0\x80ess".decode("utf-8", "surrogateescape"), "--settings", settings]
    )
    assert no_text.exit_code == 0, no_text.output


def test_without_a_champion_search_says_what_to_do(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = str(write_settings(home, release={"model": "another"}))
    done = CliRunner().invoke(app, ["search", "red shirt", "--settings", settings])
    assert isinstance(done.exception, InputError)
    assert "make retrain" in str(done.exception)


def test_a_run_begun_again_keeps_the_champion_that_it_met(home: Path, first: Run) -> None:
    path = write_settings(home, release={"model": "alone"})
    begun = start_run(settings_path=path, name="again", day=LAST_DAY, window_days=2, promotion="automatic", steps=())
    assert begun.days == DAYS[1:]
    registry = Registry(begun.settings)
    registry.client.create_registered_model("alone")
    assert (
        start_run(settings_path=path, name="again", day=LAST_DAY, window_days=2, promotion="automatic", steps=())
        == begun
    )
    with pytest.raises(InputError, match="another date or other settings"):
        start_run(settings_path=path, name="again", day=LAST_DAY, window_days=3, promotion="automatic", steps=())


@pytest.mark.parametrize(
    ("days_later", "window", "says"),
    [(1, None, "click_log/dt=2026-11-20: no Parquet file"), (0, 1, "no day is left to train on")],
)
def test_a_run_that_lacks_something_does_not_begin(home: Path, days_later: int, window: int | None, says: str) -> None:
    day, path = LAST_DAY + timedelta(days=days_later), write_settings(home)
    name = f"lacking-{days_later}"
    with pytest.raises(InputError, match=says):
        start_run(settings_path=path, name=name, day=day, window_days=window, promotion="automatic", steps=())
    assert says in json.loads((home / "runs" / name / "start.json").read_text(encoding="utf-8"))["message"]
    assert not (home / "runs" / name / "run.json").exists()


def test_a_grade_that_is_none_is_named_before_anything_is_trained(home: Path) -> None:
    rows = [{"query": "dress", "item_id": "1", "grade": grade} for grade in (3, 7)]
    judgments = write_rows(home / "shop" / "judgments.parquet", "judgments", rows)
    try:
        with pytest.raises(InputError, match=r"judgments\.parquet: row 1 .* has grade 7; grades are 0 to 3"):
            start_run(settings_path=write_settings(home), name="graded", day=LAST_DAY, promotion="automatic", steps=())
    finally:
        judgments.unlink()


def test_a_password_in_a_note_is_recorded_nowhere(home: Path) -> None:
    run = start_run(
        settings_path=write_settings(home),
        name="noted",
        day=LAST_DAY,
        promotion="automatic",
        steps=(),
        note="for Ada, password=hush; https://host/?jwt=hush",
    )
    assert run.note == "for Ada, password=***; https://host/?jwt=***"
    assert not [file for file in run.folder.rglob("*.json") if "hush" in file.read_text(encoding="utf-8")]


def test_an_interpreter_for_a_step_that_there_is_not_is_refused(home: Path) -> None:
    path = write_settings(home, stages={"python": {"fintune": "python3.11"}})
    with pytest.raises(InputError, match=r"stages\.python\.fintune: no such step; there are pretrain, finetune"):
        start_run(
            settings_path=path,
            name="misspelt",
            day=LAST_DAY,
            window_days=None,
            promotion="automatic",
            steps=("pretrain", "finetune"),
        )


def test_start_sweeps_what_dead_processes_left(home: Path) -> None:
    attempt = Attempt("embed", "0" * 64)
    (attempt.folder / ".owner.json").write_text(json.dumps({"host": platform.node(), "pid": 2**22 + 1}))
    start_run(
        settings_path=write_settings(home),
        name="sweeping",
        day=LAST_DAY,
        window_days=None,
        promotion="automatic",
        steps=(),
    )
    assert not attempt.folder.exists()
