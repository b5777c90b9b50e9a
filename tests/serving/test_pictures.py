"""Small pictures are looked at again: after a new delivery, a mended file, a time."""

from __future__ import annotations

import io
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from smar_model.delivery.picture_stores import UnusablePicture
from smar_model.errors import InputError
from smar_model.serving import pictures as drawing
from smar_model.serving.pictures import SmallPictures
from tests.patience import wait_until
from tests.serving.abusive_clients import cut_picture
from tests.tiny_shop import draw_picture, tiny_settings


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path


@pytest.fixture
def pictures(shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallPictures]:
    monkeypatch.setattr(drawing, "LOOK_SECONDS", 0.0)
    pictures = SmallPictures(tiny_settings(shop))
    yield pictures
    pictures.close()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of the pictures that were decoded so far."""
    sizes, shrunk = [], drawing._shrunk

    def watched(image: Image.Image) -> bytes:
        sizes.append(image.size)
        return shrunk(image)

    monkeypatch.setattr(drawing, "_shrunk", watched)
    return sizes


def colour(pictures: SmallPictures, name: str) -> str:
    content = pictures.small(name)
    if isinstance(content, UnusablePicture):
        return content.reason
    if isinstance(content, InputError):
        return str(content)
    red, _, blue = Image.open(io.BytesIO(content)).convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    return "red" if red > blue else "blue"


def deliver_zip(path: Path, colours: dict[str, str]) -> None:
    """A new zip takes the place of the one before."""
    with zipfile.ZipFile(path.with_suffix(".new"), "w") as archive:
        for name, each in colours.items():
            archive.writestr(name, draw_picture(each))
    path.with_suffix(".new").replace(path)


def test_a_delivered_zip_is_seen(shop: Path, pictures: SmallPictures) -> None:
    archive = shop / "pictures.zip"
    (shop / "pictures").rmdir()
    assert "neither this folder nor pictures.zip" in colour(pictures, "a.jpg")
    deliver_zip(archive, {"a.jpg": "red"})
    assert (colour(pictures, "a.jpg"), colour(pictures, "b.jpg")) == ("red", "missing_file")
    deliver_zip(archive, {"a.jpg": "blue", "b.jpg": "red"})
    assert (colour(pictures, "a.jpg"), colour(pictures, "b.jpg")) == ("blue", "red")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "not a whole zip file" in colour(pictures, "a.jpg")
    archive.write_bytes(whole)
    assert colour(pictures, "a.jpg") == "blue"
    archive.unlink()
    assert "neither this folder nor pictures.zip" in colour(pictures, "a.jpg")
    (shop / "pictures").mkdir()
    (shop / "pictures" / "a.jpg").write_bytes(draw_picture("red"))
    assert colour(pictures, "a.jpg") == "red"
    deliver_zip(archive, {"a.jpg": "blue"})
    shutil.rmtree(shop / "pictures")
    assert colour(pictures, "a.jpg") == "blue"


def test_a_zip_that_is_replaced_while_it_is_read_is_read_to_the_end(shop: Path, pictures: SmallPictures) -> None:
    (shop / "pictures").rmdir()
    deliver_zip(shop / "pictures.zip", {f"{n}.jpg": "red" for n in range(50)})
    seen: list[str] = []
    reading = threading.Thread(target=lambda: seen.extend(colour(pictures, f"{n}.jpg") for n in range(50)))
    reading.start()
    for _ in range(10):
        deliver_zip(shop / "pictures.zip", {f"{n}.jpg": "red" for n in range(50)})
    reading.join()
    assert set(seen) == {"red"}


def test_a_picture_that_failed_is_not_tried_again_until_its_time_is_over(
    shop: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[tuple[int, int]]
) -> None:
    (shop / "pictures" / "cut.png").write_bytes(cut_picture(2_000))
    pictures = SmallPictures(tiny_settings(shop))
    asking = [threading.Thread(target=pictures.small, args=("cut.png",)) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert colour(pictures, "cut.png") == "undecodable"
    assert drawn == [(2_000, 2_000)]
    monkeypatch.setattr(drawing, "FAILURE_SECONDS", 0.2)
    pictures = SmallPictures(tiny_settings(shop))
    assert colour(pictures, "cut.png") == "undecodable"
    (shop / "pictures" / "cut.png").write_bytes(draw_picture("red"))
    wait_until(lambda: colour(pictures, "cut.png") == "red", says=lambda: "a mended picture is not seen")


def test_what_decoding_takes_is_told_from_the_header(
    shop: Path, pictures: SmallPictures, drawn: list[tuple[int, int]]
) -> None:
    folder = shop / "pictures"
    (folder / "cut.png").write_bytes(cut_picture(9_900))
    Image.new("RGB", (6_000, 5_000)).save(folder / "progressive.jpg", progressive=True)
    Image.new("RGB", (9_000, 9_000), "red").save(folder / "large.jpg")
    assert colour(pictures, "cut.png") == colour(pictures, "progressive.jpg") == "too_large"
    assert colour(pictures, "large.jpg") == "red"
    assert all(width * height < 10_000_000 for width, height in drawn)


def test_failures_that_are_remembered_are_bounded(pictures: SmallPictures, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(drawing.FAILURES_KEPT + 100):
        pictures._failed[f"{number}"] = UnusablePicture("missing_file", "no such picture")
    assert len(pictures._failed) == drawing.FAILURES_KEPT
    assert not pictures._under_way
