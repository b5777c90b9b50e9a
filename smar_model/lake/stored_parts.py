"""Files of tables that Spark's workers write into the object store and read from there, on machines that have nothing of the lake.

A part is written under a name of its own in the folder of an attempt, whole, and counts once a manifest lists it. What a task leaves that
failed, or was done twice, no manifest names: it is swept (`sweeping.py`). Of a part that is read the SHA-256 is verified, once a machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smar_model.errors import InputError
from smar_model.lake.digests import RowSums, digest_file, sum_rows
from smar_model.lake.object_paths import READ_AT_ONCE, ObjectPath, ObjectState
from smar_model.lake.process_identity import temporary_beside


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A file of a table that has been written into the store."""

    attempt: str
    """Name of its attempt's folder below that of the store: `lake/STAGE/attempts/ID`."""
    name: str
    """In that folder: `clicks/part-00000-….parquet`."""
    bytes: int
    sha256: str
    rows: RowSums


class DamagedPart(InputError):
    """A part that is gone, or is not what was published."""


def stored_path(url: str, name: str, *, size: int, sha256: str) -> ObjectPath:
    """A published file by its name below the store's URL; it is not asked for."""
    return ObjectPath(url, name, ObjectState(size, "", datetime.fromtimestamp(0, UTC), sha256))


def store_part(file: Path, url: str, attempt: str, name: str) -> StoredPart:
    """Put a Parquet file into the store."""
    from smar_model.lake.object_store import obstore, open_store, told

    part = StoredPart(
        attempt=attempt, name=name, bytes=file.stat().st_size, sha256=digest_file(file), rows=sum_rows(file)
    )
    with told(url, "SMAR_STORE"):
        obstore.put(open_store(url, "SMAR_STORE"), f"{attempt}/{name}", file)
    return part


def remove_parts(url: str, parts: Iterable[StoredPart]) -> None:
    from smar_model.lake.object_store import obstore, open_store, told

    names = [f"{part.attempt}/{part.name}" for part in parts]
    if names:
        with told(url, "SMAR_STORE"):
            obstore.delete(open_store(url, "SMAR_STORE"), names)


def verified_copy(path: ObjectPath, folder: Path) -> Path:
    """The copy of a published file in a folder of this machine, by its digest; it is fetched where it is not there.

    Raises:
        DamagedPart: it is gone from the store, or its content is not what was published.
    """
    from smar_model.lake.object_store import obstore, open_store, told

    assert path.known and path.known.sha256
    copy = folder / path.known.sha256
    if copy.is_file():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    temporary, sha256 = temporary_beside(copy), hashlib.sha256()
    try:
        with told(path.url, "SMAR_STORE"):
            try:
                found = obstore.get(open_store(path.url, "SMAR_STORE"), path.inner)
            except FileNotFoundError:
                raise DamagedPart(f"{path}: missing or damaged (gone from the object store)") from None
            with temporary.open("wb") as file:
                for chunk in found.stream(min_chunk_size=READ_AT_ONCE):
                    sha256.update(chunk)
                    file.write(chunk)
        if sha256.hexdigest() != path.known.sha256:
            raise DamagedPart(f"{path}: missing or damaged (its content is not what was published)")
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)
    return copy


def to_text(parts: Sequence[StoredPart]) -> str:
    return json.dumps([asdict(part) for part in parts])


def from_text(text: str) -> list[StoredPart]:
    return [StoredPart(**each | {"rows": _sums(each["rows"])}) for each in json.loads(text)]


def _sums(content: dict[str, Any]) -> RowSums:
    columns = tuple((name, kind) for name, kind in content["columns"])
    return RowSums(columns, content["rows"], (content["sums"][0], content["sums"][1]))
