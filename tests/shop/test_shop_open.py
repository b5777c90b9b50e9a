from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from published_layouts import write_fashion_archive, write_grocery_folder

from smar_model.errors import InputError
from smar_model.settings import REPOSITORY, Settings, load_settings, validate_settings
from smar_model.shop.open_shop import log_day, make_shop, open_shop
from tests.patience import PATIENCE_SECONDS, wait_until

DAY = date(2026, 11, 19)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SMAR_REAL_DATA", raising=False)
    return tmp_path / "home"


def settings(**shop) -> Settings:
    content = yaml.safe_load((REPOSITORY / "configs" / "sample_shop.yaml").read_text(encoding="utf-8"))
    simulation = {"seed": 7, "items": 60, "requests_per_day": 80, "masked": {"colour": 0.5}, "faults": 0.05}
    content["shop"] |= {"root": "shop", "simulation": simulation, **shop}
    content["window"] = {"days": 2, "evaluation_days": 1}
    return validate_settings(content, source="test")


def real_settings(**simulation) -> Settings:
    simulation = {"seed": 1, "items": 6, "requests_per_day": 40, "masked": {"colour": 0.5}, **simulation}
    return settings(
        kind="real_products", visual_departments=["Apparel", "Accessories", "Footwear"], simulation=simulation
    )


def quiet(message: str) -> None:
    pass


def content(root: Path) -> dict[str, str]:
    """Digest of each file of a shop, besides its lock."""
    files = (f for f in root.rglob("*") if f.is_file() and f.name != ".lock")
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_sample_shop_is_made_once_and_completed_day_by_day(home):
    first = open_shop(settings(), day=DAY, report=quiet)
    assert first.made
    assert first.days_written == first.days == [date(2026, 11, 18), DAY]
    before = content(home / "shop")
    stamps = {f: f.stat().st_mtime_ns for f in (home / "shop").rglob("*.parquet")}

    again = open_shop(settings(), day=DAY, report=quiet)
    assert not again.made
    assert again.days_written == []
    assert {f: f.stat().st_mtime_ns for f in (home / "shop").rglob("*.parquet")} == stamps

    later = open_shop(settings(), day=date(2026, 11, 20), window_days=3, report=quiet)
    assert later.days_written == [date(2026, 11, 20)]
    after = content(home / "shop")
    assert {name: after[name] for name in before} == before


def test_changed_simulation_makes_another_shop(home):
    open_shop(settings(), day=DAY, report=quiet)
    before = content(home / "shop")
    changed = settings(simulation={"seed": 8, "items": 50, "requests_per_day": 80})
    opened = open_shop(changed, day=DAY, window_days=1, report=quiet)
    assert opened.made
    after = content(home / "shop")
    assert after["items.parquet"] != before["items.parquet"]
    assert not (home / "shop" / "click_log" / "dt=2026-11-18").exists(), "the former shop's log goes with it"
    assert open_shop(settings(), day=DAY, report=quiet).made
    assert content(home / "shop") == before


def test_bytes_do_not_depend_on_the_process(home, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings().model_dump(mode="json")), encoding="utf-8")
    shops = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "SMAR_HOME": str(tmp_path / hash_seed), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "smar_model.cli", "shop", "open", "--settings", path, "--date", str(DAY)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        shops.append(content(tmp_path / hash_seed / "shop"))
    assert shops[0] == shops[1]
    assert len(shops[0]) > 60


class PowerCutError(BaseException):
    """Ends the process here, as far as the code can tell."""


@pytest.mark.parametrize("steps", [1, 5, 40, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77])
def test_interrupted_at_any_step_is_completed_to_the_same_bytes(home, monkeypatch, tmp_path_factory, steps):
    """Everything becomes visible by renaming: the power is cut at one of the renamings."""
    whole = settings()
    renamed = 0
    real = {name: getattr(os, name) for name in ("rename", "replace")}

    def failing(name):
        def rename(*arguments, **options):
            nonlocal renamed
            renamed += 1
            if renamed == steps:
                raise PowerCutError
            return real[name](*arguments, **options)

        return rename

    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(os, name, failing(name))
        try:
            open_shop(whole, day=DAY, report=quiet)
            assert steps > 70, "the last steps may lie beyond the end"
        except PowerCutError:
            pass
    open_shop(whole, day=DAY, report=quiet)
    interrupted = content(home / "shop")

    monkeypatch.setenv("SMAR_HOME", str(tmp_path_factory.mktemp("untouched")))
    clean = open_shop(whole, day=DAY, report=quiet)
    assert interrupted == content(clean.root)


def test_killed_while_it_writes_days_is_completed_to_the_same_bytes(home, tmp_path):
    path = tmp_path / "settings.yaml"
    large = settings(simulation={"seed": 7, "items": 60, "requests_per_day": 2_000})
    path.write_text(yaml.safe_dump(large.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "-m", "smar_model.cli", "shop", "open", "--settings", path, "--date", str(DAY)]
    command += ["--window-days", "40"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL)
    log = home / "shop" / "click_log"
    wait_until(lambda: list(log.glob("dt=*")), still_possible=lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must not have finished"
    complete = {f.parent.name for f in log.glob("dt=*/part-0.parquet")}
    assert complete == {f.name for f in log.glob("dt=*")}
    assert 0 < len(complete) < 40

    last = date.fromisoformat(min(complete).removeprefix("dt="))
    next_days = open_shop(large, day=date.fromordinal(last.toordinal() + 3), window_days=4, report=quiet)
    assert not next_days.made
    finished = content(home / "shop")
    shutil.rmtree(home / "shop")
    open_shop(large, day=next_days.days[-1], window_days=4, report=quiet)
    for name, digest in content(home / "shop").items():
        assert finished[name] == digest


def test_settings_that_ship_are_valid_simulations():
    for name in ("sample_shop", "real_products", "real_photographs", "paper_smar", "gpu_real_products"):
        assert load_settings(REPOSITORY / "configs" / f"{name}.yaml").shop.simulation


def test_own_shop_is_only_checked(home):
    made = open_shop(settings(), day=DAY, report=quiet)
    (made.root / "shop.json").unlink()
    before = content(made.root)
    own = settings(kind="own", simulation=None)
    assert open_shop(own, day=DAY, report=quiet).days_written == []
    assert content(made.root) == before
    with pytest.raises(InputError, match="dt=2026-11-20: no Parquet file for this day"):
        open_shop(own, day=date(2026, 11, 20), report=quiet)
    assert content(made.root) == before


def test_everything_that_an_own_shop_lacks_is_named_at_once(home):
    with pytest.raises(InputError) as raised:
        open_shop(settings(kind="own", simulation=None), day=DAY, report=quiet)
    for name in ("items.parquet", "pictures", "dt=2026-11-18", "dt=2026-11-19"):
        assert name in str(raised.value)


def test_own_files_are_never_overwritten(home):
    delivered = home / "shop" / "items.parquet"
    delivered.parent.mkdir(parents=True)
    delivered.write_bytes(b"somebody's catalogue")
    with pytest.raises(InputError, match=r"holds items\.parquet that were not made by"):
        open_shop(settings(), day=DAY, report=quiet)
    assert delivered.read_bytes() == b"somebody's catalogue"
    with pytest.raises(InputError, match=r"shop\.kind is 'own'"):
        make_shop(settings(kind="own"))


def test_missing_simulation_is_named():
    with pytest.raises(InputError, match=r"shop\.simulation is missing"):
        open_shop(settings(simulation=None), day=DAY, report=quiet)


def test_real_products_come_from_both_sources(home, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="SMAR_REAL_DATA is not set"):
        open_shop(real_settings(), day=DAY, report=quiet)
    monkeypatch.setenv("SMAR_REAL_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match="fashion-product-images-small: no such folder"):
        open_shop(real_settings(), day=DAY, report=quiet)
    (tmp_path / "data" / "fashion-product-images-small").mkdir(parents=True)
    archive = write_fashion_archive(tmp_path / "data" / "fashion-product-images-small" / "archive.zip")
    write_grocery_folder(tmp_path / "data" / "grocery-store")

    assert open_shop(real_settings(), day=DAY, report=quiet).made
    ids = [line for line in content(home / "shop") if line.startswith("pictures/")]
    assert sum("pictures/fashion/" in i for i in ids) == 6
    assert sum("pictures/grocery/" in i for i in ids) == 5
    assert not open_shop(real_settings(), day=DAY, report=quiet).made

    with pytest.raises(InputError, match="fashion-product-images-224: no such folder"):
        open_shop(real_settings(archive="fashion-product-images-224"), day=DAY, report=quiet)
    # What is made already needs no source, but another source makes another shop.
    monkeypatch.delenv("SMAR_REAL_DATA")
    assert not open_shop(real_settings(), day=DAY, report=quiet).made
    monkeypatch.setenv("SMAR_REAL_DATA", str(tmp_path / "data"))
    archive.unlink()
    write_fashion_archive(archive, without=("1165",))
    assert open_shop(real_settings(), day=DAY, report=quiet).made


def test_cut_off_archive_leaves_the_former_shop(home, tmp_path, monkeypatch):
    monkeypatch.setenv("SMAR_REAL_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "fashion-product-images-small").mkdir(parents=True)
    archive = write_fashion_archive(tmp_path / "data" / "fashion-product-images-small" / "archive.zip")
    write_grocery_folder(tmp_path / "data" / "grocery-store")
    open_shop(real_settings(), day=DAY, report=quiet)
    before = content(home / "shop")
    archive.write_bytes(archive.read_bytes()[:2_000])
    with pytest.raises(InputError, match=r"archive\.zip: not a whole zip file"):
        open_shop(real_settings(), day=DAY, report=quiet)
    assert content(home / "shop") == before


def test_log_writes_one_day_again_with_the_same_bytes(home):
    open_shop(settings(), day=DAY, report=quiet)
    before = content(home / "shop")
    counts = log_day(settings(), day=DAY)
    assert counts["requests"] == 80
    assert content(home / "shop") == before
    log_day(settings(), day=date(2026, 12, 1))
    assert len(content(home / "shop")) == len(before) + 2
