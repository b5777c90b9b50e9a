"""Digests of what an output holds, made and compared: tables by their rows, all else by files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from smar_model.lake.contracts import has_contract
from smar_model.lake.digests import digest_json, digest_rows_once, digests_once
from smar_model.lake.records import OPEN


@with_config(OPEN)
class ListedFile(TypedDict):
    bytes: int
    sha256: NotRequired[str]
    """Manifests of commit c2b2a72 and before have none: then only the digest of the whole folder or table tells."""


def content_digests(folder: Path) -> dict[str, str]:
    """Each file, folder and table of an output → its digest: a manifest's `content`, whose `digest_json` is the output's digest."""
    tops = files_by_top(folder)
    files = [file for top, members in tops.items() if not has_contract(top) for file in members]
    digests = dict(zip(files, digests_once(files), strict=True))
    return {top: digest_top(top, members, digests, root=folder) for top, members in tops.items()}


def digest_top(top: str, files: list[Path], digests: Mapping[Path, str], *, root: Path) -> str:
    """`digest_rows` of a table; of anything else what `digest_files` makes of the digests of its files."""
    if has_contract(top):
        return digest_rows_once(files)
    return digest_json(sorted((str(file.relative_to(root)), digests[file]) for file in files))


def top_of(name: str) -> str:
    """The file, folder or table of an output that a listed file is or lies in."""
    return name.partition("/")[0]


def files_by_top(folder: Path) -> dict[str, list[Path]]:
    """Files of an output that is being made, by `top_of`; without Spark's `_SUCCESS` and checksum files, and our own owner file."""
    tops: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith((".", "_")) for part in parts):
            tops.setdefault(parts[0], []).append(file)
    return tops


def verified_together(names: Iterable[str], listed: Mapping[str, ListedFile]) -> list[str]:
    """With those beside them that have no digest of their own: only a whole folder or table of them can be verified."""
    names = list(names)
    tops = {top_of(name) for name in names if "sha256" not in listed[name]}
    return list(dict.fromkeys([*names, *(name for name in listed if top_of(name) in tops)]))


def find_changes(
    place: Path, names: Iterable[str], listed: Mapping[str, ListedFile], content: Mapping[str, str]
) -> dict[str, str]:
    """Name of a file that is not as it was published → what is wrong with it.

    Args:
        place: the output's folder.
        names: of the files to look at, from `verified_together`.
        listed: all files of the output.
        content: file, folder or table → its digest.
    """
    changes, digested, tops = dict[str, str](), dict[str, str](), set[str]()
    changed = "missing or damaged (its content is not what was published)"
    for name in names:
        entry, path = listed[name], place / name
        if not path.is_file():
            changes[name] = f"{path}: missing or damaged (there is no such file)"
        elif (size := path.stat().st_size) != entry["bytes"]:
            changes[name] = f"{path}: missing or damaged ({size} bytes, published were {entry['bytes']})"
        elif "sha256" in entry:
            digested[name] = entry["sha256"]
        else:
            tops.add(top_of(name))
    digests = digests_once(place / name for name in digested)
    for (name, wanted), digest in zip(digested.items(), digests, strict=True):
        if digest != wanted:
            changes[name] = f"{place / name}: {changed}"
    for top in tops - set(map(top_of, changes)):
        members = [name for name in listed if top_of(name) == top]
        files = [place / name for name in members]
        try:
            digest = digest_top(top, files, dict(zip(files, digests_once(files), strict=True)), root=place)
        except Exception:  # a damaged table fails in its own ways
            digest = ""
        if digest != content[top]:
            changes |= dict.fromkeys(members, f"{place / top}: {changed}")
    return changes
