"""The registry: model versions in MLflow, their index builds, and which of them is the champion.

Alias `champion` → version → tag `index` is the only way in (design, decision 4). Tags of a version:

    smar.run, smar.date, smar.cutoff   the run that trained it, its last day, first moment after training
    smar.started_from                  what its fine-tuning went on from: a version, or its pretraining
    smar.model_digest                  digest of the model's files, as `index.json` has it too
    smar.over_bm25                     its Recall@50 minus BM25's on its own evaluation days
    smar.promoted_from                 the champion that it first took the place of, or `none`
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

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking._model_registry.client import ModelRegistryClient

from smar_model.errors import InputError
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.release_copies import copy_of, discard_copy
from smar_model.lake.release_manifest import WITHIN_VERSION, verify_release_files
from smar_model.settings import Settings, home

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
LAST_GOOD = "smar.last_good"
CANNOT_SERVE = "smar.cannot_serve"
PROMOTED_AT, PROMOTED_FROM = "smar.promoted_at", "smar.promoted_from"
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
    """What the registry says of the model as a whole; nothing where there is none."""

    exists: bool
    aliases: dict[str, str]
    """Alias → version, as text: it is an int in a database and text over HTTP."""
    tags: dict[str, str]

    @property
    def last_good(self) -> Pointer | None:
        """The pair that was last verified to serve as the champion."""
        version, _, index = self.tags.get(LAST_GOOD, "").partition(" ")
        return (version, index) if version.isdecimal() and index else None


class Registry:
    """Access to one deployment's registered model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.release.model
        self.models = ModelRegistryClient(settings.tracking_uri, settings.tracking_uri)
        """What model versions are asked for. MLflow's whole client opens the store of runs as well, which a command that only asks would wait for."""

    @cached_property
    def client(self) -> MlflowClient:
        """Of runs and their files, and whatever is written."""
        return MlflowClient(tracking_uri=self.settings.tracking_uri, registry_uri=self.settings.tracking_uri)

    def experiment_id(self) -> str:
        """The experiment of all runs, made where it is missing and restored where somebody has deleted it.

        An embedded registry whose home folder has been moved gets a new one, as MLflow would go on writing to the first place.
        """
        name = self.settings.release.experiment
        found = self.client.get_experiment_by_name(name)
        if found and self._lies_elsewhere(found.artifact_location):
            self.client.rename_experiment(
                found.experiment_id, f"{name} {found.experiment_id}, before the home folder was moved"
            )
        elif found:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
                print(
                    f"MLflow's experiment {name!r} had been deleted; it is restored, as every run goes there",
                    file=sys.stderr,
                )
            return found.experiment_id
        # A tracking server keeps files where its operator said; the embedded database would put them under the
        # current folder.
        location = (home() / "mlflow-artifacts").as_uri() if self.settings.tracking_uri.startswith("sqlite:") else None
        return self.client.create_experiment(
            name,
            artifact_location=location,
            # Else MLflow's page opens on its views for language model applications.
            tags={"mlflow.experimentKind": "custom_model_development"},
        )

    def _lies_elsewhere(self, location: str) -> bool:
        place = urlparse(location)
        is_embedded = self.settings.release.tracking_uri is None
        return is_embedded and place.scheme in {"", "file"} and not Path(unquote(place.path)).is_relative_to(home())

    def registered(self) -> Registered:
        try:
            model = self.models.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return Registered(exists=False, aliases={}, tags={})
            raise
        return Registered(
            exists=True,
            aliases={alias: str(version) for alias, version in model.aliases.items()},
            tags=dict(model.tags),
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
            return self.models.get_model_version(self.name, version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise InputError(
                    f"model {self.name!r} has no version {version!r} in {self.settings.tracking_uri}; "
                    "`smar history` lists the releases"
                ) from None
            raise

    def versions(self, *, where: str = "") -> Iterator[ModelVersion]:
        """All of them; or those with `where`, as MLflow searches for it."""
        token: str | None = None
        while token != "":
            page = self.models.search_model_versions(
                f"name = '{self.name}'{where and f' and {where}'}", max_results=100, page_token=token
            )
            yield from page
            token = page.token or ""

    def predecessor(self, version: str) -> str | None:
        """The champion that a version took the place of when it first became one; None: the first release, or never released.

        Rolling back from a release does not make it the predecessor of the one before: a second step goes further back.

        Raises:
            InputError: there is no such version.
        """
        before = self.version(version).tags.get(PROMOTED_FROM, "none")
        return None if before == "none" else before

    def find(self, *, model_digest: str, index_digest: str) -> Release | None:
        """The newest version that was released with this model and this index, of those whose files are as they were signed."""
        found = self.versions(where=f"tag.`smar.model_digest` = '{model_digest}'")
        alike = [int(v.version) for v in found if released_index(v.tags) == index_digest]
        for number in sorted(alike, reverse=True):
            with suppress(InputError):
                return self.release(str(number), index=index_digest)
        return None

    def release(self, version: str, *, index: str | None = None) -> Release:
        """A version, its folders on this machine and verified: every file is what was signed.

        Args:
            index: digest of one of its index builds; None: the current one.

        Whether the index was built by the model is for whoever loads them to check: `Searcher.load` does.

        Raises:
            InputError: there is no such version, it was not made by `smar register`, it names no place of this build, or it is not what
                was signed.
        """
        while True:
            release, index_signature = self.unverified_release(version, index=index)
            try:
                digest = verify_release_files(release, model=self.name, index_signature=index_signature)
                return replace(release, release_digest=digest)
            except InputError as error:
                # All of them: which one is damaged is not asked.
                if not any([discard_copy(Path(copy)) for copy in {release.folder, release.index_folder}]):
                    raise InputError(f"version {version} is refused: {error}") from error

    def unverified_release(self, version: str, *, index: str | None = None) -> tuple[Release, str | None]:
        """What the registry says of a version, as `release` returns it, and of the signature of its index build. Nothing of it is verified.

        Raises:
            InputError: there is no such version, it was not made by `smar register`, or it names no place of this build, or its files are gone.
        """
        found = self.version(version)
        tags, named = found.tags, f"version {version} of model {self.name!r}"
        if found.status != "READY":
            raise InputError(f"{named} is {found.status} in MLflow, not READY; register its run again")
        if missing := [name for name in _NEEDED if name not in tags]:
            raise InputError(
                f"{named} lacks the tag {missing[0]!r}: it was not made by `smar register`, or the tag was removed"
            )
        for name, read in (("smar.date", date.fromisoformat), ("smar.cutoff", datetime.fromisoformat)):
            try:
                read(tags[name])
            except ValueError:
                raise InputError(f"{named}: its tag {name!r} is {tags[name]!r}, which is no date") from None
        index = index or tags["index"]
        own_place = tags["index_source"] if index in {tags["index"], released_index(tags)} else None
        if (index_source := tags.get(source_tag(index), own_place)) is None:
            raise InputError(f"{named} names no place of the index {index[:12]}")
        source = self.models.get_model_version_download_uri(self.name, str(found.version))
        try:
            folder = self._copy(source, f"{self.name}-{found.version}")
            is_within = index_source == WITHIN_VERSION
            index_folder = folder / "artifacts" / "index" if is_within else self._copy(index_source, f"index-{index}")
        except InputError as error:
            raise InputError(f"version {version}: {error}") from error
        release = Release(
            version=str(found.version),
            run=tags["smar.run"],
            date=tags["smar.date"],
            cutoff=tags["smar.cutoff"],
            started_from=tags.get("smar.started_from", "unknown"),
            model_digest=tags["smar.model_digest"],
            index_digest=index,
            source=source,
            index_source=index_source,
            folder=str(folder),
            model_folder=str(folder / "artifacts" / "model"),
            index_folder=str(index_folder),
            release_digest=tags.get("smar.release_digest"),
        )
        return release, tags.get(signature_tag(index))

    def _copy(self, uri: str, cache: str) -> Path:
        return copy_of(uri, cache=cache, tracking_uri=self.settings.tracking_uri)


_NEEDED = ("smar.run", "smar.date", "smar.cutoff", "smar.model_digest", "index", "index_source")


def released_index(tags: dict[str, str]) -> str | None:
    """Digest of the build that a version was released with; of versions of before it was kept, the current one."""
    return tags.get("smar.index_digest", tags.get("index"))


def serving_or_version(settings: Settings, version: str | None) -> Release:
    """A stated version, or else what serves: the champion, and in the place of one that cannot serve the last good release, which is
    said on standard error.

    Raises:
        InputError: there is no such version, or no champion yet, or neither it nor another can serve.
    """
    registry = Registry(settings)
    if version is not None:
        if not version.strip():
            raise InputError("--version is empty; give a version's number, or leave it out for the champion")
        return registry.release(version)
    registered = registry.registered()
    named, last_good = registered.aliases.get(CHAMPION), registered.last_good
    if named is None and last_good is None:
        raise InputError(
            f"no champion of model {settings.release.model!r} in {settings.tracking_uri} yet; "
            "`make retrain` trains and promotes one"
        )
    pointer: Pointer | None = None
    try:
        if named is None:
            raise InputError(f"model {settings.release.model!r} has no alias {CHAMPION!r}")
        tags = registry.version(named).tags
        pointer = named, tags.get("index", "")
        if why := tags.get(CANNOT_SERVE):
            raise InputError(f"{why} (`smar reconcile` looks again)")
        return registry.release(named)
    except InputError as error:
        if last_good is None or last_good == pointer:
            raise
        instead = registry.release(last_good[0], index=last_good[1])
        print(
            f"the champion cannot serve: {error}; the last good release serves, version {last_good[0]}", file=sys.stderr
        )
        return instead
