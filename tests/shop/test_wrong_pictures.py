"""A shop in which some pictures lie: which, what truth says of them, and that all else stays as it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import REPOSITORY, load_settings, validate_settings
from smar_model.shop.catalogue import read_truth
from smar_model.shop.open_shop import make_shop


def make(home: Path, patch: pytest.MonkeyPatch, **simulation) -> Path:
    patch.setenv("SMAR_HOME", str(home))
    content = load_settings(REPOSITORY / "configs" / "sample_shop.yaml").model_dump(mode="json")
    content["shop"]["root"] = "shop"
    content["shop"]["simulation"] |= {"items": 150, "faults": 0.05, **simulation}
    make_shop(validate_settings(content, source="test"), report=lambda _: None)
    return home / "shop"


@pytest.fixture(scope="module")
def shops(tmp_path_factory) -> dict[str, Path]:
    settings = {"none": 0, "some": 0.3, "more": 0.6, "shoes": {"Shoes": 0.5}}
    with pytest.MonkeyPatch.context() as patch:
        return {name: make(tmp_path_factory.mktemp(name), patch, wrong_pictures=s) for name, s in settings.items()}


def items(shop: Path) -> dict[str, dict]:
    return {row["item_id"]: row for row in pq.read_table(shop / "items.parquet").to_pylist()}


def wrong(shop: Path) -> dict[str, dict]:
    return {row["item_id"]: row for row in pq.read_table(shop / "truth" / "pictures.parquet").to_pylist()}


def digest(shop: Path, name: str) -> str:
    return hashlib.sha256((shop / "pictures" / name).read_bytes()).hexdigest()


def test_truth_names_every_item_that_changed_and_nothing_else_did(shops) -> None:
    load_contract("truth_pictures").verify_files([shops["some"] / "truth" / "pictures.parquet"])
    before, after, lies = items(shops["none"]), items(shops["some"]), wrong(shops["some"])
    assert {i for i in before if before[i] != after[i]} == lies.keys()
    assert all({**after[i], "images": before[i]["images"]} == before[i] for i in before), "but for the pictures alone"
    assert (shops["some"] / "truth" / "items.parquet").read_bytes() == (
        shops["none"] / "truth" / "items.parquet"
    ).read_bytes()
    kept = {name for i in after for name in after[i]["images"] if (shops["none"] / "pictures" / name).is_file()}
    assert all(digest(shops["some"], name) == digest(shops["none"], name) for name in kept)
    assert 0.2 < len(lies) / len(before) < 0.4


def test_they_show_another_type_or_the_suppliers_placeholder(shops) -> None:
    shop = shops["more"]
    catalogue, lies, truth = items(shop), wrong(shop), read_truth([shop / "truth" / "items.parquet"])
    before, named = items(shops["none"]), Counter(row["shows"] for row in lies.values())
    assert named["another_item"] > 2 * named["placeholder"] > 0
    suppliers: dict[str, set[str]] = {}
    for item, row in lies.items():
        if row["shows"] == "another_item":
            other = row["of_item"]
            assert catalogue[item]["images"] == before[other]["images"]
            assert truth[other]["type"] != truth[item]["type"]
            assert before[other]["category"].split(" > ")[0] == catalogue[item]["category"].split(" > ")[0]
        else:
            assert row["of_item"] is None
            supplier = catalogue[item]["brand"] or catalogue[item]["category"].split(" > ")[0]
            suppliers.setdefault(supplier, set()).update(digest(shop, name) for name in catalogue[item]["images"])
    assert all(len(shown) == 1 for shown in suppliers.values())
    assert len(set.union(*suppliers.values())) == len(suppliers), "each supplier has its own"


def test_a_larger_share_leaves_the_wrong_ones_as_they_are(shops) -> None:
    some, more = wrong(shops["some"]), wrong(shops["more"])
    assert some.items() <= more.items()


def test_departments_that_are_not_named_have_none(shops) -> None:
    catalogue = items(shops["shoes"])
    assert {catalogue[i]["category"].split(" > ")[0] for i in wrong(shops["shoes"])} == {"Shoes"}


def test_shops_without_the_setting_have_no_such_truth(shops) -> None:
    assert not (shops["none"] / "truth" / "pictures.parquet").exists()


def test_an_unknown_department_is_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"wrong_pictures: no item is of department 'Shoos'; .* Books, Clothing"):
        make(tmp_path, monkeypatch, wrong_pictures={"Shoos": 0.1})
