"""Encoders that were added by name: whole or not there, verified where they are read, and in the keys of what reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from smar_model.errors import InputError
from smar_model.lake.durable_files import sweep_temporaries
from smar_model.lake.encoder_store import (
    EncoderDescription,
    StoredEncoder,
    find_encoder,
    list_encoders,
    prepare_place,
    publish_encoder,
    remove_encoder,
    resolve_encoders,
)
from smar_model.lake.process_identity import temporary_beside
from smar_model.lake.runs import Run, create_run, load_run
from smar_model.lake.stage import Stage, StageContext, run_stage
from tests.tiny_shop import LAST_DAY, flip_byte, tiny_settings

DESCRIPTION: EncoderDescription = {
    "source": "package:mini==1.0",
    "licence": "Apache-2.0",
    "languages": ["en"],
    "scripts": ["Latin"],
    "parameters": {"text": 4},
}
READS_BOTH = Stage(name="label-fashion", summary="", work=f"{__name__}:read_text", encoders=("text", "vision"))
READS_VISION = Stage(name="label-fashion", summary="", work=f"{__name__}:read_text", encoders=("vision",))
read: list[str | None] = []


def read_text(context: StageContext) -> dict[str, Any]:
    folder = context.encoder("text") if "text" in context.stage.encoders else None
    read.append((folder / "text" / "model.safetensors").read_text(encoding="utf-8") if folder else None)
    context.output("words.txt").write_text("words", encoding="utf-8")
    return {}


def add(name: str, weights: str = "weights", **described: Any) -> StoredEncoder:
    made = temporary_beside(prepare_place(name))
    for file in ("text/model.safetensors", "vision/model.safetensors", "words.safetensors"):
        (made / file).parent.mkdir(parents=True, exist_ok=True)
        (made / file).write_text(weights, encoding="utf-8")
    return publish_encoder(name, made, DESCRIPTION | described)


def run_with(name: str, **text: Any) -> Run:
    settings = tiny_settings(Path("shop"), network={"text": text})
    run = Run(
        name=name,
        date=LAST_DAY,
        settings_source="tests",
        settings=settings,
        champion=None,
        promotion="never",
        encoders=resolve_encoders(settings),
    )
    return create_run(run)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    read.clear()
    return tmp_path / "home"


def test_an_added_encoder_is_found_with_its_content(home: Path) -> None:
    made = add("mini")
    assert find_encoder("mini") == made
    assert sorted(path.name for path in (home / "encoders" / "mini").iterdir()) == [
        *("encoder.json", "text", "vision", "words.safetensors")
    ]
    assert [encoder.name for encoder in list_encoders()] == ["mini"]
    # Neither name nor source are content.
    assert add("other", source="folder:mini").digest == made.digest != add("changed", "other weights").digest


def test_the_same_again_is_the_one_that_is_there_and_another_is_refused(home: Path) -> None:
    made = add("mini")
    assert add("mini") == made
    with pytest.raises(InputError, match=r"there is an encoder 'mini' with another content, from package:mini==1\.0"):
        add("mini", "other weights")
    assert find_encoder("mini") == made
    remove_encoder("mini")
    assert find_encoder("mini") is None and not (home / "encoders" / "mini").exists()
    assert add("mini", "other weights").digest != made.digest
    with pytest.raises(InputError, match="no encoder of that name; there are mini"):
        remove_encoder("minni")


def test_a_model_that_somebody_unpacked_where_encoders_lie_is_kept(home: Path) -> None:
    model = home / "encoders" / "mini"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"mini/config\.json: is no file of an encoder; move .*/mini away, or choose"):
        add("mini")
    assert (model / "config.json").is_file() and find_encoder("mini") is None


def test_a_link_to_another_homes_encoder_is_removed_alone(home: Path, tmp_path: Path) -> None:
    add("mini")
    (home / "encoders" / "mini").rename(tmp_path / "elsewhere")
    (home / "encoders" / "mini").symlink_to(tmp_path / "elsewhere")
    assert find_encoder("mini") is not None
    remove_encoder("mini")
    assert find_encoder("mini") is None and (tmp_path / "elsewhere" / "encoder.json").is_file()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "true", "None", "ü", "a" * 62])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="encoder name"):
        find_encoder(name)


def test_what_a_killed_add_left_is_nothing_and_is_swept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = prepare_place("mini")
    died = place.with_name(".mini.1-1-00000000-1")
    (died / "text").mkdir(parents=True)
    (place / "text").mkdir(parents=True)  # moved, and killed before the manifest
    assert find_encoder("mini") is None and list_encoders() == [] and not capsys.readouterr().err
    add("mini")
    assert len(list_encoders()) == 1
    leftover = temporary_beside(home / "encoders" / "other")
    leftover.mkdir()
    assert sweep_temporaries() == 0 and leftover.is_dir()  # this process lives


def test_a_damaged_record_or_file_is_named_with_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = add("mini")
    flip_byte(encoder.place / "text" / "model.safetensors")
    with pytest.raises(
        InputError, match=r"model\.safetensors: missing or damaged .*run `smar encoder remove mini`, then"
    ):
        encoder.verified("text")
    assert encoder.verified("vision") == encoder.place  # of the other side nothing is read
    (encoder.place / "vision" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="there is no such file"):
        encoder.verified("vision")
    record = encoder.place / "encoder.json"
    record.write_text(record.read_text(encoding="utf-8").replace("Apache-2.0", "MIT"), encoding="utf-8")
    with pytest.raises(InputError, match=r"encoder\.json: damaged \(it is not the record that was published\)"):
        find_encoder("mini")
    assert list_encoders() == [] and "passed over" in capsys.readouterr().err


REFUSED = {
    r"no such encoder; run `smar encoder add minilm` \(`smar encoder list`: mini\)": {"text": {"pretrained": "minilm"}},
    "no such encoder; run `smar encoder add minimal SOURCE` .*: mini": {"text": {"pretrained": "minimal"}},
    r"no such encoder; run `smar encoder add minilm` and `smar encoder add lite0` \(": {
        "text": {"pretrained": "minilm"},
        "vision": {"pretrained": "lite0"},
    },
    "a folder or .* run `smar encoder add NAME '/models/bert'` once": {"text": {"pretrained": "/models/bert"}},
    "name an encoder here, one that": {"vision": {"pretrained": True}},
    "it has no vision encoder, but text": {"vision": {"pretrained": "mini"}},
}


@pytest.mark.parametrize("said", REFUSED)
def test_settings_that_name_no_encoder_are_told_how_to_add_it(said: str) -> None:
    add("mini")
    with pytest.raises(InputError, match=rf"^network\.\w+\.pretrained '.*': {said}"):
        resolve_encoders(tiny_settings(Path("shop"), network=REFUSED[said]))


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_no_name_is_no_way_to_switch_an_encoder_off(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"network\.{kind}\.pretrained"):
        tiny_settings(Path("shop"), network={kind: {"pretrained": ""}})


def test_switches_of_older_settings_are_read() -> None:
    settings = tiny_settings(Path("shop"), network={"text": {"pretrained": None}, "vision": {"pretrained": False}})
    assert settings.network.vision.pretrained is None and resolve_encoders(settings) == {}


def test_a_run_reads_the_encoder_that_it_met(home: Path) -> None:
    add("mini")
    run = run_with("first", pretrained="mini")
    assert load_run("first").encoders == run.encoders
    first = run_stage(READS_BOTH, run)
    made_of = json.loads((run.folder / "label-fashion.json").read_text(encoding="utf-8"))["made_of"]
    assert read == ["weights"] and made_of["encoders"] == {"text": run.encoders["text"].digest}
    assert run_stage(READS_BOTH, run_with("same", pretrained="mini")).key == first.key
    remove_encoder("mini")
    add("mini", "other weights")
    assert run_stage(READS_BOTH, run_with("changed", pretrained="mini")).key != first.key
    assert read == ["weights", "other weights"]
    shutil.rmtree(home / "lake")
    with pytest.raises(InputError, match=r"run first met .* when it began; start a new run"):
        run_stage(READS_BOTH, run)
    remove_encoder("mini")
    with pytest.raises(
        InputError, match="the encoder that run first met when it began is gone; run `smar encoder add mini"
    ):
        run_stage(READS_BOTH, run)


def test_a_stage_that_reads_another_side_has_the_key_that_it_had() -> None:
    add("mini")
    keys = {
        run_stage(READS_VISION, run_with(f"r{n}", **text)).key for n, text in enumerate([{}, {"pretrained": "mini"}])
    }
    assert len(keys) == 1 and read == [None]


def test_a_run_begun_before_encoders_were_recorded_is_refused() -> None:
    add("mini")
    run = run_with("older", pretrained="mini")
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    del record["encoders"]
    (run.folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="has recorded no such encoder; start a new run"):
        run_stage(READS_BOTH, load_run("older"))
