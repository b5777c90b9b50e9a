"""Shopify's product export, with the columns of before 2024 and of since; and the trial's writer of exports."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from feed_writer import write_exports
from imports import aliases_of, events_of, items_of, smar_import

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import REPOSITORY

OLD = {
    "handle": "Handle", "title": "Title", "body": "Body (HTML)", "vendor": "Vendor", "category": "Product Category", "type": "Type",
    "published": "Published", "name1": "Option1 Name", "value1": "Option1 Value", "name2": "Option2 Name", "value2": "Option2 Value",
    "sku": "Variant SKU", "barcode": "Variant Barcode", "image": "Image Src", "place": "Image Position",
    "price": "Variant Price", "tracker": "Variant Inventory Tracker", "stock": "Variant Inventory Qty", "policy": "Variant Inventory Policy",
    "variant_image": "Variant Image", "status": "Status", "colour": "Color (product.metafields.shopify.color-pattern)",
}  # fmt: skip
NEW = OLD | {
    "handle": "URL handle", "body": "Description", "category": "Product category", "published": "Published on online store",
    "name1": "Option1 name", "value1": "Option1 value", "name2": "Option2 name", "value2": "Option2 value", "sku": "SKU",
    "barcode": "Barcode", "image": "Product image URL", "place": "Image position", "variant_image": "Variant image URL",
    "price": "Price", "tracker": "Inventory tracker", "stock": "Inventory quantity", "policy": "Continue selling when out of stock",
}  # fmt: skip
AT = "https://cdn.shopify.com/s/"
SHIRT = (
    {
        "handle": "linen-shirt", "title": "Linen shirt", "body": "<p>Fine,\nairy &amp; light</p>", "vendor": "Tarn &amp; Vale",
        "category": "Apparel & Accessories > Clothing > Clothing Tops > Shirts", "type": "Summer shirt", "published": "true",
        "name1": "Size", "value1": "M", "name2": "Color", "value2": "White", "sku": "LS-M-W", "barcode": "4006381333931",
        "image": f"{AT}2.jpg", "place": "2", "variant_image": f"{AT}w.jpg", "status": "active", "colour": "white; red",
    },
    {"handle": "linen-shirt", "value1": "L", "value2": "Red", "sku": "LS-L-R", "image": f"{AT}1.jpg", "place": "1", "variant_image": f"{AT}r.jpg"},
    {"handle": "linen-shirt", "image": f"{AT}3.jpg", "place": "3"},
)  # fmt: skip
LAMP = {
    "handle": "lamp",
    "title": "Lamp",
    "name1": "Title",
    "value1": "Default Title",
    "sku": "LAMP",
    "type": "Lamps",
    "status": "active",
}


def export(path: Path, *rows: dict, columns: dict[str, str] = OLD) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(columns.values()), restval="")
        writer.writeheader()
        writer.writerows({columns[name]: text for name, text in row.items()} for row in rows)
    return path


@pytest.mark.parametrize("columns", [OLD, NEW], ids=["before 2024", "since"])
def test_rows_of_a_handle_become_one_item(tmp_path, columns):
    output = smar_import(
        "shopify", export(tmp_path / "e.csv", *SHIRT, LAMP, columns=columns), "--to", tmp_path / "shop"
    )
    load_contract("items").verify_files([tmp_path / "shop" / "items.parquet"])
    items = items_of(tmp_path / "shop")
    assert items.keys() == {"linen-shirt", "lamp"}
    shirt = items["linen-shirt"]
    assert shirt["title"] == "Linen shirt"
    assert shirt["category"] == "Apparel & Accessories > Clothing > Clothing Tops > Shirts"
    assert shirt["brand"] == "Tarn & Vale"
    assert shirt["attributes"] == {"size": "M, L", "colour": "White, Red", "type": "Summer shirt"}
    assert shirt["images"] == [f"{AT}{name}.jpg" for name in ("1", "2", "3", "w", "r")]
    assert items["lamp"]["attributes"] == {}
    assert items["lamp"]["category"] == "Lamps"
    assert aliases_of(tmp_path / "shop") == {
        "LS-M-W": "linen-shirt", "LS-L-R": "linen-shirt", "4006381333931": "linen-shirt", "LAMP": "lamp",
    }  # fmt: skip
    assert "read: 4 rows of 2 products" in output
    assert f"columns that the model does not read: {columns['body'].lower()}" in output
    assert "without a picture: 1 items, told by their text alone (such as 'lamp')" in output


@pytest.mark.parametrize("columns", [OLD, NEW], ids=["before 2024", "since"])
def test_prices_and_stock(tmp_path, columns):
    counted = {"tracker": "shopify", "policy": "deny"}
    first, second, picture = SHIRT
    rows = [
        first | counted | {"price": "29.00", "stock": "0"},
        second | counted | {"price": "39.50", "stock": "2"},
        picture,
        LAMP | counted | {"price": "9.00", "stock": "-3"},
        LAMP | counted | {"handle": "later", "sku": "L2", "price": "5", "stock": "0", "policy": "CONTINUE"},
        LAMP | {"handle": "uncounted", "sku": "L3", "price": "5,00", "stock": "0"},
        LAMP | counted | {"handle": "elsewhere", "sku": "L4"},
        LAMP | counted | {"handle": "odd", "sku": "L5", "stock": "many"},
    ]
    output = smar_import("shopify", export(tmp_path / "e.csv", *rows, columns=columns), "--to", tmp_path / "shop")
    table = pq.read_table(tmp_path / "shop" / "items.parquet").to_pylist()
    assert {r["item_id"]: (r["price"] and float(r["price"]), r["currency"], r["available"]) for r in table} == {
        "linen-shirt": (39.5, None, True),  # the lowest that can be bought
        "lamp": (9.0, None, False),
        "later": (5.0, None, True),
        "uncounted": (None, None, True),
        "elsewhere": (None, None, None),
        "odd": (None, None, None),
    }
    assert "left out: 1 prices that are none, as 15.00 is one (such as" in output and "'5,00')" in output
    assert "left out: 1 inventory quantities that are no whole number (such as" in output


def test_variants_apart_have_their_options_and_their_picture(tmp_path):
    smar_import("shopify", export(tmp_path / "e.csv", *SHIRT, LAMP), "--to", tmp_path / "shop", "--variants", "apart")
    items = items_of(tmp_path / "shop")
    assert items.keys() == {"LS-M-W", "LS-L-R", "LAMP"}
    assert items["LS-L-R"]["title"] == "Linen shirt - L / Red"
    assert items["LS-L-R"]["attributes"]["colour"] == "Red"
    assert items["LS-L-R"]["images"][0] == f"{AT}r.jpg"
    assert items["LAMP"]["title"] == "Lamp"


def test_what_shoppers_do_not_see_is_left_out(tmp_path):
    rows = [LAMP | {"handle": name, "sku": name, "status": status, "published": shown} for name, status, shown in (
        ("a", "active", "true"), ("b", "draft", "true"), ("c", "archived", "true"), ("d", "Active", "FALSE"), ("e", "", ""),
    )]  # fmt: skip
    file = export(tmp_path / "e.csv", *rows, {"title": "No handle"})
    output = smar_import("shopify", file, "--to", tmp_path / "shop")
    assert items_of(tmp_path / "shop").keys() == {"a", "e"}
    for line in (
        "left out: 1 products of status draft (--all-products takes them) (such as 'b')",
        "left out: 1 products of status archived",
        "left out: 1 products that are not published on the online store",
        "left out: 1 rows without a handle",
    ):
        assert line in output
    smar_import("shopify", file, "--to", tmp_path / "shop", "--all-products")
    assert items_of(tmp_path / "shop").keys() == {"a", "b", "c", "d", "e"}


def test_the_case_of_the_tracker(tmp_path):
    """A main row, a variant's and a picture's, each with the handle alone."""
    file = tmp_path / "products_export.csv"
    file.write_text(
        "Handle,Title,Body (HTML),Vendor,Type,Option1 Name,Option1 Value,Variant SKU,Image Src\n"
        'tee,Striped tee,"<p>Soft</p>",Acme,Shirts,Size,S,TEE-S,https://cdn.example.com/a.jpg\n'
        "tee,,,,,,M,TEE-M,https://cdn.example.com/b.jpg\ntee,,,,,,,,https://cdn.example.com/c.jpg\n"
    )
    smar_import("shopify", file, "--to", tmp_path / "shop")
    (item,) = items_of(tmp_path / "shop").values()
    assert (item["item_id"], item["title"], len(item["images"])) == ("tee", "Striped tee", 3)
    assert item["attributes"] == {"size": "S, M"}


def test_faults_are_named_by_file_and_row(tmp_path):
    file = tmp_path / "e.csv"
    file.write_text("Handle,Title\na,A\nb,B,C\n")
    with pytest.raises(InputError, match=r"e\.csv row 3: 3 fields, expected 2"):
        smar_import("shopify", file, "--to", tmp_path / "shop")
    file.write_text('Handle,Title\na,"A\n')
    with pytest.raises(InputError, match=r"e\.csv row 2"):
        smar_import("shopify", file, "--to", tmp_path / "shop")
    file.write_text("Name,SKU\na,A\n")
    with pytest.raises(InputError, match=r"e\.csv row 1: no column title; it has Name, SKU"):
        smar_import("shopify", file, "--to", tmp_path / "shop")
    with pytest.raises(InputError, match="no such file or folder"):
        smar_import("shopify", tmp_path / "none.csv", "--to", tmp_path / "shop")
    assert not (tmp_path / "shop" / "items.parquet").exists()


def test_a_trials_exports_meet_whichever_catalogue_is_taken(tmp_path):
    write_exports(tmp_path, items=40, events=600, days=2, last_day=date(2026, 11, 19))
    clicks = {}
    for name, file in (("merchant", "feed.xml"), ("shopify", "products_export.csv")):
        shop = tmp_path / name
        output = smar_import(name, tmp_path / file, "--pictures", tmp_path / "pictures", "--to", shop)
        assert "without a picture: 1 items" in output
        assert "unknown items" not in smar_import("ubi", tmp_path / "ubi", "--to", shop)
        titles = {item_id: item["title"] for item_id, item in items_of(shop).items()}
        clicks[name] = [(e["event"], e["query"], titles[e["item_id"]]) for e in events_of(shop)]
        assert len(titles) == 40
    assert len(clicks["merchant"]) == len(clicks["shopify"]) > 400


def test_the_example_in_the_repository(tmp_path):
    folder = REPOSITORY / "examples" / "first_evening"
    assert all(file.stat().st_size <= 200_000 for file in folder.iterdir())
    smar_import("merchant", folder / "feed.xml", "--pictures", folder / "pictures.zip", "--to", tmp_path / "shop")
    output = smar_import("ubi", folder / "ubi.ndjson.gz", "--to", tmp_path / "shop")
    assert "left out" not in output.replace("0 left out", "")
    assert "unknown items" not in output
    assert "lacks" not in output
    assert len(items_of(tmp_path / "shop")) == 100
