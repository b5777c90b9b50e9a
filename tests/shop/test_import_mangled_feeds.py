"""Feeds as spreadsheets, plug-ins and editors leave them: digits that are gone, markup, rows and letters out of order."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import aliases_of, events_of, items_of, smar_import, write_lines
from table_imports import import_items

from smar_model.errors import InputError
from smar_model.shop.importers.html_texts import without_tags

RSS = '<?xml version="1.0"?><rss xmlns:g="http://base.google.com/ns/1.0"><channel>{}</channel></rss>'
ITEM = "<item><g:id>{}</g:id><title>{}</title>{}</item>"
HEADER = "id,title,product_type\n"


def imported(
    folder: Path, content: str | bytes, *options: str, name: str = "feed.csv", source: str = "merchant"
) -> str:
    """Import one file into the folder's shop."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return smar_import(source, folder / name, "--to", folder / "shop", *options)


def rss(*items: str) -> str:
    return RSS.format("".join(items))


@pytest.mark.parametrize(
    ("source", "content", "row"),
    [
        ("merchant", HEADER + "1,T,A\n4.00556E+12,U,A\n", r"feed\.csv row 3: id '4.00556E\+12'"),
        ("merchant", "id,title,item_group_id\n1,T,4.00556E+12\n", r"feed\.csv row 2: item_group_id"),
        ("shopify", "Handle,Title\n1.2E+13,T\n", r"feed\.csv row 2: Handle '1.2E\+13'"),
    ],
)
def test_an_id_that_a_spreadsheet_has_cut_is_refused(tmp_path, source, content, row):
    with pytest.raises(InputError, match=row + r".*export the column \w+ as text"):
        imported(tmp_path, content, source=source)


def test_other_names_that_a_spreadsheet_has_cut_stand_for_nothing(tmp_path):
    output = imported(tmp_path, "id,title,gtin\n1,T,4.00556E+12\n2,U,4006381333931\n")
    assert aliases_of(tmp_path / "shop") == {"4006381333931": "2"}
    assert "left out: 1 other names whose last digits a spreadsheet has dropped" in output
    export = "Handle,Title,Variant SKU\na,T,1.23E+12\n"
    with pytest.raises(InputError, match="row 2: SKU"):
        imported(tmp_path, export, "--variants", "apart", "--replace", source="shopify")
    assert "1 other names whose last digits" in imported(tmp_path, export, "--replace", source="shopify")


def test_cut_ids_of_logs_are_counted(tmp_path):
    query = {"query_id": "q", "user_query": "a", "client_id": "c", "timestamp": "2026-11-19T12:00:00Z"}
    click = {"query_id": "q", "action_name": "click", "client_id": "c", "timestamp": "2026-11-19T12:00:09Z"}
    ids = [{"event_attributes": {"object": {"object_id": item}}} for item in ("4.00556E+12", "7")]
    log = write_lines(tmp_path / "log.ndjson", query, *(click | item for item in ids))
    output = smar_import("ubi", log, "--to", tmp_path / "shop")
    assert {event["item_id"] for event in events_of(tmp_path / "shop")} == {"7"}
    assert "left out: 1 events with an item id whose last digits a spreadsheet has dropped" in output


def test_two_products_with_one_id_are_told_from_one_product_for_two_countries(tmp_path):
    output = imported(tmp_path, HEADER + "1,Red shirt,A\n1,Red Shirt,A\n1,Blue mug,A\n1,Red shirts,A\n")
    assert "left out: 2 rows whose id an earlier row has, as for another currency or country" in output
    line = "left out: 1 rows whose id an earlier row has under quite another title"
    assert line in output
    assert "row 4: '1' 'Blue mug', before 'Red shirt'" in output
    export = "Handle,Title\na,Red shirt\na,Blue mug\na,\n"
    assert "1 titles of rows whose handle an earlier row has under quite another title" in imported(
        tmp_path, export, "--replace", source="shopify"
    )


@pytest.mark.parametrize(
    "title",
    [
        "Red <b>linen</b> shirt <br/>for men",
        "<![CDATA[<p>Red <B class='x'>linen</B> shirt</p><br>for men]]>",
        "Red&lt;br /&gt;linen &lt;span style=''&gt;shirt&lt;/span&gt; for men",
        "Red<i> linen</i> shirt<p>for men</p>",
    ],
)
def test_markup_in_titles_goes_and_is_counted(tmp_path, title):
    output = imported(tmp_path, rss(ITEM.format(1, title, "")), name="feed.xml")
    assert items_of(tmp_path / "shop")["1"]["title"] == "Red linen shirt for men"
    assert "changed: 1 texts with HTML tags, which were taken out" in output


def test_signs_that_are_no_markup_stay(tmp_path):
    output = imported(tmp_path, rss(ITEM.format(1, "Cable &lt;5 m&gt; a&lt;b &lt;bold&gt;", "")), name="feed.xml")
    assert items_of(tmp_path / "shop")["1"]["title"] == "Cable <5 m> a<b <bold>"
    assert "HTML" not in output


@pytest.mark.parametrize("title", ["<" + " " * 200_000, "<b " * 200_000, "<b" + " " * 200_000])
def test_hostile_markup_is_read_once(title):
    """A pattern that tried each space twice would not end within minutes."""
    assert without_tags(title) == title


def test_markup_in_a_mapped_title(tmp_path):
    result = import_items(tmp_path, "sku,name\n1,<b>Bold</b> &amp; red\n", {"item_id": "sku", "title": "name"})
    assert result.items["1"]["title"] == "Bold & red"
    assert "1 texts with HTML tags" in result.output


def test_apostrophes_before_digits_are_taken_off(tmp_path):
    export = "Handle,Title,Variant SKU,Variant Barcode\na,T,'00123,'4006381333931\nb,U,'n Sync,\n"
    output = imported(tmp_path, export, source="shopify")
    assert aliases_of(tmp_path / "shop") == {"00123": "a", "4006381333931": "a", "'n Sync": "b"}
    assert "changed: 2 ids with an apostrophe before their digits, which was taken off" in output
    imported(tmp_path, export, "--variants", "apart", source="shopify")
    assert set(items_of(tmp_path / "shop")) == {"00123", "'n Sync"}


def test_repeated_fields_are_counted_and_a_second_id_is_another_name(tmp_path):
    further = "<g:id>9</g:id><title>Other</title><g:brand>A</g:brand><g:brand>B</g:brand><g:id>1</g:id>"
    output = imported(tmp_path, rss(ITEM.format(1, "T", further)), name="feed.xml")
    assert aliases_of(tmp_path / "shop") == {"9": "1"}
    assert items_of(tmp_path / "shop")["1"]["title"] == "T"
    assert "changed: 1 further ids of a product, kept as other names of it" in output
    for name in ("title", "brand"):
        assert f"left out: 1 further values of {name} after the first of a product" in output
    output = imported(tmp_path, "id,title,id\n1,T,9\n")
    assert aliases_of(tmp_path / "shop") == {"9": "1"}
    assert "changed: 1 further ids" in output


def test_two_addresses_in_one_field_are_two_pictures(tmp_path):
    content = 'id,title,image_link\n1,T,"https://x.de/a.jpg,https://x.de/b,c.jpg"\n'
    imported(tmp_path, content)
    assert items_of(tmp_path / "shop")["1"]["images"] == ["https://x.de/a.jpg", "https://x.de/b,c.jpg"]


def test_a_row_without_a_handle_joins_no_product(tmp_path):
    export = "Handle,Title,Option1 Name,Option1 Value\na,T,Size,S\n,,,M\na,,,L\n"
    output = imported(tmp_path, export, source="shopify")
    assert items_of(tmp_path / "shop")["a"]["attributes"] == {"size": "S, L"}
    assert "left out: 1 rows without a handle, which Shopify repeats in each row" in output
