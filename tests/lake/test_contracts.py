"""Contracts: what is refused in a YAML, which changes are refused at publishing, and what retention removes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from smar_model.errors import InputError
from smar_model.lake import contracts, output_digests, publishing
from smar_model.lake.artifacts import load_artifact, manifest_path
from smar_model.lake.contracts import Contract, load_contract, read_contract
from smar_model.lake.publishing import Attempt
from smar_model.lake.sweeping import sweep_expired
from smar_model.lake.tables_page import describe_tables
from smar_model.settings import REPOSITORY
from tests.tiny_shop import publish_with

SIZES: dict[str, Any] = {
    "table": "sizes",
    "owner": "tests",
    "description": "Sizes of items.",
    "columns": [
        {"name": "item_id", "type": "string", "description": "Key"},
        {"name": "size", "type": "string", "description": "Size", "allowed": ["S", "M", "L"]},
    ],
}


def changed(position: int, **column: Any) -> list[dict[str, Any]]:
    return [c | column if n == position else c for n, c in enumerate(SIZES["columns"])]


def added(**column: Any) -> list[dict[str, Any]]:
    return [*SIZES["columns"], {"name": "colour", "type": "string", "description": "Colour", **column}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"retention": 30}, "retention: Extra inputs are not permitted"),
        ({"columns": changed(1, nulable=True)}, r"columns\.1\.nulable: Extra inputs"),
        ({"columns": changed(0, type="varchar")}, r"columns\.0\.type: .*unknown type 'varchar'; known: string"),
        ({"columns": [*SIZES["columns"], SIZES["columns"][0]]}, "columns stated twice: item_id"),
        ({"owner": ""}, "owner: "),
        ({"table": "other"}, r"describes table 'other'; name the file other\.yaml"),
        (
            {"checks": [{"expectation": "expect_magic", "kwargs": {}, "severity": "critical"}]},
            "unknown expectation 'expect_magic'",
        ),
        (
            {"checks": [{"expectation": "expect_column_values_to_be_unique", "kwargs": {}, "severity": "grave"}]},
            r"checks\.0\.severity: Input should be 'critical' or 'warning'",
        ),
        (
            {
                "checks": [
                    {
                        "expectation": "expect_column_values_to_be_unique",
                        "kwargs": {"column": "no_such"},
                        "severity": "warning",
                    }
                ]
            },
            "no such column: no_such",
        ),
        (
            {
                "checks": [
                    {
                        "expectation": "expect_column_values_to_be_between",
                        "kwargs": {"column": "size", "maximum": 3},
                        "severity": "warning",
                    }
                ]
            },
            "does not take maximum; it takes",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_file(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = tmp_path / "sizes.yaml"
    file.write_text(yaml.safe_dump(SIZES | content), encoding="utf-8")
    with pytest.raises(InputError, match=says) as error:
        read_contract(file)
    assert str(file) in str(error.value)


def test_text_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text("columns: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"sizes\.yaml: not valid YAML"):
        read_contract(tmp_path / "sizes.yaml")


def test_every_contract_loads_and_the_page_of_tables_is_current() -> None:
    page = (REPOSITORY / "docs" / "tables.md").read_text(encoding="utf-8")
    assert page == describe_tables(), "run `smar tables > docs/tables.md`"
    assert all(f"## {file.stem}\n" in page for file in contracts.SCHEMAS.glob("*.yaml"))


@pytest.fixture
def publish_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publishes a table under a contract that differs from SIZES as given."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    monkeypatch.setattr(output_digests, "has_contract", lambda table: True)

    def publish(key: str, **changes: Any) -> Any:
        contract = Contract.model_validate(SIZES | changes)
        monkeypatch.setattr(publishing, "load_contract", lambda table: contract)
        attempt = Attempt("measure", key)
        (attempt.folder / "sizes").mkdir()
        pq.write_table(contract.arrow_schema().empty_table(), attempt.folder / "sizes" / "a.parquet")
        return attempt.publish(metrics={}, inputs={}, settings={})

    return publish


@pytest.mark.parametrize(
    ("changes", "diff"),
    [
        ({"columns": SIZES["columns"][:1]}, "- size: string  (removed)"),
        ({"columns": changed(0, type="int64")}, "~ item_id: string → int64"),
        ({"columns": changed(0, nullable=True)}, "~ item_id: never null → nullable"),
        ({"columns": changed(1, allowed=["S", "M"])}, "~ size: allowed ['S', 'M', 'L'] → ['S', 'M']"),
        ({"columns": changed(0, allowed=["a"])}, "~ item_id: allowed anything → ['a']"),
        ({"columns": added()}, "+ colour: string, never null  (older outputs lack it)"),
    ],
)
def test_an_incompatible_change_is_refused_with_a_diff_until_the_version_is_raised(
    changes: dict[str, Any], diff: str, publish_sizes: Any
) -> None:
    publish_sizes("first")
    with pytest.raises(InputError) as error:
        publish_sizes("second", **changes)
    assert f"  {diff}" in str(error.value)
    assert "schemas/sizes.yaml" in str(error.value) and "set `version: 2`" in str(error.value)
    assert not manifest_path("measure", "second").exists()
    assert publish_sizes("second", **changes, version=2).key == "second"
    with pytest.raises(InputError, match="differs incompatibly from version 2"):
        publish_sizes("third", columns=changed(0, type="date"), version=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": added(nullable=True)},
        {"columns": changed(1, allowed=["S", "M", "L", "XL"])},
        {"columns": changed(1, allowed=None)},
        {"description": "Other words", "owner": "others", "retention_days": 3},
        {"columns": changed(0, description="Other words", unit="of trade")},
    ],
)
def test_a_compatible_change_is_published_and_is_what_the_next_is_compared_with(
    changes: dict[str, Any], publish_sizes: Any, tmp_path: Path
) -> None:
    publish_sizes("first")
    publish_sizes("second", **changes)
    record = json.loads((tmp_path / "lake" / "contracts" / "sizes.json").read_text(encoding="utf-8"))
    assert record["version"] == 1
    assert len(record["columns"]) == len(changes.get("columns", SIZES["columns"]))


def test_what_is_kept_for_days_is_removed_after_them_and_reads_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    days = load_contract("quarantine").retention_days
    assert days
    kept = "query,item_id\n"
    for key, age in (("old", days + 1), ("new", days - 1)):
        attempt = Attempt("extract-clicks", key)
        (attempt.folder / "quarantine").mkdir()
        schema = load_contract("quarantine").arrow_schema()
        rows = [dict.fromkeys(schema.names, "click_log")]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), attempt.folder / "quarantine" / "a.parquet")
        (attempt.folder / "notes.csv").write_text(kept, encoding="utf-8")
        attempt.publish(metrics={"rows": 1}, inputs={}, settings={})
        finished = datetime.now(UTC) - timedelta(days=age)
        publish_with("extract-clicks", key, finished_at=finished.isoformat())
    assert sweep_expired() == 1
    assert sweep_expired() == 0
    old, new = load_artifact("extract-clicks", "old"), load_artifact("extract-clicks", "new")
    assert (old.files("quarantine"), len(new.files("quarantine"))) == ([], 1)
    assert not (old.folder / "quarantine").exists()
    assert old.file("notes.csv").read_text(encoding="utf-8") == kept
    assert old.metrics == {"rows": 1}
