"""Files that people write, and what they say on the command line: what is wrong is one line that names file and place, and exit code 2."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from smar_model import cli
from smar_model.errors import InputError
from smar_model.evaluation.comparison import Comparison, load_yaml
from smar_model.evaluation.sweep import Sweep
from smar_model.release.start import with_changes
from smar_model.settings import REPOSITORY, home, load_settings, validate_settings
from smar_model.settings.retired import RETIRED
from smar_model.shop.importers.mapped_tables import load_mapping
from tests.tiny_shop import LAST_DAY, tiny_settings, write_pictures, write_tiny_shop

SHOP = "shop: {root: shop, visual_departments: [Clothing]}\n"
STEPS = "{steps: 4, batch: 8}"
TRAINING = f"training: {{adapt_vision: {STEPS}, pretrain: {STEPS}, finetune: {STEPS}}}\n"
WHOLE = SHOP + TRAINING


def smar(*arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what is printed on standard error."""
    monkeypatch.setattr("sys.argv", ["smar", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0, capsys.readouterr().err


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{b}: &{b}\n  <<: [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
WRONG: dict[str, tuple[bytes, str]] = {
    "Latin-1": (WHOLE.encode() + "# für\n".encode("latin-1"), "line 3: not UTF-8 (byte 0xfc)"),
    "UTF-16": (WHOLE.encode("utf-16"), "UTF-16"),
    "empty": (b"", "empty"),
    "comments alone": (b"# nothing\n", "empty"),
    "a list": (b"- shop\n- training\n", "not a list"),
    "a word": (b"settings\n", "not a list or a single value"),
    "two documents": (WHOLE.encode() + b"---\n" + WHOLE.encode(), "line 3: not valid YAML"),
    "a name twice": (
        WHOLE.encode() + b"window: {days: 3}\nwindow: {days: 4}\n",
        "line 4: 'window' stands there twice, first in line 3",
    ),
    "a name twice below": (WHOLE.encode() + b"window:\n  days: 3\n  days: 4\n", "line 5: 'days' stands there twice"),
    "billion laughs": (WHOLE.encode() + BOMB.encode(), "aliases that stand for over"),
    "merged laughs": (WHOLE.encode() + MERGES.encode(), "aliases that stand for over"),
    "an alias of itself": (WHOLE.encode() + b"window: &w [*w]\n", "aliases"),
    "nested": (WHOLE.encode() + b"window: " + b"[" * 1_000 + b"]" * 1_000, "nested too deeply"),
    "a tab": (WHOLE.encode() + b"window:\n\tdays: 3\n", "line 4: not valid YAML"),
    "NaN": (WHOLE.encode() + b"gate: {over_bm25: .nan}\n", "line 3: nan"),
    "infinity": (WHOLE.encode() + b"gate:\n  over_bm25: -.inf\n", "line 4: -inf"),
    "10^30": (WHOLE.encode() + b"window:\n  days: 1000000000000000000000000000000\n", "line 4: a number beyond 10^12"),
    "1.0e+30": (WHOLE.encode() + b"gate:\n  over_bm25: 1.0e+30\n", "line 4: a number beyond 10^12"),
    "a text for infinity": (WHOLE.encode() + b"gate:\n  over_bm25: 1e400\n", "line 4: gate.over_bm25: inf"),
    "a text for no number": (WHOLE.encode() + b"gate:\n  over_bm25: nan\n", "line 4: gate.over_bm25: nan"),
    "1e30": (WHOLE.encode() + b"gate:\n  over_bm25: 1e30\n", "line 4: gate.over_bm25: a number beyond 10^12"),
    "10,000 digits": (WHOLE.encode() + b"window:\n  days: " + b"9" * 10_000, "line 4: "),
    "a number too large for dates": (WHOLE.encode() + b"window:\n  days: 999999999\n", "line 4: window.days"),
    "true for a number": (WHOLE.encode() + b"window:\n  days: true\n", "line 4: window.days"),
    "Norway": (WHOLE.encode() + b"labels:\n  minimum_clicks: no\n", "line 4: labels.minimum_clicks"),
    "true in a list": (WHOLE.encode() + b"labels: {unsure: [false, true]}\n", "line 3: labels.unsure"),
    "null": (b"shop:\ntraining: null\n", "line 1: shop"),
    "no such date": (WHOLE.encode() + b"release: {experiment: 2026-02-30}\n", "line 3: '2026-02-30'"),
    "half a character": (WHOLE.encode() + b'release: {experiment: "\\ud800"}\n', "line 3: half a character"),
    "half a character in a name": (WHOLE.encode() + b'"\\udfff": 1\n', "line 3: half a character"),
    "NUL": (WHOLE.encode() + b'release: {experiment: "a\\0b"}\n', "line 3: a NUL character"),
    "a control character": (WHOLE.encode() + b"release: {experiment: a\x07b}\n", "line 3: not valid YAML"),
    "an escaped one": (
        WHOLE.encode() + b'release: {experiment: "a\\x07b"}\n',
        "line 3: release.experiment: a control character",
    ),
    "a Python object": (WHOLE.encode() + b"release: !!python/object/apply:os.getcwd []\n", "line 3: not valid YAML"),
    "a list for a name": (WHOLE.encode() + b"? [a, b]\n: 1\n", "line 3: a name is asked for"),
    "a path for a name": (WHOLE.encode() + b"release: {model: ../../champion}\n", "line 3: release.model"),
    "unknown": (WHOLE.encode() + b"window:\n  dys: 3\n", "line 4: window.dys"),
    "too large": (WHOLE.encode() + b"#" * 1_000_001, "larger than 1,000,000 bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_settings_file_is_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    content, expected = WRONG[kind]
    file = tmp_path / "shop.yaml"
    file.write_bytes(content)
    code, said = smar("champion", "--settings", file, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert said.count("\n") == 1 and said.startswith(f"error: {file}"), said
    assert expected in said


def test_what_is_no_file_is_one_line_and_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 30)
    for path in ("", "pipe", "loop", "large", "none.yaml", "large/none.yaml", "x" * 300, "/dev/zero", "/dev/null"):
        code, said = smar("champion", "--settings", tmp_path / path, monkeypatch=monkeypatch, capsys=capsys)
        assert (code, said.count("\n")) == (2, 1), said
        assert str(tmp_path / path) in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(WHOLE)
    file.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        load_settings(file)


def test_aliases_and_merged_sections_do_what_they_do_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(
        SHOP
        + "training:\n  adapt_vision: &steps {steps: 4, batch: 8}\n  pretrain: *steps\n  finetune: {<<: *steps, steps: 5}\n",
        encoding="utf-8-sig",
    )
    training = load_settings(file).training
    assert (training.pretrain.steps, training.finetune.steps, training.finetune.batch) == (4, 5, 8)


def test_comparisons_sweeps_and_mappings_are_read_alike(tmp_path: Path) -> None:
    twice, folder = tmp_path / "twice.yaml", tmp_path / "folder"
    twice.write_text("source: mine\nseeds: [0]\nseeds: [1]\n")
    folder.mkdir()
    for load in (lambda f: load_yaml(Comparison, f), lambda f: load_yaml(Sweep, f), load_mapping):
        with pytest.raises(InputError, match=r"twice\.yaml, line 3: 'seeds' stands there twice"):
            load(twice)
        with pytest.raises(InputError, match="folder"):
            load(folder)


@pytest.mark.parametrize(
    "change",
    [
        "training.seed=.nan",
        "training.seed=true",
        "window.days=999999999",
        "training.seed=[1",
        "training.seed=1e30",
        'release.model="\\ud800"',
        "training.seed=&a [*a]",
        "training.seed={a: 1, a: 2}",
    ],
)
def test_a_wrong_change_of_a_setting_is_named(change: str) -> None:
    with pytest.raises(InputError, match=r"^--set.*" + change.partition("=")[0].rpartition(".")[2]) as refused:
        with_changes(tiny_settings(Path("shop")), [change])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "2026-02-30", "yesterday", "1e9", ""])
def test_an_odd_date_is_one_line(
    day: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    settings = REPOSITORY / "configs" / "sample_shop.yaml"
    code, said = smar(
        "start", "--settings", settings, "--run", "day", "--date", day, monkeypatch=monkeypatch, capsys=capsys
    )
    assert (code, said.count("\n")) == (2, 1), said


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "ü", "x" * 200, "a\nb", "%2F"])
def test_an_odd_run_name_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    settings = REPOSITORY / "configs" / "sample_shop.yaml"
    code, said = smar(
        "start", "--settings", settings, "--run", name, "--date", LAST_DAY, monkeypatch=monkeypatch, capsys=capsys
    )
    assert (code, said.count("\n")) == (2, 1), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["feature%2Fx", "q?x", "a#b", "a*b", "a[1]", "{a}", "a\\b", "a\nb"])
def test_a_home_whose_name_would_be_taken_for_something_else_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / name))
    code, said = smar("history", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, said.count("\n")) == (2, 1), said
    assert "SMAR_HOME" in said
    assert list(tmp_path.iterdir()) == []


def test_a_home_may_have_a_space_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "my shop@2, ü"))
    assert home().name == "my shop@2, ü"


SECRETS = {
    "pictures by key": (["shop", "pictures"], "s3://AKIAKEY:hush/hush+@bucket/pictures"),
    "pictures by encoded key": (["shop", "pictures"], "s3://AKIAKEY%3Ahush@bucket/pictures"),
    "pictures by parameters": (["shop", "pictures"], "s3://bucket/pictures?access_key=AKIAKEY&secret_key=hush"),
    "pictures by SAS": (["shop", "pictures"], "https://account.blob.core.windows.net/pictures?sv=2024&sig=hush%3D"),
    "pictures by signature": (
        ["shop", "pictures"],
        "https://bucket.example.com/?X-Amz-Date=20261129&X-Amz-Signature=hush",
    ),
    "root": (["shop", "root"], "s3://AKIAKEY:hush@bucket/shop"),
    "tracking server": (["release", "tracking_uri"], "http://me:hush@mlflow:5000"),
    "tracking database": (["release", "tracking_uri"], "postgresql+psycopg2://mlflow:hush@postgres/mlflow"),
    "master": (["spark", "master"], "spark://me:hush@spark-master:7077"),
    "an option's URL": (["spark", "options", "spark.hadoop.fs.defaultFS"], "s3a://AKIAKEY:hush@bucket"),
    "an option": (["spark", "options", "spark.hadoop.fs.s3a.secret.key"], "hush"),
    "a long password": (["shop", "pictures"], f"s3://user:hush{'x' * 400}@bucket/pictures"),
    "a password with a quote": (["release", "tracking_uri"], "http://me:pa'hush@mlflow:5000"),
    "an option of an account": (
        ["spark", "options", "spark.hadoop.fs.azure.account.oauth2.client.secret.shop.dfs.core.windows.net"],
        "hush",
    ),
    "a token": (["spark", "options", "spark.kubernetes.authenticate.oauthToken"], "hush"),
    "a command": (["stages", "torchrun", "pretrain"], ["--rdzv-endpoint=http://me:hush@first:29500"]),
    "an encoder": (["network", "text", "pretrained"], "https://me:hush@models.example.com/encoder"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_in_the_settings_is_refused_and_recorded_nowhere(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    place, value = SECRETS[kind]
    content = yaml.safe_load(WHOLE)
    section = content
    for name in place[:-1]:
        section = section.setdefault(name, {})
    section[place[-1]] = value
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(content))
    code, said = smar(
        "start", "--settings", file, "--run", "first", "--date", LAST_DAY, monkeypatch=monkeypatch, capsys=capsys
    )
    assert (code, said.count("\n")) == (2, 1), said
    assert f"{file}, line " in said and ".".join(place) in said and "in the environment" in said
    recorded = "".join(f.read_text() for f in (tmp_path / "home").rglob("*") if f.is_file())
    assert "hush" not in said + recorded
    changed = f"{'.'.join(place)}={json.dumps(value)}"
    if place[0] == "shop":
        with pytest.raises(InputError, match="holds a password or key") as refused:
            with_changes(validate_settings(yaml.safe_load(WHOLE), source="tests"), [changed])
        assert "hush" not in str(refused.value)


def test_what_only_looks_like_a_secret_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    for uri in (
        "postgresql://mlflow@postgres/mlflow",
        "http://mlflow:5000/a@b",
        "http://[::1]:5000",
        "sqlite:////home/a@b/x.db",
    ):
        file.write_text(WHOLE + f"release: {{tracking_uri: {uri!r}}}\n")
        assert load_settings(file).tracking_uri == uri


def test_a_secret_of_the_environment_is_masked_where_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_shop(tmp_path / "shop")
    write_pictures(tmp_path / "shop", {})
    file = tmp_path / "shop.yaml"
    file.write_text(WHOLE.replace("root: shop", f"root: {tmp_path / 'shop'}"))
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SMAR_STORE", "ftp://me:hush@store.example.com/lake")
    arguments = ["start", "--settings", file, "--run", "first", "--date", LAST_DAY]
    code, said = smar(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, said.count("\n")) == (2, 1) and "me:***@store" in said, said
    code, said = smar("serve", "--front", "http://me:hush@part:8000", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, said.count("\n")) == (2, 1) and "me:***@part" in said, said


def test_a_file_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    first, second, own = (tmp_path / name for name in ("first.yaml", "second.yaml", "shop.yaml"))
    first.write_text(
        WHOLE + "gate:\n  guarded_segments: {fashion: 0.01}\n  better_in: [fashion, novel]\nwindow: {days: 4}\n"
    )
    second.write_text(f"base: {first}\nwindow: {{days: 5}}\n")
    own.write_text(f"base: {second}\ngate:\n  guarded_segments: {{novel: 0.02}}\n  better_in: [novel]\n")
    settings = load_settings(own)
    assert settings.window.days == 5 and settings.training == load_settings(first).training
    assert settings.gate.guarded_segments == {"fashion": 0.01, "novel": 0.02}, "sections into sections"
    assert settings.gate.better_in == ("novel",), "a list is another list"
    assert validate_settings(settings.model_dump(mode="json"), source="a record") == settings, "recorded whole"
    assert load_settings(REPOSITORY / "configs" / "paper_smar.yaml").shop.simulation, "named from the checkout's root"


BASED: dict[str, tuple[str, str, str]] = {
    "wrong in the base": ("gate:\n  over_bm25: many\n", "window: {days: 5}\n", "{base}, line 4: gate.over_bm25"),
    "wrong in the file": ("window: {days: 4}\n", "\nwindow:\n  days: 0\n", "{own}, line 4: window.days"),
    "unknown in the base": ("window:\n  dys: 4\n", "window: {days: 5}\n", "{base}, line 4: window.dys"),
    "a secret in the base": (
        "release: {tracking_uri: 'http://me:hush@mlflow'}\n",
        "",
        "{base}, line 3: release.tracking_uri",
    ),
    "YAML of the base": ("window: [1\n", "", "{base}, line 4: not valid YAML"),
    "a circle": ("base: {own}\n", "", "{base}, line 3: base: {own} is itself based on {base}"),
}


@pytest.mark.parametrize("kind", BASED)
def test_what_is_wrong_is_named_in_the_file_where_it_stands(kind: str, tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "shop.yaml"
    below, above, said = BASED[kind]
    base.write_text(WHOLE + below.replace("{own}", str(own)))
    own.write_text(f"base: {base}\n{above}")
    with pytest.raises(InputError) as refused:
        load_settings(own)
    assert str(refused.value).startswith(said.format(base=base, own=own)), refused.value
    assert "\n" not in str(refused.value)


def test_a_base_that_is_missing_or_no_name_is_one_line(tmp_path: Path) -> None:
    own = tmp_path / "shop.yaml"
    own.write_text("window: {days: 4}\nbase: configs/nowhere.yaml\n")
    with pytest.raises(
        InputError, match=r"^[^\n]*configs/nowhere\.yaml: no such file; .*shop\.yaml, line 2: base names it[^\n]*$"
    ):
        load_settings(own)
    own.write_text("base: [configs/sample_shop.yaml]\n")
    with pytest.raises(InputError, match=r"shop\.yaml, line 1: base: name a settings file by its path"):
        load_settings(own)
    own.write_text(f"base: {own}\n")
    with pytest.raises(InputError, match=r"shop\.yaml, line 1: base: .* is itself based on"):
        load_settings(own)


def test_a_setting_that_is_a_constant_now_may_still_be_named_with_its_value(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(
        WHOLE.replace("training: {", "training: {text_only_steps: 1, ") + "clicks: {bot_clicks: 5, sample_share: 0.5}\n"
    )
    settings = load_settings(file)
    assert settings.clicks.sample_share == 0.5
    assert {section for section, _ in RETIRED} == {"clicks", "segments", "training"}
    recorded = settings.model_dump(mode="json")
    for (section, name), value in RETIRED.items():
        assert name not in recorded[section]
        recorded[section][name] = value
    assert validate_settings(recorded, source="a record of an older version") == settings
    file.write_text(WHOLE + "clicks:\n  bot_clicks: 6\n")
    with pytest.raises(InputError, match=r"shop\.yaml, line 4: clicks\.bot_clicks: is always 5 now; take the line out"):
        load_settings(file)
