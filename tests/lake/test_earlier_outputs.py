"""What a run's record names of others' work: how it stands on disk, what is read of other versions' records, what counts for a key."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from smar_model.errors import InputError
from smar_model.lake.earlier_outputs import EarlierModel
from smar_model.lake.records import DamagedRecord
from smar_model.lake.runs import Run, create_run, load_run
from tests.earlier_models import a_release
from tests.tiny_shop import tiny_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """It met version 2, in the home folder, and its index in another place."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    release = a_release(
        version="2",
        folder=str(tmp_path / "home" / "mlflow-artifacts" / "2"),
        model_folder=str(tmp_path / "home" / "mlflow-artifacts" / "2" / "model"),
        index_folder="/elsewhere/index",
    )
    planned = replace(tiny_run(tmp_path / "shop"), name="met", champion=release, warm_start=release.model)
    return create_run(planned)


def record(run: Run) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    return content


def test_folders_of_a_record_are_places_below_the_home_folder(run: Run) -> None:
    champion = record(run)["champion"]
    assert (champion["folder"], champion["model_folder"]) == ("mlflow-artifacts/2", "mlflow-artifacts/2/model")
    assert champion["index_folder"] == "/elsewhere/index"
    assert run.champion is not None and asdict(run.champion) == champion, "read as it stands"
    assert load_run("met") == run


def test_a_warm_start_is_a_model_whatever_index_the_release_has(run: Run) -> None:
    refreshed = replace(a_release(), index_digest="n" * 64)
    assert refreshed.digests != a_release().digests and refreshed.model.digests == a_release().model.digests
    assert isinstance(run.warm_start, EarlierModel) and "index_digest" not in record(run)["warm_start"]


def test_what_a_later_version_adds_to_a_release_is_passed_over_and_what_is_needed_is_named(run: Run) -> None:
    path, content = run.folder / "run.json", record(run)
    path.write_text(json.dumps(content | {"champion": content["champion"] | {"of_later": 1}}), encoding="utf-8")
    assert load_run("met") == run
    del content["champion"]["model_digest"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DamagedRecord, match=r"run\.json: damaged \(champion\.model_digest: Field required\)"):
        load_run("met")


def test_a_record_with_settings_of_another_version_is_none_that_is_damaged(run: Run) -> None:
    path, content = run.folder / "run.json", record(run)
    path.write_text(json.dumps(content | {"of_later": {}}), encoding="utf-8")
    with pytest.raises(InputError, match="written by another version of SMAR, as 'of_later' is unknown") as raised:
        load_run("met")
    assert not isinstance(raised.value, DamagedRecord)
    path.write_text(json.dumps(content | {"settings": content["settings"] | {"of_later": 1}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json: of_later: ") as raised:
        load_run("met")
    assert not isinstance(raised.value, DamagedRecord)
