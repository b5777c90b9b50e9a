"""`smar shop adopt` says where the text encoder that settings name cannot read what shoppers type."""

from __future__ import annotations

from pathlib import Path

import pytest

from smar_model.delivery.check_records import ShopCheck
from smar_model.lake.encoder_store import prepare_place, publish_encoder
from smar_model.lake.process_identity import temporary_beside
from smar_model.shop.adoption import warn_of_scripts
from tests.tiny_shop import tiny_settings


@pytest.fixture(autouse=True)
def minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder whose vocabulary writes Latin."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    made = temporary_beside(prepare_place("minilm"))
    (made / "text").mkdir(parents=True)
    (made / "text" / "config.json").write_text("{}", encoding="utf-8")
    described = {
        "source": "folder:minilm",
        "licence": "",
        "languages": ["en"],
        "scripts": ["Latin"],
        "parameters": {"text": 1},
    }
    publish_encoder("minilm", made, described)  # type: ignore[arg-type]


def warned(name: str | None, **scripts: int) -> str | None:
    check = ShopCheck(root=Path("shop"), clicked_queries=1_000, query_scripts=scripts)
    return warn_of_scripts(check, tiny_settings(Path("shop"), network={"text": {"pretrained": name}}))


def test_a_log_in_a_script_that_the_encoder_does_not_know_is_named() -> None:
    said = warned("minilm", Cyrillic=940, Latin=80)
    assert said and "encoder 'minilm' does not know (it knows Latin): 940 of 1,000 in Cyrillic" in said
    assert "docs/encoders.md" in said


def test_what_it_knows_and_a_few_queries_are_no_reason() -> None:
    assert warned("minilm", Latin=990, Greek=10) is None
    assert warned(None, Cyrillic=1_000) is None


def test_an_encoder_that_is_not_there_is_named_before_the_first_run() -> None:
    said = warned("xlmr", Latin=1_000)
    assert said and "no encoder 'xlmr' has been added here; run `smar encoder add xlmr SOURCE`" in said
