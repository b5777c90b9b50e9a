"""What a run builds on, resolved once when it starts and recorded: an earlier run's pretraining, the release that fine-tuning
goes on from, the release that hard negatives are mined from, the catalogue that tells since when texts have stood. Nothing of it knows the run's evaluation days.

A run builds on what there was before its day alone: a second run of the same day finds what the first did, and with it
the first's outputs.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any

from smar_model.errors import InputError
from smar_model.evaluation.oracle import REVEAL
from smar_model.lake.artifacts import Artifact, DamagedOutput
from smar_model.lake.release_copies import released_folder
from smar_model.lake.runs import Run, find_runs, load_run, skip_record
from smar_model.lake.stage import digest_making
from smar_model.stages import STAGES

MAXIMUM_AGE = timedelta(days=7)
"""Of a pretraining under `training.reuse_pretraining: auto`: between its cutoff and the run's."""
BASE = tuple(stage.name for stage in STAGES.values() if stage.base)


def starting_points(run: Run, champion: dict[str, Any] | None) -> dict[str, Any]:
    """Values of the run's `base`, `warm_start`, `mined_from` and `oracle`.

    Without a base the run trains a tokenizer and a vision encoder of its own, and no release's weights would fit.

    Raises:
        InputError: as `find_mined`.
    """
    base = find_base(run)
    release = earlier_release(run, champion) if base else None
    fields = ("version", "cutoff", "model_digest", "model_folder", "source")
    return {
        "base": base,
        "warm_start": {name: release[name] for name in fields if name in release} if release else None,
        "mined_from": find_mined(run, champion),
        "oracle": find_oracle(run),
    }


def find_base(run: Run) -> dict[str, Any] | None:
    """The newest pretraining that the run may reuse, as `Run.base` has it; None: the run pretrains.

    It has an earlier cutoff than the run, the same code, lock and shop, and the same settings of all stages up to it, but for the
    bounds of the data checks, which make nothing. Its own model has passed the gate: what one bad day taught is not built on for a
    week. What has changed in the catalogue since is left to fine-tuning.
    """
    policy = run.settings.training.reuse_pretraining
    if policy == "never":
        return None
    oldest = run.cutoff - MAXIMUM_AGE if policy == "auto" else datetime.min.replace(tzinfo=run.cutoff.tzinfo)
    earlier = [other for other in find_runs() if oldest <= other.cutoff < run.cutoff and other.base is None]
    for other in sorted(earlier, key=lambda other: (other.cutoff, other.name), reverse=True):
        try:
            gate = other.state("gate")
        except InputError as damaged:
            skip_record(damaged)
            continue
        if not gate or gate.get("metrics", {}).get("decision") != "promote":
            continue
        if outputs := _reusable(other, run):
            keys = {stage: artifact.key for stage, artifact in outputs.items()}
            return {"run": other.name, "cutoff": other.cutoff.isoformat(), "keys": keys}
    return None


def _reusable(other: Run, run: Run) -> dict[str, Artifact] | None:
    """Outputs of another run that pretraining is made of, if all are there, whole and made as this run would make them."""
    before = STAGES["pretrain"].inputs
    sections = {section for name in before for section in STAGES[name].settings} - {"checks"}
    if any(other.settings.section(section) != run.settings.section(section) for section in sections):
        return None
    try:
        outputs = {name: other.output(name) for name in (*before, "pretrain")}
    except InputError as error:
        skip_record(error)
        if isinstance(error, DamagedOutput):
            print(f"[{run.name}] start: run {other.name} is not built on: {error}", file=sys.stderr)
        return None
    # An oracle has taken another stage's output in the place of one of these.
    if any(artifact.stage != name for name, artifact in outputs.items()):
        return None
    if any(outputs[name].manifest["made_by"] != digest_making(STAGES[name], run) for name in BASE):
        return None
    outputs = {name: outputs[name] for name in BASE}
    return outputs if all(is_usable(artifact, run) for artifact in outputs.values()) else None


def is_usable(artifact: Artifact, run: Run) -> bool:
    """Whether an output of another run is whole, and if not, says so. That run makes it again, where it is asked to."""
    try:
        artifact.verify_files()
    except DamagedOutput as damage:
        print(f"[{run.name}] start: passed over: {damage}", file=sys.stderr)
        return False
    return True


def earlier_release(run: Run, champion: dict[str, Any] | None) -> dict[str, Any] | None:
    """The champion if it was trained up to an earlier day than the run, else the last one before it that was."""
    while champion and datetime.fromisoformat(champion["cutoff"]) >= run.cutoff:
        try:
            earlier = load_run(champion["run"])
            champion = earlier.champion
            if champion:
                released_folder(earlier, champion, "model")
        except InputError as missing:  # trained elsewhere, or gone since
            skip_record(missing)
            return None
    return champion


def find_earlier_catalogue(run: Run) -> dict[str, Any] | None:
    """The catalogue of the shop's newest run of an earlier day, as `Run.earlier_catalogue` has it; None: there is none."""
    earlier = [
        other for other in find_runs() if other.date < run.date and other.settings.shop_root == run.settings.shop_root
    ]
    for other in sorted(earlier, key=lambda other: (other.date, other.name), reverse=True):
        try:
            items = other.find_output("prepare-items")
            # An oracle has taken another stage's output in its place.
            if items is None or items.stage != "prepare-items":
                continue
            items.files("catalogue")
        except InputError:
            continue
        return {"run": other.name, "key": items.key, "catalogue_digest": items.manifest["content"]["catalogue"]}
    return None


def find_mined(run: Run, champion: dict[str, Any] | None) -> dict[str, Any] | None:
    """The release that `training.mining.release` names, as `Run.mined_from` has it; None: no stage asks for hard negatives, or
    there is no champion yet.

    Raises:
        InputError: the run that is named is not there, has no finished index, or has learned from this run's evaluation days.
    """
    training = run.settings.training
    if not (training.pretrain.hard_negatives or training.finetune.hard_negatives):
        return None
    if training.mining.release == "champion":
        return earlier_release(run, champion)
    other = load_run(training.mining.release)
    if other.cutoff > run.cutoff:
        raise InputError(
            f"training.mining.release: run {other.name} has learned from the days up to {other.training_days[-1]}, which run "
            f"{run.name} is judged on; name one of an earlier date"
        )
    finetune, index = other.output("finetune"), other.output("index")
    return {
        "run": other.name,
        "cutoff": other.cutoff.isoformat(),
        "model_digest": finetune.manifest["content"]["model"],
        "index_digest": index.digest,
        "model_folder": str(finetune.place / "model"),
        "index_folder": str(index.place),
    }


def find_oracle(run: Run) -> dict[str, Any] | None:
    """The newest oracle of the same shop that knows none of the run's evaluation days, as `Run.oracle` has it; of those of a day
    the one told what a picture can show. None: there is none.

    An oracle is a run whose catalogue is one that tells truth (`smar train-oracle`, and the oracle rows of `smar compare`).
    """
    kinds = {stage: truth for truth, stage in REVEAL.items()}
    found = []
    for other in find_runs():
        try:
            told = other.state("prepare-items") or {}
        except InputError as damaged:
            skip_record(damaged)
            continue
        if (
            told.get("output_of") not in kinds
            or other.cutoff > run.cutoff
            or other.settings.shop.root != run.settings.shop.root
        ):
            continue
        try:
            model = other.output("finetune")
        except InputError as missing:
            skip_record(missing)
            continue
        found.append((other.cutoff, kinds[told["output_of"]] == "visible", other.name, kinds[told["output_of"]], model))
    for cutoff, _, name, truth, model in sorted(found, key=lambda entry: entry[:3], reverse=True):
        if is_usable(model, run):
            return {
                "run": name,
                "cutoff": cutoff.isoformat(),
                "truth": truth,
                "model_digest": model.manifest["content"]["model"],
                "model_folder": str(model.place / "model"),
            }
    return None
