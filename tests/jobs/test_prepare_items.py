"""prepare-items: which items and pictures come through, and why the others do not."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import prepare_items
from jobs.prepare_items import look_at
from jobs.spark_session import count_rows, read_table, run_sql
from smar_model.delivery import picture_fetching
from smar_model.delivery.picture_stores import UnusablePicture
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.runs import Run, create_run
from smar_model.lake.stage_key import key_parts
from smar_model.stages import REFRESH_STAGES, STAGES
from tests.picture_server import serve
from tests.tiny_shop import (
    DAYS,
    LAST_DAY,
    draw_picture,
    published,
    run_stages,
    tiny_items,
    tiny_run,
    write_pictures,
    write_rows,
    write_tiny_shop,
)

SIZE = (48, 64)
DEEP = Image.new("I", (60, 90), 70_000)
"""A picture that is whole, and cannot be shown."""


def rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    return [row for file in artifact.files(table) for row in pq.read_table(file).to_pylist()]


def item(item_id: str | None, **changes: Any) -> dict[str, Any]:
    base = {"item_id": item_id, "title": "Plain shirt", "category": "Clothing > Shirts", "brand": None}
    return base | {"attributes": None, "images": None, "updated_at": datetime(2026, 11, 1, tzinfo=UTC)} | changes


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def make_thumbnail(content: bytes, size: tuple[int, int]) -> bytes:
    return look_at(content, size, uniform_below=2).thumbnail


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    """The output for a delivery in which every rule is broken once or more."""
    home = tmp_path_factory.mktemp("items")
    root = home / "shop"
    good, large = draw_picture("red"), png(Image.new("1", (8_000, 7_000)))
    with serve({"/good.jpg": good, "/page.jpg": b"<html>sold out</html>"}) as (address, _):
        yield prepare_faulty(home, root, good, large, address)


def prepare_faulty(home: Path, root: Path, good: bytes, large: bytes, address: str) -> Artifact:
    write_pictures(
        root, {"good.jpg": good, "cut.jpg": good[: len(good) // 2], "text.jpg": b"no picture", "big.png": large}
    )
    newer = datetime(2026, 11, 2, tzinfo=UTC)
    delivered = [
        item(
            "plain",
            title="\ufeff  Two \t wo\u00adrds\u3000he\u200bre ",
            category="Clothing>Shirts",
            brand=" Acme ",
            images=["good.jpg"],
            price=Decimal("19.9900"),
            currency=" eur ",
            available=True,
        ),
        item("changed", title="Old", price=Decimal("-7"), currency="EUR"),
        item("changed", title="New", updated_at=newer, price=Decimal(0), available=False),
        item("changed", title="Newest but broken", category=None, updated_at=datetime(2026, 11, 3, tzinfo=UTC)),
        item("untitled", title=None),
        item("blank", title=" \n\u200b\t\u2060 "),
        item("endless", title="x" * 1001),
        item(None, title="Who am I"),
        item("", title="Nor I"),
        item("timeless", updated_at=None, price=Decimal("-5")),
        item(
            "pictured",
            price=Decimal("-1.5"),
            currency="US Dollar",
            images=[
                "lost.jpg",
                "cut.jpg",
                "good.jpg",
                "../shop/pictures/good.jpg",
                "text.jpg",
                "big.png",
                "good.jpg",
                None,
            ],
        ),
        item(
            "unlucky",
            images=["lost.jpg"],
            price=Decimal("99999999999999.9999"),
            currency="€",
            attributes={"colour": "\u200ered\ufe0f", "size": " \ufeff", "fit": None},
        ),
        item(
            "linked", images=[f"{address}/gone.jpg", f"{address}/page.jpg", f"{address}/good.jpg", "file:///etc/passwd"]
        ),
    ]
    write_rows(root / "items.parquet", "items", delivered)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        fetch = {"private_addresses": True, "delay_seconds": 0}
        return run_stages(tiny_run(root, pictures={"fetch": fetch}), "prepare-items")["prepare-items"]


def test_a_price_or_currency_that_is_none_is_left_empty_and_its_item_stays(faulty: Artifact) -> None:
    offers = {row["item_id"]: (row["price"], row["currency"], row["available"]) for row in rows(faulty, "offers")}
    assert offers == {"plain": (Decimal("19.9900"), "EUR", True), "changed": (Decimal(0), None, False)}
    assert {"pictured", "unlucky", "linked"} <= {row["item_id"] for row in rows(faulty, "catalogue")}
    assert "price" not in rows(faulty, "catalogue")[0], "what embeds and trains reads none"


def test_every_row_is_used_or_in_quarantine_with_its_reason(faulty: Artifact) -> None:
    assert faulty.metrics == {
        "items_in": 13,
        "items": 5,
        "items_quarantined": 8,
        "pictures_in": 14,
        "pictures": 4,
        "pictures_quarantined": 10,
        "pictures_decoded": 4,
        "pictures_reused": 0,
        "items_with_bad_currency": 2,
        "items_with_bad_price": 2,
        "missing_pictures_asked_on": str(LAST_DAY),
        "quarantined_duplicate_item": 1,
        "quarantined_long_title": 1,
        "quarantined_missing_file": 5,
        "quarantined_no_category": 1,
        "quarantined_no_item_id": 2,
        "quarantined_no_title": 2,
        "quarantined_no_updated_at": 1,
        "quarantined_too_large": 1,
        "quarantined_undecodable": 3,
        "quarantined_unreachable": 1,
    }
    found = {(r["source"], r["row_key"], r["reason"]) for r in rows(faulty, "quarantine")}
    assert {
        ("items", "changed", "duplicate_item"),
        ("items", "changed", "no_category"),
        ("items", "untitled", "no_title"),
        ("items", "blank", "no_title"),
        ("items", "", "no_item_id"),
        ("pictures", "pictured/lost.jpg", "missing_file"),
        ("pictures", "pictured/../shop/pictures/good.jpg", "missing_file"),
        ("pictures", "pictured/", "missing_file"),
        ("pictures", "pictured/cut.jpg", "undecodable"),
        ("pictures", "pictured/text.jpg", "undecodable"),
        ("pictures", "pictured/big.png", "too_large"),
        ("pictures", "unlucky/lost.jpg", "missing_file"),
        ("pictures", "linked/file:///etc/passwd", "missing_file"),
    } <= found
    by_url = {r["reason"]: (r["row_key"], r["detail"]) for r in rows(faulty, "quarantine") if "http" in r["row_key"]}
    assert by_url["unreachable"][0].endswith("/gone.jpg") and by_url["unreachable"][1] == "status 404"
    assert by_url["undecodable"][0].endswith("/page.jpg")
    counted = {(r["source"], r["reason"]): r["rows"] for r in rows(faulty, "quarantine_counts")}
    assert counted == Counter((r["source"], r["reason"]) for r in rows(faulty, "quarantine"))


def test_items_are_tidied_and_the_newest_sound_row_counts(faulty: Artifact) -> None:
    items = {row["item_id"]: row for row in rows(faulty, "catalogue")}
    assert set(items) == {"plain", "changed", "pictured", "unlucky", "linked"}
    plain = items["plain"]
    assert (plain["title"], plain["department"], plain["brand"]) == ("Two words here", "Clothing", "Acme")
    assert items["changed"]["title"] == "New"
    assert (items["changed"]["brand"], items["changed"]["attributes"], items["changed"]["images"]) == ("", [], [])
    assert items["unlucky"]["attributes"] == [("colour", "red")]


def test_an_item_keeps_its_usable_pictures_in_order_and_its_text_without_any(faulty: Artifact) -> None:
    items = {row["item_id"]: row for row in rows(faulty, "catalogue")}
    assert items["pictured"]["images"] == ["good.jpg", "good.jpg"]
    assert items["unlucky"]["images"] == []
    assert [name.rsplit("/", 1)[1] for name in items["linked"]["images"]] == ["good.jpg"]
    assert {i: row["informative_pictures"] for i, row in items.items() if row["images"]} == {
        "plain": 1,
        "pictured": 2,
        "linked": 1,
    }
    pictures = [row for row in rows(faulty, "pictures") if row["item_id"] == "pictured"]
    assert sorted(row["frame"] for row in pictures) == [0, 1]
    assert {row["picture_digest"] for row in pictures} == {hashlib.sha256(draw_picture("red")).hexdigest()}
    with Image.open(io.BytesIO(pictures[0]["thumbnail"])) as thumbnail:
        assert (thumbnail.size, thumbnail.mode, thumbnail.format) == (SIZE, "RGB", "JPEG")


def test_pictures_by_url_come_once_their_host_has_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same catalogue: the run started again, and the next day's run, look again; while nothing mends, outputs are reused."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = tmp_path / "shop"
    write_pictures(root, {})
    rest = ("/empty.jpg", "/deep.tiff", "/gone.jpg")
    pages: dict[str, Any] = {
        "/page.jpg": b"<html>soon</html>",
        "/empty.jpg": b"",
        "/deep.tiff": png(DEEP, format="TIFF"),
    }
    settings = {"fetch": {"private_addresses": True, "delay_seconds": 0}}

    def usable(run: Run) -> list[str]:
        artifact = run_stages(run, "prepare-items")["prepare-items"]
        return sorted(file.rsplit("/", 1)[1] for row in rows(artifact, "catalogue") for file in row["images"])

    def reused(run: Run) -> bool:
        state = run.state("prepare-items")
        assert state is not None
        return state["reused"]

    with serve(pages) as (address, seen):
        urls = [f"{address}{page}" for page in (*pages, "/gone.jpg")]
        write_rows(root / "items.parquet", "items", [item("linked", images=urls)])
        day = tiny_run(root, "day", pictures=settings)
        assert usable(day) == [] and not reused(day)
        assert usable(day) == [] and reused(day)
        pages["/page.jpg"] = draw_picture("red")
        assert usable(day) == ["page.jpg"] and not reused(day)
        assert usable(day) == ["page.jpg"] and reused(day)
        # Where one look does not get to what has mended, another day's run does: it asks for all.
        pages |= {path: draw_picture(colour) for path, colour in zip(rest, ("blue", "green", "yellow"), strict=True)}
        monkeypatch.setattr(picture_fetching, "LOOK_AGAIN_SECONDS", 0)
        assert usable(day) == ["page.jpg"] and reused(day)
        tomorrow = create_run(replace(day, name="tomorrow", date=LAST_DAY + timedelta(days=1)))
        assert len(usable(tomorrow)) == 4 and not reused(tomorrow)
        seen.clear()
        assert len(usable(tomorrow)) == 4 and reused(tomorrow)
        assert seen == []


def test_a_zip_gives_what_a_folder_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for zipped in (False, True):
        monkeypatch.setenv("SMAR_HOME", str(tmp_path / str(zipped)))
        root = write_tiny_shop(tmp_path / str(zipped) / "shop", zipped=zipped)
        outputs.append(run_stages(tiny_run(root), "prepare-items")["prepare-items"])
    assert outputs[0].metrics["pictures"] == sum(len(i["images"]) for i in tiny_items())
    assert outputs[0].key != outputs[1].key
    assert outputs[0].manifest["content"] == outputs[1].manifest["content"]


def test_a_zip_that_is_cut_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "shop", zipped=True)
    archive = root / "pictures.zip"
    archive.write_bytes(archive.read_bytes()[:-2_000])
    with pytest.raises(InputError, match=r"pictures\.zip: not a whole zip file .*copy it again"):
        run_stages(tiny_run(root), "prepare-items")
    assert published("prepare-items") == (set(), set())


def test_a_catalogue_without_titles_column_names_file_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "shop")
    file = root / "items.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["title"]), file)
    run = tiny_run(root)
    monkeypatch.setattr("sys.argv", ["smar", "prepare-items", "--run", run.name])
    from smar_model.cli import main

    with pytest.raises(SystemExit) as stop:
        main()
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"{file}: does not fit schemas/items.yaml: column title is missing" in message
    assert "Traceback" not in message
    assert published("prepare-items") == (set(), set())
    state = run.state("prepare-items")
    assert state is not None and state["state"] == "failed" and "column title" in state["message"]


def test_times_of_any_unit_and_json_lines_are_read_from_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = tmp_path / "shop"
    write_pictures(root, {})
    for unit in ("ns", "ms"):
        file = write_rows(root / "items" / f"{unit}.parquet", "items", [item(unit)])
        table = pq.read_table(file)
        place = table.schema.get_field_index("updated_at")
        times = table["updated_at"].cast(pa.timestamp(unit, tz="UTC"))
        pq.write_table(table.set_column(place, "updated_at", times), file)
    (root / "items" / "more.jsonl").write_text(
        json_line(item("line", title="Straße 東京", attributes={"fit": "slim"}))
        + "\n  \r\n"
        + json_line(item("short") | {"updated_at": "2026-11-01T02:00:00+02:00"})
    )
    with gzip.open(root / "items" / "most.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json_line({"unknown": [1, {}]} | item("zipped")))
    (root / "items" / "_draft.jsonl").write_text("{half")
    output = run_stages(tiny_run(root), "prepare-items")["prepare-items"]
    found = {row["item_id"]: row for row in rows(output, "catalogue")}
    assert set(found) == {"ns", "ms", "line", "short", "zipped"}
    assert {row["updated_at"] for row in found.values()} == {datetime(2026, 11, 1, tzinfo=UTC)}
    assert (found["line"]["title"], found["line"]["attributes"]) == ("Straße 東京", [("fit", "slim")])
    assert output.metrics["items_in"] == 5


def json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, default=str, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"item_id": "2", "title"', r"line 4 is not JSON \(.*column 25\); correct it or leave it out"),
        ('["item_id", "title"]', "line 4 is not a JSON object"),
        ('{"item_id": "2", "images": "2.jpg"}', r"line 4 does not fit schemas/items\.yaml: images is no list<string>"),
        (
            '{"item_id": "2", "updated_at": "yesterday"}',
            r"line 4 does not fit schemas/items\.yaml: updated_at is no timestamp",
        ),
    ],
    ids=["broken", "array", "type", "time"],
)
def test_a_bad_line_is_named_by_file_and_number(line: str, message: str, spark: SparkSession, tmp_path: Path) -> None:
    good = json_line(item("1"))
    (tmp_path / "a.jsonl").write_text(good)
    (tmp_path / "b c.jsonl").write_text(good + "\n" + good + line + "\n" + good)
    with pytest.raises(InputError, match=r"b c\.jsonl: " + message):
        read_table(spark, "items", [tmp_path / "a.jsonl", tmp_path / "b c.jsonl"])


def test_json_lines_without_a_column_and_damaged_ones_are_named(spark: SparkSession, tmp_path: Path) -> None:
    unnamed = tmp_path / "unnamed.jsonl"
    unnamed.write_text(
        '{"item_id": "1", "name": "Shirt", "category": "Clothing", "updated_at": "2026-11-01T00:00:00Z"}\n'
    )
    with pytest.raises(InputError, match=r"unnamed\.jsonl: does not fit .*: no line has title"):
        read_table(spark, "items", [unnamed])
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json_line(item("1")).encode() * 100)[:-20])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz: cannot be read .*write it again"):
        read_table(spark, "items", [cut])


def test_a_log_of_json_lines_has_its_day(spark: SparkSession, tmp_path: Path) -> None:
    event = {"event": "click", "request_id": "r", "session_id": "s", "user_id": "u", "query": "q", "item_id": "i"}
    file = tmp_path / "dt=2026-11-19" / "part 1.jsonl"
    file.parent.mkdir()
    file.write_text(json_line(event | {"event_time": "2026-11-19T23:59:59.5Z", "position": 3}) * 2)
    parquet = write_rows(
        tmp_path / "dt=2026-11-18" / "a.parquet",
        "click_log",
        [event | {"event_time": datetime(2026, 11, 18, tzinfo=UTC), "position": 1}],
    )
    read = read_table(spark, "click_log", [file, parquet], partitioned_below=tmp_path)
    found = Counter(
        (str(row["dt"]), row["event_time"].isoformat(), row["position"]) for row in read.toArrow().to_pylist()
    )
    assert found == {
        ("2026-11-19", "2026-11-19T23:59:59.500000+00:00", 3): 2,
        ("2026-11-18", "2026-11-18T00:00:00+00:00", 1): 1,
    }
    assert count_rows([file, parquet]) == 3


def placeholder(quality: int) -> bytes:
    image = Image.new("RGB", (120, 160), "white")
    ImageDraw.Draw(image).rectangle((30, 50, 90, 110), fill=(90, 120, 200))
    ImageDraw.Draw(image).text((32, 70), "coming soon", fill="white")
    return png(image, format="JPEG", quality=quality)


def changing_shop(root: Path, *, day: int) -> None:
    """A shop with every kind of picture; on its second day one item is new, one has another picture, one is gone."""
    pictures = {f"{n}.jpg": draw_picture(colour) for n, colour in enumerate(["red", "green", "blue", "black"])}
    pictures |= {"none.jpg": placeholder(90), "plain.png": png(Image.new("RGB", (300, 40), (40, 60, 90)))}
    pictures |= {f"copy-{n}.jpg": placeholder(80 + n) for n in range(4)}
    items = [item(f"coloured-{n}", images=[f"{n}.jpg", f"lost-{n}.jpg"]) for n in range(4)]
    items += [item(f"exact-{n}", images=["none.jpg", "none.jpg"]) for n in range(8)]
    items += [item(f"near-{n}", images=[f"copy-{n}.jpg"]) for n in range(3)]
    items += [item("flat", images=["plain.png", "0.jpg"]), item("poor", images=[f"gone-{n}.jpg" for n in range(25)])]
    if day == 2:
        pictures |= {"1.jpg": draw_picture("yellow"), "new.jpg": draw_picture("brown")}
        items = [i for i in items if i["item_id"] != "coloured-3"] + [item("new", images=["new.jpg"])]
    write_pictures(root, pictures)
    write_rows(root / "items.parquet", "items", items)


def test_the_next_day_only_new_pictures_are_decoded_and_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare_items, "ROWS_PER_GROUP", 5)
    root, settings = tmp_path / "shop", {"shared_by_items": 10}
    changing_shop(root, day=1)
    first = run_stages(tiny_run(root, "first", pictures=settings), "prepare-items")["prepare-items"]
    distinct = 4 + 2 + 3  # colours, placeholder and plain one, near copies that items name
    assert (first.metrics["pictures_decoded"], first.metrics["pictures_reused"]) == (distinct, 0)

    changing_shop(root, day=2)
    second = run_stages(tiny_run(root, "second", pictures=settings), "prepare-items")["prepare-items"]
    assert (second.metrics["pictures_decoded"], second.metrics["pictures_reused"]) == (2, distinct - 2)

    # The same delivery as JSON lines, its pictures in an object store, where nothing has been decoded before.
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "elsewhere"))
    moved = tmp_path / "moved"
    moved.mkdir()
    delivered = pq.read_table(root / "items.parquet").to_pylist()
    (moved / "items.jsonl").write_text(
        "".join(json_line(r | {"updated_at": r["updated_at"].isoformat()}) for r in delivered)
    )
    (root / "pictures").rename(tmp_path / "bucket")
    shop = {"root": str(moved), "pictures": (tmp_path / "bucket").as_uri(), "visual_departments": ["Clothing"]}
    anew = run_stages(tiny_run(moved, "anew", pictures=settings, shop=shop), "prepare-items")["prepare-items"]
    assert (anew.metrics["pictures_decoded"], anew.metrics["pictures_reused"]) == (distinct, 0)
    assert anew.manifest["content"] == second.manifest["content"]
    assert first.manifest["content"]["pictures"] != second.manifest["content"]["pictures"]

    flags = {(row["item_id"], row["frame"]): row["uninformative"] for row in rows(second, "pictures")}
    assert {key for key, flag in flags.items() if flag == "uniform"} == {("flat", 0)}
    shared = {(f"exact-{n}", frame) for n in range(8) for frame in (0, 1)} | {(f"near-{n}", 0) for n in range(3)}
    assert {key for key, flag in flags.items() if flag == "shared"} == shared  # 11 items, though 8 at most are alike
    informative = {row["item_id"]: row["informative_pictures"] for row in rows(second, "catalogue")}
    assert (informative["flat"], informative["exact-0"], informative["coloured-0"], informative["poor"]) == (1, 0, 1, 0)

    samples = Counter(row["reason"] for row in rows(second, "quarantine"))
    assert samples == {"missing_file": 20}
    assert [(r["reason"], r["rows"], r["day"]) for r in rows(second, "quarantine_counts")] == [
        ("missing_file", 28, None)
    ]
    groups = [
        metadata.row_group(n).num_rows
        for metadata in map(pq.read_metadata, second.files("pictures"))
        for n in range(metadata.num_row_groups)
    ]
    assert sum(groups) == second.metrics["pictures"] and max(groups) <= 5


PICTURE = "item_id string, file string, picture_digest string, frame int, perceptual_hash bigint, signature array<int>"


def digests(spark: SparkSession, rows: list[dict[str, Any]], pictures: list[tuple]) -> dict[str, tuple[str, str]]:
    """Digests of text and content of each item; pictures as item, digest, frame and why they say nothing."""
    base = {"title": "Shirt", "category": "Clothing > Shirts", "department": "Clothing", "brand": "", "images": []}
    items = [base | {"attributes": [("colour", "red"), ("size", "M")], "updated_at": LAST_DAY} | row for row in rows]
    columns = "item_id string, title string, category string, department string, brand string, images array<string>, "
    columns += "attributes array<struct<name: string, value: string>>, updated_at date"
    # Not from dicts: a map would lose the order of its keys on the way to Spark.
    usable = spark.createDataFrame(items, columns).withColumn("attributes", F.map_from_entries("attributes"))
    usable.createOrReplaceTempView("usable_items")
    judged = [(name, f"{d}.jpg", d, frame, 0, [0], flag, None, None) for name, d, frame, flag in pictures]
    more = ", uninformative string, reason string, detail string"
    spark.createDataFrame(judged, PICTURE + more).createOrReplaceTempView("judged_pictures")
    spark.createDataFrame([], "picture_digest string, thumbnail binary").createOrReplaceTempView("looks")
    spark.createDataFrame([], "source string, row_key string, reason string, detail string").createOrReplaceTempView(
        "item_quarantine"
    )
    run_sql(spark, "prepare_pictures", samples=1, maximum_frames=2)
    return {row.item_id: (row.text_digest, row.content_digest) for row in spark.table("catalogue").collect()}


def test_digests_tell_what_an_embedding_depends_on(spark: SparkSession) -> None:
    texts = {
        "title": {"title": "Shirts"},
        "category": {"category": "Clothing > Tops"},
        "brand": {"brand": "Acme"},
        "attributes": {"attributes": [("colour", "red")]},
        "moved": {"title": "", "brand": "Shirt"},
    }
    alike = {
        "plain": {},
        "touched": {"updated_at": DAYS[0]},
        "turned": {"attributes": [("size", "M"), ("colour", "red")]},
        **{name: {} for name in ("unseen", "third", "flagged", "one", "other", "two", "swapped")},
    }
    shown = [("one", "a", 0, None), ("other", "b", 0, None), ("two", "a", 0, None), ("two", "b", 1, None)]
    shown += [("swapped", "b", 0, None), ("swapped", "a", 1, None), ("unseen", "a", 0, "uniform")]
    shown += [
        ("flagged", "c", 0, "shared"),
        ("flagged", "a", 1, None),
        ("third", "a", 0, None),
        ("third", "z", 2, None),
    ]
    found = digests(spark, [{"item_id": name} | row for name, row in (texts | alike).items()], shown)
    assert all(len(digest) == 64 for pair in found.values() for digest in pair)
    text = {name: pair[0] for name, pair in found.items()}
    assert {text[name] for name in alike} == {text["plain"]}
    assert len({text[name] for name in (*texts, "plain")}) == len(texts) + 1
    content = {name: pair[1] for name, pair in found.items()}
    assert content["plain"] == content["touched"] == content["turned"] == content["unseen"]
    assert content["one"] == content["flagged"] == content["third"], "the pictures that an embedding uses are the same"
    assert len({content[name] for name in ("plain", "one", "other", "two", "swapped", *texts)}) == 5 + len(texts)


def pixel(thumbnail: bytes, x: int, y: int) -> tuple[int, ...]:
    with Image.open(io.BytesIO(thumbnail)) as image:
        value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def test_a_thumbnail_is_padded_with_white() -> None:
    thumbnail = make_thumbnail(png(Image.new("RGB", (400, 100), "black")), SIZE)
    assert min(pixel(thumbnail, 24, 2)) > 240
    assert max(pixel(thumbnail, 24, 32)) < 15


def test_transparency_lies_on_white() -> None:
    assert min(pixel(make_thumbnail(png(Image.new("RGBA", (48, 64), (0, 0, 0, 0))), SIZE), 24, 32)) > 240
    palette = Image.new("P", (48, 64), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert min(pixel(make_thumbnail(png(palette, transparency=0), SIZE), 24, 32)) > 240


def test_a_camera_s_rotation_is_undone() -> None:
    picture = Image.new("RGB", (640, 480), "white")
    picture.paste("black", (0, 0, 320, 480))  # left half; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    thumbnail = make_thumbnail(png(picture, format="JPEG", exif=exif), SIZE)
    assert max(pixel(thumbnail, 24, 10)) < 30
    assert min(pixel(thumbnail, 24, 54)) > 225


def sixteen_bit(value: int) -> Image.Image:
    return Image.fromarray(np.full((64, 48), value, dtype=np.uint16))


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


NOISE = Image.effect_noise((200, 200), 80).convert("RGB")
GREY = [128, 128, 128]


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (png(Image.new("L", (30, 40), 128)), GREY),
        (png(Image.new("LA", (30, 40), (0, 127))), GREY),  # half transparent black on white
        (png(Image.new("RGBA", (30, 40), (255, 0, 0, 127))), [255, 128, 128]),
        (png(Image.new("1", (30, 40), 1)), [255, 255, 255]),
        (png(sixteen_bit(0x8080)), GREY),
        (png(sixteen_bit(0x8080), format="TIFF"), GREY),
        (png(Image.new("CMYK", (30, 40), (0, 255, 255, 0)), format="JPEG", quality=95), [254, 0, 0]),
        (png(Image.new("CMYK", (30, 40), (0, 0, 0, 127)), format="TIFF"), GREY),
        (png(Image.new("RGB", (30, 40), (0, 90, 200)), format="WEBP", lossless=True), [0, 90, 200]),
        (png(Image.new("RGB", (30, 40), (0, 90, 200)), format="BMP"), [0, 90, 200]),
        (
            png(
                Image.new("P", (30, 40), 0),
                format="GIF",
                palette=bytes([200, 0, 0, 0, 0, 200]),
                save_all=True,
                append_images=[Image.new("P", (30, 40), 1)],
            ),
            [200, 0, 0],  # the first frame
        ),
    ],
    ids=["L", "LA", "RGBA", "1", "16-PNG", "16-TIFF", "CMYK-JPEG", "CMYK-TIFF", "WEBP", "BMP", "GIF"],
)
def test_every_kind_of_picture_keeps_its_colour(content: bytes, colour: list[int]) -> None:
    with Image.open(io.BytesIO(make_thumbnail(content, SIZE))) as image:
        assert (image.size, image.mode) == (SIZE, "RGB")
    assert list(pixel(make_thumbnail(content, SIZE), 24, 32)) == pytest.approx(colour, abs=4)


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>404</body></html>",
        png(Image.new("F", (30, 40), 0.5), format="TIFF"),
        cut(png(NOISE, format="WEBP")),
        cut(png(NOISE)),
        cut(png(NOISE, format="BMP")),
        cut(png(NOISE, format="TIFF")),
        png(NOISE, format="PPM"),
    ],
    ids=["html", "float", "WEBP", "PNG", "BMP", "TIFF", "not taken"],
)
def test_wrong_types_and_cut_files_are_undecodable(content: bytes) -> None:
    with pytest.raises(UnusablePicture) as error:
        make_thumbnail(content, SIZE)
    assert error.value.reason == "undecodable"


def test_a_plain_picture_is_uniform_whatever_its_shape_and_small_things_are_not() -> None:
    speck = Image.new("RGB", (480, 640), "white")
    speck.paste("black", (200, 200, 240, 240))
    assert look_at(png(Image.new("RGB", (400, 20), "navy")), SIZE, uniform_below=2).uniform
    assert not look_at(png(speck), SIZE, uniform_below=2).uniform


@pytest.mark.parametrize("content", [b"", b"GIF89a", draw_picture("red")[:300]], ids=["empty", "header", "cut"])
def test_what_cannot_be_shown_is_undecodable(content: bytes) -> None:
    with pytest.raises(UnusablePicture) as error:
        make_thumbnail(content, SIZE)
    assert error.value.reason == "undecodable"


@pytest.mark.parametrize("side", [7_100, 60_000])
def test_size_is_judged_by_the_header(side: int) -> None:
    small = png(Image.new("1", (16, 16)))
    header = small[12:16] + side.to_bytes(4, "big") * 2 + small[24:29]
    claims_more = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    with pytest.raises(UnusablePicture) as error:
        make_thumbnail(claims_more, SIZE)
    assert error.value.reason == "too_large"


def test_a_price_alone_makes_anew_only_what_reads_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained or embedded again: the keys of all other stages that read the catalogue are as before."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "shop")
    made = {}
    for price in ("1.00", "2.00"):
        write_rows(root / "items.parquet", "items", [row | {"price": Decimal(price)} for row in tiny_items()])
        run = tiny_run(root, name=f"at-{price[0]}")
        output = run_stages(run, "prepare-items")["prepare-items"]
        readers = [s for s in (STAGES | REFRESH_STAGES).values() if "prepare-items" in s.inputs]
        made[price] = {stage.name: key_parts(stage, run, {"prepare-items": output}) for stage in readers}
    anew = {name for name, parts in made["1.00"].items() if parts != made["2.00"][name]}
    assert anew == {"index", "refresh-index"}
    assert {"embed", "embed-release"} <= made["1.00"].keys()
