"""What makes each stage's output: the committed list is what the imports say, and keys follow it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from smar_model.errors import InputError
from smar_model.lake import stage_code
from smar_model.lake.stage_code import STAGE_CODE, CodeVersion, code_version
from smar_model.settings import REPOSITORY
from smar_model.stages import STAGES
from tests.stage_code import CARRIERS, LOADED_BY_CARRIERS, find_stage_code, module_path, render

LISTED = json.loads(STAGE_CODE.read_text(encoding="utf-8"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that stages are made of, which keys are taken from."""
    for name in {name for made_by in LISTED.values() for name in made_by["files"]} | {"requirements.lock"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    monkeypatch.setattr(stage_code, "REPOSITORY", tmp_path)
    monkeypatch.setattr(stage_code, "LOCK", tmp_path / "requirements.lock")
    return tmp_path


def versions() -> dict[str, CodeVersion]:
    return {output: code_version(output) for output in LISTED}


def changed(before: dict[str, CodeVersion]) -> set[str]:
    return {output for output, version in versions().items() if version != before[output]}


def test_the_list_is_what_the_imports_say() -> None:
    found = find_stage_code()
    differing = sorted(name for name in found.keys() | LISTED.keys() if found.get(name) != LISTED.get(name))
    assert render(found) == STAGE_CODE.read_text(encoding="utf-8"), (
        f"of {', '.join(differing) or 'its form'}; run `make stage-code` and commit what it writes"
    )


def test_carriers_are_there_and_make_nothing() -> None:
    made = {name for made_by in LISTED.values() for name in made_by["files"]}
    for name in CARRIERS:
        path = module_path(name.removesuffix("*")).relative_to(REPOSITORY)
        assert (REPOSITORY / path).is_file() and str(path) not in made
    assert all(module_path(name).is_file() for name in LOADED_BY_CARRIERS)


def test_what_names_a_table_only_by_a_variable_counts_with_all_that_it_may_name() -> None:
    def contracts(output: str) -> set[str]:
        return {Path(name).stem for name in LISTED[output]["files"] if name.startswith("schemas/")}

    assert contracts("label-fashion") >= {"fashion_labels"} and "items" not in contracts("label-fashion")
    assert contracts("prepare-items") == {"items", "catalogue", "offers", "pictures", "quarantine", "quarantine_counts"}
    assert contracts("extract-clicks-day") == {
        "click_log",
        "clicks_by_position",
        "shown_lists",
        "quarantine",
        "quarantine_counts",
    }
    assert contracts("check-data") == {file.stem for file in (REPOSITORY / "schemas").glob("*.yaml")}
    assert contracts("pretrain") == set()


def test_a_file_changes_the_keys_of_those_stages_that_it_makes(checkout: Path) -> None:
    before = versions()
    cases = {
        "smar_model/retrieval/parted_index.py": {"index", "refresh-index", "mine-negatives", "evaluate"},
        "sql/find_typed_numbers.sql": {"extract-clicks", "extract-clicks-day"},
        "smar_model/evaluation/report.html.j2": {"report"},
        "schemas/fashion_labels.yaml": {"label-fashion", "check-data"},
    }
    for name, stages in cases.items():
        text = (checkout / name).read_text(encoding="utf-8")
        (checkout / name).write_text(text + "\n", encoding="utf-8")
        assert changed(before) >= stages and "prepare-items" not in changed(before), name
        (checkout / name).write_text(text, encoding="utf-8")
    assert changed(before) == set()


def test_only_a_distribution_that_a_stage_imports_changes_its_key(checkout: Path) -> None:
    before, lock = versions(), checkout / "requirements.lock"
    text = lock.read_text(encoding="utf-8")

    def raised(name: str) -> set[str]:
        newer, found = re.subn(rf"^{name}==.*", f"{name}==999", text, flags=re.M)
        assert found == 1
        lock.write_text(newer, encoding="utf-8")
        return changed(before)

    assert raised("ruff") == raised("mypy") == raised("import-linter") == set()
    assert raised("numpy") >= {"pretrain", "embed", "index", "evaluate"}
    assert raised("pyspark") == {"extract-clicks-day"} | {
        n for n, stage in STAGES.items() if stage.work.startswith("jobs.")
    }


def test_what_is_not_listed_is_named(checkout: Path) -> None:
    with pytest.raises(InputError, match="no entry for no-stage; write the file anew with `make stage-code`"):
        code_version("no-stage")
    (checkout / "sql" / "label_fashion.sql").unlink()
    with pytest.raises(
        InputError, match=r"label-fashion names .*label_fashion\.sql, which is gone; run `make stage-code`"
    ):
        code_version("label-fashion")
    (checkout / "requirements.lock").write_text("numpy==2\n", encoding="utf-8")
    with pytest.raises(InputError, match="no version of pandas, which extract-clicks-day imports; run `make lock`"):
        code_version("extract-clicks-day")
