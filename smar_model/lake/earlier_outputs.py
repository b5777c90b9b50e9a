"""What the record of a run names of others' work: models, releases, a pretraining, a catalogue, pretrained encoders. Resolved once, when the run starts.

Each record says which digests count for the key of a stage that reads it. Folders are `Place`s: their record on disk has them without the
home folder, which is another on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer

from smar_model.lake.records import IsoTime
from smar_model.settings import home


def _below_home(path: str) -> str:
    return str(Path(path).relative_to(home())) if Path(path).is_relative_to(home()) else path


Place = Annotated[str, PlainSerializer(_below_home, when_used="json")]
"""Path of a folder on this machine, or below the home folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierModel:
    """A trained model of another run, in the lake or in a version of the registry."""

    model_digest: str
    model_folder: Place
    cutoff: IsoTime
    """First moment after its training."""
    run: str | None = None
    """That trained it; None: an older version has recorded this, of a warm start."""
    version: str | None = None
    """Its number in the registry; None: it was taken from its run."""
    source: str | None = None
    """Where MLflow keeps the version."""

    @property
    def name(self) -> str:
        return f"version {self.version}" if self.version else f"run {self.run}"

    @property
    def digests(self) -> list[str | None]:
        """What a stage that reads it depends on."""
        return [self.model_digest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle(EarlierModel):
    run: str
    truth: str
    """What it was told: `visible` or `all`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchableModel(EarlierModel):
    """A model and an index that was built for it."""

    run: str
    index_digest: str
    index_folder: Place
    index_source: str | None = None
    """Where MLflow keeps the index; `version`: in the version itself; None: it was taken from its run."""
    release_digest: str | None = None
    """Of the version's manifest; None: made before releases were signed, or no release."""

    @property
    def digests(self) -> list[str | None]:
        return [self.index_digest, self.model_digest, self.release_digest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(SearchableModel):
    """A version of the registry with one of its index builds (`smar_model/release/registry.py`)."""

    version: str
    source: str
    index_source: str
    date: str
    """Last day of the click log that its run read."""
    started_from: str
    """What its fine-tuning went on from."""
    folder: Place
    """All of the version."""

    @property
    def model(self) -> EarlierModel:
        """Its model alone, for what does not depend on its index."""
        return EarlierModel(**{name: getattr(self, name) for name in EarlierModel.__dataclass_fields__})

    @property
    def settings_file(self) -> Path:
        return Path(self.folder) / "artifacts" / "settings.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEncoder:
    """A pretrained encoder that settings name (`encoder_store.py`)."""

    name: str
    digest: str
    """Of its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The earlier run whose pretraining another one builds on."""

    run: str
    cutoff: str
    keys: dict[str, str]
    """Stage → key of its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueOutput:
    """The catalogue of an earlier run of the shop."""

    run: str
    key: str
    """Of the output of prepare-items."""
    catalogue_digest: str

    @property
    def digests(self) -> list[str | None]:
        return [self.catalogue_digest]
