"""`smar sign`: sign a version again, once it has been verified; for releases from before signatures, and after a key was lost or changed.

What the run that made the release recorded in the lake decides. Without that, a version by a trusted key is as it was signed. A version of
format 1 is signed by its model, index and settings; MLflow's files of it, which no record covers, are written anew, not signed as they lie.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlparse

from mlflow.models import Model

from smar_model.errors import InputError
from smar_model.lake.durable_files import copy_files
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.release_copies import discard_copy
from smar_model.lake.release_manifest import (
    WITHIN_VERSION,
    content_digest,
    is_index_output,
    list_files,
    make_manifest,
    read_manifest,
    record_manifest,
    recorded_manifest,
    sign_index,
    sign_manifest,
    verify_by_record,
    verify_content,
    verify_files,
    verify_release_files,
)
from smar_model.lake.runs import run_folder
from smar_model.lake.shared_files import is_file
from smar_model.release.history import append_history, new_entry
from smar_model.release.lease import registry_lease
from smar_model.release.register import NO_BYTECODE, save_pyfunc
from smar_model.release.registry import Registry, released_index, signature_tag
from smar_model.settings import Settings, home, load_settings


def sign_version(settings: Settings, version: str, *, by: str, without_record: bool = False) -> None:
    """Sign a version and, where another index answers, its current index, with the key at hand.

    Args:
        by: who, for the history.
        without_record: sign although this lake has no record of the run, for what the registry's digests cover.

    Raises:
        InputError: there is no such version, it is not what was recorded or signed, nothing vouches for it, or there is no key.
    """
    registry = Registry(settings)
    with registry_lease(purpose=f"sign version {version}"):
        tags = registry.version(version).tags
        release, _ = registry.unverified_release(version, index=released_index(tags))
        if any([discard_copy(Path(copy), at_any_age=True) for copy in {release.folder, release.index_folder}]):
            release, _ = registry.unverified_release(version, index=released_index(tags))
        manifest, verified = _sign(registry, release, without_record=without_record)
        signed = f"version {version} of model {registry.name!r}: {verified}"
        if tags["index"] != released_index(tags):
            signed += f"; {_sign_current_index(registry, version, without_record=without_record)}"
        digest = registry.release(version).release_digest
        assert digest is not None, "it has just been signed"
        if is_file(run_folder(release.run) / "run.json"):  # where no run is, its record must not seem to be
            record_manifest(release.run, manifest)
        registry.tag(version, "smar.release_digest", digest)
        entry = new_entry(
            registry.name,
            "sign",
            **{"from": version, "to": version, "index": tags["index"]},
            run=release.run,
            date=release.date,
            by=by,
            reason=verified,
            evidence={"release_digest": digest},
        )
        append_history(entry)
    print(f"sign: {signed}")


def _sign(registry: Registry, release: Release, *, without_record: bool) -> tuple[str, str]:
    """Sign what can be vouched for; returns the manifest and what was verified, for people."""
    folder = Path(release.folder)
    if recorded := recorded_manifest(release):
        manifest, content = recorded
        verify_files(folder, content["files"])
        verified = f"every file is what run {release.run} recorded"
    else:
        try:
            manifest, _ = read_manifest(folder)
        except InputError:
            return _sign_anew(registry, release, without_record=without_record)
        verify_release_files(release, model=registry.name, index_signature=None)
        verified = "every file is what a trusted key signed"
    with tempfile.TemporaryDirectory(dir=home(), prefix=".sign-") as name:
        sign_manifest(Path(name), manifest)
        _send(registry, release, Path(name))
    return manifest, verified


def _sign_anew(registry: Registry, release: Release, *, without_record: bool) -> tuple[str, str]:
    folder = Path(release.folder)
    try:
        verify_by_record(release)
        verified = f"model, index and settings are what run {release.run} recorded"
    except InputError as error:
        if not without_record:
            raise InputError(
                f"version {release.version} is not signed: {error}; where its run was made in another lake, sign it there, or "
                "vouch for it yourself: --without-record"
            ) from None
        verified = f"model and index are what the registry names, and no record vouches for them ({error})"
        verify_content(release, "model")
        verify_content(release, "index")
        load_settings(release.settings_file)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".sign-") as name:
        written = Path(name) / "version"
        described = Model(
            artifact_path=release.source,
            run_id=registry.version(release.version).run_id,
            model_id=_model_id(registry, release),
        )
        save_pyfunc(written, described, folder / "artifacts")
        _refuse_others(folder, written)
        about = {n: getattr(release, n) for n in ("run", "date", "cutoff", "model_digest", "index_digest")}
        manifest = make_manifest(written, about | {"model": registry.name})
        shutil.rmtree(written / "artifacts")  # what lies there stays
        _send(registry, release, written)  # before the signature: killed between, it is what it was
        sign_manifest(written, manifest)
        _send(registry, release, written)
    return manifest, f"{verified}; MLflow's files of it are written anew"


def _refuse_others(folder: Path, written: Path) -> None:
    """A file that a version of ours has not: it would stay there. Bytecode that MLflow kept is removed where that can be done."""
    cached = folder / NO_BYTECODE
    if cached.is_dir() and not cached.is_symlink():
        shutil.rmtree(cached)
    for name in sorted(list_files(folder).keys() - list_files(written).keys()):
        raise InputError(f"{folder / name}: no file of a release; remove it, then sign the version")


def _model_id(registry: Registry, release: Release) -> str:
    found = registry.version(release.version)
    model = found.model_id or str(found.source).removeprefix("models:/")
    if not model.startswith("m-"):
        raise InputError(f"version {release.version}: names no logged model of MLflow, so nothing can be added to it")
    return model


def _send(registry: Registry, release: Release, folder: Path) -> None:
    """Put files into a version, where all who read it find them."""
    place = Path(release.folder)
    if urlparse(release.source).scheme not in {"", "file"}:
        registry.client.log_model_artifacts(_model_id(registry, release), str(folder))
        discard_copy(place, at_any_age=True)
        return
    # Where it is read: MLflow would write to the place that it had when it was made, which a home folder that was moved has left.
    copy_files((file for file in folder.rglob("*") if file.is_file()), root=folder, to=place)


def _sign_current_index(registry: Registry, version: str, *, without_record: bool) -> str:
    release, _ = registry.unverified_release(version)
    place, digest = Path(release.index_folder), release.index_digest
    made_for = json.loads((place / "index.json").read_text(encoding="utf-8"))["model_digest"]
    if release.index_source == WITHIN_VERSION or made_for != release.model_digest or content_digest(place) != digest:
        raise InputError(f"{place}: not the index {digest[:12]} of this model, which version {version} names")
    if not without_record and not is_index_output(digest):
        raise InputError(f"the index {digest[:12]} of version {version} was not made in this lake; publish another one")
    about = {"model": registry.name, "model_digest": made_for, "index_digest": digest, "run": release.run}
    registry.tag(version, signature_tag(digest), sign_index(about))
    return f"its index {digest[:12]} is an output of this lake" if not without_record else f"its index {digest[:12]}"
