"""Small exports as shops' systems write them (`cases/`), each by its own mapping."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from table_imports import Imported, import_table

from smar_model.errors import InputError

CASES = Path(__file__).with_name("cases")


def imported(case: str, shop: Path, mapping: str = "mapping.yaml") -> Imported:
    return import_table(CASES / case, CASES / case / mapping, shop)


def changed(case: str, shop: Path, table: str, **columns: object) -> Imported:
    """By the case's mapping with other rules for some columns."""
    mapping = yaml.safe_load((CASES / case / "mapping.yaml").read_text())
    mapping[table]["columns"] |= columns
    return import_table(CASES / case, mapping, shop)


@pytest.fixture
def shop(tmp_path) -> Path:
    return tmp_path / "shop"


def test_01_rows_of_variants_and_pictures_are_joined(shop):
    made = imported("01-shopify-variants", shop)
    assert made.items.keys() == {"linen-shirt", "oak-stool"}
    shirt = made.items["linen-shirt"]
    assert (shirt["title"], shirt["brand"]) == ("Linen Shirt", "Nordvik")
    assert shirt["category"] == "Apparel & Accessories > Clothing > Tops"
    assert shirt["images"] == [f"https://img.example.org/ls-{name}.jpg?v=1" for name in ("front", "back", "detail")]
    assert "changed: 2 rows joined with the one above that has the same item_id (such as " in made.output


def test_01_by_sku_what_has_none_is_counted(shop):
    made = imported("01-shopify-variants", shop, "mapping_by_sku.yaml")
    assert made.items.keys() == {"NV-LS-S"}
    assert "left out: 1 items without a title" in made.output
    assert "left out: 2 rows without an item_id" in made.output


def test_01_variants_as_items_of_their_own_have_their_products_fields(shop):
    mapping = yaml.safe_load((CASES / "01-shopify-variants" / "mapping_by_sku.yaml").read_text())
    mapping["items"] |= {"product": "Handle", "rows": "apart"}
    mapping["items"]["columns"]["attributes"] = {"size": "Option1 Value"}
    made = import_table(CASES / "01-shopify-variants", mapping, shop)
    assert made.items.keys() == {"NV-LS-S", "NV-LS-M"}
    assert {row["title"] for row in made.items.values()} == {"Linen Shirt"}
    assert [row["attributes"] for row in made.items.values()] == [[("size", "S")], [("size", "M")]]
    assert {len(row["images"]) for row in made.items.values()} == {3}
    assert made.items["NV-LS-M"]["images"][0].endswith("ls-back.jpg?v=1"), "its own row's picture comes first"
    assert "left out: 1 products of which no row has an item_id (such as " in made.output


def test_02_the_first_of_several_paths_is_taken_and_the_escape_undone(shop):
    made = imported("02-woo-category-paths", shop)
    assert made.items["WH-1"]["category"] == "Clothing > Hoodies"
    assert made.items["EDT-1"]["category"] == "Body Care > Perfume, Cologne & Fragrance > Unisex"
    assert "left out: 2 further categories of an item" in made.output


def test_03_what_separates_is_found(shop):
    made = imported("03-semicolon-csv", shop)
    assert {row["title"]: row["category"] for row in made.items.values()} == {
        "Kissen": "Wohnen > Textil",
        "Decke": "Wohnen > Textil",
    }
    assert "';' stands between its columns" in made.output


def test_04_entities_are_decoded_before_paths_are_split(shop):
    bike, helmet = imported("04-html-entities", shop).items.values()
    assert (bike["title"], bike["brand"]) == ('Cervélo R3 56cm "zwart"', "Cervélo")
    assert bike["category"] == "Sport & Vrije tijd > Fietsen > Racefietsen"
    assert bike["images"] == ["https://img.example.org/13.jpg?w=800&h=800"]
    assert (helmet["title"], helmet["category"]) == ("Helm M&L", "Sport & Vrije tijd > Helmen")


def test_05_pictures_of_several_columns(shop):
    (mug,) = imported("05-two-image-columns", shop).items.values()
    assert mug["images"] == [f"https://img.example.org/{name}.jpg" for name in ("1", "1b", "1c")]


def test_06_addresses_without_a_scheme(shop):
    red, blue = imported("06-protocol-relative-urls", shop).items.values()
    assert red["images"] == ["https://cdn.example.org/1.jpg?v=7", "https://cdn.example.org/2.jpg"]
    assert blue["images"] == ["https://cdn.example.org/3.jpg"]


def test_07_times_of_bigquery(shop):
    times = [event["event_time"] for event in imported("07-bigquery-times", shop).events]
    assert times == [
        datetime(2026, 11, 19, 9, 18, 26, tzinfo=UTC),
        datetime(2026, 11, 19, 9, 18, 29, 500_000, tzinfo=UTC),
    ]


def test_08_nan_is_empty(shop):
    made = imported("08-nan-in-json-lines", shop)
    (mug,) = made.items.values()
    assert (mug["title"], mug["category"], mug["brand"], mug["attributes"]) == ("Red mug", "Home > Mugs", None, [])
    assert "left out: 1 items without a title" in made.output


@pytest.mark.parametrize("mapping", ["mapping.yaml", "mapping_float_position.yaml"])
def test_09_a_whole_float_is_that_integer(shop, mapping):
    made = imported("09-float-ids", shop, mapping)
    assert made.items.keys() == {"1", "2"}
    assert [(event["item_id"], event["position"]) for event in made.events] == [("acme-1", 1)] * 2


def test_10_what_is_not_there_is_counted(shop):
    made = imported("10-picture-path-from-id", shop)
    assert made.items["0108775015"]["images"] == []
    assert "left out: 1 pictures, as there is no folder " in made.output
    assert made.judgments == {("strap top", "108775015"): 3}
    assert "judgments name items that the shop does not have (such as 'hm-108775015')" in made.output


def test_10_a_pattern_gives_the_path_and_ids_get_their_zeros_back(shop, tmp_path):
    case = tmp_path / "case"
    (case / "images" / "010").mkdir(parents=True)
    (case / "images" / "010" / "0108775015.jpg").write_bytes(b"picture")
    for name in ("articles.csv", "labels.csv"):
        (case / name).write_bytes((CASES / "10-picture-path-from-id" / name).read_bytes())
    mapping = yaml.safe_load((CASES / "10-picture-path-from-id" / "mapping.yaml").read_text())
    mapping["items"]["columns"]["images"] = {"pattern": "{item_id:3}/{item_id}.jpg"}
    mapping["judgments"]["columns"]["item_id"] = {"column": "article_id", "digits": 10}
    made = import_table(case, mapping, shop)
    assert made.items["0108775015"]["images"] == ["hm/010/0108775015.jpg"]
    assert (shop / "pictures" / "hm" / "010" / "0108775015.jpg").read_bytes() == b"picture"
    assert made.judgments == {("strap top", "0108775015"): 3}
    assert "changed: 1 item ids that had lost their zeros at the left (such as " in made.output


def test_11_a_list_in_place_of_one_item_is_refused_by_row_and_column(shop):
    refusal = r"search\.jsonl row 1: column shown holds a list, .* in place of one text; .*spread: true"
    with pytest.raises(InputError, match=refusal):
        imported("11-list-of-shown-items", shop)
    assert not (shop / "items.parquet").exists()


def test_11_a_list_is_spread_over_events(shop):
    made = changed("11-list-of-shown-items", shop, "click_log", item_id={"column": "shown", "spread": True})
    assert [(event["event"], event["item_id"], event["position"]) for event in made.events] == [
        ("impression", "coveo-1", 1),
        ("impression", "coveo-2", 2),
        ("impression", "coveo-3", 3),
        ("click", "coveo-2", 2),
    ]


@pytest.mark.parametrize(
    ("mapping", "judgments", "blank"),
    [
        ("mapping.yaml", {("red mug", "1"): 0}, 2),
        ("mapping_blank.yaml", {("red mug", "1"): 3}, 1),
        ("mapping_ok.yaml", {("red mug", "1"): 0}, 0),
        ("mapping_book.yaml", {("red mug", "1"): 0, ("red mug", "2"): 1}, 0),
    ],
)
def test_12_blank_grades_are_counted_and_raters_combined(shop, mapping, judgments, blank):
    made = imported("12-quepid-ratings", shop, mapping)
    assert made.judgments == judgments
    assert (f"left out: {blank} judgments without a grade" in made.output) == bool(blank)


def test_13_blank_times_of_items_and_events(shop):
    made = imported("13-blank-times", shop)
    assert made.items["1"]["updated_at"] == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert made.items["2"]["updated_at"] == datetime(2020, 1, 1, tzinfo=UTC)
    assert "changed: 1 items without a time, taken for listed on 2020-01-01" in made.output
    assert [event["event"] for event in made.events] == ["impression"]
    assert "left out: 1 events without a time (such as " in made.output


def test_13_a_log_alone(shop):
    made = imported("13-blank-times", shop, "mapping_log.yaml")
    assert [event["event"] for event in made.events] == ["impression"]


def test_14_json_in_a_cell_is_read(shop):
    (mug,) = imported("14-json-list-in-csv", shop).items.values()
    assert mug["category"] == "Kitchen > Mugs & Cups > Tea Mugs"
    assert mug["images"] == ["http://img.example.org/a.jpeg", "http://img.example.org/b.jpeg"]


def test_15_ids_are_trimmed_and_null_markers_are_empty(shop):
    made = imported("15-padded-ids-null-markers", shop)
    assert {item_id: row["brand"] for item_id, row in made.items.items()} == {"A-1": None, "A-2": None}
    assert made.judgments == {("mug", "A-1"): 3}
    assert "changed: 2 cells with a mark of emptiness, read as empty (such as " in made.output


def test_16_old_line_ends(shop):
    assert [row["title"] for row in imported("16-old-mac-line-ends", shop).items.values()] == ["Red mug", "Blue mug"]


def test_28_names_of_pictures_without_a_folder_are_counted(shop):
    made = imported("28-picture-names-without-folder", shop)
    assert made.items["1"]["images"] == []
    assert "left out: 1 names of pictures, as the mapping does not say in which folder they lie" in made.output
    assert "goods.csv row 2: 'photos/1.jpg')" in made.output
