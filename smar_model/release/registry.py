"""The registry: model versions in MLflow, their index builds, and which of them is the champion.

Alias `champion` → version → tag `index` is the only way in (design, decision 4). Tags of a version:

    smar.run, smar.date, smar.cutoff   the run that trained it, its last day, first moment after training
    smar.started_from                  what its fine-tuning went on from: a version, or its pretraining
    smar.model_digest                  digest of the model's files, as `index.json` has it too
    smar.over_bm25                     its Recall@50 minus BM25's on its own evaluation days
    smar.promoted_at                   when it became the champion; not there of one that never was
    index, index_source                content digest of its current index build, and where that lies
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

# Before MLflow is imported, which reads them then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from smar_model.errors import InputError
from smar_model.settings import Settings, home

CHAMPION, CHALLENGER = "champion", "challenger"
WITHIN_VERSION = "version"
"""Value of the tag `index_source` of a version whose current index build is the one that it was released with."""


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

    def aliased(self, alias: str) -> str | None:
        """Version that an alias names, as text: it is an int in a database and text over HTTP."""
        try:
            aliases = self.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(aliases[alias]) if alias in aliases else None

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
        """The version that holds this model and this index, if there is one."""
        found = self.client.search_model_versions(
            f"name = '{self.name}' and tag.`smar.model_digest` = '{model_digest}' and tag.`index` = '{index_digest}'"
        )
        return str(max(found, key=lambda v: int(v.version)).version) if found else None

    def release(self, version: str) -> dict[str, Any]:
        """A version as plain values, its folders on this machine.

        Returns:
            version (text), run, date, cutoff (ISO time), started_from (what fine-tuning went on from), model_digest, index_digest, folder (all of the version),
            model_folder and index_folder.

        Whether the index was built by the model is for whoever loads them to check: `Searcher.load` does.

        Raises:
            InputError: there is no such version.
        """
        found = self.version(version)
        source = self.client.get_model_version_download_uri(self.name, str(found.version))
        folder = self._local(source, cache=f"{self.name}-{found.version}")
        index_source = found.tags["index_source"]
        index_folder = (
            folder / "artifacts" / "index"
            if index_source == WITHIN_VERSION
            else self._local(index_source, cache=f"index-{found.tags['index']}")
        )
        return {
            "version": str(found.version),
            "run": found.tags["smar.run"],
            "date": found.tags["smar.date"],
            "cutoff": found.tags["smar.cutoff"],
            "started_from": found.tags.get("smar.started_from", "unknown"),
            "model_digest": found.tags["smar.model_digest"],
            "index_digest": found.tags["index"],
            "folder": str(folder),
            "model_folder": str(folder / "artifacts" / "model"),
            "index_folder": str(index_folder),
        }

    def _local(self, uri: str, *, cache: str) -> Path:
        """Folder of an artifact on this machine, downloaded once where it lies elsewhere."""
        address = urlparse(uri)
        if address.scheme in {"", "file"}:
            return Path(unquote(address.path))
        folder = home() / "registry-cache" / cache
        if not folder.is_dir():
            from mlflow.artifacts import download_artifacts

            temporary = folder.with_name(f".{cache}.{uuid.uuid4().hex}")
            temporary.mkdir(parents=True)
            got = Path(download_artifacts(uri, dst_path=str(temporary), tracking_uri=self.settings.tracking_uri))
            try:
                got.rename(folder)
            except OSError:  # another process was first: its copy is the same
                if not folder.is_dir():
                    raise
            shutil.rmtree(temporary, ignore_errors=True)
        return folder


def champion(settings: Settings) -> dict[str, Any] | None:
    """The champion as `Registry.release` describes it; None before the first release."""
    registry = Registry(settings)
    version = registry.aliased(CHAMPION)
    return registry.release(version) if version else None


def champion_or_version(settings: Settings, version: str | None) -> dict[str, Any]:
    """A stated version, or else the champion.

    Raises:
        InputError: there is no such version, or no champion yet.
    """
    if version:
        return Registry(settings).release(version)
    found = champion(settings)
    if found is None:
        raise InputError(
            f"no champion of model {settings.release.model!r} in {settings.tracking_uri} yet; "
            "`make retrain` trains and promotes one"
        )
    return found
