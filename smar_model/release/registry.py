"""The registry: model versions in MLflow, their index builds, and which of them is the champion.

Alias `champion` → version → tag `index` is the only way in (design, decision 4). Tags of a version:

    smar.run, smar.date, smar.cutoff   the run that trained it, its last day, first moment after training
    smar.started_from                  what its fine-tuning went on from: a version, or its pretraining
    smar.model_digest                  digest of the model's files, as `index.json` has it too
    smar.over_bm25                     its Recall@50 minus BM25's on its own evaluation days
    smar.promoted_at                   when it became the champion; not there of one that never was
    smar.index_digest, index_source    content digest of the index build that it was released with, and where that lies
    smar.release_digest                digest of its manifest, to find it by
    index                              content digest of its current build
    index_source.DIGEST                where another build than that of the release lies
    index_signature.DIGEST             the signed statement that this build was made for the version
    smar.cannot_serve                  why it does not serve although it was made the champion by hand

Tags can be written by whoever reaches MLflow, so nothing is believed but what is signed, or recorded in the lake
(`smar_model/lake/release_manifest.py`). One tag, `index`, moves an index: whoever meets a new digest finds its place, which was written before. Tags of the registered model:

    smar.last_good                     version and index build that were last verified to serve as the champion
    smar.release.NUMBER                the moves of the champion in short (`smar history` has them whole)
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before MLflow is imported, which reads them then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# Half a minute for a server that is started again; MLflow's own default is four, with a lease held all the while.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from smar_model.errors import InputError
from smar_model.lake.release_copies import copy_of, discard_copy
from smar_model.lake.release_manifest import WITHIN_VERSION, verify_release_files
from smar_model.settings import Settings, home

CHAMPION, CHALLENGER = "champion", "challenger"
LAST_GOOD = "smar.last_good"
CANNOT_SERVE = "smar.cannot_serve"
Pointer = tuple[str, str]
"""A version and the digest of one of its index builds."""


def source_tag(index: str) -> str:
    """Tag of a version that says where this build of its index lies."""
    return f"index_source.{index}"


def signature_tag(index: str) -> str:
    """Tag of a version that holds the signature of this build of its index."""
    return f"index_signature.{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What the registry says of the model as a whole; nothing where there is none yet."""

    aliases: dict[str, str]
    """Alias → version, as text: it is an int in a database and text over HTTP."""
    tags: dict[str, str]

    @property
    def last_good(self) -> Pointer | None:
        """The pair that was last verified to serve as the champion."""
        version, _, index = self.tags.get(LAST_GOOD, "").partition(" ")
        return (version, index) if index else None


class Registry:
    """Access to one deployment's registered model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.release.model
        self.client = MlflowClient(tracking_uri=settings.tracking_uri, registry_uri=settings.tracking_uri)

    def experiment_id(self) -> str:
        """The experiment of all runs, made where it is missing."""
        found = self.client.get_experiment_by_name(self.settings.release.experiment)
        if found:
            return found.experiment_id
        # A tracking server keeps files where its operator said; the embedded database would put them under the
        # current folder.
        location = (home() / "mlflow-artifacts").as_uri() if self.settings.tracking_uri.startswith("sqlite:") else None
        return self.client.create_experiment(
            self.settings.release.experiment,
            artifact_location=location,
            # Else MLflow's page opens on its views for language model applications.
            tags={"mlflow.experimentKind": "custom_model_development"},
        )

    def registered(self) -> Registered:
        try:
            model = self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return Registered(aliases={}, tags={})
            raise
        return Registered(
            aliases={alias: str(version) for alias, version in model.aliases.items()}, tags=dict(model.tags)
        )

    def aliased(self, alias: str) -> str | None:
        """Version that an alias names."""
        return self.registered().aliases.get(alias)

    def tag(self, version: str, name: str, value: str) -> None:
        self.client.set_model_version_tag(self.name, version, name, value)

    def version(self, version: str) -> ModelVersion:
        """A version by number.

        Raises:
            InputError: there is none.
        """
        try:
            return self.client.get_model_version(self.name, version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise InputError(
                    f"model {self.name!r} has no version {version!r} in {self.settings.tracking_uri}; "
                    "`smar history` lists the releases"
                ) from None
            raise

    def find(self, *, model_digest: str, index_digest: str) -> str | None:
        """The version that was released with this model and this index, if there is one."""
        found = self.client.search_model_versions(
            f"name = '{self.name}' and tag.`smar.model_digest` = '{model_digest}'"
        )
        alike = [int(v.version) for v in found if released_index(dict(v.tags)) == index_digest]
        return str(max(alike)) if alike else None

    def release(self, version: str, *, index: str | None = None) -> dict[str, Any]:
        """A version as plain values, its folders on this machine and verified: every file is what was signed.

        Args:
            index: digest of one of its index builds; None: the current one.

        Returns:
            version (text), run, date, cutoff (ISO time), started_from (what fine-tuning went on from), model_digest, index_digest, source and
            index_source (where MLflow keeps them; the latter WITHIN_VERSION: in the version), folder (all of the version), model_folder,
            index_folder and release_digest (of its manifest; None: made before releases were signed).

        Whether the index was built by the model is for whoever loads them to check: `Searcher.load` does.

        Raises:
            InputError: there is no such version, it was not made by `smar register`, it names no place of this build, or it is not what
                was signed.
        """
        while True:
            release, index_signature = self.unverified_release(version, index=index)
            try:
                digest = verify_release_files(release, model=self.name, index_signature=index_signature)
                return release | {"release_digest": digest}
            except InputError as error:
                copies = {Path(release["folder"]), Path(release["index_folder"])}
                # All of them: which one is damaged is not asked.
                if not any([discard_copy(copy) for copy in copies]):
                    raise InputError(f"version {version} is refused: {error}") from error

    def unverified_release(self, version: str, *, index: str | None = None) -> tuple[dict[str, Any], str | None]:
        """What the registry says of a version, as `release` returns it, and of the signature of its index build. Nothing of it is verified.

        Raises:
            InputError: there is no such version, it was not made by `smar register`, or it names no place of this build.
        """
        found = self.version(version)
        missing = [name for name in _NEEDED if name not in found.tags]
        if missing:
            raise InputError(
                f"version {version} of model {self.name!r} lacks the tag {missing[0]!r}: it was not made by `smar register`"
            )
        index = index or found.tags["index"]
        index_source = found.tags.get(source_tag(index))
        if index_source is None and index in {found.tags["index"], released_index(dict(found.tags))}:
            index_source = found.tags["index_source"]
        if index_source is None:
            raise InputError(f"version {version} of model {self.name!r} names no place of the index {index[:12]}")
        source = self.client.get_model_version_download_uri(self.name, str(found.version))
        folder = self._copy(source, f"{self.name}-{found.version}")
        index_folder = (
            folder / "artifacts" / "index"
            if index_source == WITHIN_VERSION
            else self._copy(index_source, f"index-{index}")
        )
        release = {
            "version": str(found.version),
            "run": found.tags["smar.run"],
            "date": found.tags["smar.date"],
            "cutoff": found.tags["smar.cutoff"],
            "started_from": found.tags.get("smar.started_from", "unknown"),
            "model_digest": found.tags["smar.model_digest"],
            "index_digest": index,
            "source": source,
            "index_source": index_source,
            "folder": str(folder),
            "model_folder": str(folder / "artifacts" / "model"),
            "index_folder": str(index_folder),
        }
        return release, found.tags.get(signature_tag(index))

    def _copy(self, uri: str, cache: str) -> Path:
        return copy_of(uri, cache=cache, tracking_uri=self.settings.tracking_uri)


_NEEDED = ("smar.run", "smar.date", "smar.cutoff", "smar.model_digest", "index", "index_source")


def released_index(tags: dict[str, str]) -> str | None:
    """Digest of the build that a version was released with; of versions of before it was kept, the current one."""
    return tags.get("smar.index_digest", tags.get("index"))


def serving_or_version(settings: Settings, version: str | None) -> dict[str, Any]:
    """A stated version, or else what serves: the champion, and in the place of one that cannot serve the last good release, which is
    said on standard error.

    Raises:
        InputError: there is no such version, or no champion yet, or neither it nor another can serve.
    """
    registry = Registry(settings)
    if version:
        return registry.release(version)
    registered = registry.registered()
    named, last_good = registered.aliases.get(CHAMPION), registered.last_good
    if named is None:
        raise InputError(
            f"no champion of model {settings.release.model!r} in {settings.tracking_uri} yet; "
            "`make retrain` trains and promotes one"
        )
    try:
        return registry.release(named)
    except InputError as error:
        if last_good is None or last_good == (named, registry.version(named).tags.get("index")):
            raise
        print(
            f"the champion cannot serve: {error}; the last good release serves, version {last_good[0]}", file=sys.stderr
        )
        return registry.release(last_good[0], index=last_good[1])
