"""`smar export`: the items of a release, with their exact embeddings, for another engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, find_artifact, read_manifests
from smar_model.lake.earlier_outputs import Release
from smar_model.release.registry import serving_or_version
from smar_model.settings import Settings

if TYPE_CHECKING:
    from smar_model.retrieval.exported_items import Export

_MADE_BY = {"index": "embed", "refresh-index": "embed-release"}
"""Stage that makes indexes → the one whose embeddings it reads."""


def export_release(settings: Settings, version: str | None, to: Path) -> Export:
    """Write the items of the champion, or of a stated version, into a new folder.

    The embeddings are those that the release's index was made of, where they are still in the lake; else a flat index tells them itself.

    Raises:
        InputError: there is no champion or no such version, its files are damaged, exact embeddings are nowhere, or `to` holds something.
    """
    release = serving_or_version(settings, version)
    from smar_model.retrieval.exported_items import ExportedRelease, export_items
    from smar_model.training.model_folder import read_query_side

    embeddings, index_folder = embeddings_of(release), Path(release.index_folder)
    if embeddings is None:
        _refuse_codes(release)
    of = ExportedRelease(
        version=release.version,
        run=release.run,
        model_digest=release.model_digest,
        index_digest=release.index_digest,
    )
    variant = read_query_side(Path(release.model_folder)).variant
    return export_items(to, of, variant, index_folder, embeddings.folder if embeddings else None)


def embeddings_of(release: Release) -> Artifact | None:
    """The output that a release's index was made of; None where this lake has it no more, or never had it."""
    for index_stage, stage in _MADE_BY.items():
        made = [m for m in read_manifests(index_stage)[0] if m["digest"] == release.index_digest]
        wanted = {m.get("inputs", {}).get(stage) for m in made}
        for manifest in read_manifests(stage)[0]:
            of_model = manifest["metrics"].get("model") == release.model_digest
            if manifest["digest"] in wanted and of_model and (found := find_artifact(stage, manifest["key"])):
                return found
    return None


def _refuse_codes(release: Release) -> None:
    """Raises InputError: the index holds no exact vectors either."""
    from smar_model.retrieval.index_files import describe_index

    factory = describe_index(Path(release.index_folder))[0].factory
    if factory != "Flat":
        raise InputError(
            f"version {release.version}: the embeddings that its index was made of are not in this lake (pruned, or made elsewhere), and the "
            f"index ({factory or 'of an older version'}) holds codes, which are inexact; refresh its index here (the DAG smar_refresh_index) and export again"
        )
