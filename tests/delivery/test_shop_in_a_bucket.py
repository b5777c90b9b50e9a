"""A shop whose files lie in an object store: read as those of a folder are, and what is wrong there is named by its URL."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.cli import main
from smar_model.delivery.delivered_tables import read_whole_table
from smar_model.delivery.json_lines import count_lines, iterate_lines
from smar_model.delivery.picture_stores import UnusablePicture
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError, NoAnswer
from smar_model.lake import object_store
from smar_model.lake.object_paths import ObjectPath, place_of
from smar_model.settings import CompleteDay
from tests.s3_server import BUCKET, running_s3, s3_client, upload_folder
from tests.tiny_shop import DAYS, LAST_DAY, tiny_settings, write_tiny_shop


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with running_s3() as variables:
        yield variables


@pytest.fixture
def reachable(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with something of everything that can be delivered."""
    root = write_tiny_shop(tmp_path_factory.mktemp("shop"))
    (root / "shop.yaml").write_text("time_zone: Europe/Berlin\n", encoding="utf-8")
    (root / "pictures" / "50% off #1 ä.jpg").write_bytes(b"odd")
    lines = [{"query": "red", "item_id": "item-001", "grade": 1}, {"query": "red", "item_id": "item-002", "grade": 0}]
    with gzip.open(root / "judgments.jsonl.gz", "wt", encoding="utf-8") as judgments:
        judgments.writelines(f"{json.dumps(line)}\n" for line in lines)
    return root


@pytest.fixture
def bucket(reachable: dict[str, str], folder: Path) -> str:
    """URL of that shop."""
    return upload_folder(reachable, folder, f"shops/{uuid.uuid4().hex}")


def client(variables: dict[str, str]):  # type: ignore[no-untyped-def]  # boto3 has no types
    return s3_client(variables)


def put(variables: dict[str, str], url: str, content: bytes) -> None:
    client(variables).put_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"), Body=content)


def remove(variables: dict[str, str], url: str) -> None:
    client(variables).delete_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))


def test_the_same_files_are_found_and_read(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    here, there = ShopInputs(folder), ShopInputs.of(tiny_settings(Path("x"), shop=shop_section(bucket)))
    assert there.zone == here.zone and str(there.zone) == "Europe/Berlin"
    for name in ("items", "judgments", "truth_items", "truth_pictures"):
        mine, theirs = (
            found if isinstance(found, list) else [found] for found in (getattr(shop, name)() for shop in (here, there))
        )
        assert [str(file) for file in theirs] == [str(file).replace(str(folder), bucket) for file in mine], name
    assert there.digest_items() == here.digest_items()
    assert there.digest_click_log(DAYS) == here.digest_click_log(DAYS)
    assert there.digest_judgments_and_truth(DAYS) == here.digest_judgments_and_truth(DAYS)
    (file,), (copy,) = there.click_log(LAST_DAY), here.click_log(LAST_DAY)
    assert read_whole_table("click_log", file) == read_whole_table("click_log", copy)
    judgments = [there.judgments(), here.judgments()]
    assert [list(iterate_lines(file)) for file in judgments if file] == 2 * [list(iterate_lines(judgments[1]))]  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(file)).read_bytes() == Path(str(copy)).read_bytes()


def shop_section(root: str, **more: object) -> dict[str, object]:
    return {"root": root, "visual_departments": ["Clothing"], **more}


def test_lines_are_read_in_stretches(reachable: dict[str, str]) -> None:
    url, content = f"s3://{BUCKET}/{uuid.uuid4().hex}.jsonl", b"".join(b'{"n": %d}\n' % n for n in range(100))
    put(reachable, url, content)
    file = place_of(url.rpartition("/")[0]) / url.rpartition("/")[2]
    half = len(content) // 2
    whole = [line for _, line in iterate_lines(file)]
    assert [
        line for start, stop in ((0, half), (half, None)) for _, line in iterate_lines(file, start=start, stop=stop)
    ] == whole
    assert count_lines([file]) == 100


def test_an_object_is_known_again_by_its_etag_and_not_read_twice(
    bucket: str, reachable: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    shop = ShopInputs(place_of(bucket))
    first, read, opened = shop.digest_items(), ObjectPath.open, list[str]()

    def noted(path: ObjectPath, *arguments: Any) -> Any:
        opened.append(path.name)
        return read(path, *arguments)

    monkeypatch.setattr(ObjectPath, "open", noted)
    assert shop.digest_items() == first
    assert "items.parquet" not in opened
    changed = bytearray((shop.root / "items.parquet").read_bytes())
    changed[100] ^= 1
    put(reachable, f"{bucket}/items.parquet", bytes(changed))
    assert shop.digest_items() != first


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_are_read_by_name(
    zipped: bool, reachable: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    if zipped:
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
            for picture in (folder / "pictures").iterdir():
                archive.write(picture, picture.name)
        url = upload_folder(reachable, tmp_path, f"shops/{uuid.uuid4().hex}")
    else:
        url = upload_folder(reachable, folder, f"shops/{uuid.uuid4().hex}")
    store = ShopInputs(place_of(url)).pictures()
    names = ["000.jpg", "50% off #1 ä.jpg"]
    with store.opened(maximum_bytes=100_000) as read:
        assert [read(name) for name in names] == [(folder / "pictures" / name).read_bytes() for name in names]
        for name in ("none.jpg", "../items.parquet", "/items.parquet", ""):
            with pytest.raises(UnusablePicture, match="missing_file"):
                read(name)
    with store.opened(maximum_bytes=10) as read, pytest.raises(UnusablePicture, match="too_large"):
        read("000.jpg")
    before = store.digest()
    assert store.digest() == before
    if not zipped:
        assert store.uri("000.jpg") == f"{url}/pictures/000.jpg"
        put(reachable, f"{url}/pictures/000.jpg", b"another")
        assert store.digest() != before


def run_command(*arguments: str, patch: pytest.MonkeyPatch) -> object:
    patch.setattr("sys.argv", ["smar", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_shop_check_says_of_a_bucket_what_it_says_of_a_folder(
    bucket: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    said = []
    for place in (str(folder), bucket):
        code = run_command("shop", "check", place, patch=monkeypatch)
        said.append((code, capsys.readouterr().out.replace(place, "SHOP")))
    assert said[0] == said[1]


def test_a_damaged_object_is_named_by_its_url(
    bucket: str,
    reachable: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    put(reachable, f"{bucket}/items.parquet", b"PAR1 and no more")
    assert run_command("shop", "check", bucket, patch=monkeypatch) == 2
    assert f"{bucket}/items.parquet: not a readable Parquet file" in capsys.readouterr().out


@pytest.mark.parametrize("replace", [lambda v, u: put(v, u, b"x" * 9_000_000), remove])
def test_an_object_that_changes_while_it_is_read_is_named(
    replace: Callable[[dict[str, str], str], None], reachable: dict[str, str]
) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    file = ObjectPath(url) / "a.bin"
    put(reachable, str(file), bytes(9_000_000))
    with file.open() as opened:
        opened.read(1_000)
        replace(reachable, str(file))
        with pytest.raises(NoAnswer, match=f"^{file}: was replaced or removed while it was read"):
            opened.read()


def test_a_parquet_file_that_changes_while_it_is_read_is_named(reachable: dict[str, str], folder: Path) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    file = ObjectPath(url) / "items.parquet"
    put(reachable, str(file), (folder / "items.parquet").read_bytes())
    (pinned,) = file.parent.iterdir()
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(folder / "items.parquet").slice(1), sink)
    put(reachable, str(file), sink.getvalue().to_pybytes())
    with pytest.raises(NoAnswer, match=f"^{file}: was replaced"):
        read_whole_table("items", pinned)


def test_a_bucket_that_there_is_not_and_a_prefix_without_a_shop_are_named(
    reachable: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    assert run_command("shop", "check", "s3://no-such-bucket/shop", patch=monkeypatch) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "s3://no-such-bucket/shop: the object store refuses" in error and "check setting shop.root, the keys" in error
    )
    assert run_command("shop", "check", f"s3://{BUCKET}/nothing-here", patch=monkeypatch) == 2
    assert f"s3://{BUCKET}/nothing-here: no object has a name that begins so" in capsys.readouterr().out


def test_wrong_keys_and_a_store_that_is_away_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    with running_s3() as variables:
        url = upload_folder(variables, folder, f"shops/{uuid.uuid4().hex}")
        # From here on the server looks at keys, and knows none.
        urllib.request.urlopen(
            urllib.request.Request(
                f"{variables['AWS_ENDPOINT_URL']}/moto-api/reset-auth",
                data=b"0",
                headers={"Content-Type": "text/plain"},
            )
        )
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert run_command("shop", "check", url, patch=monkeypatch) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert (
            error.startswith(f"smar: {url}: the object store refuses (")
            or f"{url}: the object store refuses (" in error
        )
        assert "check setting shop.root, the keys and the address in the environment" in error
    monkeypatch.setattr(object_store, "RETRIES", {"max_retries": 1})
    assert run_command("shop", "check", f"{url}/away", patch=monkeypatch) == 1
    assert f"{url}/away: the object store does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_day_is_complete_once_its_marker_is_there(
    kind: str, folder: Path, reachable: dict[str, str], tmp_path: Path
) -> None:
    if kind == "bucket":
        url = upload_folder(reachable, folder, f"shops/{uuid.uuid4().hex}")
        put(reachable, f"{url}/click_log/dt={LAST_DAY}/_SUCCESS", b"")
        root = place_of(url)
    else:
        root = write_tiny_shop(tmp_path / "shop")
        (root / "click_log" / f"dt={LAST_DAY}" / "_SUCCESS").touch()
    shop = ShopInputs(root, complete_day=CompleteDay(marker="_SUCCESS"))
    assert shop.incomplete_days(DAYS) == dict.fromkeys(DAYS[:-1], "has no _SUCCESS")
    assert ShopInputs(root).incomplete_days(DAYS) == {}


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_day_is_complete_once_nothing_was_written_to_it_for_a_while(
    kind: str, folder: Path, reachable: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "bucket":
        root = place_of(upload_folder(reachable, folder, f"shops/{uuid.uuid4().hex}"))
    else:
        root = write_tiny_shop(tmp_path / "shop")
    later = LAST_DAY + timedelta(days=1)
    shop = ShopInputs(root, complete_day=CompleteDay(quiet_minutes=60))
    found = shop.incomplete_days([*DAYS, later])
    assert found.pop(later) == "has no file"
    assert found == dict.fromkeys(DAYS, "was written to 0 minutes ago, less than 60")
    now = os.stat(tmp_path).st_mtime
    monkeypatch.setattr("smar_model.delivery.shop_inputs.time.time", lambda: now + 61 * 60)
    assert shop.incomplete_days(DAYS) == {}


def test_shop_check_names_a_day_that_is_not_complete_and_does_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    root = write_tiny_shop(tmp_path / "shop")
    for day in DAYS[:-1]:
        (root / "click_log" / f"dt={day}" / "complete.flag").touch()
    (root / "click_log" / f"dt={LAST_DAY}" / "part-0.parquet").write_bytes(b"half of it")
    settings = tmp_path / "settings.yaml"
    section = shop_section(str(root), complete_day={"marker": "complete.flag"})
    settings.write_text(
        json.dumps(tiny_settings(root, shop=section, window={"days": 2}).model_dump(mode="json")), encoding="utf-8"
    )
    code = run_command("shop", "check", str(root), "--settings", str(settings), patch=monkeypatch)
    said = capsys.readouterr().out
    assert f"dt={LAST_DAY}: is not complete, so it is not read: it has no complete.flag" in said
    assert f"not complete, and not read: {LAST_DAY}" in said
    assert code in {0, None}, said


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (shop_section("https://example.com/shop"), "an object store is named by a URL of s3://, gs://, az://"),
        (shop_section("s3://bucket/shop?x=1"), "as in s3://bucket/prefix"),
        (
            shop_section("s3://bucket", kind="sample", simulation={}),
            "only one of kind 'own' may lie in an object store",
        ),
        (shop_section("s3://key:word@bucket/shop"), "holds a password or key"),
        (shop_section("shop", complete_day={}), "set one of marker and quiet_minutes"),
        (shop_section("shop", complete_day={"marker": "a/b"}), "marker"),
    ],
)
def test_a_root_and_a_rule_that_cannot_be_are_refused(section: dict[str, object], message: str, tmp_path: Path) -> None:
    from smar_model.settings import load_settings

    file = tmp_path / "settings.yaml"
    content = tiny_settings(tmp_path).model_dump(mode="json") | {"shop": section}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_settings(file)
