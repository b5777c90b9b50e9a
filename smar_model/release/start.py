"""`smar start`: check what a run will need, resolve the champion once, record both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError, NoAnswer, NothingToDo
from smar_model.lake.durable_files import sweep_temporaries
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.encoder_store import resolve_encoders
from smar_model.lake.runs import Promotion, Run, create_run, load_run, run_folder, write_failure
from smar_model.lake.shared_files import is_file
from smar_model.lake.sweeping import sweep_expired, sweep_orphans
from smar_model.release.steps import recorded_step
from smar_model.settings import REPOSITORY, Settings, load_settings, refuse_secrets, validate_settings
from smar_model.url_secrets import mask_secrets
from smar_model.yaml_files import Document, parse_yaml


def start_run(
    *,
    settings_path: Path,
    name: str,
    day: date,
    promotion: Promotion,
    steps: Collection[str],
    window_days: int | None = None,
    changes: Sequence[str] = (),
    note: str = "",
    release: str | None = None,
) -> Run:
    """Begin a run, or take up the one of that name with the champion that it met when it began.

    Args:
        steps: commands of a run, for which the settings may name an interpreter.
        day: last day of the click log to read.
        promotion: as `Run.promotion`.
        window_days: days of the log, that day included; None: the settings'.
        changes: settings that differ from the file's in this run, `NAME=VALUE` each, as `training.seed=1`.
        note: why the run is started, for its record.
        release: what a refresh or a rollback works on, `champion`, `previous` (the champion's predecessor), `challenger` (the version
            that is being interleaved) or a version; such a run reads no click log. None: a run that trains.

    Raises:
        InputError: the settings are wrong, the shop lacks a file that the run needs, there is no such version, or the name is taken
            by a run with another date or other settings, or on another release.
        NoAnswer: no day to train on, or none to judge on, is complete yet; or the shop's object store does not answer.
        NothingToDo: there is no such release yet.
    """
    run_folder(name)  # refuses what is no name
    try:
        settings = with_window(with_changes(load_settings(settings_path), changes), window_days)
        if unknown := sorted(set(settings.stages.python) - set(steps)):
            raise InputError(f"{settings_path}: stages.python.{unknown[0]}: no such step; there are {', '.join(steps)}")
        run = Run(
            name=name,
            date=day,
            settings_source=_relative(settings_path),
            settings=settings,
            champion=None,
            promotion=promotion,
            note=mask_secrets(note),
            # What only serves trains nothing.
            encoders={} if release else resolve_encoders(settings),
        )
        if release is None:
            run = replace(run, left_out=incomplete_days(run))
        check_inputs(run, with_log=release is None)
        if release is None:
            run = _with_step_threads(run)
    except (InputError, NoAnswer) as error:
        # There is no run yet to record it in; `make retrain` shows the message from here.
        write_failure(name, "start", error, seconds=0.0)
        raise
    with recorded_step(run, "start") as details:
        swept, expired = sweep_orphans() + sweep_temporaries(), sweep_expired()
        run = _taken_up(run, release) if is_file(run.folder / "run.json") else _begun(run, release)
        details["metrics"] = {"days": len(run.days), "orphans_swept": swept, "tables_expired": expired}
        details["metrics"] |= {"pretraining": describe_base(run), "anchors": describe_anchors(run)}
        if run.left_out:
            details["metrics"] |= {"days_left_out": _days(run.left_out)}
    print(
        f"[{name}] start: {_told(run)}"
        + (f"; removed {swept} unfinished output(s) and file(s) of dead processes" if swept else "")
        + (f"; removed {expired} table(s) older than their contract keeps them" if expired else "")
    )
    return load_run(name)


def _with_step_threads(run: Run) -> Run:
    """The run, whose settings say how many threads compute a training step."""
    training = run.settings.training
    if training.step_threads or training.threads == 1:
        return run
    # PyTorch takes seconds to import: only where a number is to be found.
    from smar_model.training.thread_probe import with_step_threads

    report = partial(print, f"[{run.name}] start:")
    return replace(run, settings=with_step_threads(run.settings, run.encoders, report))


def _taken_up(run: Run, release: str | None) -> Run:
    """The run of that name, which has been begun before."""
    run = create_run(run)
    if release and release.isdigit() and run.release and run.release.version != release:
        raise InputError(f"run {run.name}: exists, and works on version {run.release.version}; choose another name")
    return run


def _begun(run: Run, release: str | None) -> Run:
    """The run as it is recorded, with what it meets and builds on."""
    # MLflow takes seconds to import: only where it is asked.
    from smar_model.release.starting_points import find_anchors, find_earlier_catalogue, starting_points

    met, works_on = meet_releases(run, release)
    # What only serves trains from nothing and is compared with nobody.
    points = {} if release else starting_points(run, met) | {"anchors": find_anchors(run, met)}
    points |= {"earlier_catalogue": find_earlier_catalogue(run)}
    return create_run(replace(run, champion=met, release=works_on, **points))


def _told(run: Run) -> str:
    """What a run met and builds on."""
    met = run.champion
    rival = f"{met.name} (trained up to {met.cutoff[:10]})" if met else "none"
    return (
        f"{run.settings_source}, days {run.days[0]} to {run.days[-1]}, trained up to {run.cutoff:%Y-%m-%d}, champion: {rival}, "
        f"anchors: {describe_anchors(run)}, pretraining: {describe_base(run)}, promotion: {run.promotion}"
        + (f", works on {run.release.name}" if run.release and run.release != met else "")
        + (f", left out as not complete: {_days(run.left_out)}" if run.left_out else "")
    )


def meet_releases(run: Run, asked: str | None) -> tuple[Release | None, Release | None]:
    """The champion and the release that is asked for, as they are now; what a killed process left of a release is repaired first.

    A champion that was set by hand and cannot serve is said loudly, and the last good one, which serves, is met in its place.

    Raises:
        InputError: there is no such version.
        NothingToDo: there is no champion, no release before it, or none that is being interleaved.
    """
    from smar_model.release.reconcile import reconciled
    from smar_model.release.registry import CHALLENGER, Registry

    registry = Registry(run.settings)
    with reconciled(registry, run, "start", opened=True) as (_, found):
        pass  # it is done
    met = registry.release(found.champion[0], index=found.champion[1]) if found.champion else None
    if asked == "champion" and met is None:
        raise NothingToDo(f"model {registry.name!r} has no champion yet")
    if asked in {None, "champion"}:
        return met, met
    if asked == CHALLENGER:
        from smar_model.release.experiment import experiment_under_way

        if (under_way := experiment_under_way(registry)) is None:
            raise NothingToDo(f"no version of model {registry.name!r} is being interleaved with the champion")
        return met, registry.release(under_way.version)
    if asked != "previous":
        return met, registry.release(str(asked))
    if met is None or (before := registry.predecessor(met.version)) is None:
        champion = f"{met.name}, the champion, is the first release" if met else "there is no champion"
        raise NothingToDo(f"model {registry.name!r} has no previous release: {champion}")
    try:
        return met, registry.release(before)
    except InputError as error:
        raise NothingToDo(f"the previous release cannot be read: {error}") from error


def describe_base(run: Run) -> str:
    """Whose pretraining the run builds on."""
    if run.base is None:
        return f"its own (training.reuse_pretraining: {run.settings.training.reuse_pretraining})"
    return f"that of run {run.base.run}, trained up to {run.base.cutoff[:10]}"


def describe_anchors(run: Run) -> str:
    """Which earlier models, beside the champion, the run's is compared with."""
    told = {
        "best_release": "version {0.version} (best of the last 28 days)",
        "cold_start": "run {0.run} (cold start)",
    }
    return " and ".join(told[name].format(anchor) for name, anchor in run.anchors.items()) or "none"


def with_changes(settings: Settings, changes: Sequence[str]) -> Settings:
    """The settings with some values of this run alone.

    Args:
        changes: `NAME=VALUE` each: the dotted name of a setting, and its value in YAML.

    Raises:
        InputError: one is not of that form, names no setting, or is out of its bounds.
    """
    content = settings.model_dump(mode="json")
    for change in changes:
        name, equals, value = change.partition("=")
        *sections, last = name.strip().split(".")
        place: Any = content
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or last not in place:
            raise InputError(
                f"--set {name.strip()!r}: write it as NAME=VALUE, NAME as in the settings file, such as training.seed=1"
            )
        document = parse_yaml(value, source=f"--set {name.strip()}")
        place[last] = document.content if document else None
        refuse_secrets(Document("--set", content, {}))
    return validate_settings(content, source="--set")


def with_window(settings: Settings, days: int | None) -> Settings:
    """The settings with another number of days.

    Raises:
        InputError: no day would be left to train on.
    """
    content = settings.model_dump(mode="json")
    if days is not None:
        content["window"]["days"] = days
    changed = validate_settings(content, source="--window-days")
    if changed.window.days <= changed.window.evaluation_days:
        raise InputError(
            f"window of {changed.window.days} day(s), {changed.window.evaluation_days} of them to judge on: no day is "
            "left to train on; set more days (window.days in the settings, or --window-days)"
        )
    return changed


def incomplete_days(run: Run) -> dict[date, str]:
    """Days of the window that are not complete now, and why.

    Raises:
        NoAnswer: no other day is left to train on, or to judge on.
    """
    left_out = ShopInputs.of(run.settings).incomplete_days(run.window)
    rest = replace(run, left_out=left_out)
    for what, days in (("train", rest.training_days), ("judge", rest.evaluation_days)):
        if left_out and not days:
            log = ShopInputs.of(run.settings).root / "click_log"
            raise NoAnswer(
                f"{log}: no day to {what} on is complete ({_days(left_out)}); run again once it has been delivered, or for an earlier day (--date)"
            )
    return left_out


def _days(left_out: Mapping[date, str]) -> str:
    return ", ".join(f"{day} {why}" for day, why in left_out.items())


def check_inputs(run: Run, *, with_log: bool = True) -> None:
    """Whether the shop has every file that the run will read. Judgments, which nothing reads before the end of a run, are read.

    Raises:
        InputError: a file is missing or damaged; names it.
    """
    shop = ShopInputs.of(run.settings)
    shop.items()
    shop.pictures()
    for day in run.days if with_log else ():
        shop.click_log(day)
    if with_log and (judgments := shop.judgments()):
        from smar_model.evaluation.evaluation_set import read_judgments

        read_judgments(judgments)


def _relative(path: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(REPOSITORY)) if resolved.is_relative_to(REPOSITORY) else str(resolved)
