"""Released versions of the tiny shop in a real registry (SQLite), to serve: what `judged_runs` makes, promoted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smar_model.lake.artifacts import Artifact
from smar_model.lake.release_manifest import WITHIN_VERSION, sign_index
from smar_model.lake.runs import Run
from smar_model.release.register import register_run
from smar_model.release.registry import CHAMPION, Registry, signature_tag
from smar_model.settings import Settings
from tests.release.judged_runs import judged_run, refreshed_index, write_settings
from tests.tiny_shop import write_tiny_shop


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingShop:
    home: Path
    settings_file: Path
    runs: dict[str, Run]
    """Version → the run that it came from."""
    refreshed: dict[str, Artifact]
    """Version → another index of its model, over one item fewer."""
    signatures: dict[str, str]
    """Digest of such an index → its signature, as `smar publish-index` makes it."""

    @property
    def settings(self) -> Settings:
        return self.runs["1"].settings

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)

    def promote(self, version: str) -> None:
        self.registry.client.set_registered_model_alias(self.registry.name, CHAMPION, version)

    def point_to(self, version: str, index: Artifact | None) -> None:
        """Refresh a version with another index, or go back to the one that it was released with."""
        source = index.folder.as_uri() if index else WITHIN_VERSION
        digest = index.digest if index else self.runs[version].output("index").digest
        if index:
            self.registry.tag(version, signature_tag(digest), self.signatures[digest])
        for tag, value in (("index_source", source), ("index", digest)):
            self.registry.client.set_model_version_tag(self.registry.name, version, tag, value)


def make_serving_shop(
    home: Path,
    *,
    versions: int,
    network: dict[str, Any] | None = None,
    index: dict[str, Any] | None = None,
    refreshed_items: list[dict[str, Any]] | None = None,
) -> ServingShop:
    """Release this many versions in SMAR_HOME, the first of them champion, the last challenger.

    Args:
        network: settings of the models' network, which is a very small one by default.
        index: settings of the released indexes.
        refreshed_items: the catalogue of the other indexes, by default all but the last item.
    """
    write_tiny_shop(home / "shop")
    runs = {}
    for number in range(1, versions + 1):
        run = judged_run(home, f"run-{number}", seed=number, network=network, index=index, drawn=False)
        runs[register_run(run)] = run
    refreshed = {
        version: refreshed_index(home, run, f"refreshed-{version}", items=refreshed_items)
        for version, run in runs.items()
    }
    signatures = {
        index.digest: sign_index(
            {
                "model": "smar",
                "model_digest": runs[version].output("finetune").manifest["content"]["model"],
                "index_digest": index.digest,
                "run": f"refreshed-{version}",
            }
        )
        for version, index in refreshed.items()
    }
    shop = ServingShop(
        home=home, settings_file=write_settings(home), runs=runs, refreshed=refreshed, signatures=signatures
    )
    for version, index in refreshed.items():
        shop.registry.tag(version, signature_tag(index.digest), signatures[index.digest])
    shop.promote("1")
    return shop


@contextmanager
def serving_shop(tmp_path_factory: pytest.TempPathFactory, **made: Any) -> Iterator[ServingShop]:
    """What `make_serving_shop` makes, in a home of its own, which SMAR_HOME names until the end."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        yield make_serving_shop(home, **made)
