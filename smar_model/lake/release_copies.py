"""Where the model and the index of a release that a run has met lie on this machine: brought here where another machine met it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from smar_model.errors import InputError, first_line
from smar_model.lake.artifacts import artifact_of, lake
from smar_model.lake.durable_files import flush, flush_files
from smar_model.lake.earlier_outputs import EarlierModel, SearchableModel
from smar_model.lake.process_identity import temporary_beside
from smar_model.lake.release_manifest import WITHIN_VERSION, content_digest, model_content_digest
from smar_model.lake.runs import Run
from smar_model.lake.shared_files import complete_folder
from smar_model.settings import home
from smar_model.url_secrets import mask_secrets

REGISTERED_FROM = ("mlflow-artifacts", "lake")
"""Folders of the home folder in which an embedded registry's artifacts lie."""
_UNREADABLE_SCHEMES = {"http", "https", "ftp", "sftp"}
"""Where MLflow could read from, too, but never keeps what it registers."""
COPY_SECONDS = 120
"""A copy that is not what was signed is brought again, but not more often than this."""


def cache_folder() -> Path:
    """Copies of what lies on a tracking server: `MODEL-VERSION` and `index-DIGEST`."""
    return home() / "registry-cache"


def released_folder(run: Run, release: EarlierModel, what: Literal["model", "index"]) -> Path:
    """Folder of an earlier model, or of its index, as a run has recorded it. When the run began the release was verified by its signature;
    here its content is, by the digest that was recorded then.

    Raises:
        DamagedOutput: it lies in the lake and has changed.
        InputError: it is gone, or has another content.
    """
    place, expected, source = release.model_folder, release.model_digest, release.source
    if what == "index":
        assert isinstance(release, SearchableModel), "only such a release has an index"
        place, expected = release.index_folder, release.index_digest
        source = source if release.index_source == WITHIN_VERSION else release.index_source
    folder = home() / place
    if folder.is_relative_to(lake()):
        if artifact := artifact_of(folder, expected):
            return artifact.folder.joinpath(*folder.relative_to(lake()).parts[3:])
        # Some of it may be here: other files of the output were read, or bringing it was cut off.
        complete_folder(folder)
    is_copy = source is not None and folder.is_relative_to(cache_folder())
    while True:
        if source and is_copy:
            cache = folder.relative_to(cache_folder()).parts[0]
            copy_of(source, cache=cache, tracking_uri=run.settings.tracking_uri)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: the {what} of {release.name}, which run {run.name} met when it began, is gone; start a new run"
            )
        if (model_content_digest(folder) if what == "model" else content_digest(folder)) == expected:
            return folder
        if not (is_copy and discard_copy(folder)):
            raise InputError(
                f"{folder}: damaged, or another {what} than {expected[:12]}, that of {release.name} which run {run.name} "
                "met when it began; start a new run"
            )


def discard_copy(folder: Path, *, at_any_age: bool = False) -> bool:
    """Remove the copy that a folder is, or lies in, so that it is brought again; False: it is no copy, or has just been brought."""
    if not folder.is_relative_to(cache_folder()):
        return False
    copy = cache_folder() / folder.relative_to(cache_folder()).parts[0]
    aside = temporary_beside(copy)
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
    """Folder of an MLflow artifact on this machine, downloaded once where it lies elsewhere.

    Raises:
        InputError: it is gone.
    """
    address = urlparse(uri)
    if address.scheme in _UNREADABLE_SCHEMES or mask_secrets(uri) != uri:
        raise InputError(f"{mask_secrets(uri)}: no place where MLflow keeps what is registered; set the tag right")
    if address.scheme in {"", "file"}:
        return _local_folder(Path(unquote(address.path)))
    folder = cache_folder() / cache
    if not folder.is_dir():
        temporary = temporary_beside(folder)
        temporary.mkdir(parents=True)
        try:
            got = _download(uri, temporary, tracking_uri)
            flush_files((file for file in got.rglob("*") if file.is_file()), root=got)
            got.rename(folder)
            flush(folder.parent)
        except OSError:  # another process was first: its copy is the same
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _local_folder(named: Path) -> Path:
    """A folder by the absolute path that a registry has for it. MLflow never changes such a path, so after the home folder has been moved,
    or brought back from a backup elsewhere, it is looked for at the same place of the present one. Readers check what lies there by digest.
    """
    if named.is_relative_to(lake()):
        complete_folder(named)
    elif not named.is_relative_to(home()):
        for place, part in enumerate(named.parts):
            if part in REGISTERED_FROM and (here := home().joinpath(*named.parts[place:])).is_dir():
                return here
    if not named.is_dir():
        raise InputError(
            f"{named}: this folder, which the registry names, is gone; bring it back there, or the whole of it to the same place in {home()}"
        )
    return named


def _download(uri: str, folder: Path, tracking_uri: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        return Path(download_artifacts(uri, dst_path=str(folder), tracking_uri=tracking_uri))
    except (RequestException, MlflowException, ImportError) as error:
        is_away = "API request to" in str(error)
        if isinstance(error, RequestException):  # or refuses the login
            is_away = getattr(error.response, "status_code", None) != 404
        if is_away:
            raise
        gone = f"{uri}: these files, which the registry names, cannot be had from {tracking_uri}: {first_line(error)}"
        raise InputError(gone) from None  # the error's own text may hold a secret of the URI
