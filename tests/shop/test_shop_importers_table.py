"""Any tables by a YAML of columns."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from published_layouts import jpeg
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import REPOSITORY
from smar_model.shop.importers.mapped_tables import load_mapping

ITEMS = {
    "file": "goods.csv",
    "pictures": "photos",
    "columns": {
        "item_id": "sku",
        "title": "name",
        "category": {"column": "path", "split": "/"},
        "brand": {"value": "Acme"},
        "attributes": {"colour": "color"},
        "images": {"column": "photos", "split": "|"},
        "updated_at": "changed",
    },
}
GOODS = (
    "sku,name,path,color,photos,changed",
    '7,"Shirt, linen",Apparel/ Shirts,white,7.jpg|https://example.org/7b.jpg|gone.jpg,2026-11-01T10:00:00+02:00',
    "8,Lamp,Home,,,2026-11-02",
)
LOG = {
    "file": "log/events.jsonl.gz",
    "columns": {
        "event_time": {"column": "ts", "unit": "ms"},
        "event": {"column": "kind", "values": {"view": "impression", "buy": "order"}},
        "request_id": "search",
        "session_id": "visit",
        "user_id": "visitor",
        "query": "text",
        "item_id": "sku",
        "position": "rank",
    },
}
JUDGMENTS = {
    "file": "labels.parquet",
    "columns": {"query": "q", "item_id": "sku", "grade": {"column": "label", "scale": {"good": 3, "bad": 0}}},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A shop's own export: CSV, packed JSON lines and Parquet."""
    root = tmp_path / "export"
    (root / "photos").mkdir(parents=True)
    (root / "log").mkdir()
    (root / "photos" / "7.jpg").write_bytes(jpeg())
    (root / "goods.csv").write_text("\n".join(GOODS) + "\n")
    first = datetime(2026, 11, 18, 23, 59, 59, tzinfo=UTC).timestamp() * 1000
    common = {"search": "r1", "visit": "s1", "visitor": 5, "text": "white shirt", "sku": 7, "rank": 2}
    events = [common | {"ts": first, "kind": "view"}, common | {"ts": first + 2_000, "kind": "buy"}]
    events += [common | {"ts": first + 3_000, "kind": "view", "text": None, "rank": None}]
    with gzip.open(root / "log" / "events.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    pq.write_table(
        pa.table({"q": ["shirt", "shirt"], "sku": [7, 8], "label": ["good", "bad"]}), root / "labels.parquet"
    )
    return root


def smar_import(folder: Path, shop: Path, **mapping) -> str:
    """Import by a mapping of the given entries; the closing lines."""
    file = folder.parent / "mapping.yaml"
    file.write_text(yaml.safe_dump({"source": "acme", **mapping}))
    arguments = ["shop", "import", "table", folder, "--columns", file, "--to", shop]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_three_tables_become_a_shop(tmp_path, folder):
    shop = tmp_path / "shop"
    output = smar_import(folder, shop, items=ITEMS, click_log=LOG, judgments=JUDGMENTS)
    for table, files in {
        "items": [shop / "items.parquet"],
        "judgments": [shop / "judgments.parquet"],
        "click_log": shop.glob("click_log/*/*"),
    }.items():
        load_contract(table).verify_files(files)
    shirt, lamp = rows(shop / "items.parquet")
    assert shirt == {
        "item_id": "acme-7",
        "title": "Shirt, linen",
        "category": "Apparel > Shirts",
        "brand": "Acme",
        "attributes": [("colour", "white")],
        "images": ["acme/7.jpg", "https://example.org/7b.jpg"],
        "updated_at": datetime(2026, 11, 1, 8, tzinfo=UTC),
        **dict.fromkeys(("price", "currency", "available")),
    }
    assert (shop / "pictures" / "acme" / "7.jpg").read_bytes() == jpeg()
    assert lamp["attributes"] == lamp["images"] == []
    assert lamp["updated_at"] == datetime(2026, 11, 2, tzinfo=UTC)

    (view,) = rows(shop / "click_log" / "dt=2026-11-18" / "acme.parquet")
    assert view == {
        "event_time": datetime(2026, 11, 18, 23, 59, 59, tzinfo=UTC),
        "event": "impression",
        "request_id": "r1",
        "session_id": "s1",
        "user_id": "5",
        "query": "white shirt",
        "item_id": "acme-7",
        "position": 2,
        **dict.fromkeys(("version", "routing", "team")),
    }
    order, broken = rows(shop / "click_log" / "dt=2026-11-19" / "acme.parquet")
    assert order["event"] == "order"
    assert broken["query"] is broken["position"] is None, "for the cleaning to judge"
    assert rows(shop / "judgments.parquet") == [
        {"query": "shirt", "item_id": "acme-7", "grade": 3},
        {"query": "shirt", "item_id": "acme-8", "grade": 0},
    ]
    assert "2 acme items, 1 pictures, 1 pictures by URL, 2 judgments, 3 events from 2026-11-18 to 2026-11-19" in output
    assert "left out: 1 pictures that the folder lacks" in output
    assert "it lacks" not in output, "a shop with all three is ready"


def test_a_mapping_of_one_table_leaves_the_others_and_other_days(tmp_path, folder):
    shop = tmp_path / "shop"
    smar_import(folder, shop, items=ITEMS)
    smar_import(folder, shop, click_log=LOG)
    smar_import(folder, shop, judgments=JUDGMENTS)
    assert len(rows(shop / "items.parquet")) == 2
    assert (shop / "pictures" / "acme" / "7.jpg").is_file()
    (folder / "day.csv").write_text("t,e,i\n2026-11-19T08:00:00Z,click,8\n")
    rule = {"value": "x"}
    columns = {name: rule for name in ("request_id", "session_id", "user_id", "query")} | {"position": {"value": "1"}}
    day = {"file": "day.csv", "columns": columns | {"event_time": "t", "event": "e", "item_id": "i"}}
    smar_import(folder, shop, click_log=day)
    assert [e["item_id"] for e in rows(shop / "click_log" / "dt=2026-11-19" / "acme.parquet")] == ["acme-8"]
    assert len(rows(shop / "click_log" / "dt=2026-11-18" / "acme.parquet")) == 1
    assert len(rows(shop / "judgments.parquet")) == 2
    (folder / "goods.csv").write_text("\n".join(GOODS[:1] + GOODS[2:]) + "\n")
    smar_import(folder, shop, items=ITEMS)
    assert [row["item_id"] for row in rows(shop / "items.parquet")] == ["acme-8"]
    assert not (shop / "pictures" / "acme" / "7.jpg").exists()


@pytest.mark.parametrize(
    ("grade", "values", "expected"),
    [
        ("label", [0, 3], [0, 3]),
        ({"column": "label", "scale": "wands"}, ["Partial", "Exact"], [2, 3]),
        ({"column": "label", "scale": "esci"}, ["C", "I"], [1, 0]),
        ({"column": "label", "bounds": [0.2, 0.5, 0.8]}, [0.1, 0.8], [0, 3]),
    ],
)
def test_grades_by_number_scale_or_score(tmp_path, folder, grade, values, expected):
    pq.write_table(pa.table({"q": ["a", "b"], "sku": ["7", "8"], "label": values}), folder / "labels.parquet")
    table = {"file": "labels.parquet", "columns": {"query": "q", "item_id": "sku", "grade": grade}}
    smar_import(folder, tmp_path / "shop", judgments=table)
    assert [row["grade"] for row in rows(tmp_path / "shop" / "judgments.parquet")] == expected


def test_lists_and_tabs_without_quotes(tmp_path, folder):
    columns = {"item_id": "id", "title": "name", "category": "path", "images": "photos"}
    goods = [{"id": 1, "name": "Vase", "path": ["Home", "Decor"], "photos": ["7.jpg"]}, {"id": 2, "name": "Rug"}]
    (folder / "goods.jsonl").write_text("\n".join(map(json.dumps, goods)))
    smar_import(folder, tmp_path / "shop", items={"file": "goods.jsonl", "pictures": "photos", "columns": columns})
    vase, rug = rows(tmp_path / "shop" / "items.parquet")
    assert (vase["category"], vase["images"]) == ("Home > Decor", ["acme/7.jpg"])
    assert (rug["category"], rug["images"]) == ("Unsorted", [])
    (folder / "goods.txt").write_text('id\tname\n1\t"12 inch shelf\n')
    table = {"file": "goods.txt", "format": "tsv", "quotes": False, "columns": {"item_id": "id", "title": "name"}}
    smar_import(folder, tmp_path / "shop", items=table)
    assert [row["title"] for row in rows(tmp_path / "shop" / "items.parquet")] == ['"12 inch shelf']


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname"])
def test_pictures_outside_their_folder_are_not_taken(tmp_path, folder, name):
    (folder / "secret.jpg").write_bytes(jpeg())
    (folder / "goods.csv").write_text(f"{GOODS[0]}\n7,Shirt,A,,{name},2026-11-01\n")
    output = smar_import(folder, tmp_path / "shop", items=ITEMS)
    assert rows(tmp_path / "shop" / "items.parquet")[0]["images"] == []
    assert "left out: 1 pictures that the folder lacks" in output


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            (*GOODS, "1.2E+12,Mat,Home,,,2026-11-02"),
            r"goods\.csv row 4: item_id '1.2E\+12' is a number whose last digits",
        ),
        ((*GOODS, "9,Mat,Home,,,soon"), r"goods\.csv row 4: 'soon' is not a time such as"),
        ((*GOODS, "9,Mat"), r"goods\.csv row 4: 2 fields, expected 6"),
        ((GOODS[0].replace("color", "colour"), *GOODS[1:]), r"goods\.csv row 1: no column color; it has sku, name"),
    ],
)
def test_damaged_rows_are_refused(tmp_path, folder, lines, message):
    (folder / "goods.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message):
        smar_import(folder, tmp_path / "shop", items=ITEMS)
    assert not (tmp_path / "shop" / "items.parquet").exists()


def test_damaged_log_and_labels_are_refused(tmp_path, folder):
    file = folder / "log" / "events.jsonl.gz"
    packed = file.read_bytes()
    for change, message in {
        ("ts", "noon"): r"row 1: 'noon' is not a number \(ms since 1970\)",
        ("rank", "top"): r"row 1: position 'top' is not a whole number",
        ("rank", 2**31): r"row 1: position '2147483648' is not a whole number within 2,147,483,647",
        ("ts", -(2**63)): r"row 1: -9223372036854775808 is not a number \(ms since 1970\)",
        ("text", "tie \ud800"): r"row 1: half of a surrogate pair",
    }.items():
        event = json.loads(gzip.decompress(packed).splitlines()[0]) | dict([change])
        file.write_bytes(gzip.compress(json.dumps(event).encode()))
        with pytest.raises(InputError, match=r"events\.jsonl\.gz " + message):
            smar_import(folder, tmp_path / "shop", click_log=LOG)
    file.write_bytes(packed[:-12])
    with pytest.raises(InputError, match=r"events\.jsonl\.gz row \d: damaged"):
        smar_import(folder, tmp_path / "shop", click_log=LOG)
    misspelt = LOG | {"columns": LOG["columns"] | {"position": "place"}}
    file.write_bytes(packed)
    with pytest.raises(InputError, match="no row has place"):
        smar_import(folder, tmp_path / "shop", click_log=misspelt)
    plain = JUDGMENTS | {"columns": JUDGMENTS["columns"] | {"grade": "label"}}
    with pytest.raises(InputError, match=r"labels\.parquet row 1: label 'good'; expected 0, 1, 2, 3"):
        smar_import(folder, tmp_path / "shop", judgments=plain)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "name items, click_log or judgments"),
        ({"source": "Acme Shop", "items": ITEMS}, "source: 'Acme Shop': write lower-case letters, digits and _"),
        ({"items": ITEMS | {"columns": {"item_id": "sku"}}}, r"items\.columns\.title: is missing; add it"),
        (
            {"items": ITEMS | {"columns": ITEMS["columns"] | {"cost": "p"}}},
            r"items\.columns\.cost: there is no such name here",
        ),
        (
            {"items": ITEMS | {"columns": ITEMS["columns"] | {"brand": {"column": "a", "value": "b"}}}},
            "brand: name a column",
        ),
        ({"items": ITEMS | {"rows": "both"}}, r"items\.rows: 'both' is none of 'joined' or 'apart'"),
        (
            {"items": ITEMS | {"columns": ITEMS["columns"] | {"item_id": {"column": "a", "digits": 1}}}},
            "1 is less than 2",
        ),
        ({"items": "goods.csv"}, "items: 'goods.csv' is no section of names and values"),
        ({"items": ITEMS | {"file": "goods.xls"}}, r"goods\.xls: a spreadsheet is not read: save it as CSV"),
        ({"items": ITEMS | {"file": "goods.doc"}}, r"goods\.doc: which format is it\? Set `format`"),
    ],
)
def test_wrong_mapping_is_refused(tmp_path, folder, mapping, message):
    with pytest.raises(InputError, match=message):
        smar_import(folder, tmp_path / "shop", **mapping)


def test_mapping_that_is_no_yaml_is_named(tmp_path, folder):
    (tmp_path / "bad.yaml").write_text("")
    with pytest.raises(InputError, match=r"bad\.yaml: empty; docs/importers\.md shows one"):
        load_mapping(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("{")
    arguments = ["shop", "import", "table", folder, "--columns", tmp_path / "bad.yaml", "--to", tmp_path / "shop"]
    with pytest.raises(InputError, match=r"bad\.yaml, line 1: not valid YAML"):
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_the_mapping_in_the_documentation_is_valid(tmp_path):
    page = (REPOSITORY / "docs" / "importers.md").read_text(encoding="utf-8")
    (tmp_path / "mapping.yaml").write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    mapping = load_mapping(tmp_path / "mapping.yaml")
    assert mapping.source == "acme"
    assert mapping.items and mapping.click_log and mapping.judgments
