"""Where the model and the index of a release that a run has met lie on this machine: brought here where another machine met it."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

from smar_model.errors import InputError
from smar_model.lake.artifacts import lake
from smar_model.lake.release_manifest import WITHIN_VERSION, content_digest, model_content_digest
from smar_model.lake.runs import Run
from smar_model.lake.shared_files import complete_folder
from smar_model.settings import home

COPY_SECONDS = 120
"""A copy that is not what was signed is brought again, but not more often than this."""


def cache_folder() -> Path:
    """Copies of what lies on a tracking server: `MODEL-VERSION` and `index-DIGEST`."""
    return home() / "registry-cache"


def released_folder(run: Run, release: dict[str, Any], what: Literal["model", "index"]) -> Path:
    """Folder of a release's model or index, as a run has recorded it. When the run began the release was verified by its signature; here
    its content is, by the digest that was recorded then.

    Raises:
        InputError: it is gone, or has another content.
    """
    folder = home() / release[f"{what}_folder"]
    source = None
    if folder.is_relative_to(lake()):
        # Some of it may be here: other files of the output were read, or bringing it was cut off.
        complete_folder(folder)
    elif folder.is_relative_to(cache_folder()):
        own_place = release.get("index_source", WITHIN_VERSION) if what == "index" else WITHIN_VERSION
        source = release["source"] if own_place == WITHIN_VERSION else own_place
    name = f"version {release['version']}" if release.get("version") else f"run {release['run']}"
    while True:
        if source:
            cache = folder.relative_to(cache_folder()).parts[0]
            copy_of(source, cache=cache, tracking_uri=run.settings.tracking_uri)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: the {what} of {name}, which run {run.name} met when it began, is gone; start a new run"
            )
        digest = model_content_digest(folder) if what == "model" else content_digest(folder)
        if digest == release[f"{what}_digest"]:
            return folder
        if not (source and discard_copy(folder)):
            raise InputError(
                f"{folder}: damaged, or another {what} than {release[f'{what}_digest'][:12]}, that of {name} which run {run.name} "
                "met when it began; start a new run"
            )


def discard_copy(folder: Path, *, at_any_age: bool = False) -> bool:
    """Remove the copy that a folder is, or lies in, so that it is brought again; False: it is no copy, or has just been brought."""
    if not folder.is_relative_to(cache_folder()):
        return False
    copy = cache_folder() / folder.relative_to(cache_folder()).parts[0]
    aside = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}")
    try:
        if not at_any_age and time.time() - copy.stat().st_mtime < COPY_SECONDS:
            return False
        copy.rename(aside)  # at once: another process may be bringing it
    except FileNotFoundError:  # another process was first
        return True
    except OSError:  # a disk that is mounted to be read only
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def copy_of(uri: str, *, cache: str, tracking_uri: str) -> Path:
    """Folder of an MLflow artifact on this machine, downloaded once where it lies elsewhere."""
    address = urlparse(uri)
    if address.scheme in {"", "file"}:
        return Path(unquote(address.path))
    folder = cache_folder() / cache
    if not folder.is_dir():
        from mlflow.artifacts import download_artifacts

        temporary = folder.with_name(f".{cache}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        got = Path(download_artifacts(uri, dst_path=str(temporary), tracking_uri=tracking_uri))
        try:
            got.rename(folder)
        except OSError:  # another process was first: its copy is the same
            if not folder.is_dir():
                raise
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
