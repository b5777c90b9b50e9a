"""What a shop delivers, found and named; pictures from wherever they lie."""

from __future__ import annotations

import gzip
import os
import zipfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.delivery.picture_stores import PictureStore, UnusablePicture
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.evaluation.evaluation_set import read_contract_table
from tests.tiny_shop import write_rows

DAY = date(2026, 11, 19)


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["items.parquet", "items.jsonl", "items.jsonl.gz"])
def test_a_catalogue_is_one_file_of_any_kind(name: str, tmp_path: Path) -> None:
    file = touch(tmp_path / name)
    touch(tmp_path / "items" / "ignored.parquet")
    assert ShopInputs(tmp_path).items() == [file]


def test_a_folder_s_files_are_those_that_are_finished(tmp_path: Path) -> None:
    kept = [touch(tmp_path / "click_log" / f"dt={DAY}" / n) for n in ("a.parquet", "b.jsonl", "c.jsonl.gz")]
    for name in ("_SUCCESS", ".part.parquet.crc", ".d.jsonl", "_e.parquet", "notes.txt"):
        touch(kept[0].with_name(name))
    assert ShopInputs(tmp_path).click_log(DAY) == kept


def test_two_catalogues_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.parquet: no catalogue"):
        ShopInputs(tmp_path).items()
    touch(tmp_path / "items.parquet")
    touch(tmp_path / "items.jsonl")
    with pytest.raises(InputError, match=r"items\.jsonl: items\.parquet is there as well; keep one"):
        ShopInputs(tmp_path).items()
    with pytest.raises(InputError, match="no Parquet file for this day, nor JSON lines"):
        ShopInputs(tmp_path).click_log(DAY)


def test_judgments_as_json_lines_are_those_of_parquet(tmp_path: Path) -> None:
    rows = [{"query": "rote Schürze", "item_id": "a", "grade": 3}, {"query": "tie", "item_id": "7", "grade": 0}]
    parquet = write_rows(tmp_path / "p" / "judgments.parquet", "judgments", rows)
    lines = b'\xef\xbb\xbf{"query": "rote Sch\xc3\xbcrze", "item_id": "a", "grade": 3, "by": "Jo"}\n\n'
    lines += b'{"query": "tie", "item_id": 7, "grade": 0}'
    touch(tmp_path / "l" / "judgments.jsonl.gz", gzip.compress(lines))
    found = ShopInputs(tmp_path / "l").judgments()
    assert found
    assert read_contract_table("judgments", [found]).equals(read_contract_table("judgments", [parquet]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query": "q", "item_id": "a", "grade": "3"}', r"line 3 does not fit .*: grade is no int32"),
        (b'{"query": "q", "item_id": "a", "grade": 2.5}', r"line 3 does not fit .*: grade is no int32"),
        (b'{"query": "q", "item_id": "a", "grade": 2147483648}', r"line 3 .*: grade is out of the range of int32"),
        (b'{"query": "q", "item_id": "a", "grade": NaN}', r"judgments row 1: grade is empty"),
        (
            b'{"query": "q", "item_id": "a", "grade": ' + b"9" * 5_000 + b"}",
            r"line 3 .*: grade is out of the range of int32",
        ),
        (b'{"query": "q"', r"line 3 is not JSON"),
        (b'{"query": "\xff"}', r"line 3 is not UTF-8"),
        (b"7", r"line 3 is not a JSON object"),
        (b'{"query": "q", "item_id": "a"}', r"judgments row 1: grade is empty"),
    ],
    ids=["type", "fraction", "2^31", "NaN", "5,000 digits", "broken", "bytes", "number", "absent"],
)
def test_a_bad_judgment_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    file = touch(tmp_path / "judgments.jsonl", b'{"query": "q", "item_id": "a", "grade": 1}\n\n' + line + b"\n")
    with pytest.raises(InputError, match=message):
        read_contract_table("judgments", [file])


def test_half_a_surrogate_pair_and_a_whole_float_are_read(tmp_path: Path) -> None:
    line = b'{"query": "tie \\ud83d", "item_id": "a", "grade": 3.0}\n'
    rows = read_contract_table("judgments", [touch(tmp_path / "judgments.jsonl", line)])
    assert rows.to_dict("records") == [{"query": "tie \ufffd", "item_id": "a", "grade": 3}]


def test_truth_with_a_repeated_name_and_text_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    """Parquet and Arrow check neither."""
    named = [[(b"colour", b"red"), (b"colour", b"crimson"), (b"fit", b"slim\xff")], [(b"colour", b"blue")]]
    attributes = pa.array(named, pa.map_(pa.binary(), pa.binary())).view(pa.map_(pa.string(), pa.string()))
    item_ids = pa.array([b"a\xed\xa0\x80", b"b"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"item_id": item_ids, "attributes": attributes}), tmp_path / "items.parquet")
    rows = read_contract_table("truth_items", [tmp_path / "items.parquet"]).to_dict("records")
    assert rows == [
        {"item_id": "a\ufffd\ufffd\ufffd", "attributes": {"colour": "red, crimson", "fit": "slim\ufffd"}},
        {"item_id": "b", "attributes": {"colour": "blue"}},
    ]


@pytest.fixture(params=["folder", "zip", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PictureStore:
    touch(tmp_path / "pictures" / "a" / "1.jpg", b"one")
    touch(tmp_path / "pictures" / "big.jpg", b"x" * 101)
    touch(tmp_path / "secret.jpg", b"secret")
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "pictures").rglob("*.jpg"):
                archive.write(file, file.relative_to(tmp_path / "pictures"))
        return PictureStore(tmp_path / "pictures.zip")
    folder = tmp_path / "pictures"
    return ShopInputs(tmp_path, folder.as_uri() if request.param == "object store" else None).pictures()


def test_pictures_are_read_by_name_and_nothing_else_is(store: PictureStore, tmp_path: Path) -> None:
    assert store.address("a/1.jpg").endswith("/a/1.jpg")
    with store.opened(maximum_bytes=100) as read:
        assert read("a/1.jpg") == b"one"
        outside = (
            "../secret.jpg",
            str(tmp_path / "secret.jpg"),
            "a",
            "",
            "a\0.jpg",
            "x" * 5_000,
            "2.jpg",
            "a/" * 2_500,
            "\ud800",
        )
        for name, reason in {**dict.fromkeys(outside, "missing_file"), "big.jpg": "too_large"}.items():
            with pytest.raises(UnusablePicture) as error:
                read(name)
            assert error.value.reason == reason, name


def test_links_are_followed_within_the_pictures_alone(tmp_path: Path) -> None:
    touch(tmp_path / "pictures" / "a" / "1.jpg", b"one")
    touch(tmp_path / "secret.jpg", b"secret")
    (tmp_path / "pictures" / "inside.jpg").symlink_to("a/1.jpg")
    (tmp_path / "pictures" / "outside.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "pictures" / "folder").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "pictures" / "round").symlink_to("round")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "pictures").symlink_to(tmp_path / "pictures", target_is_directory=True)
    with ShopInputs(tmp_path / "shop", None).pictures().opened(maximum_bytes=100) as read:
        assert read("inside.jpg") == read("a/1.jpg") == b"one"
        for name in ("outside.jpg", "folder/secret.jpg", "round"):
            with pytest.raises(UnusablePicture) as error:
                read(name)
            assert error.value.reason == "missing_file", name


def test_the_digest_changes_with_a_picture(
    store: PictureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    before = store.digest()
    assert store.digest() == before
    place = (
        tmp_path / "pictures.zip" if (tmp_path / "pictures.zip").is_file() else tmp_path / "pictures" / "a" / "1.jpg"
    )
    os.utime(place, ns=(1, 1))
    place.write_bytes(place.read_bytes() + b" ")
    assert store.digest() != before


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/pictures", "is not the URI of an object store"),
        ("pictures", "is not the URI of an object store"),
        ("file:///nowhere/at/all", "cannot be listed"),
    ],
)
def test_an_object_store_that_there_is_not_is_named(uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        ShopInputs(tmp_path, uri).pictures().digest()


def test_the_digest_sees_what_a_link_to_a_folder_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that was missing behind a link, and is delivered there."""
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    root, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "new").symlink_to(elsewhere)
    (root / "again").symlink_to(root)
    (root / "late.jpg").symlink_to(tmp_path / "late.jpg")
    digests = [PictureStore(root).digest()]
    (elsewhere / "1.jpg").write_bytes(b"1")
    digests.append(PictureStore(root).digest())
    (tmp_path / "late.jpg").write_bytes(b"2")
    digests.append(PictureStore(root).digest())
    assert len(set(digests)) == 3
    assert PictureStore(root).digest() == digests[-1]
