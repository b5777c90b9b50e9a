"""What the key of a stage's output is made of: the same key is the same output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.lake.artifacts import Artifact
from smar_model.lake.digests import digest_json
from smar_model.lake.earlier_outputs import CatalogueOutput, EarlierModel
from smar_model.lake.encoder_store import recorded_encoder
from smar_model.lake.runs import Run
from smar_model.lake.stage_code import CodeVersion, code_version

if TYPE_CHECKING:
    from smar_model.lake.stage import Stage

OFFERS = "offers"
"""Table of prepare-items that no training reads."""


class KeyParts(CodeVersion):
    """Everything that a stage's output depends on; a run's record has it as `made_of`. Its digest is the key, from which that of a
    mended output (`Stage.mended`) follows."""

    stage: str
    inputs: dict[str, str]
    """Stage → digest of its output's content; likewise `raw`, of the shop's files, and `rivals`."""
    raw: dict[str, str]
    settings: dict[str, object]
    days: list[str] | None
    """First day, cutoff, last day; None: the stage is not `dated`."""
    rivals: dict[str, str] | None
    release: list[str | None] | None
    """Digests of what `Stage.release` names: a release, or an earlier run's model or catalogue."""
    encoders: NotRequired[dict[str, str]]
    """`text`, `vision` → digest of the pretrained encoder, where the stage reads it and the settings name one."""


def key_parts(stage: Stage, run: Run, inputs: dict[str, Artifact]) -> KeyParts:
    """What the stage's output depends on in this run.

    Raises:
        InputError: the shop lacks a file that it reads, or `stage_code.json` the stage.
    """
    shop = ShopInputs.of(run.settings)
    release: EarlierModel | CatalogueOutput | None = getattr(run, stage.release) if stage.release else None
    raw: dict[str, Callable[[], str]] = {
        "items": shop.digest_items,
        "pictures": lambda: shop.pictures().digest(),
        "click_log": lambda: shop.digest_click_log(run.days),
        "judgments_and_truth": lambda: shop.digest_judgments_and_truth(run.evaluation_days),
    }
    return {
        "stage": stage.name,
        **code_version(stage.name),
        "inputs": {name: _digest_read(stage, artifact) for name, artifact in inputs.items()},
        "raw": {name: raw[name]() for name in stage.raw},
        "settings": {name: run.settings.section(name) for name in stage.settings},
        "days": [str(run.days[0]), str(run.cutoff), str(run.days[-1])] if stage.dated else None,
        "rivals": {n: v.model_digest for n, v in run.rivals().items() if n in stage.rivals} if stage.rivals else None,
        "release": release.digests if release else None,
        **_encoders_read(stage, run),
    }


class _EncodersRead(TypedDict, total=False):
    encoders: dict[str, str]


def _encoders_read(stage: Stage, run: Run) -> _EncodersRead:
    """Nothing where there are none, so that keys from before there were encoders stay."""
    read: dict[str, str] = {kind: encoder.digest for kind in stage.encoders if (encoder := recorded_encoder(run, kind))}
    return {"encoders": read} if read else {}


def _digest_read(stage: Stage, artifact: Artifact) -> str:
    """Digest of what the stage reads of an input: of prices and stock only where it reads those, as they change by the hour."""
    content = artifact.manifest["content"]
    if OFFERS not in content or stage.offers:
        return artifact.digest
    return digest_json({top: digest for top, digest in content.items() if top != OFFERS})


def digest_making(stage: Stage, run: Run) -> str:
    """Digest of how a stage's output is made, whatever it is made of: code, lock, settings, pretrained encoders, and the shop's place."""
    settings = {name: run.settings.section(name) for name in stage.settings}
    encoders = _encoders_read(stage, run)
    return digest_json(
        [code_version(stage.name), settings, str(run.settings.shop_root), *([encoders] if encoders else [])]
    )
