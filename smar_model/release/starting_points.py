"""What a run builds on and is compared with, resolved once when it starts and recorded: an earlier run's pretraining, the release that
fine-tuning goes on from, the release that hard negatives are mined from, the catalogue that tells since when texts have stood, the oracle, and
the anchors. None of it knows the run's evaluation days.

A run builds on what there was before its day alone: a second run of the same day finds what the first did, and with it
the first's outputs.

The anchors are earlier models beside the champion that a challenger must not be worse than, so that losses too small to be seen from one day
to the next cannot add up. Evaluate lets them answer today's queries over today's catalogue.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar

from smar_model.errors import InputError
from smar_model.evaluation.oracle import REVEAL
from smar_model.lake.artifacts import Artifact, DamagedOutput
from smar_model.lake.earlier_outputs import Base, CatalogueOutput, EarlierModel, Oracle, Release, SearchableModel
from smar_model.lake.release_copies import released_folder
from smar_model.lake.runs import Run, distinct, find_runs, load_run, skip_record
from smar_model.lake.stage_key import digest_making
from smar_model.release.registry import PROMOTED_AT, Registry
from smar_model.stages import STAGES

PRETRAINING_AGE = timedelta(days=7)
"""At most, under `training.reuse_pretraining: auto`: between its cutoff and the run's."""
ANCHOR_AGE = timedelta(days=28)
"""At most, between an anchor's cutoff and the run's."""
BASE = tuple(stage.name for stage in STAGES.values() if stage.base)
_OF_PRETRAINING = (*STAGES["pretrain"].inputs, "pretrain")
Candidate = TypeVar("Candidate")
Found = TypeVar("Found")


def starting_points(run: Run, champion: Release | None) -> dict[str, Any]:
    """Values of the run's `base`, `warm_start`, `mined_from` and `oracle`.

    Without a base the run trains a tokenizer and a vision encoder of its own, and no release's weights would fit.

    Raises:
        InputError: as `find_mined`.
    """
    base = find_base(run)
    release = earlier_release(run, champion) if base else None
    return {
        "base": base,
        "warm_start": release.model if release else None,
        "mined_from": find_mined(run, champion),
        "oracle": find_oracle(run),
    }


def find_base(run: Run) -> Base | None:
    """The newest pretraining that the run may reuse; None: the run pretrains.

    It has an earlier cutoff than the run, the same code, lock and shop, and the same settings of all stages up to it, but for the
    bounds of the data checks, which make nothing. Its own model has passed the gate: what one bad day taught is not built on for a
    week. What has changed in the catalogue since is left to fine-tuning.
    """
    policy = run.settings.training.reuse_pretraining
    if policy == "never":
        return None
    # Of check-data, which makes nothing that is trained on, the bounds may differ. Asked of each earlier run, so found once.
    made_by = {name: digest_making(STAGES[name], run) for name in _OF_PRETRAINING if name != "check-data"}
    oldest = run.cutoff - PRETRAINING_AGE if policy == "auto" else datetime.min.replace(tzinfo=run.cutoff.tzinfo)

    def base_of(other: Run) -> Base | None:
        gate = other.state("gate")
        if not gate or gate.get("metrics", {}).get("decision") != "promote":
            return None
        outputs = _reusable(other, run, made_by)
        keys = {stage: artifact.key for stage, artifact in outputs.items()} if outputs else None
        return Base(run=other.name, cutoff=other.cutoff.isoformat(), keys=keys) if keys else None

    earlier = (other for other in find_runs() if oldest <= other.cutoff < run.cutoff and other.base is None)
    return _first(sorted(earlier, key=attrgetter("cutoff", "name"), reverse=True), base_of)


def _first(candidates: Iterable[Candidate], find: Callable[[Candidate], Found | None]) -> Found | None:
    """What is found for the first candidate that has it. One whose record is damaged is passed over, which is said."""
    for candidate in candidates:
        try:
            if found := find(candidate):
                return found
        except InputError as missing:
            skip_record(missing)
    return None


def _reusable(other: Run, run: Run, made_by: dict[str, str]) -> dict[str, Artifact] | None:
    """Outputs of another run that pretraining is made of, if all are there, whole and made as this run would make them (`made_by`)."""
    sections = {section for name in STAGES["pretrain"].inputs for section in STAGES[name].settings} - {"checks"}
    if any(other.settings.section(section) != run.settings.section(section) for section in sections):
        return None
    try:
        outputs = {name: other.output(name) for name in _OF_PRETRAINING}
    except DamagedOutput as error:
        print(f"[{run.name}] start: run {other.name} is not built on: {error}", file=sys.stderr)
        return None
    # An oracle has taken another stage's output in the place of one of these.
    if any(artifact.stage != name for name, artifact in outputs.items()):
        return None
    if any(outputs[name].manifest["made_by"] != wanted for name, wanted in made_by.items()):
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


def earlier_release(run: Run, champion: Release | None) -> Release | None:
    """The champion if it was trained up to an earlier day than the run, else the last one before it that was."""
    while champion and datetime.fromisoformat(champion.cutoff) >= run.cutoff:
        try:
            earlier = load_run(champion.run)
            champion = earlier.champion
            if champion:
                released_folder(earlier, champion, "model")
        except InputError as missing:  # trained elsewhere, or gone since
            skip_record(missing)
            return None
    return champion


def find_earlier_catalogue(run: Run) -> CatalogueOutput | None:
    """The catalogue of the shop's newest run of an earlier day; None: there is none."""

    def catalogue_of(other: Run) -> CatalogueOutput | None:
        items = other.find_output("prepare-items")
        # An oracle has taken another stage's output in its place.
        if items is None or items.stage != "prepare-items":
            return None
        items.files("catalogue")
        return CatalogueOutput(run=other.name, key=items.key, catalogue_digest=items.manifest["content"]["catalogue"])

    root = run.settings.shop_root
    earlier = (other for other in find_runs() if other.date < run.date and other.settings.shop_root == root)
    return _first(sorted(earlier, key=attrgetter("date", "name"), reverse=True), catalogue_of)


def find_mined(run: Run, champion: Release | None) -> SearchableModel | None:
    """The release, or the run, that `training.mining.release` names; None: no stage asks for hard negatives, or there is no champion yet.

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
    about, index = _trained_model(other), other.output("index")
    return SearchableModel(**about, index_digest=index.digest, index_folder=str(index.place))


def _trained_model(other: Run) -> dict[str, str]:
    """Values of an `EarlierModel` that another run has finetuned.

    Raises:
        InputError: it has not.
    """
    model = other.output("finetune")
    return {
        "run": other.name,
        "cutoff": other.cutoff.isoformat(),
        "model_digest": model.manifest["content"]["model"],
        "model_folder": str(model.place / "model"),
    }


def find_oracle(run: Run) -> Oracle | None:
    """The newest oracle of the same shop that knows none of the run's evaluation days; of those of a day the one told what a picture
    can show. None: there is none.

    An oracle is a run whose catalogue is one that tells truth (`smar train-oracle`, and the oracle rows of `smar compare`).
    """

    def oracle_told(truth: str, stage: str, other: Run) -> Oracle | None:
        told = other.state("prepare-items")
        if not told or told.get("output_of") != stage or not is_usable(other.output("finetune"), run):
            return None
        return Oracle(**_trained_model(other), truth=truth)

    root = run.settings.shop.root
    earlier = [other for other in find_runs() if other.cutoff <= run.cutoff and other.settings.shop.root == root]
    asked = [(other, truth) for other in earlier for truth in REVEAL]
    asked.sort(key=lambda entry: (entry[0].cutoff, entry[1] == "visible", entry[0].name), reverse=True)
    return _first(asked, lambda entry: oracle_told(entry[1], REVEAL[entry[1]], entry[0]))


def find_anchors(run: Run, champion: Release | None) -> dict[str, EarlierModel]:
    """The run's `anchors`: `best_release` and `cold_start`, those that there are and that are not the champion's very model; before the
    first release none, as floors alone decide about it."""
    if champion is None:
        return {}
    found = {"best_release": find_best_release(run), "cold_start": find_cold_start(run)}
    return distinct(found, met={champion.model_digest})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotedVersion:
    version: str
    cutoff: str
    over_bm25: float
    """Its Recall@50 minus BM25's on its own evaluation days."""


def find_best_release(run: Run) -> EarlierModel | None:
    """The best of the versions that were champion, by `best_release`; one that is refused, as its files are gone, is passed over."""
    registry = Registry(run.settings)
    promoted = [found for v in registry.versions() if (found := _promoted(str(v.version), v.tags))]
    while found := best_release(promoted, run.cutoff):
        promoted.remove(found)
        with suppress(InputError):
            return registry.release(found.version).model
    return None


def _promoted(version: str, tags: dict[str, str]) -> PromotedVersion | None:
    """A version that was champion; None: it never was, or its tags are not as `smar register` wrote them."""
    try:
        cutoff, over_bm25 = datetime.fromisoformat(tags["smar.cutoff"]), float(tags["smar.over_bm25"])
    except (KeyError, ValueError):
        return None
    if PROMOTED_AT not in tags or cutoff.tzinfo is None or not math.isfinite(over_bm25):
        return None
    return PromotedVersion(version=version, cutoff=tags["smar.cutoff"], over_bm25=over_bm25)


def best_release(promoted: Iterable[PromotedVersion], cutoff: datetime) -> PromotedVersion | None:
    """The best of the 28 days before a run's cutoff.

    Best is the one with the largest advantage over BM25 in Recall@50 on its own evaluation days: BM25 takes out how hard those days
    were. Of several the newest.
    """
    recent = [
        release for release in promoted if cutoff - ANCHOR_AGE <= datetime.fromisoformat(release.cutoff) <= cutoff
    ]
    return max(recent, key=lambda r: (r.over_bm25, r.cutoff, int(r.version)), default=None)


def find_cold_start(run: Run) -> EarlierModel | None:
    """The model of the newest run of this shop, promoted or not, that pretrained itself and went on from no release.

    Runs that were never registered are left out: they are comparisons and oracles.
    """

    def registered_model(other: Run) -> EarlierModel | None:
        registered = other.state("register")
        if not registered or registered["state"] != "finished" or not is_usable(other.output("finetune"), run):
            return None
        return EarlierModel(**_trained_model(other), version=registered.get("version"))

    ours = run.settings.shop.root, run.settings.release.model
    earlier = (
        other
        for other in find_runs()
        if run.cutoff - ANCHOR_AGE <= other.cutoff < run.cutoff
        and other.base is None
        and other.warm_start is None
        and (other.settings.shop.root, other.settings.release.model) == ours
    )
    return _first(sorted(earlier, key=attrgetter("cutoff", "name"), reverse=True), registered_model)
