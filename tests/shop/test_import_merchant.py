"""Product feeds after Google Merchant Center's specification, and logs that name their variants."""

from __future__ import annotations

import gzip
import resource
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from imports import aliases_of, events_of, items_of, smar_import, write_lines
from published_layouts import jpeg

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.shop.shop_writer import ShopWriter

RSS = """<?xml version="1.0"?>
<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>{}</channel></rss>
"""
ATOM = """<?xml version="1.0" encoding="utf-16"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title>{}</feed>
"""
SHIRT = {
    "id": "S1-W-M", "title": "Linen shirt - White - M", "description": "&lt;b&gt;Fine&lt;/b&gt;", "item_group_id": "S1",
    "image_link": "https://cdn.example.com/w.jpg", "additional_image_link": ["https://cdn.example.com/w2.jpg", "//cdn.example.com/w3.jpg"],
    "brand": "Tarn &amp; Vale", "color": "White", "size": "M", "gender": "unisex", "product_type": "Clothing &gt; Shirts",
    "price": "15.00 USD", "gtin": "4006381333931",
}  # fmt: skip
SHIRT_RED = SHIRT | {
    "id": "S1-R-L", "title": "Linen shirt - Red - L", "color": "Red", "size": "L", "price": "14.00 EUR", "gtin": "4006381333948",
    "image_link": "https://cdn.example.com/r.jpg", "additional_image_link": [],
}  # fmt: skip
LAMP = {
    "id": 7,
    "title": "Desk lamp",
    "google_product_category": "Home &amp; Garden &gt; Lighting",
    "price": "9.00 GBP",
}


def entry(fields: dict, tag: str = "item") -> str:
    parts = []
    for name, value in fields.items():
        prefix = "" if name in ("title", "description") else "g:"
        parts += [
            f"<{prefix}{name}>{text}</{prefix}{name}>" for text in (value if isinstance(value, list) else [value])
        ]
    return f"<{tag}>{''.join(parts)}</{tag}>"


def rss(path: Path, *products: dict | str) -> Path:
    entries = [product if isinstance(product, str) else entry(product) for product in products]
    path.write_text(RSS.format("".join(entries)), encoding="utf-8")
    return path


def imported(tmp_path: Path, *products: dict | str, options: tuple[str, ...] = ()) -> tuple[Path, str]:
    shop = tmp_path / "shop"
    return shop, smar_import("merchant", rss(tmp_path / "feed.xml", *products), "--to", shop, *options)


def test_variants_become_one_item_with_values_and_pictures_of_all(tmp_path):
    shop, output = imported(tmp_path, SHIRT, LAMP, SHIRT_RED)
    load_contract("items").verify_files([shop / "items.parquet"])
    load_contract("item_aliases").verify_files([shop / "item_aliases.parquet"])
    items = items_of(shop)
    assert items.keys() == {"S1", "7"}
    shirt = items["S1"]
    assert shirt["title"] == "Linen shirt"
    assert shirt["category"] == "Clothing > Shirts"
    assert shirt["brand"] == "Tarn & Vale"
    assert shirt["attributes"] == {"colour": "White, Red", "size": "M, L", "gender": "unisex"}
    assert shirt["images"] == [f"https://cdn.example.com/{name}.jpg" for name in ("w", "r", "w2", "w3")]
    assert items["7"]["category"] == "Home & Garden > Lighting"
    assert aliases_of(shop) == {"S1-W-M": "S1", "S1-R-L": "S1", "4006381333931": "S1", "4006381333948": "S1"}
    assert "2 merchant items, 4 pictures by URL, 4 other names of items" in output
    assert "fields that the model does not read: description" in output
    assert "without a picture: 1 items, told by their text alone (such as '7')" in output
    assert "changed: 1 titles of variants without what their attributes say" in output
    assert "changed: 1 addresses of pictures without a scheme, read as https" in output


def offers_of(shop: Path) -> dict[str, tuple[object, ...]]:
    table = pq.read_table(shop / "items.parquet", columns=["item_id", "price", "currency", "available"])
    columns = {name: table[name].to_pylist() for name in ("currency", "available")}
    prices = [None if price is None else str(price) for price in table["price"].to_pylist()]
    return dict(zip(table["item_id"].to_pylist(), zip(prices, *columns.values(), strict=True), strict=True))


def test_prices_and_availability(tmp_path):
    products = (
        SHIRT | {"price": "19.99 EUR", "sale_price": "12.5 eur", "availability": "out_of_stock"},
        SHIRT_RED | {"price": "EUR 15", "availability": "in stock"},
        SHIRT_RED | {"id": "S1-B", "price": "1.00 USD", "availability": "https://schema.org/PreOrder"},
        LAMP | {"price": "about 9", "availability": "perhaps"},
        LAMP | {"id": "8", "price": "0", "availability": ""},
    )
    shop, output = imported(tmp_path, *products)
    assert offers_of(shop) == {
        "S1": ("15.0000", "EUR", True),  # the lowest that can be bought, in the first one's currency
        "7": (None, None, None),
        "8": ("0.0000", None, None),
    }
    assert "left out: 1 prices that are none, as 15.00 EUR is one (such as" in output and "'about 9')" in output
    assert "left out: 1 availability that is none of the specification's (such as" in output
    shop, _ = imported(tmp_path, *products, options=("--variants", "apart"))
    assert offers_of(shop)["S1-W-M"] == ("12.5000", "EUR", False) and offers_of(shop)["S1-B"] == ("1.0000", "USD", True)


def test_variants_apart(tmp_path):
    shop, _ = imported(tmp_path, SHIRT, LAMP, SHIRT_RED, options=("--variants", "apart"))
    assert {i: item["title"] for i, item in items_of(shop).items()} == {
        "S1-W-M": "Linen shirt - White - M", "S1-R-L": "Linen shirt - Red - L", "7": "Desk lamp",
    }  # fmt: skip
    assert aliases_of(shop)["4006381333948"] == "S1-R-L"


def test_titles_keep_what_no_attribute_says(tmp_path):
    shop, _ = imported(tmp_path, SHIRT | {"title": "Red shirt"}, SHIRT_RED | {"title": "Blue shirt"})
    assert items_of(shop)["S1"]["title"] == "Red shirt"
    same = "Shirt in White"
    shop, _ = imported(tmp_path, SHIRT | {"title": same}, SHIRT_RED | {"title": same, "color": "White"})
    assert items_of(shop)["S1"]["title"] == same


@pytest.mark.parametrize("form", ["atom", "tsv", "csv", "semicolons", "gzip", "zip"])
def test_every_form_of_a_feed_gives_the_same_items(tmp_path, form):
    (tmp_path / "rss").mkdir()
    expected, _ = imported(tmp_path / "rss", SHIRT, LAMP, SHIRT_RED)
    feed = tmp_path / "feed"
    products = (SHIRT, LAMP, SHIRT_RED)
    if form == "atom":
        feed = tmp_path / "feed.xml"
        feed.write_bytes(ATOM.format("".join(entry(product, "entry") for product in products)).encode("utf-16"))
    elif form == "gzip":
        feed.write_bytes(gzip.compress(rss(tmp_path / "f.xml", *products).read_bytes()))
    elif form == "zip":
        with zipfile.ZipFile(feed, "w") as archive:
            archive.write(rss(tmp_path / "f.xml", *products), "../../f.xml")
    else:
        columns = list(dict.fromkeys(name for product in products for name in product))
        by = {"tsv": "\t", "csv": ",", "semicolons": ";"}[form]
        header = by.join(name.replace("_", " ").upper() for name in columns)
        lines = [by.join(cell(product.get(name, ""), by) for name in columns) for product in products]
        feed.write_text("\r\n".join([header, *lines]) + "\r\n", encoding="cp1252")
    smar_import("merchant", feed, "--to", tmp_path / "shop")
    assert items_of(tmp_path / "shop") == items_of(expected)
    assert aliases_of(tmp_path / "shop") == aliases_of(expected)


def cell(value: object, by: str) -> str:
    text = ",".join(value) if isinstance(value, list) else str(value)
    return f'"{text}"' if by in text else text


def test_the_first_path_counts_and_a_comma_in_a_name_parts_none(tmp_path):
    feed = tmp_path / "feed.tsv"
    feed.write_text(
        "id\ttitle\tproduct_type\tgoogle_product_category\n"
        "1\tA\tHome, Garden > Tools\t\n2\tB\tHome > Sale, Home > Tools > Saws\t\n3\tC\t\t2271\n4\tD\t\t\n"
    )
    output = smar_import("merchant", feed, "--to", tmp_path / "shop")
    assert {i: item["category"] for i, item in items_of(tmp_path / "shop").items()} == {
        "1": "Home, Garden > Tools", "2": "Home > Sale", "3": "Unsorted", "4": "Unsorted",
    }  # fmt: skip
    assert "left out: 1 product_types beside the first of a product" in output
    assert "left out: 1 google_product_category that is a number alone" in output
    assert "categories: 2 items are of department 'Unsorted'" in output


def test_what_is_left_out_is_counted(tmp_path):
    many = [f"https://cdn.example.com/{n}.jpg" for n in range(12)]
    _, output = imported(
        tmp_path,
        LAMP | {"id": " "},
        LAMP | {"title": " &#160; "} | {"id": "8"},
        LAMP | {"id": "9", "image_link": "../../etc/passwd", "additional_image_link": many},
        LAMP | {"id": "9", "price": "9.00 EUR"},
        SHIRT,
        SHIRT_RED | {"item_group_id": "S2", "gtin": SHIRT["gtin"]},
    )
    for line in (
        "left out: 1 products without an id",
        "left out: 1 items without a title",
        "left out: 1 pictures that are no address (http, https)",
        "left out: 2 additional_image_link beyond the 10 that the specification allows",
        "left out: 1 rows whose id an earlier row has",
        "left out: 1 other names that several items have (such as '4006381333931')",
    ):
        assert line in output
    assert "products read: 6" in output


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_may_lie_on_this_machine(tmp_path, packed):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "w.jpg").write_bytes(jpeg())
    place = tmp_path / "photos"
    if packed:
        place = tmp_path / "photos.zip"
        with zipfile.ZipFile(place, "w") as archive:
            archive.write(tmp_path / "photos" / "w.jpg", "a/b/w.jpg")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "photos" / "r.jpg").symlink_to(tmp_path / "secret.jpg")
    shop, output = imported(tmp_path, SHIRT, SHIRT_RED, options=("--pictures", str(place)))
    images = items_of(shop)["S1"]["images"]
    assert images[:2] == ["merchant/w.jpg", "https://cdn.example.com/r.jpg"]
    assert (shop / "pictures" / "merchant" / "w.jpg").read_bytes() == jpeg()
    assert "1 pictures, 3 pictures by URL" in output
    with pytest.raises(InputError, match="neither a folder of pictures nor a zip of them"):
        imported(tmp_path, SHIRT, options=("--pictures", str(tmp_path / "none")))


LAUGHS = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
HOSTILE = {
    "billion laughs": (RSS.replace("<rss", LAUGHS + "<rss").format(entry(LAMP | {"title": "&b;"})), "document type or entities"),
    "external entity": (
        RSS.replace("<rss", '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss').format(entry(LAMP | {"title": "&x;"})),
        "document type or entities",
    ),
    "deep": (RSS.format("<a>" * 100_000), "nested over 40 deep"),
    "huge text": (RSS.format(f"<item><title>{'x' * 6_000_000}</title></item>"), "over 4,194,304 bytes without the end of an entry"),
    "huge name": (RSS.format(f"<item><{'x' * 6_000_000}/></item>"), "over 4,194,304 bytes without the end of an entry"),
    "many children": (RSS.format(f"<item>{'<a/>' * 2_000_000}</item>"), "over 4,194,304 bytes without the end of an entry"),
    "cut off": (RSS.format(entry(LAMP))[:-40], "not well-formed XML"),
    "undeclared": ("<rss><channel><item><g:id>1</g:id></item></channel></rss>", "not well-formed XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><rss/>', r"not well-formed XML|cannot be read as XML"),
    "a page": ("<html><body><p>404</body></html>", "a web page"),
    "a page with a type": ("<!DOCTYPE html>\n<html><head/></html>", "a web page"),
    "a sitemap": ("<urlset><url/></urlset>", "XML of <urlset> without an <item> or <entry>; expected is a product feed"),
    "own XML": ("<products><product><id>1</id></product></products>", "XML of <products> without"),
    "no products": (RSS.format(""), r"feed\.xml: nothing to import from merchant \(products read: 0"),
    "no ids": (RSS.format("<item><title>a</title></item>"), "nothing to import .*left out: 1 products without an id"),
    "NUL bytes": ("id,title\n1,a\n\0\0", r"feed\.xml row 3: NUL bytes"),
    "another table": ("sku;name\n1;a\n", "no column id or title; it has sku, name"),
    "empty": ("", "empty; export it again"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_feeds_end_with_one_line_and_nothing_written(tmp_path, name):
    content, message = HOSTILE[name]
    (tmp_path / "feed.xml").write_text(content, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as error:
        smar_import("merchant", tmp_path / "feed.xml", "--to", tmp_path / "shop")
    assert "\n" not in str(error.value)
    assert "feed.xml" in str(error.value)
    assert not (tmp_path / "shop" / "items.parquet").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


def ubi_log(path: Path, *item_ids: str) -> Path:
    def event(item_id: str, place: int) -> dict:
        attributes = {"object": {"object_id": item_id}, "position": {"ordinal": place}}
        time = "2026-11-19T12:00:01Z"
        return {
            "action_name": "impression",
            "query_id": "q",
            "client_id": "c",
            "timestamp": time,
            "event_attributes": attributes,
        }

    query = {"query_id": "q", "user_query": "shirt", "client_id": "c", "timestamp": "2026-11-19T12:00:00Z"}
    return write_lines(path, query, *(event(item_id, place) for place, item_id in enumerate(item_ids)))


def test_clicks_on_variants_follow_their_item(tmp_path):
    shop, _ = imported(tmp_path, SHIRT, SHIRT_RED, LAMP)
    output = smar_import(
        "ubi", ubi_log(tmp_path / "l.ndjson", "S1-R-L", "4006381333931", "7", "S1", "gone"), "--to", shop
    )
    assert [e["item_id"] for e in events_of(shop)] == ["S1", "S1", "7", "S1", "gone"]
    assert "changed: 2 ids of variants, or other names, read as the item's id (such as 'S1-R-L': 'S1')" in output
    assert "unknown items: 1 of 5 events name items that the shop does not have (such as 'gone')" in output


def test_tables_by_a_mapping_meet_the_feed_too(tmp_path):
    shop, _ = imported(tmp_path, SHIRT, SHIRT_RED, LAMP)
    (tmp_path / "labels.csv").write_text("q,sku,g\nshirt,S1-R-L,3\nlamp,7,2\nlamp,gone,0\n")
    columns = {"query": "q", "item_id": "sku", "grade": "g"}
    mapping = {"source": "acme", "judgments": {"file": "labels.csv", "columns": columns}}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    for _ in range(2):
        output = smar_import("table", tmp_path, "--columns", tmp_path / "mapping.yaml", "--to", shop)
        grades = pq.read_table(shop / "judgments.parquet").to_pylist()
        assert [(row["item_id"], row["grade"]) for row in grades] == [("S1", 3), ("7", 2), ("acme-gone", 0)]
    assert "unknown items: 1 of 3 judgments name items that the shop does not have (such as 'acme-gone')" in output


def test_a_log_that_came_first_is_told_of(tmp_path):
    shop, log = tmp_path / "shop", ubi_log(tmp_path / "l.ndjson", "S1-R-L", "7")
    output = smar_import("ubi", log, "--to", shop)
    assert "the shop has no catalogue yet: import its product feed, then this log again" in output
    assert "for `make retrain` it lacks items.parquet (import the product feed)" in output
    shop, output = imported(tmp_path, SHIRT, SHIRT_RED, LAMP)
    assert "unknown items: 1 of 2 events name items that the shop does not have (such as 'S1-R-L')" in output
    assert "import that log, or those judgments, again" in output
    assert "unknown items" not in smar_import("ubi", log, "--to", shop)


def test_a_feed_replaces_its_own_catalogue_and_no_other(tmp_path):
    shop, _ = imported(tmp_path, SHIRT, LAMP)
    imported(tmp_path, LAMP)
    assert items_of(shop).keys() == {"7"}
    assert not (shop / "item_aliases.parquet").exists()
    export = tmp_path / "export.csv"
    export.write_text("Handle,Title\nlamp,Lamp\n")
    with pytest.raises(
        InputError, match=r"items\.parquet: holds the items of merchant; a shopify import is a whole catalogue"
    ):
        smar_import("shopify", export, "--to", shop)
    (tmp_path / "goods.csv").write_text("sku,name\n1,A\n")
    mapping = {"source": "acme", "items": {"file": "goods.csv", "columns": {"item_id": "sku", "title": "name"}}}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    with pytest.raises(InputError, match=r"items\.parquet: is the shop's whole catalogue, from merchant"):
        smar_import("table", tmp_path, "--columns", tmp_path / "mapping.yaml", "--to", shop)
    assert items_of(shop).keys() == {"7"}
    smar_import("shopify", export, "--to", shop, "--replace")
    assert items_of(shop).keys() == {"lamp"}


def test_a_catalogue_that_was_written_by_hand_is_not_taken_for_the_feeds(tmp_path):
    with ShopWriter(tmp_path / "shop", "") as writer:
        writer.add_item("1", item_id="1", title="By hand")
    with pytest.raises(InputError, match="holds the items of another source"):
        imported(tmp_path, LAMP)
    damaged = pa.table({"alias": ["a"]})
    pq.write_table(damaged, tmp_path / "shop" / "item_aliases.parquet")
    with pytest.raises(InputError, match=r"item_aliases\.parquet: differs from schemas/item_aliases\.yaml"):
        smar_import("ubi", ubi_log(tmp_path / "l.ndjson", "1"), "--to", tmp_path / "shop")
