"""Published tables as Spark's workers read them where the lake lies in an object store: by name, size and digest, from wherever they are."""

from __future__ import annotations

import os
import re

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, DamagedOutput, output_of, read_manifests
from smar_model.lake.object_paths import ObjectPath
from smar_model.lake.stored_parts import DamagedPart, stored_path
from smar_model.settings import home


def lake_url() -> str | None:
    """Of the object store that the lake lies in; None: it lies in the home folder."""
    return os.environ.get("SMAR_STORE", "").rstrip("/") or None


def stored_files(artifact: Artifact, table: str) -> list[ObjectPath] | None:
    """Files of a table, for workers who fetch and verify them themselves; None where the lake lies in the home folder, or the manifest is an
    older one without digests of files."""
    url = lake_url()
    names = [name for name in sorted(artifact.manifest["files"]) if name.startswith(f"{table}/")]
    listed = [artifact.manifest["files"][name] for name in names]
    if not url or not all("sha256" in entry for entry in listed):
        return None
    if names and artifact.is_expired(table):
        return []
    place = artifact.place.relative_to(home()).as_posix()
    return [
        stored_path(url, f"{place}/{name}", size=entry["bytes"], sha256=entry["sha256"])
        for name, entry in zip(names, listed, strict=True)
    ]


def damaged_output(part: DamagedPart) -> InputError:
    """What was found of a file in the object store, as a fault of the output that lists it; the same where none does."""
    match = re.search(r"/lake/([\w-]+)/attempts/([\w-]+)/", str(part))
    for manifest in read_manifests(match[1])[0] if match else ():
        if match and manifest["attempt"] == match[2]:
            return DamagedOutput(output_of(manifest, manifest["stage"], manifest["key"]), str(part))
    return part
