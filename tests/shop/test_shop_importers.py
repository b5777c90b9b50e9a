from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from published_layouts import HEADER, STYLES, jpeg, write_fashion_archive, write_grocery_folder
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.shop.catalogue import read_truth
from smar_model.shop.fashion_products import import_fashion_products
from smar_model.shop.grocery_store import import_grocery_store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))


def smar(*arguments: str | Path) -> str:
    """Output of a command; an InputError comes through as itself."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


class PowerCutError(BaseException):
    """Ends the process here, as far as the code can tell."""


def rows(root: Path) -> dict[str, dict]:
    return {row["item_id"]: row for row in pq.read_table(root / "items.parquet").to_pylist()}


@pytest.mark.parametrize(
    ("name", "top"), [("a.zip", ""), ("a.zip", "archive/"), ("folder", ""), ("folder", "archive/")]
)
def test_folder_and_zip_with_and_without_a_top_folder_are_the_same(tmp_path, name, top):
    catalogue = import_fashion_products(write_fashion_archive(tmp_path / name, top=top))
    assert [p.item_id for p in catalogue.products] == [f"fashion-{row.split(',')[0]}" for row in STYLES]
    assert catalogue.pictures == {f"fashion/{row.split(',')[0]}.jpg": jpeg() for row in STYLES}


def test_import_writes_the_contracts_and_keeps_truth_apart(tmp_path):
    shop = tmp_path / "shop"
    smar("shop", "import", "fashion-product-images-small", write_fashion_archive(tmp_path / "a.zip"), "--to", shop)
    load_contract("items").verify_files([shop / "items.parquet"])
    load_contract("truth_items").verify_files([shop / "truth" / "items.parquet"])
    items, truth = rows(shop), read_truth([shop / "truth" / "items.parquet"])

    bag = items["fashion-1525"]
    assert bag["title"] == "Puma Unisex Deck Navy Blue Backpack"
    assert bag["category"] == "Accessories > Bags > Backpacks"
    assert bag["brand"] == "Puma"
    assert dict(bag["attributes"]) == {"colour": "Navy Blue", "gender": "Unisex", "usage": "Casual", "season": "Fall"}
    assert bag["images"] == ["fashion/1525.jpg"]
    assert (shop / "pictures" / "fashion" / "1525.jpg").read_bytes() == jpeg()
    expected = {"type": "backpacks", "colour": "navy blue", "gender": "unisex", "usage": "casual", "brand": "puma"}
    assert truth["fashion-1525"] == expected


def test_commas_and_quotation_marks_belong_to_the_name(tmp_path):
    catalogue = import_fashion_products(write_fashion_archive(tmp_path / "a.zip"))
    titles = {p.item_id: p.title for p in catalogue.products}
    assert titles["fashion-3954"] == "Jealous 21 Women, Pink, Cotton Tshirt"
    assert titles["fashion-7491"] == "Nike Women's EM Tempo 3.5\" Pink Short"


def test_brands_and_names_are_derived_from_titles(tmp_path):
    products = {p.item_id: p for p in import_fashion_products(write_fashion_archive(tmp_path / "a.zip")).products}
    assert products["fashion-9204"].brand == "Red Tape"
    assert products["fashion-1525"].brand == "Puma"
    assert products["fashion-1163"].brand == "Nike", "no gender word, but a brand that other titles have"
    assert products["fashion-55573"].brand is None
    assert products["fashion-40143"].truth["name"] == "true wear"
    assert "name" not in products["fashion-9204"].truth


def test_what_is_not_available_is_left_out(tmp_path):
    watch = next(
        p
        for p in import_fashion_products(write_fashion_archive(tmp_path / "a.zip")).products
        if p.item_id == "fashion-18653"
    )
    assert watch.attributes == {"gender": "Men", "season": "Winter"}
    assert "colour" not in watch.truth
    assert "usage" not in watch.truth


def test_missing_picture_keeps_the_item(tmp_path):
    shop = tmp_path / "shop"
    archive = write_fashion_archive(tmp_path / "a.zip", without=("1165",))
    smar("shop", "import", "fashion-product-images-small", archive, "--to", shop)
    assert rows(shop)["fashion-1165"]["images"] == []
    assert len(rows(shop)) == len(STYLES)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((*STYLES, "99,Men,Apparel,Topwear"), r"styles\.csv row 12: 4 fields, expected 10"),
        ((*STYLES, STYLES[1]), r"styles\.csv row 12: id 1165 is already in row 3"),
        ((STYLES[0], ",Men,Apparel,Topwear,Tshirts,Blue,Fall,,Casual,Nameless"), r"styles\.csv row 3: id is empty"),
        ((), r"styles\.csv: no products"),
    ],
)
def test_bad_row_is_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        import_fashion_products(write_fashion_archive(tmp_path / "a.zip", lines))


def test_missing_column_and_missing_table_are_named(tmp_path):
    header = HEADER.replace("baseColour", "color")
    with pytest.raises(InputError, match="row 1: no column baseColour"):
        import_fashion_products(write_fashion_archive(tmp_path / "a.zip", header=header))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no styles\.csv"):
        import_fashion_products(tmp_path / "empty")
    with pytest.raises(InputError, match=r"none\.zip: no such file"):
        import_fashion_products(tmp_path / "none.zip")


def test_cut_off_zip_is_named_and_nothing_is_written(tmp_path):
    archive = write_fashion_archive(tmp_path / "a.zip")
    archive.write_bytes(archive.read_bytes()[:-700])
    with pytest.raises(InputError, match=r"a\.zip: not a whole zip file \(cut off or damaged\)"):
        smar("shop", "import", "fashion-product-images-small", archive, "--to", tmp_path / "shop")
    assert not (tmp_path / "shop" / "items.parquet").exists()


def test_zip_damaged_inside_names_the_picture(tmp_path):
    archive = write_fashion_archive(tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    start = content.index(b"images/9204.jpg") + 100
    content[start : start + 20] = b"\0" * 20
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged at images/9204\.jpg"):
        import_fashion_products(archive)


def test_draw_is_seeded_and_products_do_not_depend_on_it(tmp_path):
    archive = write_fashion_archive(tmp_path / "a.zip")
    everything = {p.item_id: p for p in import_fashion_products(archive).products}
    draws = [import_fashion_products(archive, items=4, seed=seed).products for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len({tuple(p.item_id for p in draw) for draw in draws}) > 1
    assert all(len(draw) == 4 and all(everything[p.item_id] == p for p in draw) for draw in draws)


def test_groceries_have_all_their_photos_the_iconic_one_first(tmp_path):
    shop = tmp_path / "shop"
    smar("shop", "import", "grocery-store", write_grocery_folder(tmp_path / "grocery"), "--to", shop)
    items, truth = rows(shop), read_truth([shop / "truth" / "items.parquet"])
    assert items["grocery-zucchini"]["images"] == [
        "grocery/iconic/080.jpg",
        "grocery/test/Zucchini_002.jpg",
        "grocery/train/Zucchini_001.jpg",
    ]
    assert items["grocery-golden-delicious"]["category"] == "Grocery > Fruit > Apple"
    assert truth["grocery-arla-sour-cream"] == {"type": "sour cream", "name": "arla sour cream", "shelf": "packages"}


def test_grocery_faults_are_named(tmp_path):
    with pytest.raises(InputError, match=r"products\.parquet: no column coarse_class"):
        import_grocery_store(write_grocery_folder(tmp_path / "a", without_column="coarse_class"))
    folder = write_grocery_folder(tmp_path / "b")
    (folder / "images.zip").write_bytes((folder / "images.zip").read_bytes()[:200])
    with pytest.raises(InputError, match=r"images\.zip: not a whole zip file"):
        import_grocery_store(folder)
    with pytest.raises(InputError, match=r"products\.parquet: no such file"):
        import_grocery_store(tmp_path / "none")


def test_second_source_adds_and_importing_again_replaces_its_own(tmp_path):
    shop = tmp_path / "shop"
    archive = write_fashion_archive(tmp_path / "a.zip")
    smar("shop", "import", "fashion-product-images-small", archive, "--to", shop)
    smar("shop", "import", "grocery-store", write_grocery_folder(tmp_path / "grocery"), "--to", shop)
    assert len(rows(shop)) == len(STYLES) + 3
    smar("shop", "import", "fashion-product-images-small", archive, "--to", shop, "--items", "2", "--seed", "5")
    ids = set(rows(shop))
    assert len(ids) == 5
    assert {i for i in ids if i.startswith("grocery-")} == {
        "grocery-zucchini", "grocery-golden-delicious", "grocery-arla-sour-cream",
    }  # fmt: skip
    assert set(read_truth([shop / "truth" / "items.parquet"])) == ids
    listed = {name for row in rows(shop).values() for name in row["images"]}
    there = {str(f.relative_to(shop / "pictures")) for f in (shop / "pictures").rglob("*.jpg")}
    assert there == listed, "pictures of products that went away go too"


def test_interrupted_import_leaves_the_former_catalogue(tmp_path, monkeypatch):
    shop = tmp_path / "shop"
    archive = write_fashion_archive(tmp_path / "a.zip")
    smar("shop", "import", "fashion-product-images-small", archive, "--to", shop, "--items", "3")
    before = (shop / "items.parquet").read_bytes()

    def power_cut(writer, table):
        raise PowerCutError

    monkeypatch.setattr("smar_model.shop.table_files.pq.ParquetWriter.write_table", power_cut)
    with pytest.raises(PowerCutError):
        smar("shop", "import", "fashion-product-images-small", archive, "--to", shop)
    assert (shop / "items.parquet").read_bytes() == before
    assert all((shop / "pictures" / name).is_file() for row in rows(shop).values() for name in row["images"])


def test_import_masks_on_request(tmp_path):
    archive = write_fashion_archive(tmp_path / "a.zip")
    smar("shop", "import", "fashion-product-images-small", archive, "--to", tmp_path / "shop", "--mask", "colour=1.0")
    assert rows(tmp_path / "shop")["fashion-1525"]["title"] == "Puma Unisex Deck Backpack"
    for wrong in ("colour", "colour=2", "=0.5"):
        with pytest.raises(InputError, match="ATTRIBUTE=SHARE"):
            smar("shop", "import", "fashion-product-images-small", archive, "--to", tmp_path / "x", "--mask", wrong)
    with pytest.raises(InputError, match="'color': no product has it"):
        smar("shop", "import", "fashion-product-images-small", archive, "--to", tmp_path / "x", "--mask", "color=1")


def test_catalogue_in_several_files_is_not_touched(tmp_path):
    (tmp_path / "shop" / "items").mkdir(parents=True)
    with pytest.raises(InputError, match="several files"):
        smar("shop", "import", "grocery-store", write_grocery_folder(tmp_path / "grocery"), "--to", tmp_path / "shop")


def test_real_data(tmp_path):
    folder = os.environ.get("SMAR_REAL_DATA")
    if not folder:
        pytest.skip("SMAR_REAL_DATA is not set: name the folder of the published archives to test with real data")
    archive = Path(folder) / "fashion-product-images-small" / "archive.zip"
    products = import_fashion_products(archive, items=500, seed=1).products
    assert len(products) == 500
    assert sum(not p.images for p in products) <= 5
    assert sum(p.brand is not None for p in products) > 450
    assert {"Apparel", "Accessories", "Footwear", "Personal Care"} <= {p.department for p in products}
    groceries = import_grocery_store(Path(folder) / "grocery-store").products
    assert len(groceries) == 81
    assert sum(len(p.images) for p in groceries) == 5_502
    assert all(p.images[0].startswith("grocery/iconic/") for p in groceries)
