"""The anchors: earlier models beside the champion that a challenger must not be worse than, so that losses too small to be seen
from one day to the next cannot add up. Resolved once when a run starts and recorded (`Run.anchors`); none has learned from
the run's evaluation days. Evaluate lets them answer today's queries over today's catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from smar_model.errors import InputError
from smar_model.lake.runs import Run, find_runs, skip_record
from smar_model.release.registry import PROMOTED_AT, Registry
from smar_model.release.starting_points import is_usable

MAXIMUM_AGE = timedelta(days=28)
"""Between an anchor's training cutoff and the run's."""


def find_anchors(run: Run, champion: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The run's `anchors`: `best_release` and `cold_start`, those that there are and that are not the champion's very model; before the
    first release none, as floors alone decide about it."""
    if champion is None:
        return {}
    met = {champion["model_digest"]}
    found: dict[str, dict[str, Any]] = {}
    for name, anchor in (("best_release", find_best_release(run)), ("cold_start", find_cold_start(run))):
        if anchor and anchor["model_digest"] not in met:
            met.add(anchor["model_digest"])
            found[name] = anchor
    return found


def find_best_release(run: Run) -> dict[str, Any] | None:
    """The best of the versions that were champion, by `best_release`; one that is refused, as its files are gone, is passed over."""
    registry = Registry(run.settings)
    tags = {str(v.version): v.tags for v in registry.client.search_model_versions(f"name = '{registry.name}'")}
    promoted = [found for version, of in tags.items() if (found := _promoted(version, of))]
    while found := best_release(promoted, run.cutoff):
        promoted.remove(found)
        with suppress(InputError):
            release = registry.release(found["version"])
            return {n: release[n] for n in ("version", "run", "cutoff", "model_digest", "model_folder", "source")} | {
                "over_bm25": found["over_bm25"]
            }
    return None


def _promoted(version: str, tags: dict[str, str]) -> dict[str, Any] | None:
    """A version that was champion, as `best_release` takes it; None: it never was, or its tags are not as `smar register` wrote them."""
    try:
        cutoff, over_bm25 = datetime.fromisoformat(tags["smar.cutoff"]), float(tags["smar.over_bm25"])
    except (KeyError, ValueError):
        return None
    if PROMOTED_AT not in tags or cutoff.tzinfo is None or not math.isfinite(over_bm25):
        return None
    return {"version": version, "cutoff": tags["smar.cutoff"], "over_bm25": over_bm25}


def best_release(promoted: Iterable[dict[str, Any]], cutoff: datetime) -> dict[str, Any] | None:
    """Of releases with `version`, `cutoff` (ISO time) and `over_bm25` the best of the 28 days before a run's cutoff.

    Best is the one with the largest advantage over BM25 in Recall@50 on its own evaluation days: BM25 takes out how hard those days
    were. Of several the newest.
    """
    recent = [
        release for release in promoted if cutoff - MAXIMUM_AGE <= datetime.fromisoformat(release["cutoff"]) <= cutoff
    ]
    return max(recent, key=lambda r: (r["over_bm25"], r["cutoff"], int(r["version"])), default=None)


def find_cold_start(run: Run) -> dict[str, Any] | None:
    """The model of the newest run of this shop, promoted or not, that pretrained itself and went on from no release.

    Runs that were never registered are left out: they are comparisons and oracles.
    """
    earlier = [
        other
        for other in find_runs()
        if run.cutoff - MAXIMUM_AGE <= other.cutoff < run.cutoff
        and other.base is None
        and other.warm_start is None
        and (other.settings.shop.root, other.settings.release.model)
        == (run.settings.shop.root, run.settings.release.model)
    ]
    for other in sorted(earlier, key=lambda other: (other.cutoff, other.name), reverse=True):
        try:
            registered = other.state("register") or {}
            if registered.get("state") != "finished":
                continue
            model = other.output("finetune")
        except InputError as missing:
            skip_record(missing)
            continue
        if not is_usable(model, run):
            continue
        return {
            "version": registered.get("version"),
            "run": other.name,
            "cutoff": other.cutoff.isoformat(),
            "model_digest": model.manifest["content"]["model"],
            "model_folder": str(model.place / "model"),
        }
    return None
