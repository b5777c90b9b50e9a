"""How many threads compute a training step: `smar start` finds out, once for a network, and keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smar_model.lake.records import DamagedRecord
from smar_model.lake.runs import Run
from smar_model.lake.stage_key import key_parts
from smar_model.release.start import start_run
from smar_model.stages import STAGES
from tests.evaluation.published_run import NETWORK
from tests.release.judged_runs import write_settings
from tests.tiny_shop import LAST_DAY, write_tiny_shop

STEPS = {"steps": 4, "batch": 8}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    write_tiny_shop(tmp_path / "shop")
    return tmp_path


def begin(home: Path, name: str, *, network: dict[str, Any] = NETWORK, **training: Any) -> Run:
    sizes = {"adapt_vision": STEPS, "pretrain": STEPS, "finetune": STEPS}
    path = write_settings(home, network=network, training=sizes | training)
    return start_run(settings_path=path, name=name, day=LAST_DAY, promotion="automatic", steps=())


def records(home: Path) -> list[Path]:
    return sorted((home / "step_threads").glob("*.json"))


def test_a_network_is_probed_once_and_the_number_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = begin(home, "first")
    (record,) = records(home)
    found = json.loads(record.read_text(encoding="utf-8"))
    assert set(found["milliseconds"]) == {"1", "2"}
    assert all(time > 0 for time in found["milliseconds"].values())
    assert first.settings.training.step_threads == found["threads"]
    assert (
        f"threads that compute a training step: {found['threads']} (time of a step by threads: 1: "
        in capsys.readouterr().out
    )

    # What it found stays, even where a probe would find the other number today.
    other = 3 - found["threads"]
    record.write_text(json.dumps(found | {"threads": other}), encoding="utf-8")
    assert begin(home, "second").settings.training.step_threads == other
    assert records(home) == [record]
    assert "threads that compute" not in capsys.readouterr().out

    begin(home, "wider", network=NETWORK | {"dimension": 2 * NETWORK["dimension"]})
    assert len(records(home)) == 2


def test_a_run_begun_again_has_the_same_number(home: Path) -> None:
    assert begin(home, "again") == begin(home, "again")


def test_nothing_is_probed_where_nothing_is_to_be_chosen(home: Path) -> None:
    assert begin(home, "stated", step_threads=2).settings.training.step_threads == 2
    assert begin(home, "single", threads=1).settings.training.step_threads is None
    assert not records(home)


def test_the_number_is_in_the_keys_of_what_trains_on_pairs_alone(home: Path) -> None:
    one, two = (begin(home, f"by-{count}", step_threads=count) for count in (1, 2))
    for stage in ("pretrain", "finetune", "train-text-only", "adapt-vision", "embed"):
        differs = key_parts(STAGES[stage], one, {})["settings"] != key_parts(STAGES[stage], two, {})["settings"]
        assert differs == (stage in {"pretrain", "finetune", "train-text-only"}), stage


def test_a_damaged_record_is_named(home: Path) -> None:
    begin(home, "first")
    (record,) = records(home)
    record.write_text('{"threads": ', encoding="utf-8")
    with pytest.raises(DamagedRecord, match=r"step_threads.*remove it; the next start probes again"):
        begin(home, "second")
