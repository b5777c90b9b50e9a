"""Catalogues that come again with fewer items, and logs of a day that another tracker has written."""

from __future__ import annotations

import errno
import gzip
import sqlite3
from pathlib import Path

import pytest
import yaml
from imports import events_of, items_of, smar_import

from smar_model.errors import InputError, machine_failure
from smar_model.shop.shop_writer import import_into


def feed(path: Path, count: int) -> Path:
    path.write_text("id,title\n" + "".join(f"{n},Item {n}\n" for n in range(count)))
    return path


def mapped(folder: Path, count: int, *options: str) -> str:
    feed(folder / "goods.csv", count)
    mapping = {"source": "acme", "items": {"file": "goods.csv", "columns": {"item_id": "id", "title": "title"}}}
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    return smar_import("table", folder, "--columns", folder / "mapping.yaml", "--to", folder / "shop", *options)


def test_a_feed_that_was_cut_off_empties_no_shop(tmp_path):
    shop = tmp_path / "shop"
    assert "removed" not in smar_import("merchant", feed(tmp_path / "a.csv", 100), "--to", shop)
    with pytest.raises(InputError, match=r"it has 100 items of this source, and these files have 3; .* --replace"):
        smar_import("merchant", feed(tmp_path / "a.csv", 3), "--to", shop)
    assert len(items_of(shop)) == 100
    assert not (shop / ".importing").exists()
    output = smar_import("merchant", feed(tmp_path / "a.csv", 60), "--to", shop)
    assert "removed: 40 items that it had before (such as '6" in output
    output = smar_import("merchant", feed(tmp_path / "a.csv", 3), "--to", shop, "--replace")
    assert "removed: 57 items that it had before" in output
    assert len(items_of(shop)) == 3


def test_a_mapped_table_that_shrinks(tmp_path):
    mapped(tmp_path, 10)
    assert "removed: 4 items that it had before (such as 'acme-6')" in mapped(tmp_path, 6)
    with pytest.raises(InputError, match="it has 6 items of this source, and these files have 1"):
        mapped(tmp_path, 1)
    assert "removed: 5 items" in mapped(tmp_path, 1, "--replace")


def test_what_other_sources_brought_is_not_counted(tmp_path):
    mapped(tmp_path, 10)
    for count in (4, 1):
        with import_into(tmp_path / "shop", "wands", replaces=["items"]) as writer:
            for number in range(count):
                writer.add_item("1", item_id=f"wands-{number}", title="T")
    assert "removed: 3 items that it had before (such as 'wands-1')" in writer.summary()
    assert len(items_of(tmp_path / "shop")) == 11


def test_a_mapped_log_and_one_of_a_tracker_do_not_share_a_day(tmp_path):
    (tmp_path / "log.csv").write_text("t,sku,p\n2026-11-19T12:00:00Z,1,1\n")
    columns = {"event_time": "t", "item_id": "sku", "position": "p", "event": {"value": "click"}}
    columns |= {name: {"value": "x"} for name in ("request_id", "session_id", "user_id", "query")}
    mapping = {"source": "acme", "click_log": {"file": "log.csv", "columns": columns}}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    shop = tmp_path / "shop"
    arguments = ("table", tmp_path, "--columns", tmp_path / "mapping.yaml", "--to", shop)
    day = shop / "click_log" / "dt=2026-11-19"
    smar_import(*arguments)
    for name in ("ubi.parquet", "ga4-20261119.parquet"):
        (day / "acme.parquet").rename(day / name)
        with pytest.raises(InputError, match=rf"{name}: this day's log is there already, from elsewhere"):
            smar_import(*arguments)
        smar_import(*arguments, "--replace")
        assert [file.name for file in day.iterdir()] == ["acme.parquet"]
    (day / "acme.parquet").rename(day / "beta.parquet")
    smar_import(*arguments)
    assert len(events_of(shop)) == 2, "of another shop"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("smar_model.shop.importers.delivered_files.shutil.copyfileobj", OSError(errno.ENOSPC, "No space left on device")),
        ("smar_model.shop.importers.spooled_records.SpooledRecords.add", sqlite3.OperationalError("database or disk is full")),
        ("smar_model.shop.table_files.pq.ParquetWriter.write_table", OSError("[errno 28] No space left on device")),
    ],
)  # fmt: skip
def test_a_full_disk_names_the_shop(tmp_path, monkeypatch, place, error):
    def full(*_: object, **__: object) -> None:
        raise error

    packed = tmp_path / "feed.csv.gz"
    packed.write_bytes(gzip.compress(b"id,title\n1,A\n"))
    monkeypatch.setattr(place, full)
    with pytest.raises(OSError, match="No space left") as raised:
        smar_import("merchant", packed, "--to", tmp_path / "shop")
    line = machine_failure(raised.value, default_place="elsewhere")
    assert line == f"{tmp_path / 'shop'}: No space left on device; free some space there, then run the command again"
    assert not (tmp_path / "shop" / "items.parquet").exists()
