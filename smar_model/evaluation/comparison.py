"""A comparison: its YAML file (`configs/compare_….yaml`), and how each of its rows becomes a run of the pipeline's stages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.evaluation.oracle import REVEAL
from smar_model.lake.digests import digest_json
from smar_model.lake.encoder_store import resolve_encoders
from smar_model.lake.runs import Run, create_run
from smar_model.lake.stage import Stage, run_stage
from smar_model.network.variants import find_variant
from smar_model.settings import (
    REPOSITORY,
    Section,
    Settings,
    Share,
    Window,
    home,
    load_settings,
    refuse_secrets,
    validate_settings,
)
from smar_model.yaml_files import merged, read_yaml, validated

TRAINED = ("adapt-vision", "pretrain", "finetune")
"""Stages whose steps share the budget."""
ONCE = ("adapt-vision", "encode-pictures")
"""What a shop does once for all models that stand on it; a row does not pay for it where `adapting_seconds` is set."""
File = TypeVar("File", bound=Section)
Changes = dict[str, Any]
"""Some of a shop's settings, as in its file."""


class Row(Section):
    """One row: exactly one of `variant`, `baseline` and `with_bm25`."""

    label: str
    variant: str | None = None
    baseline: Literal["popularity", "bm25", "incumbent"] | None = None
    """`incumbent`: the lists that the log shows, of which graded measures of the first ten alone can be told."""
    with_bm25: str | None = None
    """Another row, whose answers are joined with BM25's by reciprocal rank fusion (k = 60)."""
    truth: Literal["all", "visible"] | None = None
    """An oracle: true attributes stand in the items' text."""
    floor: str | None = None
    """Of an oracle: the row against which it and models count, instead of the comparison's."""
    vision: str | None = None
    """Row whose adapted vision encoder this one takes; it pays for it from its own time, unless `adapting_seconds` is set."""
    settings: Changes = Field(default_factory=dict)
    """What differs from the comparison's settings."""
    seeds: tuple[int, ...] | None = None
    """Instead of the comparison's; so are `seconds` and `shares`."""
    seconds: float | None = Field(default=None, gt=0)
    shares: dict[str, Share] | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Row:
        if sum(kind is not None for kind in (self.variant, self.baseline, self.with_bm25)) != 1:
            raise ValueError("give one of variant, baseline and with_bm25")
        return self


class Pair(Section):
    first: str
    second: str
    aim: float | None = None
    """Wanted of first − second in target Recall@50 of novel queries, as a share."""


class Trainings(Section):
    """What comparisons and sweeps (`sweep.py`) say alike."""

    base: Path
    """Settings file, from the checkout's root."""
    date: dt.date
    """Last day of the click log."""
    output: Path
    """Folder of the measured rows, from where `kept` says; the page is this name with `.md`, the drawing of a sweep with `.svg`."""
    settings: Changes = Field(default_factory=dict)
    """What differs from the base settings in every row."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)


class Comparison(Trainings):
    kept: Literal["checkout", "home"] = "checkout"
    """Rows to commit, or rows of a shop's own that stay in its home folder (`SMAR_HOME`)."""
    seconds: float | None = Field(default=None, gt=0)
    """Training time of each row; unset: the settings' own steps."""
    adapting_seconds: float | None = Field(default=None, gt=0)
    """Time of adapt-vision, apart from a row's own: done once, with the first seed, for all seeds and rows that stand on it. So is
    encode-pictures, as long as it takes. Unset: rows pay for both."""
    shares: dict[str, Share] = Field(default_factory=lambda: {"adapt_vision": 0.35, "pretrain": 0.35, "finetune": 0.3})
    """Of that time by stage; where a row does not train a stage, the others share its part."""
    floor: str = "text_only"
    """Row against which oracles and models count for the recovered share, where an oracle does not name its own."""
    tables: dict[str, dict[str, Row]]
    """Heading → name → row."""
    pairs: tuple[Pair, ...] = ()
    growth: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Label → rows of one model trained for different times, drawn as a line (`growth.svg`)."""

    @property
    def rows(self) -> dict[str, Row]:
        return {name: row for table in self.tables.values() for name, row in table.items()}

    @model_validator(mode="after")
    def _names_are_known(self) -> Comparison:
        rows = self.rows
        if len(rows) != sum(map(len, self.tables.values())):
            raise ValueError("a row's name stands in two tables")
        named = [row.with_bm25 for row in rows.values()] + [row.vision for row in rows.values()]
        named += [row.floor for row in rows.values()]
        named += [name for pair in self.pairs for name in (pair.first, pair.second)]
        named += [name for line in self.growth.values() for name in line]
        if unknown := sorted({name for name in named if name is not None} - set(rows)):
            raise ValueError(f"no row is named {unknown[0]!r}")
        shares = set(self.shares).union(*(row.shares or () for row in rows.values()))
        if strange := sorted(shares - {section(stage) for stage in TRAINED}):
            raise ValueError(f"shares.{strange[0]}: no such training stage")
        if self.adapting_seconds and not self.seconds:
            raise ValueError("adapting_seconds: give seconds, too")
        return self


def section(stage: str) -> str:
    """Name in `settings.training` of a stage."""
    return stage.replace("-", "_")


def load_yaml(kind: type[File], file: Path) -> File:
    """Read a comparison or a sweep.

    Raises:
        InputError: it cannot be read (`read_yaml`), holds a password or key, or something in it is unknown.
    """
    document = read_yaml(file, advice="those that ship are configs/compare_….yaml and configs/sweep_….yaml")
    refuse_secrets(document)
    return validated(kind.model_validate, document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A comparison with the stages that carry it out."""

    name: str
    comparison: Comparison
    stages: Mapping[str, Stage]
    """All, in an order in which they can run; judge, judge-baselines and those that reveal the truth among them."""

    @property
    def folder(self) -> Path:
        return (home() if self.comparison.kept == "home" else REPOSITORY) / self.comparison.output

    def seeds(self, name: str) -> tuple[int, ...]:
        """A baseline learns nothing: one seed is all."""
        row = self.comparison.rows[name]
        return (0,) if row.baseline else row.seeds or self.comparison.seeds

    def trained(self, name: str) -> str:
        """The row whose model answers: itself, or the one that is joined with BM25."""
        return self.comparison.rows[name].with_bm25 or name

    def with_vision(self, name: str) -> list[str]:
        """The rows that are trained for this one, in order."""
        trained = self.trained(name)
        return [row for row in (self.comparison.rows[trained].vision, trained) if row]

    def adapts(self, name: str) -> str | None:
        """The row whose adapt-vision this one stands on, itself or another; None: it adapts no encoder."""
        trained = self.trained(name)
        row = self.comparison.rows[trained]
        if row.baseline or not find_variant(self.settings(trained, seed=0, steps={}).network).adapted:
            return None
        return row.vision or trained

    def seconds(self, name: str) -> float:
        """Training time of a row, where the comparison gives any."""
        assert self.comparison.seconds is not None
        return self.comparison.rows[self.trained(name)].seconds or self.comparison.seconds

    def digest(self, name: str, *, seed: int, steps: Mapping[str, Mapping[str, int]]) -> str:
        """Of what is asked of a row. Settings at their defaults are left out: a new one does not make old rows worthless."""
        row, trained = (self.comparison.rows[n] for n in (name, self.trained(name)))
        settings = [self.settings(n, seed=seed, steps=steps.get(n, {})) for n in self.with_vision(name)]
        asked = [s.model_dump(mode="json", exclude_defaults=True) for s in settings]
        return digest_json([asked, str(self.comparison.date), row.baseline, bool(row.with_bm25), trained.truth])[:16]

    def settings(self, name: str, *, seed: int, steps: Mapping[str, int]) -> Settings:
        """Settings of a row."""
        row = self.comparison.rows[name]
        content = load_settings(REPOSITORY / self.comparison.base).model_dump(mode="json", exclude_unset=True)
        changes: list[Changes] = [self.comparison.settings, row.settings]
        changes.append({"training": {"seed": seed} | {stage: {"steps": n} for stage, n in steps.items()}})
        if row.variant:
            changes.append({"network": {"variant": row.variant}})
        for change in changes:
            content = merged(content, change)
        simulation = content["shop"].get("simulation")
        if simulation and simulation.get("held_back_words") and not simulation.get("held_back_from"):
            held_out = dt.timedelta(days=Window(**content.get("window", {})).evaluation_days - 1)
            simulation["held_back_from"] = str(self.comparison.date - held_out)
        return validate_settings(content, source=f"{self.name}: row {name}")

    def run(self, name: str, *, seed: int, steps: Mapping[str, int]) -> Run:
        """The run of a row; one of its own for every change of its settings."""
        settings = self.settings(name, seed=seed, steps=steps)
        digest = digest_json([settings.model_dump(mode="json"), str(self.comparison.date)])
        run = Run(
            name=f"{self.name}-{name}-s{seed}-{digest[:8]}",
            date=self.comparison.date,
            settings_source=self.name,
            settings=settings,
            champion=None,
            promotion="never",
            encoders=resolve_encoders(settings),
        )
        return create_run(replace(run, left_out=ShopInputs.of(settings).incomplete_days(run.window)))

    def before(self, last: str) -> tuple[list[Stage], list[Stage]]:
        """What the stage needs, itself included: stages of the data, and those from the tokenizer on."""
        needed = [s for s in self.stages.values() if s.name in self._ancestors(last)]
        learning = [s for s in needed if "train-tokenizer" in self._ancestors(s.name)]
        return [s for s in needed if s not in learning], learning

    def _ancestors(self, name: str) -> set[str]:
        return {name}.union(*(self._ancestors(other) for other in self.stages[name].inputs))

    def carry_out(self, name: str, *, seed: int, steps: Mapping[str, Mapping[str, int]], last: str) -> Run:
        """Run a row's stages up to `last`.

        Args:
            steps: row → section of `training` → steps; of the row itself and the one whose vision encoder it takes.
        """
        row = self.comparison.rows[name]
        vision = None
        if last != "adapt-vision":
            once = self.comparison.adapting_seconds is not None
            if adapts := self.adapts(name) if once else row.vision:
                vision = self.carry_out(
                    adapts, seed=self.comparison.seeds[0] if once else seed, steps=steps, last="adapt-vision"
                )
        run = self.run(name, seed=seed, steps=steps.get(name, {}))
        data, learning = self.before(last)
        for stage in data:
            run_stage(stage, run)
        if row.truth:
            # From here on, and only in this run: what stands before is made as in all other rows.
            run.take(run_stage(self.stages[REVEAL[row.truth]], run), stage="prepare-items")
        for stage in learning:
            if vision and stage.name == "adapt-vision":
                run.take(vision.output("adapt-vision"), stage="adapt-vision")
            else:
                run_stage(stage, run)
        return run

    def training_stages(self) -> list[str]:
        """Those whose time a row pays for."""
        return [stage.name for stage in self.before("finetune")[1] if stage.name != "train-tokenizer"]


def load_bench(file: Path, stages: Mapping[str, Stage], *, day: dt.date | None = None) -> Bench:
    """A comparison from its file.

    Args:
        day: last day of the click log, instead of the file's; what was measured for another day is another row.

    Raises:
        InputError: as `load_yaml`.
    """
    comparison = load_yaml(Comparison, file)
    return Bench(name=file.stem, comparison=comparison.model_copy(update={"date": day} if day else {}), stages=stages)
