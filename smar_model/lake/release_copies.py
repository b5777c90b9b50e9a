"""Where the model and the index of a release that a run has met lie on this machine: brought here where another machine met it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

from smar_model.errors import InputError
from smar_model.lake.artifacts import lake
from smar_model.lake.process_identity import temporary_beside
from smar_model.lake.runs import Run
from smar_model.lake.shared_files import complete_folder
from smar_model.settings import home

WITHIN_VERSION = "version"
"""Value of the tag `index_source`: the build that the version was released with lies in the version itself."""


def cache_folder() -> Path:
    """Copies of what lies on a tracking server: `MODEL-VERSION` and `index-DIGEST`."""
    return home() / "registry-cache"


def released_folder(run: Run, release: dict[str, Any], what: Literal["model", "index"]) -> Path:
    """Folder of a release's model or index, as a run has recorded it.

    Raises:
        InputError: it is gone.
    """
    folder = home() / release[f"{what}_folder"]
    if folder.is_relative_to(lake()):
        # Some of it may be here: other files of the output were read, or bringing it was cut off.
        complete_folder(folder)
    elif not folder.is_dir() and folder.is_relative_to(cache_folder()):
        own_place = release.get("index_source", WITHIN_VERSION) if what == "index" else WITHIN_VERSION
        source = release["source"] if own_place == WITHIN_VERSION else own_place
        copy_of(source, cache=folder.relative_to(cache_folder()).parts[0], tracking_uri=run.settings.tracking_uri)
    if not folder.is_dir():
        name = f"version {release['version']}" if release.get("version") else f"run {release['run']}"
        raise InputError(
            f"{folder}: the {what} of {name}, which run {run.name} met when it began, is gone; start a new run"
        )
    return folder


def copy_of(uri: str, *, cache: str, tracking_uri: str) -> Path:
    """Folder of an MLflow artifact on this machine, downloaded once where it lies elsewhere."""
    address = urlparse(uri)
    if address.scheme in {"", "file"}:
        return Path(unquote(address.path))
    folder = cache_folder() / cache
    if not folder.is_dir():
        from mlflow.artifacts import download_artifacts

        temporary = temporary_beside(folder)
        temporary.mkdir(parents=True)
        got = Path(download_artifacts(uri, dst_path=str(temporary), tracking_uri=tracking_uri))
        try:
            got.rename(folder)
        except OSError:  # another process was first: its copy is the same
            if not folder.is_dir():
                raise
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
