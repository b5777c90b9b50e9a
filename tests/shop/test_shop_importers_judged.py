"""Importers of published queries, judgements and logs, each on files in exactly the published layout."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from published_layouts import (
    JDSEARCH_BEHAVIOUR,
    MARQO_SPLIT,
    WANDS_LABELS,
    WANDS_PRODUCTS,
    jpeg,
    write_esci,
    write_fashion_archive,
    write_jd_pretrain,
    write_jdsearch,
    write_marqo_gs,
    write_muge,
    write_wands,
)
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.data.query_text import normalise_query
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.shop.importers.grades import MARQO_GS, grade_of_score
from smar_model.shop.importers.published_rows import parquet_rows, separated_rows


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))


@pytest.fixture
def shop(tmp_path) -> Path:
    return tmp_path / "shop"


def smar_import(name: str, folder: Path, shop: Path, *options: str | Path) -> str:
    """The closing lines; the tables that were written follow their contracts, and there is no truth."""
    arguments = ["shop", "import", name, folder, "--to", shop, *options]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for table in ("items", "judgments"):
        if (shop / f"{table}.parquet").is_file():
            load_contract(table).verify_files([shop / f"{table}.parquet"])
    load_contract("click_log").verify_files(shop.glob("click_log/*/*.parquet"))
    assert not (shop / "truth").exists()
    assert not (shop / ".importing").exists()
    return result.output


def items(shop: Path) -> dict[str, dict]:
    rows = pq.read_table(shop / "items.parquet").to_pylist()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return {row["item_id"]: row for row in rows}


def judgments(shop: Path) -> set[tuple[str, str, int]]:
    return {tuple(row.values()) for row in pq.read_table(shop / "judgments.parquet").to_pylist()}


def events(shop: Path, day: str) -> list[dict]:
    return pq.read_table(shop / "click_log" / f"dt={day}").to_pylist()


def test_esci_joins_products_by_locale_and_grades_its_labels(tmp_path, shop):
    output = smar_import("esci", write_esci(tmp_path / "esci"), shop)
    assert items(shop).keys() == {"esci-us-B01", "esci-es-B01"}, "judged and with a title"
    lamp = items(shop)["esci-us-B01"]
    assert lamp["title"] == "Lamp, red E27"
    assert lamp["brand"] == "Lumo"
    assert lamp["attributes"] == [("colour", "Red")]
    assert lamp["category"] == "Unsorted"
    assert lamp["images"] == []
    assert judgments(shop) == {
        ("red lamp", "esci-us-B01", 3),
        ("red lamp", "esci-us-B02", 2),
        ("light bulb e27", "esci-us-B01", 1),
        ("red lamp", "esci-us-X4", 0),
        ("lámpara roja", "esci-es-B01", 3),
    }
    assert "2 esci items, 5 judgments" in output
    assert "left out: 1 items without a title" in output
    assert "left out: 1 judged products that shopping_queries_dataset_products.parquet lacks" in output
    assert "lacks click_log/dt=YYYY-MM-DD/; pictures: esci items are told by their text alone; categories" in output


def test_esci_locale_split_and_version_choose(tmp_path, shop):
    folder = write_esci(tmp_path / "esci")
    smar_import("esci", folder, shop, "--locale", "us", "--split", "test", "--small-version")
    assert judgments(shop) == {("red lamp", "esci-us-B01", 3), ("red lamp", "esci-us-B02", 2)}
    smar_import("esci", folder, shop, "--locale", "es")
    assert items(shop).keys() == {"esci-es-B01"}, "importing again replaces"
    assert judgments(shop) == {("lámpara roja", "esci-es-B01", 3)}
    with pytest.raises(InputError, match="nothing to import from esci"):
        smar_import("esci", folder, shop, "--locale", "jp")
    assert items(shop).keys() == {"esci-es-B01"}


def test_sqid_gives_addresses_and_a_local_picture_goes_first(tmp_path, shop):
    folder = write_esci(tmp_path / "esci")
    output = smar_import("esci", folder, shop, "--image-urls", folder / "product_image_urls.csv")
    address = "https://m.media-amazon.com/images/I/81Q8._SY385_.jpg"
    assert items(shop)["esci-us-B01"]["images"] == [address]
    assert items(shop)["esci-es-B01"]["images"] == [], "SQID is of the US alone"
    assert "1 pictures by URL" in output
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "B01.jpg").write_bytes(jpeg())
    more = ("--image-urls", folder / "product_image_urls.csv", "--pictures", tmp_path / "local")
    smar_import("esci", folder, shop, "--locale", "us", *more)
    assert items(shop)["esci-us-B01"]["images"] == ["esci/B01.jpg"]
    assert (shop / "pictures" / "esci" / "B01.jpg").read_bytes() == jpeg()


def example(**changes) -> dict:
    row = {"example_id": 0, "query": "q", "query_id": 0, "product_id": "B01", "product_locale": "us"}
    return row | {"esci_label": "E", "small_version": 1, "large_version": 1, "split": "test"} | changes


def product(**changes) -> dict:
    return {"product_id": "B01", "product_title": "Lamp", "product_locale": "us"} | changes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"examples": [example(), example(esci_label="X")]},
            r"examples\.parquet row 2: label 'X'; expected E, S, C, I",
        ),
        ({"examples": [example(), example(query=None)]}, r"examples\.parquet row 2: query is empty"),
        ({"examples": [example(product_id=7)]}, r"examples\.parquet: column product_id is int64, expected text"),
        ({"products": [product(), product()]}, r"products\.parquet row 2: item esci-us-B01 is already there"),
        ({"products": [product(), product(product_id=None)]}, r"products\.parquet row 2: product_id is empty"),
    ],
)
def test_damaged_esci_is_refused(tmp_path, shop, changed, message):
    with pytest.raises(InputError, match=message):
        smar_import("esci", write_esci(tmp_path / "esci", **changed), shop)
    assert not (shop / "items.parquet").exists()


def test_cut_off_parquet_and_missing_files_are_named(tmp_path, shop):
    folder = write_esci(tmp_path / "esci")
    products = folder / "shopping_queries_dataset_products.parquet"
    products.write_bytes(products.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"products\.parquet: not a readable Parquet file"):
        smar_import("esci", folder, shop)
    products.unlink()
    with pytest.raises(InputError, match=r"products\.parquet: no such file"):
        smar_import("esci", folder, shop)
    for name, message in {
        "esci": "examples.parquet: no such file",
        "wands": "product.csv: no such file",
        "marqo-gs": "holds no query_0_product_id_0.csv",
        "muge": "holds no MR_train_imgs.tsv",
        "jd-pretrain": "pretrain_data.tsv: no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            smar_import(name, tmp_path / "none", shop)


def test_damage_inside_a_parquet_file_names_the_row(tmp_path):
    file = write_esci(tmp_path / "esci") / "shopping_queries_dataset_products.parquet"
    content = bytearray(file.read_bytes())
    start = content.index(b"PAR1") + 4
    content[start : start + 60] = b"\xff" * 60
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"products\.parquet row 1: damaged"):
        list(parquet_rows(file, {"product_id": "text"}))


def test_wands_has_categories_features_and_three_labels(tmp_path, shop):
    output = smar_import("wands", write_wands(tmp_path / "wands"), shop)
    assert items(shop).keys() == {"wands-0", "wands-1"}
    assert "left out: 1 items without a title" in output
    bed, stool = items(shop)["wands-0"], items(shop)["wands-1"]
    assert bed["category"] == "Furniture > Bedroom Furniture > Beds & Headboards"
    assert dict(bed["attributes"]) == {"overallwidth-sidetoside": "64.7", "color": "brown, black"}
    assert stool["title"] == 'bar stool 29 " high'
    assert stool["category"] == "Bar Stools|Teen Lounge", "its class, where it has no hierarchy"
    assert judgments(shop) == {("wooden bed", "wands-0", 3), ("wooden bed", "wands-1", 2), ("blue sofa", "wands-0", 0)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": (*WANDS_LABELS, "3\t8\t0\tPerfect")}, r"label\.csv row 5: label 'Perfect'; expected Exact"),
        ({"labels": (*WANDS_LABELS, "3\t99\t0\tExact")}, r"label\.csv row 5: query_id '99' is not in .*query\.csv"),
        ({"labels": (*WANDS_LABELS, "3\t8")}, r"label\.csv row 5: 2 fields, expected 4"),
        ({"labels": ("id\tquery_id\tproduct\tlabel",)}, r"label\.csv row 1: no column product_id; it has id, query_id"),
        ({"products": (*WANDS_PRODUCTS, WANDS_PRODUCTS[1])}, r"product\.csv row 5: item wands-0 is already there"),
        (
            {"products": (*WANDS_PRODUCTS[:2], '3\t"a stool\tX\t\t\t\t\t\t')},
            r"product\.csv row 3: unexpected end of data",
        ),
    ],
)
def test_damaged_wands_is_refused(tmp_path, shop, changed, message):
    with pytest.raises(InputError, match=message):
        smar_import("wands", write_wands(tmp_path / "wands", **changed), shop)
    assert not (shop / "items.parquet").exists()


def test_text_that_is_not_utf8_or_a_broken_gzip_names_the_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,name\n1,caf\xe9\n")
    with pytest.raises(InputError, match=r"a\.csv row 2: not UTF-8 text"):
        list(separated_rows(tmp_path / "a.csv", ["id"]))
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b\x08 and then something else")
    with pytest.raises(InputError, match=r"a\.csv\.gz row 1: damaged"):
        list(separated_rows(tmp_path / "a.csv.gz", ["id"]))
    (tmp_path / "b.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.csv: empty"):
        list(separated_rows(tmp_path / "b.csv", ["id"]))


def test_marqo_places_become_grades(tmp_path, shop):
    folder = write_marqo_gs(tmp_path / "marqo")
    output = smar_import("marqo-gs", folder, shop, "--pictures", folder / "pictures")
    assert items(shop).keys() == {"marqo-p1", "marqo-p2", "marqo-p3", "marqo-p4"}
    assert items(shop)["marqo-p1"]["images"] == ["marqo/p1.webp"]
    assert (shop / "pictures" / "marqo" / "p1.webp").read_bytes() == jpeg()
    assert items(shop)["marqo-p3"]["images"] == []
    assert "left out: 2 pictures that the folder lacks" in output
    assert judgments(shop) == {
        ("dress, red", "marqo-p1", 3),
        ("dress, red", "marqo-p2", 2),
        ("dress, red", "marqo-p3", 1),
        ("gown", "marqo-p1", 2),
        ("shawl", "marqo-p4", 3),
    }


def test_marqo_ground_truth_of_one_split(tmp_path, shop):
    folder = write_marqo_gs(tmp_path / "marqo")
    smar_import("marqo-gs", folder, shop, "--split", "query_0_product_id_0", "--ground-truth", "dev")
    assert judgments(shop) == {("dress, red", "marqo-p1", 3), ("dress, red", "marqo-p2", 2)}
    assert "marqo-p4" not in items(shop)
    (folder / "query_0_product_id_0_gt_dev.json").write_text('{"a": \n {"p1": }')
    with pytest.raises(InputError, match=r"gt_dev\.json row 2: not JSON"):
        smar_import("marqo-gs", folder, shop, "--split", "query_0_product_id_0", "--ground-truth", "dev")
    with pytest.raises(InputError, match=r"gt_test\.json: no such file"):
        smar_import("marqo-gs", folder, shop, "--split", "query_0_product_id_0", "--ground-truth", "test")


@pytest.mark.parametrize(("score", "grade"), [(100, 3), (91, 3), ("90.9", 2), (51, 2), (50, 1), (1, 1), (0, 0)])
def test_scores_fall_into_bins(score, grade):
    assert grade_of_score("row", score, MARQO_GS) == grade


def test_damaged_marqo_is_refused(tmp_path, shop):
    bad = MARQO_SPLIT[1].replace(",100,", ",high,")
    with pytest.raises(InputError, match=r"query_0_product_id_0\.csv row 3: score 'high' is not a number"):
        smar_import("marqo-gs", write_marqo_gs(tmp_path / "marqo", rows=(*MARQO_SPLIT[:2], bad)), shop)
    with pytest.raises(InputError, match=r"nowhere: no such folder of pictures"):
        smar_import("marqo-gs", write_marqo_gs(tmp_path / "m2"), shop, "--pictures", tmp_path / "nowhere")


def test_muge_pictures_are_items_without_titles(tmp_path, shop):
    output = smar_import("muge", write_muge(tmp_path / "muge"), shop)
    assert items(shop).keys() == {"muge-42967", "muge-63397", "muge-1000002"}
    assert {item["title"] for item in items(shop).values()} == {"商品"}
    for item in items(shop).values():
        assert (shop / "pictures" / item["images"][0]).read_bytes() == jpeg()
    assert judgments(shop) == {
        ("胖妹妹松紧腰长裤", "muge-42967", 3),
        ("高级感托特包斜挎", "muge-42967", 3),
        ("高级感托特包斜挎", "muge-63397", 3),
    }
    assert "3 muge items, 3 pictures, 3 judgments" in output
    assert "left out: 1 queries without items" in output
    smar_import("muge", tmp_path / "muge", shop, "--split", "test")
    assert items(shop).keys() == {"muge-1000002"}
    assert not (shop / "judgments.parquet").exists()
    assert {f.name for f in (shop / "pictures" / "muge").iterdir()} == {"1000002.jpg"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pictures": ("1\t/9j/", "2\t/9j/4*")}, r"MR_train_imgs\.tsv row 2: picture is not base64"),
        ({"pictures": ("1\t/9j/", "2")}, r"MR_train_imgs\.tsv row 2: 1 fields, expected 2"),
        ({"pictures": ("1\t/9j/", "1\t/9j/")}, r"MR_train_imgs\.tsv row 2: item muge-1 is already there"),
        (
            {"queries": ('{"query_text": "a", "item_ids": [1]}', '{"query_te')},
            r"MR_train_queries\.jsonl row 2: not JSON",
        ),
        ({"queries": ('{"item_ids": [1]}',)}, r"MR_train_queries\.jsonl row 1: query_text is empty"),
        ({"queries": ('{"query_text": "a", "item_ids": 1}',)}, r"queries\.jsonl row 1: item_ids 1 is not a list"),
    ],
)
def test_damaged_muge_is_refused(tmp_path, shop, changed, message):
    with pytest.raises(InputError, match=message):
        smar_import("muge", write_muge(tmp_path / "muge", **changed), shop)
    assert not (shop / "items.parquet").exists()


@pytest.mark.parametrize("first_release", [False, True])
def test_jdsearch_spans_become_days_of_a_log(tmp_path, shop, first_release):
    folder = write_jdsearch(tmp_path / "jd", first_release=first_release)
    output = smar_import("jdsearch", folder, shop, "--date", "2022-10-17", "--days", "2")
    item = items(shop)["jdsearch-456"]
    assert item["title"] == "t64 t60 t46"
    assert item["category"] == "t44 t38 > t27 > t19 > t47"
    assert item["brand"] == "t56"
    assert items(shop)["jdsearch-457"]["category"] == "t44 t38 > t27 > t19"

    last = [e for e in events(shop, "2022-10-17") if e["query"] == "t12 t32"]
    assert {(e["item_id"], e["event"]) for e in last} == {
        *((f"jdsearch-{n}", "impression") for n in (456, 457, 458, 459)),
        *((f"jdsearch-{n}", "click") for n in (456, 457, 458)),
        ("jdsearch-457", "cart"),
        ("jdsearch-456", "order"),
    }
    assert {e["event_time"] for e in last if e["event"] == "impression"} == {datetime(2022, 10, 17, 12, tzinfo=UTC)}
    assert {e["position"] for e in last} == {1}, "no place is published"
    assert len({(e["request_id"], e["session_id"], e["user_id"]) for e in last}) == 1

    # The last action of the history lies 43,200 s before the search: at midnight; nothing is shown the day before.
    history = [e for e in events(shop, "2022-10-17") if e["query"] == "t54"]
    assert [(e["item_id"], e["event"]) for e in history] == [("jdsearch-457", "impression"), ("jdsearch-457", "click")]
    before = [(e["item_id"], e["event"]) for e in events(shop, "2022-10-16")]
    assert before == [("jdsearch-456", event) for event in ("impression", "click", "order")]
    times = [e["event_time"] for e in events(shop, "2022-10-16")]
    assert times == [
        datetime(2022, 10, 16, 23, s // 60, s % 60, tzinfo=UTC) for s in (58 * 60 + 25, 58 * 60 + 55, 59 * 60)
    ]
    requests = {e["request_id"] for day in (16, 17) for e in events(shop, f"2022-10-{day}") if e["query"] == "t54"}
    assert len(requests) == 2, "no request lasts beyond midnight"
    assert "left out: 1 actions without a query" in output
    assert "left out: 1 actions before 2022-10-16 (such as " in output
    assert "from 2022-10-16 to 2022-10-17" in output
    assert ShopInputs(shop).click_log(date(2022, 10, 16))


def test_encoded_terms_are_not_taken_for_personal_data(tmp_path, shop):
    terms = ("64817571", "60257419", "46968562", "5551234567")
    folder = write_jdsearch(tmp_path / "jd", behaviour=changed_row(query="\x18".join(terms)))
    smar_import("jdsearch", folder, shop, "--date", "2022-10-17")
    query = events(shop, "2022-10-17")[-1]["query"]
    assert query.split() == [f"t{term}" for term in terms]
    assert normalise_query(query) == query


@pytest.mark.parametrize(("pause", "requests"), [(1_800, 1), (1_801, 2)])
def test_jdsearch_actions_under_a_query_are_one_request_until_a_pause(tmp_path, shop, pause, requests):
    row = {"history_qry_list": "5_5", "history_wid_list": "456_456", "history_type_list": "CLICK_ORD"}
    row["history_time_list"] = f"0_{pause}_60"
    smar_import("jdsearch", write_jdsearch(tmp_path / "jd", behaviour=changed_row(**row)), shop, "--date", "2022-10-17")
    logged = [e for e in events(shop, "2022-10-17") if e["query"] == "t5"]
    assert len({e["request_id"] for e in logged}) == requests
    assert [e["event"] for e in logged].count("impression") == requests
    assert len({e["session_id"] for e in logged}) == 1


def changed_row(**changes: str) -> tuple[str, ...]:
    header, row = JDSEARCH_BEHAVIOUR[:2]
    values = dict(zip(header.split("\t"), row.split("\t"), strict=True)) | changes
    return (header, "\t".join(values.values()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"candidate_label_list": "3.0_2.0"},
            r"row 2: lists of different lengths \(candidate_wid_list 4, candidate_label",
        ),
        ({"candidate_label_list": "9.0_2.0_1.0_0.0"}, r"row 2: candidate_label_list holds '9\.0'; expected 0\.0"),
        ({"history_type_list": "ORD_CLICK_CLICK_ORD_BUY"}, r"row 2: history_type_list holds 'BUY'; expected CLICK"),
        ({"history_time_list": "0_100"}, r"row 2: history_time_list has 2 entries, expected 6"),
        (
            {"history_time_list": "0_100_86400_5_60_-3"},
            r"row 2: history_time_list holds an entry that is no whole number",
        ),
    ],
)
def test_damaged_jdsearch_is_refused(tmp_path, shop, changes, message):
    folder = write_jdsearch(tmp_path / "jd", behaviour=changed_row(**changes))
    with pytest.raises(InputError, match=r"user_behavior_data\.txt " + message):
        smar_import("jdsearch", folder, shop, "--date", "2022-10-17")
    assert not (shop / "items.parquet").exists()


def test_jd_pretrain_titles_are_items_and_pairs_are_relevant(tmp_path, shop):
    output = smar_import("jd-pretrain", write_jd_pretrain(tmp_path / "jd"), shop)
    by_title = {item["title"]: item for item in items(shop).values()}
    assert {title: item["category"] for title, item in by_title.items()} == {
        "t1 t2 t3": "501", "t4 t5": "502", "t6 t6 t6": "Unsorted",
    }  # fmt: skip
    pairs = {("t8 t9", "t1 t2 t3"), ("t8 t9", "t4 t5"), ("t7", "t6 t6 t6")}
    assert judgments(shop) == {(query, by_title[title]["item_id"], 3) for query, title in pairs}
    assert "1 items are of department 'Unsorted'" in output
    smar_import("jd-pretrain", tmp_path / "jd", shop, "--evaluation", "tail")
    assert judgments(shop) == {("t9 t9", by_title[title]["item_id"], 3) for title in ("t1 t2 t3", "t4 t5")}
    with pytest.raises(InputError, match=r"finetune_data_er\.tsv row 2: 1 fields, expected 2"):
        smar_import("jd-pretrain", write_jd_pretrain(tmp_path / "jd", pairs=("8\t1 2 3", "9")), shop)


def test_sources_stand_beside_each_other_and_nothing_is_half_replaced(tmp_path, shop):
    smar_import("esci", write_esci(tmp_path / "esci"), shop)
    smar_import("muge", write_muge(tmp_path / "muge"), shop, "--split", "train")
    smar_import("jdsearch", write_jdsearch(tmp_path / "jd"), shop, "--date", "2022-10-17", "--days", "3")
    both = items(shop).keys()
    assert {"esci-us-B01", "muge-42967", "jdsearch-456"} <= both
    assert {item.split("-")[0] for _, item, _ in judgments(shop)} == {"esci", "muge"}
    log = shop / "click_log" / "dt=2022-10-17" / "part-0.parquet"
    log.write_bytes((shop / "click_log" / "dt=2022-10-17" / "jdsearch.parquet").read_bytes())
    files = {f: f.read_bytes() for f in shop.rglob("*.*") if f.is_file()}
    with pytest.raises(InputError, match="row 2"):
        smar_import("muge", write_muge(tmp_path / "muge", pictures=("42967\t/9j/", "2\t*")), shop, "--split", "train")
    assert {f: f.read_bytes() for f in shop.rglob("*.*") if f.is_file()} == files
    smar_import("jdsearch", tmp_path / "jd", shop, "--date", "2022-10-17", "--days", "1")
    assert not (shop / "click_log" / "dt=2022-10-16").exists(), "days that an import no longer brings go"
    assert log.exists(), "what others delivered stays"
    assert items(shop).keys() == both


def test_batches_give_the_same_rows(tmp_path, monkeypatch):
    smar_import("esci", write_esci(tmp_path / "esci"), tmp_path / "one")
    monkeypatch.setattr("smar_model.shop.shop_writer.BATCH", 2)
    smar_import("esci", tmp_path / "esci", tmp_path / "two")
    assert pq.ParquetFile(tmp_path / "two" / "judgments.parquet").num_row_groups > 1
    for table in ("items", "judgments"):
        one, two = (pq.read_table(tmp_path / name / f"{table}.parquet") for name in ("one", "two"))
        assert one.equals(two)


@pytest.mark.parametrize("name", ["items.jsonl", "judgments.jsonl.gz", "pictures.zip", "items"])
def test_a_shop_in_another_form_is_not_touched(tmp_path, shop, name):
    shop.mkdir()
    (shop / name).mkdir() if name == "items" else (shop / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}: .*cannot be added to"):
        smar_import("esci", write_esci(tmp_path / "esci"), shop)


def test_a_simulated_shop_is_not_touched(tmp_path, shop):
    shop.mkdir()
    (shop / "shop.json").write_text("{}")
    with pytest.raises(InputError, match="was made by `smar shop open`"):
        smar_import("esci", write_esci(tmp_path / "esci"), shop)
    arguments = [
        "shop",
        "import",
        "fashion-product-images-small",
        write_fashion_archive(tmp_path / "a.zip"),
        "--to",
        shop,
    ]
    with pytest.raises(InputError, match="was made by `smar shop open`"):
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
