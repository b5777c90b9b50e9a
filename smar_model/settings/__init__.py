"""Settings: one YAML file per deployment, loaded into one typed object; the sections stand in a file for each part of the house.

Every stage names the sections that it reads (`smar_model/stages.py`); a change elsewhere leaves its finished
output in use. Relative paths are under the home folder (`SMAR_HOME`, by default `var/` in the checkout).

A file may name another one as its `base`, by its path from the checkout's root, and then says only what differs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from smar_model.errors import InputError
from smar_model.settings.data import (
    Checks,
    Clicks,
    Fetch,
    Labels,
    Pictures,
    Segments,
    Spark,
    SyntheticQueries,
    Window,
)
from smar_model.settings.network import (
    Descriptors,
    Fusion,
    ImageTower,
    Network,
    Routing,
    TextEncoder,
    TextTower,
    Tokenizer,
    Trained,
    VisionEncoder,
)
from smar_model.settings.release import Evaluation, Gate, Index, Interleaving, QueryTower, Release
from smar_model.settings.retired import without_retired
from smar_model.settings.section import Count, Section, Share
from smar_model.settings.shop import SCHEMES, CompleteDay, Shop, Simulation
from smar_model.settings.training import Mining, Optimisation, Training, VisionAdaptation
from smar_model.url_secrets import secrets_in
from smar_model.yaml_files import Document, problem_of, read_yaml, validated, values_in

__all__ = [
    "REPOSITORY",
    "SCHEMES",
    "Checks",
    "Clicks",
    "CompleteDay",
    "Count",
    "Descriptors",
    "Evaluation",
    "Fetch",
    "Fusion",
    "Gate",
    "ImageTower",
    "Index",
    "Interleaving",
    "Labels",
    "Mining",
    "Network",
    "Optimisation",
    "Pictures",
    "QueryTower",
    "Release",
    "Routing",
    "Section",
    "Segments",
    "Settings",
    "Share",
    "SharedStage",
    "Shop",
    "Simulation",
    "Spark",
    "Stages",
    "SyntheticQueries",
    "TextEncoder",
    "TextTower",
    "Tokenizer",
    "Trained",
    "Training",
    "VisionAdaptation",
    "VisionEncoder",
    "Window",
    "home",
    "load_recorded_settings",
    "load_settings",
    "refuse_secrets",
    "validate_settings",
]

REPOSITORY = Path(__file__).resolve().parents[2]
SharedStage = Literal["adapt-vision", "pretrain", "finetune", "train-text-only", "embed", "embed-release"]

ODD_IN_HOME = re.compile(r"[%?#*\[\]{}\\\x00-\x1f\x7f\ud800-\udfff]")
"""What URIs of files, Spark's patterns and the tracking database's address take for something else than a part of a name."""


def home() -> Path:
    """Folder of everything that is written: lake, runs, shops, tracking database, Airflow's own files.

    Raises:
        InputError: its name cannot be part of a URI or of a pattern.
    """
    folder = Path(os.environ.get("SMAR_HOME") or REPOSITORY / "var").resolve()
    if odd := ODD_IN_HOME.search(str(folder)):
        raise InputError(
            f"home folder {str(folder)!r}: {odd[0]!r} may not be in its name; set SMAR_HOME to a folder without % ? # * [ ] {{ }} \\ "
            "and control characters in its path"
        )
    return folder


class Stages(Section):
    python: dict[str, str] = Field(default_factory=dict)
    """Stage → interpreter that runs it; the default is the one that runs the DAG's commands."""
    torchrun: dict[SharedStage, tuple[str, ...]] = Field(default_factory=dict)
    """Stage → arguments of torchrun, such as `[--nproc-per-node=gpu]`, for training in several processes or embedding on several machines
    (`docs/training.md`); unset: in one."""


class Settings(Section):
    shop: Shop
    window: Window = Window()
    spark: Spark = Spark()
    pictures: Pictures = Pictures()
    clicks: Clicks = Clicks()
    synthetic_queries: SyntheticQueries = SyntheticQueries()
    labels: Labels = Labels()
    segments: Segments = Segments()
    checks: Checks = Checks()
    tokenizer: Tokenizer = Tokenizer()
    network: Network = Network()
    training: Training
    index: Index = Index()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    release: Release = Release()
    stages: Stages = Stages()

    @property
    def shop_root(self) -> Path | str:
        """The shop's folder, or its URL in an object store (`lake/object_paths.py` has one kind of path for both)."""
        return self.shop.root if isinstance(self.shop.root, str) else home() / self.shop.root

    @property
    def shop_folder(self) -> Path:
        """Of a shop that is made or imported here.

        Raises:
            InputError: the shop lies in an object store, which is only read.
        """
        if isinstance(self.shop_root, str):
            raise InputError(
                f"setting shop.root: {self.shop_root} is an object store, which is only read; name a folder"
            )
        return self.shop_root

    @property
    def tracking_uri(self) -> str:
        return self.release.tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"

    def section(self, dotted: str) -> Any:
        """Plain value of a section or of one setting in it, such as `training.pretrain`."""
        value: Any = self.model_dump(mode="json")
        for name in dotted.split("."):
            value = value[name]
        return value


def load_settings(path: Path) -> Settings:
    """Read a settings file that a person wrote, and the one that it is based on.

    Raises:
        InputError: one of them cannot be read (`read_yaml`), holds a password or key, is based on itself, or a setting is unknown or out
            of its bounds; names file and line.
    """
    document = _with_base(path, advice="the settings that ship are in configs/")
    refuse_secrets(document)
    return _validated(document)


def _with_base(path: Path, *, advice: str, based: tuple[Path, ...] = ()) -> Document:
    """What a file says, over what its base says.

    Args:
        based: files that are based on this one, the first that was read first.
    """
    document = read_yaml(path, advice=advice)
    if "base" not in document.content:
        return document
    base, where, chain = document.content.pop("base"), document.where(("base",)), (*based, path.resolve())
    if not isinstance(base, str):
        raise InputError(
            f"{where}: name a settings file by its path from the checkout's root, such as configs/sample_shop.yaml"
        )
    file = REPOSITORY / base
    if file.resolve() in chain:
        raise InputError(f"{where}: {base} is itself based on {path}; take one `base` out")
    return document.over(_with_base(file, advice=f"{where} names it, from the checkout's root", based=chain))


def load_recorded_settings(path: Path) -> Settings:
    """Read the settings file of a release, which an older version may have written.

    Raises:
        InputError: it cannot be read, or is not this version's.
    """
    return _validated(read_yaml(path, advice="the release is not whole"))


def validate_settings(content: Any, *, source: str) -> Settings:
    """Turn plain values into settings; `source` names their origin in the error."""
    return _validated(Document(source, content, {}))


def refuse_secrets(document: Document) -> None:
    """Raises InputError where a setting holds a password or key: settings are recorded, logged and shown."""
    for place in secrets_in(document.content):
        raise InputError(
            f"{document.where(place)}: holds a password or key, which runs would record; take it out, and {_way(place)}"
        )


def _way(place: tuple[str | int, ...]) -> str:
    if place[:2] == ("release", "tracking_uri"):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) in the environment, for a database "
            "its own variables, as PGPASSWORD"
        )
    if place[:1] == ("spark",):
        return "name it in conf/spark-defaults.conf of Spark's own folder (SPARK_CONF_DIR), or in the environment as AWS_SECRET_ACCESS_KEY"
    return (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (Google: GOOGLE_APPLICATION_CREDENTIALS; Azure: AZURE_STORAGE_ACCOUNT_KEY) "
        "in the environment"
    )


def _validated(document: Document) -> Settings:
    document = without_retired(document)
    for place, value in values_in(document.content):
        problem = problem_of(value)
        if (
            not problem
            and isinstance(value, str)
            and any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in value)
        ):
            problem = "a control character in a text; take it out"
        if problem:
            raise InputError(f"{document.where(place)}: {problem}")
    return validated(Settings.model_validate, document)
