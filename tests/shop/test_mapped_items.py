"""Items of any table: the kinds of what shops' systems write, beside the cases."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_imports import Imported, import_items

from smar_model.errors import InputError

NAMED = {"item_id": "sku", "title": "name"}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(**columns: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def titles(made: Imported) -> dict[str, str]:
    return {item_id: row["title"] for item_id, row in made.items.items()}


def test_rows_of_one_item_may_be_anywhere_and_differ(tmp_path):
    rows = [
        {"sku": 1, "name": "Shirt", "size": "S", "photo": "https://h/1.jpg", "changed": "2026-11-01"},
        {"sku": 2, "name": "Stool"},
        {"sku": 1, "name": "", "size": "M", "photo": "https://h/2.jpg", "brand": "Acme", "changed": "2026-11-03"},
        {"sku": 3, "name": "Lamp"},
        {"sku": 1, "name": "Chemise", "size": "S", "photo": "https://h/1.jpg", "changed": "2026-11-02"},
    ]
    columns = NAMED | {"brand": "brand", "attributes": {"size": "size"}, "images": "photo", "updated_at": "changed"}
    made = import_items(tmp_path, lines(*rows), columns, name="goods.jsonl")
    assert list(made.items) == ["2", "3", "1"], "an item is written when its last row has come"
    shirt = made.items["1"]
    assert (shirt["title"], shirt["brand"], shirt["attributes"]) == ("Shirt", "Acme", [("size", "S, M")])
    assert shirt["images"] == ["https://h/1.jpg", "https://h/2.jpg"]
    assert shirt["updated_at"].day == 3, "the latest of its rows' times"
    assert "changed: 2 rows joined" in made.output
    assert "left out: 1 values of title that differ from those of the same item's first row (such as " in made.output
    assert "goods.jsonl row 5: 'Chemise')" in made.output


def test_prices_and_availability(tmp_path):
    rows = [
        {"sku": 1, "name": "Shirt", "cost": "19.99 EUR", "stock": "yes"},
        {"sku": 1, "name": "Shirt", "cost": 12, "stock": "no"},
        {"sku": 1, "name": "Shirt", "cost": "15.5 EUR", "stock": True},
        {"sku": 2, "name": "Stool", "cost": "12,99", "money": "eur", "stock": "in_stock"},
        {"sku": 3, "name": "Lamp", "cost": 5.25, "money": "usd", "stock": "sold"},
        {"sku": 4, "name": "Rug", "cost": "7 EUR", "money": "euro", "stock": "who knows"},
    ]
    offer = {"price": "cost", "currency": "money", "available": {"column": "stock", "values": {"sold": "false"}}}
    made = import_items(tmp_path, lines(*rows), NAMED | offer, name="goods.jsonl")
    found = {
        key: (row["price"] and float(row["price"]), row["currency"], row["available"])
        for key, row in made.items.items()
    }
    assert found["1"] == (15.5, "EUR", True), "the lowest that can be bought, in the first one's currency"
    assert found["2"] == (None, None, True)
    assert found["3"] == (5.25, "USD", False)
    assert found["4"] == (7.0, "EUR", None)
    for line in (
        "left out: 1 prices that are none, as 15.00 or 15.00 EUR is one (such as",
        "left out: 1 currencies that are no ISO 4217 code, as EUR is one (such as",
        "left out: 1 words for `available` that are neither true nor false; `values` says what they mean (such as",
    ):
        assert line in made.output


@pytest.mark.parametrize("product", [None, "parent"])
def test_rows_of_many_items_that_wait_for_each_other(tmp_path, product):
    rows = [
        {"parent": f"p{n % 7}", "sku": f"s{n % 35}", "name": f"N{n % 35}", "photo": f"https://h/{n}", "at": f"2026-11-{1 + n // 35:02}"}
        for n in range(175)
    ]  # fmt: skip
    columns = NAMED | {"images": "photo", "updated_at": "at", "brand": "parent"}
    made = import_items(tmp_path, lines(*rows), columns, name="g.jsonl", **({"product": product} if product else {}))
    assert titles(made) == {f"s{n}": f"N{n}" for n in range(35)}
    for n, row in enumerate(made.items[f"s{n}"] for n in range(35)):
        own = [f"https://h/{n + 35 * k}" for k in range(5)]
        assert row["images"][:5] == own
        assert len(row["images"]) == (25 if product else 5), "of a product's items each has all pictures"
        assert (row["brand"], row["updated_at"].day) == (f"p{n % 7}", 5)
    assert "changed: 140 rows joined" in made.output


def test_rows_apart_refuse_a_second_row_of_an_item(tmp_path):
    with pytest.raises(InputError, match=r"goods\.csv row 4: item acme-1 is already there"):
        import_items(tmp_path, "sku,name\n1,Shirt\n2,Stool\n1,Shirt\n", NAMED, rows="apart")


def test_a_variant_takes_from_its_product_what_all_its_rows_agree_on(tmp_path):
    content = "parent,sku,name,size,material\np,,Shirt,,linen\nq,9,Lamp,,oak\np,1,,S,\np,2,Shirt M,,\n"
    columns = NAMED | {"attributes": {"size": "size", "material": "material"}}
    made = import_items(tmp_path, content, columns, product="parent")
    assert titles(made) == {"9": "Lamp", "1": "Shirt", "2": "Shirt M"}
    assert made.items["2"]["attributes"] == [("material", "linen"), ("size", "S")]
    assert "left out" not in made.output


@pytest.mark.parametrize(
    ("rule", "cell", "category", "said"),
    [
        (
            {"column": "path", "split": ">", "take": "deepest"},
            "A > B, C > D > E, C",
            "C > D > E",
            "left out: 2 further",
        ),
        ({"column": "path", "split": ">"}, "Home > Textiles, Sale", "Home > Textiles", "left out: 1 further"),
        ({"column": "path", "split": ">"}, "Food, Beverages > Tea", "Food, Beverages > Tea", "changed: 1 categories"),
        ({"column": "path", "split": "/", "between_paths": "|"}, "A/B, C|D/E", "A > B, C", "left out: 1 further"),
        ({"column": "path", "split": ">", "between_paths": ""}, "A > Print, Scan > B", "A > Print, Scan > B", None),
        ({"column": "path", "split": ">"}, '["A > B", "A > B > C"]', "A > B", "left out: 1 further"),
        ({"column": "path"}, "['A', 'B']", "A > B", None),
        ([{"column": "path", "split": ">"}, {"value": "Z"}], "A &gt; B", "A > B > Z", None),
    ],
)
def test_one_of_several_paths(tmp_path, rule, cell, category, said):
    made = import_items(
        tmp_path, lines({"sku": 1, "name": "X", "path": cell}), NAMED | {"category": rule}, name="g.jsonl"
    )
    assert made.items["1"]["category"] == category
    assert said in made.output if said else "changed" not in made.output and "left out" not in made.output


@pytest.mark.parametrize(
    ("column", "cell", "category"),
    [
        ("google_product_category", "Electronics > Print, Copy, Scan & Fax > Printers", None),
        ("Google Shopping / Google Product Category", "Food, Beverages & Tobacco > Food Items", None),
        ("Categories", "Sale, Home > Mugs", "Sale"),
        ("Kategorien", "Sale, Home > Mugs", "Sale"),
    ],
)
def test_columns_whose_names_say_what_a_comma_is(tmp_path, column, cell, category):
    columns = NAMED | {"category": {"column": column, "split": ">"}}
    made = import_items(tmp_path, f'sku,name,{column}\n1,X,"{cell}"\n', columns)
    assert made.items["1"]["category"] == (category or cell)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("https://h/a.jpg?x=1&copy=2&amp;w=8", "https://h/a.jpg?x=1&copy=2&w=8"),
        ("//h/a.jpg?x=1&#38;y=2", "https://h/a.jpg?x=1&y=2"),
        ("HTTP://h/a b.jpg", "HTTP://h/a b.jpg"),
    ],
)
def test_entities_in_addresses(tmp_path, written, address):
    made = import_items(tmp_path, f"sku,name,photo\n1,X,{written}\n", NAMED | {"images": "photo"})
    assert made.items["1"]["images"] == [address]


def test_entities_in_texts(tmp_path):
    content = "sku,name,brand,cut\n1,Salt &#x26;&nbsp;&nbsp;Pepper AT&T &unknown;,Herm&egrave;s,&frac12; sleeve\n"
    made = import_items(tmp_path, content, NAMED | {"brand": "brand", "attributes": {"cut": "cut"}})
    item = made.items["1"]
    assert (item["title"], item["brand"]) == ("Salt & Pepper AT&T &unknown;", "Hermès")
    assert item["attributes"] == [("cut", "½ sleeve")]


def test_pictures_of_numbered_columns_and_of_a_name_that_stands_over_several(tmp_path):
    images = ["img1", "img2", {"column": "more", "split": "|"}]
    content = "sku,name,img1,img2,more,more\n1,X,https://h/1,,https://h/2|https://h/1,https://h/3\n2,Y,,,,https://h/4\n"
    made = import_items(tmp_path, content, NAMED | {"images": images})
    assert made.items["1"]["images"] == ["https://h/1", "https://h/2|https://h/1", "https://h/3"], "a list is not split"
    assert made.items["2"]["images"] == ["https://h/4"]
    made = import_items(tmp_path, "sku,name,img1,img2\n1,X,https://h/1,https://h/1\n", NAMED | {"images": images[:2]})
    assert made.items["1"]["images"] == ["https://h/1"]


def test_what_is_no_picture_is_counted(tmp_path):
    photos = tmp_path / "export" / "photos"
    (photos / "a").mkdir(parents=True)
    (photos / "a" / "1.jpg").write_bytes(b"1")
    names = ["a\\1.jpg", "ftp://h/1.jpg", "data:image/png;base64,AA", "../secret", "a/2.jpg", "x" * 300, "n\0l"]
    made = import_items(
        tmp_path, lines({"sku": 1, "name": "X", "p": names}), NAMED | {"images": "p"}, name="g.jsonl", pictures="photos"
    )
    assert made.items["1"]["images"] == ["acme/a/1.jpg"]
    assert "left out: 2 addresses of pictures that begin with neither http:// nor https://" in made.output
    assert "left out: 4 pictures that the folder lacks (such as " in made.output


@pytest.mark.parametrize(
    ("content", "name", "items"),
    [
        (parquet(sku=["1", "2"], name=["X", "Y"], brand=[float("nan"), 1.5]), "g.parquet", {"1": None, "2": "1.5"}),
        ('{"sku": "1", "name": "X", "brand": Infinity}\n{"sku": NaN, "name": "Y"}\n', "g.jsonl", {"1": None}),
        ('{"sku": 1, "name": "X", "brand": true}\n', "g.jsonl", {"1": "true"}),
        ('{"sku": 1, "name": "X", "brand": 501.0}\n', "g.jsonl", {"1": "501"}),
        (parquet(sku=[1.0, None], name=["X", "Y"], brand=[b"Acme", b"B"]), "g.parquet", {"1": "Acme"}),
        (parquet(sku=[Decimal("7.00")], name=["X"], brand=[Decimal("1.50")]), "g.parquet", {"7": "1.50"}),
        ("sku,name,brand\n1.0,X,1.0\n2.0,Y,\n", "g.csv", {"1": "1.0", "2": None}),
        (parquet(sku=["1"], name=["X"], brand=pa.array(["A"]).dictionary_encode()), "g.parquet", {"1": "A"}),
    ],
)
def test_numbers_that_stand_for_nothing_or_for_integers(tmp_path, content, name, items):
    made = import_items(tmp_path, content, NAMED | {"brand": "brand"}, name=name)
    assert {item_id: row["brand"] for item_id, row in made.items.items()} == items


def test_an_id_that_a_float_was_made_of_meets_the_integer_and_is_said(tmp_path):
    made = import_items(tmp_path, "sku,name,brand\n1,X,\n1.0,,Acme\n", NAMED | {"brand": "brand"})
    assert made.items["1"]["brand"] == "Acme"
    assert "changed: 1 item ids written as a float, read as the integer (such as " in made.output


@pytest.mark.parametrize("written", ["1.23E+12", "4,00638E+12", "1.2345678901234568e+17", "12345678901234567.0"])
def test_an_id_that_has_lost_digits_is_refused(tmp_path, written):
    with pytest.raises(InputError, match=r"goods\.csv row 2: item_id .* last digits .* export the column sku as text"):
        import_items(tmp_path, f'sku,name\n"{written}",X\n', NAMED)


@pytest.mark.parametrize("written", ["1E10", "2e45", "E+12", "1.2.0"])
def test_an_id_that_only_looks_like_a_number_stays(tmp_path, written):
    assert list(import_items(tmp_path, f"sku,name\n{written},X\n", NAMED).items) == [written]


@pytest.mark.parametrize(
    ("pattern", "item_id", "image"),
    [
        ("{item_id:-2}/{item_id}.jpg", "12345", "acme/45/12345.jpg"),
        ("{item_id}", "../x", None),
        ("https://cdn.example.org/{item_id}.jpg", "a b/c#1", "https://cdn.example.org/a%20b%2Fc%231.jpg"),
    ],
)
def test_patterns_of_pictures(tmp_path, pattern, item_id, image):
    folder = tmp_path / "export" / "photos" / "45"
    folder.mkdir(parents=True)
    (folder / "12345.jpg").write_bytes(b"1")
    (tmp_path / "export" / "x").write_bytes(b"secret")
    columns = NAMED | {"images": {"pattern": pattern}}
    made = import_items(tmp_path, f"sku,name\n{item_id},X\n", columns, pictures="photos")
    assert made.items[item_id]["images"] == ([image] if image else [])


@pytest.mark.parametrize(
    "pattern", ["{item_id.__class__}.jpg", "{0}", "{item_id:x}", "{item_id!r}", "plain.jpg", "{item_id", "{sku}"]
)
def test_other_patterns_are_refused(tmp_path, pattern):
    with pytest.raises(InputError, match=r"mapping\.yaml.*images.*pattern.*write \{item_id\}"):
        import_items(tmp_path, "sku,name\n1,X\n", NAMED | {"images": {"pattern": pattern}})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sku": 1, "name": {"en": "X"}}, r"row 1: column name holds an object, .* in place of one text"),
        ({"sku": [1], "name": "X"}, r"row 1: column sku holds a list"),
        ({"sku": 1, "name": "X", "p": [{"src": "a"}]}, r"row 1: column p holds a list of more than texts"),
        ({"sku": 1, "name": "X", "p": {"src": "a"}}, r"row 1: column p holds an object"),
    ],
)
def test_lists_and_objects_in_place_of_texts_are_refused(tmp_path, row, message):
    with pytest.raises(InputError, match=r"g\.jsonl " + message):
        import_items(tmp_path, lines({"p": []} | row), NAMED | {"images": "p"}, name="g.jsonl")


@pytest.mark.parametrize(
    ("cell", "images"),
    [
        ('["https://h/1,2.jpg", null, "https://h/3.jpg"]', ["https://h/1,2.jpg", "https://h/3.jpg"]),
        ("['https://h/1.jpg', \"https://h/it's.jpg\"]", ["https://h/1.jpg", "https://h/it's.jpg"]),
        ("['https://h/1.jpg'\n 'https://h/2.jpg']", ["https://h/1.jpg", "https://h/2.jpg"]),
        ('["https://h/1.jpg", "https://h', []),
        ("[" * 100_000 + "]", []),
        ("[]", []),
    ],
)
def test_lists_in_a_cell(tmp_path, cell, images):
    table = lines({"sku": 1, "name": "X", "p": cell})
    made = import_items(tmp_path, table, NAMED | {"images": {"column": "p", "split": "|"}}, name="g.jsonl")
    assert made.items["1"]["images"] == images
    assert ("left out: 1 names of pictures" in made.output) == (not images and cell != "[]")


def test_marks_of_emptiness(tmp_path):
    content = "sku,name,brand\n1,NULL,A\n2,None,NA\n3,Tea,nan\n4 \u00a0,Mug,<NA>\n"
    made = import_items(tmp_path, content, NAMED | {"brand": "brand"})
    assert titles(made) == {"2": "None", "3": "Tea", "4": "Mug"}, "None, NA and N/A may be names"
    assert [row["brand"] for row in made.items.values()] == ["NA", None, None]
    assert "changed: 3 cells with a mark of emptiness, read as empty (such as " in made.output
    assert "goods.csv row 2: name is NULL)" in made.output
    assert "left out: 1 items without a title" in made.output
    made = import_items(tmp_path, content, NAMED | {"brand": "brand"}, null_markers=["NA"])
    assert titles(made)["1"] == "NULL"
    assert made.items["2"]["brand"] is None


def test_a_time_with_a_zone_or_a_format_of_its_own(tmp_path):
    rule = {"column": "at", "format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"}
    made = import_items(tmp_path, "sku,name,at\n1,X,19.11.2026 10:18\n2,Y,NaT\n", NAMED | {"updated_at": rule})
    assert made.items["1"]["updated_at"].isoformat() == "2026-11-19T09:18:00+00:00"
    assert "changed: 1 items without a time" in made.output
    for bad in ({"zone": "Mars/Base"}, {"zone": "../x"}, {"unit": "ms", "format": "%d"}):
        with pytest.raises(InputError, match=r"no such zone|a number in a `unit`"):
            import_items(tmp_path, "sku,name,at\n1,X,\n", NAMED | {"updated_at": {"column": "at"} | bad})


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_times_of_parquet(tmp_path, unit):
    at = pa.array([1_795_080_000_000_000_001, None], pa.timestamp("ns")).cast(pa.timestamp(unit), safe=False)
    made = import_items(
        tmp_path, parquet(sku=[1, 2], name=["X", "Y"], at=at), NAMED | {"updated_at": "at"}, name="g.parquet"
    )
    assert made.items["1"]["updated_at"].isoformat() == "2026-11-19T09:20:00+00:00"
    days = pa.array([20_776, None], pa.date32())
    made = import_items(
        tmp_path, parquet(sku=[1, 2], name=["X", "Y"], at=days), NAMED | {"updated_at": "at"}, name="g.parquet"
    )
    assert made.items["1"]["updated_at"].isoformat() == "2026-11-19T00:00:00+00:00"


def test_items_may_have_as_many_pictures_and_values_as_sense(tmp_path: Path):
    row = {"sku": 1, "name": "X", "c": [f"c{n}" for n in range(1_100)], "p": [f"https://h/{n}" for n in range(1_100)]}
    made = import_items(tmp_path, lines(row, row), NAMED | {"images": "p", "attributes": {"c": "c"}}, name="g.jsonl")
    assert len(made.items["1"]["images"]) == 1_000
    assert "pictures of an item after the first 1,000" in made.output
    assert "values of an item's attribute after the first 1,000" in made.output
