"""What is signed of a release, and what is verified before anything of it is opened.

    <version>/release.json          the manifest (format 2): every file of the version by size and SHA-256, what the version is
    <version>/release.sig           its signature
    <home>/runs/<run>/release.json  the manifest as the run recorded it that made the release
    tag index_signature.DIGEST      of a version: the signature of an index build that a refresh made for it

A version without a manifest was made before there was one (format 1). The records of the lake that made it vouch for it, or nothing does.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from smar_model.errors import InputError, first_line
from smar_model.lake.artifacts import has_output
from smar_model.lake.digests import digest_bytes, digest_json, digests_once
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.output_digests import content_digests
from smar_model.lake.records import say_once
from smar_model.lake.runs import load_run, parse_state, run_folder
from smar_model.lake.shared_files import read_bytes, read_file, replace_file
from smar_model.lake.signing_keys import sign, verify_signature
from smar_model.settings import load_recorded_settings

FORMAT = 2
MANIFEST, SIGNATURE = "release.json", "release.sig"
WITHIN_VERSION = "version"
"""Value of the tag `index_source`: the build that the version was released with lies in the version itself."""
MLFLOW_NOTE = "registered_model_meta"
"""File that MLflow itself puts into a version on a local disk when it loads it: the model's name and the version's number."""
LARGEST_MANIFEST = 16 * 2**20
"""Bytes; a release has dozens of files, of a hundred bytes each in the manifest."""
# Signed with the content, so that neither signature passes for the other.
_RELEASE, _INDEX = b"smar release\n", b"smar index\n"


class FileEntry(TypedDict):
    bytes: int
    sha256: str


class Manifest(TypedDict):
    format: int
    model: str
    """Name of the registered model."""
    run: str
    date: str
    cutoff: str
    model_digest: str
    index_digest: str
    files: dict[str, FileEntry]
    """By path in the version."""


_MANIFEST = TypeAdapter(Manifest)


def make_manifest(folder: Path, about: Mapping[str, Any]) -> str:
    """The manifest of a version's folder as it lies on this machine.

    Args:
        about: what a `Manifest` says beside format and files.
    """
    there = list_files(folder)
    digests = digests_once(folder / name for name in there)
    files = {
        name: FileEntry(bytes=size, sha256=digest) for (name, size), digest in zip(there.items(), digests, strict=True)
    }
    return _canonical({"format": FORMAT, **about, "files": files})


def sign_manifest(folder: Path, manifest: str) -> None:
    """Write a manifest and its signature into a version's folder.

    Raises:
        InputError: there is no key to sign with.
    """
    signature = sign(_RELEASE + manifest.encode())
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    (folder / SIGNATURE).write_text(_canonical(signature), encoding="utf-8")


def sign_index(about: Mapping[str, Any]) -> str:
    """The signed statement about an index build, for the tag of its version.

    Args:
        about: model (the registered model's name), model_digest, index_digest, run (that made the build).
    """
    statement = {"format": FORMAT, **about}
    return _canonical(statement | {"signed": sign(_INDEX + _canonical(statement).encode())})


def record_manifest(run: str, manifest: str) -> None:
    """Keep the manifest with the run that made the release, in the lake, which MLflow does not reach."""
    replace_file(run_folder(run) / MANIFEST, manifest)


def recorded_manifest(release: Release) -> tuple[str, Manifest] | None:
    """Text and content of the manifest that the release's run recorded; None: no record of it is in this lake, or the run has made another release since."""
    try:
        file = run_folder(release.run) / MANIFEST
        text = read_file(file)
        recorded = _MANIFEST.validate_json(text)
    except (OSError, ValueError):  # not there, or damaged: then the signature alone decides
        return None
    if recorded["model_digest"] != release.model_digest:
        return None
    digest = _registered_digest(release.run)
    if digest and digest != digest_bytes(text.encode()):
        say_once(
            f"{file}: damaged (not what `smar register` wrote), so the signature alone decides; `smar sign` writes it anew"
        )
        return None
    return text, recorded


def _registered_digest(run: str) -> str | None:
    """Digest of the manifest, as the state of the run's `register` has it; None: it has none, as of before releases were signed."""
    try:
        file = run_folder(run) / "register.json"
        return parse_state(read_bytes(file), file).get("release_digest")
    except (OSError, ValueError):
        return None


def verify_release_files(release: Release, *, model: str, index_signature: str | None) -> str | None:
    """Whether a version is, file by file, what was signed. Nothing of it has to be opened before.

    Args:
        release: as the registry has it.
        model: name of the registered model.
        index_signature: the statement about its index build, where that is not the one that lies in the version.

    Returns:
        The digest of its manifest; None: a version of format 1, for which this lake's records vouch.

    Raises:
        InputError: a file was changed, added or removed, the signature is missing, wrong or by a key that is not trusted, it is of another
            version or index, or the lake recorded another manifest.
    """
    folder, digest = Path(release.folder), None
    for needed in (folder, Path(release.model_folder), Path(release.index_folder)):
        if not needed.is_dir():
            raise InputError(f"{needed}: version {release.version} lacks this folder")
    recorded = recorded_manifest(release)
    if any(os.path.lexists(folder / name) for name in (MANIFEST, SIGNATURE)):
        digest = _verify_manifest(release, model=model, recorded=recorded)
    elif recorded:
        raise InputError(f"{folder / MANIFEST}: gone; this release was signed")
    else:
        verify_by_record(release)
        if release.release_digest:
            raise InputError(f"{folder / MANIFEST}: gone; this release was signed, as its tag smar.release_digest says")
    if release.index_source != WITHIN_VERSION:
        if digest or index_signature:
            _verify_index_signature(release, model=model, signature=index_signature)
        verify_content(release, "index")
    return digest


def read_manifest(folder: Path) -> tuple[str, Manifest]:
    """Text and content of a version's manifest, whose signature by a trusted key has been verified.

    Raises:
        InputError: it is not whole, or its signature does not fit.
    """
    texts = []
    for name in (MANIFEST, SIGNATURE):
        file = folder / name
        try:
            if not stat.S_ISREG(file.lstat().st_mode) or file.stat().st_size > LARGEST_MANIFEST:
                raise InputError(f"{file}: not a file of a release")
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{file}: missing or not readable, so that nothing vouches for this release") from None
    try:
        verify_signature(_RELEASE + texts[0].encode(), _loaded(texts[1]))
    except InputError as error:
        raise InputError(f"{folder / SIGNATURE}: {error}") from None
    content: Manifest = _loaded(texts[0])
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{folder / MANIFEST}: of another format than {FORMAT}, which this version of SMAR reads")
    return texts[0], content


def _verify_manifest(release: Release, *, model: str, recorded: tuple[str, Manifest] | None) -> str:
    folder = Path(release.folder)
    text, content = read_manifest(folder)
    names = ["run", "date", "cutoff", "model_digest"]
    names += ["index_digest"] if release.index_source == WITHIN_VERSION else []
    for name, value in {"model": model, **{name: getattr(release, name) for name in names}}.items():
        if (signed := content[name]) != value:  # type: ignore[literal-required]
            raise InputError(
                f"{folder / MANIFEST}: signed for the {name} {signed[:64]!r}; the registry says {value[:64]!r}"
            )
    if recorded and recorded[1]["index_digest"] == content["index_digest"] and recorded[0] != text:
        raise InputError(f"{folder / MANIFEST}: not the manifest that run {release.run} recorded when it was made")
    verify_files(folder, content["files"])
    return digest_bytes(text.encode())


def verify_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Whether a version's folder has the files of its manifest and no other.

    Raises:
        InputError: names the first that is missing, changed or not listed.
    """
    with _damage_named(folder):
        there = list_files(folder)
        for name in sorted(files.keys() - there.keys()):
            raise InputError(f"{folder / name}: gone, a file of this release")
        for name in sorted(there.keys() - files.keys()):
            raise InputError(f"{folder / name}: no file of this release; it was put there after it was signed")
        digests = digests_once(folder / name for name in files)
        for (name, entry), digest in zip(files.items(), digests, strict=True):
            if there[name] != entry["bytes"] or digest != entry["sha256"]:
                raise InputError(f"{folder / name}: damaged, or changed after it was signed")


def _verify_index_signature(release: Release, *, model: str, signature: str | None) -> None:
    what = f"the index {release.index_digest[:12]} of version {release.version}"
    if signature is None:
        raise InputError(f"{what} has no signature; `smar publish-index` signs what it publishes")
    try:
        statement = _loaded(signature)
        signed = statement.pop("signed") if isinstance(statement, dict) and "signed" in statement else None
        verify_signature(_INDEX + _canonical(statement).encode(), signed)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    stated = {"format": FORMAT, "model": model, "model_digest": release.model_digest}
    for name, value in (stated | {"index_digest": release.index_digest}).items():
        if statement.get(name) != value:
            raise InputError(f"{what}: signed for another {name}, {str(statement.get(name))[:64]!r}")


def verify_by_record(release: Release) -> None:
    """Whether this lake's own records vouch for model, index and settings of a version, as one from before releases were signed needs.

    Raises:
        InputError: they do not.
    """
    to_do = f"verify and sign it: `smar sign --settings FILE --version {release.version}`"
    try:
        run = load_run(release.run)
        model, index = run.output("finetune").manifest["content"]["model"], run.output("index").digest
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        told = first_line(error) if isinstance(error, InputError) else f"run {release.run}: not readable"
        raise InputError(f"not signed, and no record in this lake vouches for it ({told}); {to_do}") from None
    if _registered_digest(run.name):
        raise InputError(f"run {run.name} signed this release, and the signature is gone; {to_do}")
    if release.index_source == WITHIN_VERSION:
        is_known = index == release.index_digest
    else:
        is_known = is_index_output(release.index_digest)
    if model != release.model_digest or not is_known:
        raise InputError(f"not signed, and not what the record of run {run.name} says it made; {to_do}")
    if (str(run.date), run.cutoff.isoformat()) != (release.date, release.cutoff):
        raise InputError(f"not signed, and of another day than run {run.name}, which made it; {to_do}")
    verify_content(release, "model")
    verify_content(release, "index")
    if load_recorded_settings(release.settings_file) != run.settings:
        raise InputError(
            f"{release.settings_file}: not the settings of run {run.name}, which made version {release.version}"
        )


def is_index_output(digest: str) -> bool:
    """Whether an index is an output of this lake."""
    return any(has_output(stage, digest) for stage in ("index", "refresh-index"))


def verify_content(release: Release, what: Literal["model", "index"]) -> None:
    """Whether the folder of a version's model or index has the content that it names.

    Raises:
        InputError: it has not.
    """
    folder = Path(release.model_folder if what == "model" else release.index_folder)
    digest = release.model_digest if what == "model" else release.index_digest
    if (model_content_digest(folder) if what == "model" else content_digest(folder)) != digest:
        raise InputError(
            f"{folder}: damaged, or another {what} than {digest[:12]}, which version {release.version} names"
        )


def model_content_digest(folder: Path) -> str:
    """Digest of a model's folder, as `model_digest` in the room of the network has it.

    Raises:
        InputError: a file cannot be read.
    """
    with _damage_named(folder):
        files = sorted(file for file in folder.iterdir() if file.is_file())
        names = [f"{folder.name}/{file.name}" for file in files]
        return digest_json(list(zip(names, digests_once(files), strict=True)))


def content_digest(folder: Path) -> str:
    """Digest of an output's folder, as its manifest in the lake has it.

    Raises:
        InputError: a file cannot be read, or is no table where it has to be one.
    """
    with _damage_named(folder):
        return digest_json(content_digests(folder))


@contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RecursionError, pa.ArrowException) as error:
        raise InputError(f"{folder}: damaged: {first_line(error)}") from error


def list_files(folder: Path) -> dict[str, int]:
    """Files of a version by their path in it, in bytes; without manifest, signature and MLflow's note.

    Raises:
        InputError: there is something else than plain files and folders.
    """
    return dict(_walk(folder, folder))


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, status = Path(entry.path), entry.stat(follow_symlinks=False)
        name = path.relative_to(root).as_posix()
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, root)
        elif not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: a link or a device, no file of a release")
        elif name not in {MANIFEST, SIGNATURE} and not (name == MLFLOW_NOTE and _is_mlflow_note(path)):
            yield name, status.st_size


def _is_mlflow_note(file: Path) -> bool:
    if file.stat().st_size > 1_000:
        return False
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() == {"model_name", "model_version"}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("not readable") from None
