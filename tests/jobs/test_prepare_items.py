"""prepare-items: which items and pictures come through, and why the others do not."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.prepare_items import look_at
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.picture_stores import UnusablePicture
from tests.tiny_shop import (
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
    write_pictures(
        root, {"good.jpg": good, "cut.jpg": good[: len(good) // 2], "text.jpg": b"no picture", "big.png": large}
    )
    newer = datetime(2026, 11, 2, tzinfo=UTC)
    delivered = [
        item(
            "plain", title="  Two \t words\u3000here ", category="Clothing>Shirts", brand=" Acme ", images=["good.jpg"]
        ),
        item("changed", title="Old"),
        item("changed", title="New", updated_at=newer),
        item("changed", title="Newest but broken", category=None, updated_at=datetime(2026, 11, 3, tzinfo=UTC)),
        item("untitled", title=None),
        item("blank", title=" \n\t "),
        item("endless", title="x" * 1001),
        item(None, title="Who am I"),
        item("", title="Nor I"),
        item("timeless", updated_at=None),
        item(
            "pictured",
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
        item("unlucky", images=["lost.jpg"], attributes={"colour": "red", "size": " ", "fit": None}),
    ]
    write_rows(root / "items.parquet", "items", delivered)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        yield run_stages(tiny_run(root), "prepare-items")["prepare-items"]


def test_every_row_is_used_or_in_quarantine_with_its_reason(faulty: Artifact) -> None:
    assert faulty.metrics == {
        "items_in": 12,
        "items": 4,
        "items_quarantined": 8,
        "pictures_in": 10,
        "pictures": 3,
        "pictures_quarantined": 7,
        "pictures_decoded": 4,
        "pictures_reused": 0,
        "quarantined_duplicate_item": 1,
        "quarantined_long_title": 1,
        "quarantined_missing_file": 4,
        "quarantined_no_category": 1,
        "quarantined_no_item_id": 2,
        "quarantined_no_title": 2,
        "quarantined_no_updated_at": 1,
        "quarantined_too_large": 1,
        "quarantined_undecodable": 2,
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
    } <= found


def test_items_are_tidied_and_the_newest_sound_row_counts(faulty: Artifact) -> None:
    items = {row["item_id"]: row for row in rows(faulty, "catalogue")}
    assert set(items) == {"plain", "changed", "pictured", "unlucky"}
    plain = items["plain"]
    assert (plain["title"], plain["department"], plain["brand"]) == ("Two words here", "Clothing", "Acme")
    assert items["changed"]["title"] == "New"
    assert (items["changed"]["brand"], items["changed"]["attributes"], items["changed"]["images"]) == ("", [], [])
    assert items["unlucky"]["attributes"] == [("colour", "red")]


def test_an_item_keeps_its_usable_pictures_in_order_and_its_text_without_any(faulty: Artifact) -> None:
    items = {row["item_id"]: row for row in rows(faulty, "catalogue")}
    assert items["pictured"]["images"] == ["good.jpg", "good.jpg"]
    assert items["unlucky"]["images"] == []
    pictures = [row for row in rows(faulty, "pictures") if row["item_id"] == "pictured"]
    assert sorted(row["frame"] for row in pictures) == [0, 1]
    assert {row["picture_digest"] for row in pictures} == {hashlib.sha256(draw_picture("red")).hexdigest()}
    with Image.open(io.BytesIO(pictures[0]["thumbnail"])) as thumbnail:
        assert (thumbnail.size, thumbnail.mode, thumbnail.format) == (SIZE, "RGB", "JPEG")


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


@pytest.mark.parametrize("unit", ["ns", "ms"])
def test_times_of_any_unit_are_read(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = tmp_path / "shop"
    write_pictures(root, {})
    file = write_rows(root / "items.parquet", "items", [item("one")])
    table = pq.read_table(file)
    place = table.schema.get_field_index("updated_at")
    times = table["updated_at"].cast(pa.timestamp(unit, tz="UTC"))
    pq.write_table(table.set_column(place, "updated_at", times), file)
    output = run_stages(tiny_run(root), "prepare-items")["prepare-items"]
    assert rows(output, "catalogue")[0]["updated_at"] == datetime(2026, 11, 1, tzinfo=UTC)


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


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK", "1", "I;16"])
def test_other_colour_modes_are_converted(mode: str) -> None:
    content = png(Image.new(mode, (30, 40)), format="TIFF" if mode in {"CMYK", "LA"} else "PNG")
    with Image.open(io.BytesIO(make_thumbnail(content, SIZE))) as image:
        assert (image.size, image.mode) == (SIZE, "RGB")


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
