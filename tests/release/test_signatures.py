"""A registry that was attacked, and what is signed against it: real registry (SQLite), models, indexes and keys."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from smar_model.cli import app
from smar_model.errors import InputError
from smar_model.lake.release_copies import released_folder
from smar_model.lake.runs import Run
from smar_model.release import sign as signing
from smar_model.release.history import read_history
from smar_model.release.promote import promote_run
from smar_model.release.reconcile import reconcile
from smar_model.release.register import register_run
from smar_model.release.registry import CANNOT_SERVE, CHAMPION, Registry, source_tag
from smar_model.release.search_answer import SearchQuestion
from smar_model.release.search_release import search_release
from smar_model.release.start import start_run
from smar_model.serving.follower import Follower
from smar_model.serving.metrics import Metrics
from tests.release.judged_runs import judged_run, refreshed_index, write_settings
from tests.tiny_shop import LAST_DAY, write_tiny_shop

RELEASED: dict[Literal["model", "index"], str] = {
    "model": "weights.safetensors",
    "index": "index_items/part-0.parquet",
}
"""A file of each of the two folders that stages read of a release."""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Version 1 is the champion; version 2 waits for promotion, and is what is attacked."""

    home: Path
    settings_file: Path
    first: Run
    second: Run
    marker: Path
    """Where the attacker's code writes when it is run."""

    @property
    def registry(self) -> Registry:
        return Registry(self.first.settings)

    def folder(self, version: str) -> Path:
        return Path(self.registry.client.get_model_version_download_uri("smar", version).removeprefix("file://"))

    @property
    def code(self) -> str:
        return f"open({str(self.marker)!r}, 'w').close()\n"

    def run_smar(self, *arguments: str) -> BaseException | None:
        return CliRunner().invoke(app, list(arguments)).exception


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        write_tiny_shop(home / "shop")
        first = judged_run(home, "first", seed=1, drawn=False)
        register_run(first)
        assert promote_run(first) == "promoted"
        second = judged_run(home, "second", seed=2)
        register_run(second)
        settings = write_settings(home)
        yield Attacked(home=home, settings_file=settings, first=first, second=second, marker=home / "was-run")


@pytest.fixture
def shop(made: Attacked, tmp_path: Path) -> Iterator[Attacked]:
    """Afterwards all is as it was."""
    folders = {version: made.folder(version) for version in ("1", "2")}
    tags = {version: dict(made.registry.version(version).tags) for version in folders}
    kept = {**folders, "keys": made.home / "keys", "second": made.second.folder}
    for name, folder in kept.items():
        shutil.copytree(folder, tmp_path / name) if folder.is_dir() else None
    yield made
    for name, folder in kept.items():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / name, folder) if (tmp_path / name).is_dir() else None
    for version, before in tags.items():
        for tag in made.registry.version(version).tags.keys() - before.keys():
            made.registry.client.delete_model_version_tag("smar", version, tag)
        for tag, value in before.items():
            made.registry.tag(version, tag, value)
    made.registry.client.set_registered_model_alias("smar", CHAMPION, "1")
    made.marker.unlink(missing_ok=True)


def code_appended(shop: Attacked) -> None:
    with (shop.folder("2") / "pyfunc_model.py").open("a", encoding="utf-8") as file:
        file.write(shop.code)


def bytecode_put_beside(shop: Attacked) -> None:
    cached = shop.folder("2") / "__pycache__"
    shutil.rmtree(cached) if cached.is_dir() else cached.unlink(missing_ok=True)
    cached.mkdir()
    (cached / "pyfunc_model.cpython-311.pyc").write_bytes(b"anything")


def another_loader(shop: Attacked) -> None:
    folder = shop.folder("2")
    (folder / "code").mkdir()
    (folder / "code" / "loads.py").write_text(f"def _load_pyfunc(path):\n    {shop.code}", encoding="utf-8")
    content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    content["flavors"]["python_function"] |= {"loader_module": "loads", "code": "code"}
    (folder / "MLmodel").write_text(yaml.safe_dump(content), encoding="utf-8")


def packages_added(shop: Attacked) -> None:
    with (shop.folder("2") / "requirements.txt").open("a", encoding="utf-8") as file:
        file.write("another-package==1.0\n")


def settings_edited(shop: Attacked) -> None:
    file = shop.folder("2") / "artifacts" / "settings.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["shop"]["root"] = "/etc"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def file_added(shop: Attacked) -> None:
    (shop.folder("2") / "sitecustomize.py").write_text(shop.code, encoding="utf-8")


def hidden_file_added(shop: Attacked) -> None:
    (shop.folder("2") / "artifacts" / "model" / ".hidden.py").write_text(shop.code, encoding="utf-8")


def folder_linked(shop: Attacked) -> None:
    (shop.folder("2") / "code").symlink_to(shop.home / "shop")


def byte_flipped_and_time_kept(shop: Attacked) -> None:
    file = shop.folder("2") / "artifacts" / "report.html"
    content, status = bytearray(file.read_bytes()), file.stat()
    content[100] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def signed_by_another_key(shop: Attacked) -> None:
    from smar_model.lake.release_manifest import make_manifest, sign_manifest

    code_appended(shop)
    folder = shop.folder("2")
    about = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    about.pop("files")
    own = shop.home / "keys"
    own.rename(shop.home / "kept")
    try:
        sign_manifest(folder, make_manifest(folder, about))  # a key is made for it
    finally:
        shutil.rmtree(own)
        (shop.home / "kept").rename(own)


def signed_by_us_as_something_else(shop: Attacked) -> None:
    """Whoever can have a manifest signed, but cannot write into the lake."""
    from smar_model.lake.release_manifest import make_manifest, sign_manifest

    code_appended(shop)
    folder = shop.folder("2")
    about = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    sign_manifest(folder, make_manifest(folder, about | {"files": {}}))


def signature_of_another_version(shop: Attacked) -> None:
    for name in ("release.json", "release.sig"):
        shutil.copyfile(shop.folder("1") / name, shop.folder("2") / name)


def all_files_of_another_version(shop: Attacked) -> None:
    shutil.rmtree(shop.folder("2"))
    shutil.copytree(shop.folder("1"), shop.folder("2"))


def stripped_of_its_signature(shop: Attacked) -> None:
    code_appended(shop)
    for name in ("release.json", "release.sig"):
        (shop.folder("2") / name).unlink(missing_ok=True)
    shop.registry.client.delete_model_version_tag("smar", "2", "smar.release_digest")


def stripped_with_all_records_of_it(shop: Attacked) -> None:
    """Whoever can write into the lake, but has left the tag."""
    code_appended(shop)
    for name in ("release.json", "release.sig"):
        (shop.folder("2") / name).unlink(missing_ok=True)
    (shop.second.folder / "release.json").unlink(missing_ok=True)
    state = json.loads((shop.second.folder / "register.json").read_text(encoding="utf-8"))
    state.pop("release_digest", None)
    (shop.second.folder / "register.json").write_text(json.dumps(state), encoding="utf-8")


def index_elsewhere(shop: Attacked) -> None:
    shop.registry.tag("2", "index_source", "http://127.0.0.1:9/index")


def index_behind_a_key(shop: Attacked) -> None:
    shop.registry.tag("2", "index_source", "s3://KEY:hush@bucket/index")


def signature_alone_removed(shop: Attacked) -> None:
    (shop.folder("2") / "release.sig").unlink(missing_ok=True)


def unsigned_index(shop: Attacked) -> None:
    """An index of this very model in the lake, under its right digest, that nobody has published."""
    build = refreshed_index(shop.home, shop.second, "unpublished")
    shop.registry.tag("2", source_tag(build.digest), build.folder.as_uri())
    shop.registry.tag("2", "index", build.digest)


def later_cutoff(shop: Attacked) -> None:
    shop.registry.tag("2", "smar.cutoff", "2020-01-01T00:00:00+00:00")


ATTACKS: dict[Callable[[Attacked], None], str] = {
    code_appended: "pyfunc_model.py: damaged, or changed after it was signed",
    bytecode_put_beside: "__pycache__: gone, a file of this release",
    another_loader: "code/loads.py: no file of this release",
    packages_added: "requirements.txt: damaged, or changed",
    settings_edited: "settings.yaml: damaged, or changed",
    file_added: "sitecustomize.py: no file of this release",
    hidden_file_added: ".hidden.py: no file of this release",
    folder_linked: "code: a link or a device",
    byte_flipped_and_time_kept: "report.html: damaged, or changed",
    signed_by_another_key: "which is not among the trusted ones",
    signed_by_us_as_something_else: "not the manifest that run second recorded",
    signature_of_another_version: "signed for the run 'first'",
    all_files_of_another_version: "signed for the run 'first'",
    stripped_of_its_signature: "release.json: gone; this release was signed",
    stripped_with_all_records_of_it: "release.json: gone; this release was signed, as its tag",
    index_elsewhere: "no place where MLflow keeps what is registered",
    index_behind_a_key: "s3://KEY:***@bucket/index: no place where MLflow keeps what is registered",
    signature_alone_removed: "release.sig: missing or not readable",
    unsigned_index: "has no signature",
    later_cutoff: "signed for the cutoff",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_is_not_as_it_was_signed_is_refused_everywhere_and_the_last_good_release_goes_on(
    shop: Attacked, attack: Callable[[Attacked], None], capsys: pytest.CaptureFixture[str]
) -> None:
    says = ATTACKS[attack]
    attack(shop)
    refused = shop.run_smar("promote", "--run", "second")
    assert isinstance(refused, InputError) and says in str(refused), refused
    assert len(str(refused).splitlines()) == 1
    state = shop.second.state("promote")
    assert state and state["state"] == "failed" and says in state["message"]
    assert shop.registry.aliased(CHAMPION) == "1"

    shop.registry.client.set_registered_model_alias("smar", CHAMPION, "2")
    with pytest.raises(InputError, match="version 1 goes on serving") as raised:
        reconcile(shop.first.settings)
    assert says in str(raised.value)
    assert says in shop.registry.version("2").tags[CANNOT_SERVE]
    assert {entry["to"] for entry in read_history("smar")} == {"1"}

    assert search_release(shop.first.settings, SearchQuestion(query="red shirt", k=3))["version"] == "1"
    assert says in capsys.readouterr().err
    follower = Follower(settings=shop.first.settings, metrics=Metrics(), poll_seconds=60, others_kept=1)
    follower.look()
    assert follower.champion and follower.champion.version == "1"
    assert follower.reload_problem and says in follower.reload_problem
    run = start_run(
        settings_path=shop.settings_file, name=attack.__name__, day=LAST_DAY, promotion="automatic", steps=()
    )
    assert run.champion and run.champion.version == "1"
    assert not shop.marker.exists(), "the version's code was run"


def test_a_champion_that_was_verified_before_is_verified_again(shop: Attacked) -> None:
    reconcile(shop.first.settings)
    with (shop.folder("1") / "pyfunc_model.py").open("a", encoding="utf-8") as file:
        file.write(shop.code)
    with pytest.raises(InputError, match=r"pyfunc_model\.py: damaged.*nothing can serve in its place"):
        reconcile(shop.first.settings)
    assert isinstance(shop.run_smar("champion", "--settings", str(shop.settings_file)), InputError)
    assert not shop.marker.exists()


def test_a_stage_reads_the_release_that_its_run_met_or_none(shop: Attacked) -> None:
    run = start_run(settings_path=shop.settings_file, name="met-1", day=LAST_DAY, promotion="automatic", steps=())
    assert run.champion and run.champion.release_digest
    for what, name in RELEASED.items():
        folder = released_folder(run, run.champion, what)
        file = folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match="damaged") as raised:
            released_folder(run, run.champion, what)
        assert len(str(raised.value).splitlines()) == 1
        file.write_bytes(whole)
        assert released_folder(run, run.champion, what) == folder


def as_before_signatures(shop: Attacked) -> None:
    """Version 2 as register made it at c2b2a72: no manifest, here or in the lake; MLflow has kept bytecode beside its code."""
    folder = shop.folder("2")
    for name in ("release.json", "release.sig", "__pycache__"):
        (folder / name).unlink()
    (shop.second.folder / "release.json").unlink()
    state = json.loads((shop.second.folder / "register.json").read_text(encoding="utf-8"))
    del state["release_digest"]
    (shop.second.folder / "register.json").write_text(json.dumps(state), encoding="utf-8")
    shop.registry.client.delete_model_version_tag("smar", "2", "smar.release_digest")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "pyfunc_model.cpython-311.pyc").write_bytes(b"whatever")


def sign(shop: Attacked, *options: str) -> BaseException | None:
    return shop.run_smar("sign", "--settings", str(shop.settings_file), "--version", "2", "--by", "Ada", *options)


def test_a_release_from_before_signatures_serves_by_its_record_and_is_signed_by_it(shop: Attacked) -> None:
    as_before_signatures(shop)
    assert shop.registry.release("2").release_digest is None
    search_release(shop.first.settings, SearchQuestion(query="red shirt", k=3, version="2"))
    settings = shop.folder("2") / "artifacts" / "settings.yaml"
    whole = settings.read_text(encoding="utf-8")
    settings_edited(shop)
    for refused in (shop.run_smar("promote", "--run", "second"), sign(shop)):
        assert isinstance(refused, InputError) and "not the settings of run second" in str(refused)
    settings.write_text(whole, encoding="utf-8")
    file_added(shop)
    refused = sign(shop)
    assert isinstance(refused, InputError) and "sitecustomize.py: no file of a release; remove it" in str(refused)
    (shop.folder("2") / "sitecustomize.py").unlink()

    code_appended(shop)  # which no record of that time covers: it is not signed, but written anew
    assert sign(shop) is None
    assert shop.code not in (shop.folder("2") / "pyfunc_model.py").read_text(encoding="utf-8")
    assert shop.registry.release("2").release_digest == shop.registry.version("2").tags["smar.release_digest"]
    entry = read_history("smar")[-1]
    assert (entry["action"], entry["to"], entry["by"]) == ("sign", "2", "Ada")
    assert "what run second recorded" in entry["reason"]
    assert "version 2 signed again by Ada" in CliRunner().invoke(app, ["history"]).stdout
    stripped_of_its_signature(shop)
    with pytest.raises(InputError, match="this release was signed"):
        shop.registry.release("2")
    assert not shop.marker.exists()


@pytest.mark.parametrize("content", ["[" * 100_000, "", "a newline more", "another digest"])
def test_a_damaged_record_takes_no_release_away(shop: Attacked, content: str) -> None:
    record = shop.second.folder / "release.json"
    whole = record.read_text(encoding="utf-8")
    other = whole.replace('"sha256":"', '"sha256":"0', 1)
    record.write_text({"a newline more": whole + "\n", "another digest": other}.get(content, content), encoding="utf-8")
    assert shop.registry.release("2").release_digest == shop.registry.version("2").tags["smar.release_digest"]
    assert sign(shop) is None
    assert record.read_text(encoding="utf-8") == whole
    # Nor does its damage make a signed release one from before signatures.
    record.write_text("", encoding="utf-8")
    for name in ("release.json", "release.sig"):
        (shop.folder("2") / name).unlink()
    with pytest.raises(InputError, match="run second signed this release, and the signature is gone"):
        shop.registry.release("2")


def test_a_version_in_a_moved_home_is_signed_where_it_is_read(
    shop: Attacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (shop.folder("1") / name).read_bytes() for name in ("release.json", "release.sig")}
    moved = shutil.copytree(shop.home, tmp_path / "moved")
    monkeypatch.setenv("SMAR_HOME", str(moved))
    (moved / "keys" / "signing_key.pem").unlink()
    options = ("--settings", str(shop.settings_file), "--version", "1", "--by", "Ada")
    assert shop.run_smar("sign", *options) is None
    assert shop.run_smar("search", "red shirt", "--version", "1", "--settings", str(shop.settings_file)) is None
    assert {name: (shop.folder("1") / name).read_bytes() for name in before} == before
    written = moved / shop.folder("1").relative_to(shop.home) / "release.sig"
    assert written.read_bytes() != before["release.sig"]


def test_without_a_record_a_person_vouches_or_nobody(shop: Attacked) -> None:
    as_before_signatures(shop)
    (shop.second.folder / "finetune.json").unlink()
    refused = shop.run_smar("promote", "--run", "second")
    assert isinstance(refused, InputError)
    assert "no record in this lake vouches for it" in str(refused)
    assert "`smar sign --settings FILE --version 2`" in str(refused)
    refused = sign(shop)
    assert isinstance(refused, InputError) and "--without-record" in str(refused)
    assert sign(shop, "--without-record") is None
    assert shop.run_smar("search", "red shirt", "--version", "2", "--settings", str(shop.settings_file)) is None


def test_a_release_whose_key_is_lost_is_trusted_and_one_whose_key_is_removed_is_signed_again(shop: Attacked) -> None:
    keys = shop.home / "keys"
    (keys / "signing_key.pem").unlink()
    shop.registry.release("2")
    (trusted,) = (keys / "trusted").glob("*.pem")
    trusted.unlink()
    refused = shop.run_smar("promote", "--run", "second")
    assert isinstance(refused, InputError) and "not among the trusted ones" in str(refused)
    assert not (keys / "signing_key.pem").exists(), "who reads makes no key"
    weights = shop.folder("2") / "artifacts" / "model" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = sign(shop)
    assert isinstance(refused, InputError) and "weights.safetensors: damaged" in str(refused)
    weights.write_bytes(whole)
    assert sign(shop) is None
    shop.registry.release("2")
    assert len(list((keys / "trusted").glob("*.pem"))) == 1


def test_a_registry_that_holds_a_changed_version_gets_another_one_of_the_run(shop: Attacked) -> None:
    code_appended(shop)
    number = register_run(shop.second)
    assert number != "2"
    assert shop.registry.release(number).release_digest


def test_mlflow_loads_a_signed_version_and_leaves_it_as_it_is(shop: Attacked) -> None:
    import mlflow

    mlflow.set_tracking_uri(shop.first.settings.tracking_uri)
    for _ in range(2):
        mlflow.pyfunc.load_model("models:/smar/2")
    shop.registry.release("2")


def test_signing_that_was_cut_off_is_done_again(shop: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    send = signing._send
    for number in (1, 2, 3):
        as_before_signatures(shop) if number == 1 else None
        sent: list[Path] = []

        def cut_off(
            registry: Registry, release: dict[str, Any], folder: Path, sent: list[Path] = sent, last: int = number
        ) -> None:
            sent.append(folder)
            if len(sent) == last:
                shutil.copyfile(folder / "MLmodel", shop.folder("2") / "MLmodel")
                if (folder / "release.json").exists():
                    shutil.copyfile(folder / "release.json", shop.folder("2") / "release.json")
                raise OSError("the connection was lost")
            send(registry, release, folder)

        with monkeypatch.context() as patch:
            patch.setattr(signing, "_send", cut_off)
            failed = sign(shop)
        assert isinstance(failed, OSError) == (number < 3)
    assert shop.registry.release("2").release_digest
