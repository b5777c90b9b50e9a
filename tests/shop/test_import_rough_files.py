"""Files of a feed that are packed, encoded or separated in other ways than they say, or hold something else."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from imports import items_of, smar_import
from table_imports import import_events, import_items

from smar_model.errors import InputError

HEADER = "id,title,product_type\n"
XML = '<?xml version="1.0" encoding="{}"?><rss><channel><item><id>1</id><title>Häkeljacke grün</title></item></channel></rss>'


def imported(folder: Path, content: str | bytes, *, name: str = "feed.csv", source: str = "merchant") -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return smar_import(source, folder / name, "--to", folder / "shop")


def zipped(**members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "."), text)
    return packed.getvalue()


def test_errors_name_the_file_that_was_given(tmp_path):
    bad = HEADER + "1,A,B\n2,A\n"
    with pytest.raises(InputError, match=rf"^{tmp_path}/feed\.csv\.gz row 3: 2 fields, expected 3"):
        imported(tmp_path, gzip.compress(bad.encode()), name="feed.csv.gz")
    with pytest.raises(InputError, match=rf"^{tmp_path}/feed\.zip: goods\.csv row 3: 2 fields"):
        imported(tmp_path, zipped(goods__csv=bad), name="feed.zip")
    with pytest.raises(InputError, match=rf"^{tmp_path}/feed\.gz: text that is neither UTF-8 nor"):
        imported(tmp_path, gzip.compress((HEADER + "1,рубашка красная,B\n").encode("cp1251")), name="feed.gz")
    with pytest.raises(InputError, match=rf"^{tmp_path}/feed\.gz row 4: NUL bytes"):
        imported(tmp_path, gzip.compress((HEADER + "1,A,B\n2,A,B\n\0").encode()), name="feed.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("feed.xlsx", b"PK\x03\x04", r"feed\.xlsx: a spreadsheet is not read: save it as CSV"),
        (
            "feed.zip",
            zipped(**{"[Content_Types]__xml": "<a/>", "xl/workbook__xml": "<a/>"}),
            "a spreadsheet is not read",
        ),
        ("feed.gz", gzip.compress(gzip.compress(b"id,title\n1,A\n")), r"feed\.gz: packed twice; unpack it once"),
        ("feed.csv", b"<!DOCTYPE html>\n<html>", "a web page"),
    ],
    # Packed bytes hold the time: as a test's name they would differ between two collections.
    ids=["spreadsheet", "packed-spreadsheet", "packed-twice", "page"],
)
def test_what_is_no_feed_says_what_it_is(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        imported(tmp_path, content, name=name)


@pytest.mark.parametrize("source", ["merchant", "shopify"])
@pytest.mark.parametrize("start", ["sep=;\n", '\ufeff"sep=;"\r\n'])
def test_the_line_of_excel_is_heeded(tmp_path, source, start):
    imported(tmp_path, f"{start}id;handle;title\n1;1;Red, blue\n", source=source)
    assert items_of(tmp_path / "shop")["1"]["title"] == "Red, blue"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_an_encoding_that_was_found_is_said(tmp_path, encoding):
    output = imported(tmp_path, (HEADER + "1,Häkeljacke,A\n").encode(encoding))
    assert items_of(tmp_path / "shop")["1"]["title"] == "Häkeljacke"
    assert f"feed.csv: read as {'Windows-1252' if encoding == 'cp1252' else 'UTF-16'} text" in output


def test_xml_that_says_another_encoding_than_it_has(tmp_path):
    output = imported(tmp_path, XML.format("ISO-8859-1"), name="feed.xml")
    assert items_of(tmp_path / "shop")["1"]["title"] == "Häkeljacke grün"
    assert "feed.xml: read as UTF-8, which it is, although it says ISO-8859-1" in output
    output = imported(tmp_path, XML.format("ISO-8859-1").encode("latin-1"), name="feed.xml")
    assert items_of(tmp_path / "shop")["1"]["title"] == "Häkeljacke grün"
    assert "although" not in output
    for start in (XML.format("UTF-8"), XML.format("UTF-8").replace(' encoding="UTF-8"', "")):
        with pytest.raises(InputError, match=r"feed\.xml row 1: not UTF-8, .*encoding=\"windows-1252\" there"):
            imported(tmp_path, start.encode("cp1252"), name="feed.xml")


def test_empty_fields_after_the_last_column_are_dropped(tmp_path):
    output = imported(tmp_path, "id;title;product_type\n1;A;B;\n2;C;D;;; \n3;E;F\n")
    assert len(items_of(tmp_path / "shop")) == 3
    assert "changed: 2 rows with empty fields after the last column, which were dropped" in output
    (tmp_path / "table").mkdir()
    result = import_items(tmp_path / "table", "sku,name\n1,A,\n2,B\n", {"item_id": "sku", "title": "name"})
    assert "1 rows with empty fields after the last column" in result.output, "once, though read twice"


def test_a_few_odd_rows_are_left_out_and_many_refuse_the_feed(tmp_path):
    rows = "".join(f"{n},T,A\n" for n in range(300))
    output = imported(tmp_path, HEADER + rows + "x,Shirt, red,A\ny,T\n")
    assert len(items_of(tmp_path / "shop")) == 300
    assert "left out: 2 rows with another number of fields than there are columns: does a text hold ','" in output
    assert "feed.csv row 302: 4 fields, expected 3; " in output
    odd = "".join(f"x{n},Shirt, red,A\n" for n in range(5))
    with pytest.raises(
        InputError, match=r"row 303: 4 fields, expected 3; .* \(5 of 305 rows in all\); does a text hold ','"
    ):
        imported(tmp_path, HEADER + rows + odd)
    columns = {"item_id": "id", "title": "title"}
    (tmp_path / "table").mkdir()
    result = import_items(tmp_path / "table", HEADER + rows + "x,Shirt, red,A\n", columns)
    assert len(result.items) == 300
    assert "left out: 1 rows with another number of fields" in result.output


def test_a_wrong_unit_is_told_by_its_days(tmp_path):
    time = 1_763_553_600_000  # 2025-11-19
    rows = [f"{time},click,1,1\n"] * 200
    rule = {"column": "t", "unit": "ms"}
    bad = "t,e,sku,p\n" + "".join(rows[:10]) + f"{time // 1000},click,1,1\n"
    with pytest.raises(InputError, match=r"log\.csv row 12: 1970-01-21 .*1 of 11 events .*is `unit: ms` right\?"):
        import_events(tmp_path, bad, event_time=rule)
    with pytest.raises(InputError, match="is `unit: s` right"):
        import_events(tmp_path, f"t,e,sku,p\n{time // 10},click,1,1\n", event_time={"column": "t", "unit": "s"})
    result = import_events(tmp_path, "t,e,sku,p\n" + "".join(rows) + "0,click,1,1\n", event_time=rule)
    assert len(result.events) == 200
    assert "left out: 1 events before 2000 or after tomorrow" in result.output
