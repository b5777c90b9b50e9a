"""What a run as a whole must be: figures that Spark took from its tables, against `settings.checks`.

Every check says what was looked at, where it comes from, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from smar_model.checks.expectations import SAMPLE, Measure
from smar_model.checks.outcomes import Severity
from smar_model.lake.object_paths import place_of
from smar_model.lake.stage import StageContext

EVENTS = ("impressions", "clicks", "carts", "orders")
JUDGED_FROM = 30
"""Mean events a day of a kind from which on its last day is compared: of fewer, chance alone halves or doubles them."""
REPEATS = ("duplicate_event", "replayed_event")
WARNING: Severity = "warning"
CRITICAL: Severity = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What Spark found in the tables of a run."""

    table: pd.DataFrame
    """`figures` of sql/check_data.sql: figure, day, key, value."""
    samples: dict[tuple[str, str], list[str]]
    """(source, reason) → keys of rows in quarantine."""
    leaking_keys: Callable[[str], list[str]]
    """Keys that a leak concerns, at most SAMPLE; by the name of its view."""

    def by_day(self, figure: str, days: list[Any]) -> pd.Series:
        """Day → value, 0 where the log says nothing."""
        found = self.table[self.table["figure"] == figure].groupby("day")["value"].sum()
        return found.reindex(days, fill_value=0.0)

    def by_key(self, figure: str) -> pd.Series:
        return self.table[self.table["figure"] == figure].groupby("key")["value"].sum()

    def quarantined(self, source: str, *reasons: str) -> pd.DataFrame:
        """Rows of a source in quarantine: day (or null), reason, value; of all reasons where none is named."""
        found = self.table[self.table["figure"] == "quarantined"]
        found = found[found["key"].str.startswith(f"{source}/")].assign(reason=lambda t: t["key"].str.split("/").str[1])
        return found[found["reason"].isin(reasons)] if reasons else found

    def describe_quarantine(self, source: str, *reasons: str) -> str:
        """Unused rows of a source by reason, the most frequent first, with keys; a line a reason."""
        counts = (
            self.quarantined(source, *reasons)
            .groupby("reason")["value"]
            .sum()
            .sort_values(ascending=False, kind="stable")
        )
        lines = []
        for reason, count in counts.items():
            keys = self.samples.get((source, str(reason)), [])
            more = ", …" if count > len(keys) else ""
            lines.append(f"  {reason} {int(count):,}: {', '.join(keys)}{more}")
        return "\n".join(lines) or "  (no row)"


def run_measures(context: StageContext, figures: RunFigures) -> list[Measure]:
    """All checks of the run as a whole, in the order of the page."""
    return [
        *_quarantine(context, figures),
        *_volume(context, figures),
        *_mix(context, figures),
        *_behaviour(context, figures),
        *_trainable(context, figures),
        *_training_data(context, figures),
        *_leakage(context, figures),
    ]


def _run(check: str, value: float, *, severity: Severity = CRITICAL, **more: Any) -> Measure:
    return Measure(table="run", check=check, severity=severity, value=value, **more)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _quarantine(context: StageContext, figures: RunFigures) -> list[Measure]:
    bounds, root = context.settings.checks, place_of(context.settings.shop.root)
    items = context.input("prepare-items").metrics
    measures = []
    for source, read, bound, metric, place in (
        ("items", items["items_in"], "maximum_quarantined", "quarantined_items", root / "items*"),
        ("pictures", items["pictures_in"], "maximum_broken_pictures", "broken_pictures", context.shop.pictures().place),
    ):
        most = getattr(bounds, bound)
        measures.append(
            _run(
                f"share of {source} in quarantine at most {most:g} (settings.checks.{bound})",
                _share(figures.quarantined(source)["value"].sum(), read),
                most=most,
                metric=metric,
                detail=lambda source=source, bound=bound, place=place: (
                    f"Rows of {place} by reason, with keys:\n{figures.describe_quarantine(source)}\n"
                    f"  Correct them in {place} and deliver again, or raise settings.checks.{bound} if this is how it is."
                ),
            )
        )
    days, log = context.run.days, root / "click_log"
    kept = sum(figures.by_day(event, days) for event in EVENTS)
    unused = figures.quarantined("click_log").groupby("day")["value"].sum().reindex(days, fill_value=0.0)
    for what, reasons, bound, severity, metric, advice in (
        ("in quarantine", (), "maximum_quarantined", CRITICAL, "quarantined_events", "Correct them"),
        ("without a field", ("null_field",), "maximum_nulls", CRITICAL, "null_events", "Fill the fields in"),
        ("that repeat another", REPEATS, "maximum_repeated", WARNING, "repeated_events", "Keep each event once"),
    ):
        most = getattr(bounds, bound)
        rows = figures.quarantined("click_log", *reasons).groupby("day")["value"].sum().reindex(days, fill_value=0.0)
        shares = (rows / (kept + unused)).fillna(0.0)
        worst = shares.idxmax()
        measures.append(
            _run(
                f"share of a day's events {what} at most {most:g} (settings.checks.{bound})",
                shares[worst],
                severity=severity,
                most=most,
                metric=metric,
                observed=f"{shares[worst]:.4g} on {worst}, {_share(rows.sum(), (kept + unused).sum()):.4g} in all",
                detail=lambda bound=bound, advice=advice, reasons=reasons: (
                    f"Rows of {log} by reason, with keys:\n{figures.describe_quarantine('click_log', *reasons)}\n"
                    f"  {advice} in {log} and deliver again, or raise settings.checks.{bound} if this is how it is."
                ),
            )
        )
    return measures


def _volume(context: StageContext, figures: RunFigures) -> list[Measure]:
    bounds, run, log = context.settings.checks, context.run, place_of(context.settings.shop.root) / "click_log"
    measures = []
    for event in EVENTS:
        by_day = figures.by_day(event, run.days)
        last, before = by_day.iloc[-1], by_day.iloc[:-1].mean()
        if not before >= JUDGED_FROM:
            continue
        for setting, severity in (("usual_volume", WARNING), ("possible_volume", CRITICAL)):
            least, most = getattr(bounds, setting)
            measures.append(
                _run(
                    f"{event} of {run.days[-1]} by the mean of the days before between {least:g} and {most:g} "
                    f"(settings.checks.{setting})",
                    last / before,
                    severity=severity,
                    least=least,
                    most=most,
                    metric=f"{event}_by_mean",
                    detail=f"{last:,.0f} {event} in {log / f'dt={run.days[-1]}'}, {before:,.0f} a day before; deliver the "
                    f"whole day, once, or move settings.checks.{setting} if the shop has changed that much.",
                )
            )
    clicks = figures.by_day("clicks", run.days)
    silent = [str(day) for day in run.days if not clicks[day]]
    return [
        *measures,
        _run(
            "every day of the window has clicks",
            len(silent),
            most=0,
            metric="silent_days",
            observed=f"{len(run.days) - len(silent)} of {len(run.days)} days",
            detail=lambda: (
                f"None in {', '.join(silent)}; see the rows of {log} in quarantine:\n"
                f"{figures.describe_quarantine('click_log')}"
            ),
        ),
    ]


def stability_index(last: pd.Series, before: pd.Series) -> float:
    """Population stability index Σ (p − q) ln(p / q) of counts by key, less what chance alone would give, from 0.

    Without any shift it is about (k − 1)(1/n + 1/m) for k keys and n and m events (Yurdakul 2018, section 4). Half an
    event is added to each count, so that a key that is new or gone is a finite step.
    """
    keys = before.index.union(last.index)
    if len(keys) < 2 or not last.sum() or not before.sum():
        return 0.0
    p, q = (counts.reindex(keys, fill_value=0.0) + 0.5 for counts in (last, before))
    chance = (len(keys) - 1) * (1 / p.sum() + 1 / q.sum())
    p, q = p / p.sum(), q / q.sum()
    return max(0.0, float(((p - q) * np.log(p / q)).sum() - chance))


def _mix(context: StageContext, figures: RunFigures) -> list[Measure]:
    last, before = figures.by_key("department_last"), figures.by_key("department_before")
    shares = pd.DataFrame({"last": last / last.sum(), "before": before / before.sum()}).fillna(0.0)
    moved = (shares["last"] - shares["before"]).abs().sort_values(ascending=False).index[:5]
    changes = ", ".join(f"{d} {shares['before'][d]:.0%} → {shares['last'][d]:.0%}" for d in moved)
    bounds, day = context.settings.checks, context.run.days[-1]
    return [
        _run(
            f"shift of the departments clicked on {day} against the days before (stability index) at most "
            f"{getattr(bounds, setting):g} (settings.checks.{setting})",
            stability_index(last, before),
            severity=severity,
            most=getattr(bounds, setting),
            metric="department_shift",
            kind="drift",
            detail=f"Clicks by department: {changes}. Look for departments that lack in {place_of(context.settings.shop.root) / 'click_log'} or "
            f"in the catalogue, or raise settings.checks.{setting} if shoppers did change.",
        )
        for setting, severity in (("usual_shift", WARNING), ("possible_shift", CRITICAL))
    ]


def _behaviour(context: StageContext, figures: RunFigures) -> list[Measure]:
    bounds, days, log = context.settings.checks, context.run.days, place_of(context.settings.shop.root) / "click_log"
    clicks, met, chance = (figures.by_day(f, days) for f in ("clicks_with_words", "met", "met_by_chance"))
    # On a day without clicks there is nothing to agree; that such a day is wrong is another check's to say.
    lifts = (met * clicks / chance.where(chance > 0)).fillna(0.0)[clicks > 0]
    measures = []
    if len(lifts):
        worst = lifts.idxmin()
        measures.append(
            _run(
                "words of clicked queries stand in the clicked item's text, on every day at least "
                f"{bounds.minimum_agreement:g} times as often as by chance (settings.checks.minimum_agreement)",
                lifts[worst],
                least=bounds.minimum_agreement,
                metric="agreement",
                observed=f"{lifts[worst]:.2f} times on {worst}, {lifts.median():.2f} on the median day",
                detail=f"Clicks of {log / f'dt={worst}'} do not fit the titles, categories, brands and attributes of "
                "their items: item_id or query of the events is mixed up, or the catalogue has other keys. Correct the "
                "join that writes the log, or lower the bound if queries and texts are in different languages.",
            )
        )
    shown, clicked = figures.by_key("shown_at"), figures.by_key("clicked_at")
    places = sorted(shown.index, key=int)
    upper, lower = places[: (len(places) + 1) // 2], places[(len(places) + 1) // 2 :]
    rates = [_share(clicked[half].sum(), shown[half].sum()) for half in (upper, lower)]
    if lower and rates[0]:
        measures.append(
            _run(
                f"click-through of places {lower[0]} to {lower[-1]} by that of places 1 to {upper[-1]} at most "
                f"{bounds.maximum_lower_half:g} (settings.checks.maximum_lower_half)",
                rates[1] / rates[0],
                severity=WARNING,
                most=bounds.maximum_lower_half,
                metric="lower_half",
                observed=f"{rates[1] / rates[0]:.3f} ({rates[0]:.4f} above, {rates[1]:.4f} below)",
                detail=f"Shoppers look from the top; `position` in {log} may be counted from the bottom, be lost, or be "
                "that of another page. The weights of clicks correct for it and are wrong then.",
            )
        )
    return measures


def _trainable(context: StageContext, figures: RunFigures) -> list[Measure]:
    """What the cutoff leaves out is little: a catalogue whose every row was touched last night would leave nothing to learn from."""
    bounds, run, root = context.settings.checks, context.run, place_of(context.settings.shop.root)
    counts = figures.by_key("trainable").reindex(
        ["items", "known_items", "items_with_queries", "clicks", "known_clicks"], fill_value=0.0
    )
    earlier = run.earlier_catalogue
    known = f"compared with the catalogue of run {earlier.run}" if earlier else "this shop has no run of an earlier day"
    touched = (
        f"The text of the others stands since {run.cutoff:%Y-%m-%d} or later, by updated_at in {root / 'items*'} ({known}). Does an "
        "export set updated_at of every row, or in another unit? Deliver when an item's text changed"
    )
    unread = "Too little of what sellers wrote is words: look at title, category, brand and attributes of the items without queries"
    return [
        _run(
            f"share of {what} at least {getattr(bounds, bound):g} (settings.checks.{bound})",
            _share(counts[part], counts[whole]),
            least=getattr(bounds, bound),
            metric=metric,
            observed=f"{_share(counts[part], counts[whole]):.4g} ({counts[part]:,.0f} of {counts[whole]:,.0f})",
            detail=f"{advice}, or lower settings.checks.{bound} if this is how it is.",
        )
        for what, part, whole, bound, metric, advice in (
            (
                *("items that may be trained on", "known_items", "items"),
                *("minimum_trainable_items", "trainable_items", touched),
            ),
            (
                *("clicks of the training days on items that may be trained on", "known_clicks", "clicks"),
                *("minimum_trainable_clicks", "trainable_clicks", touched),
            ),
            (
                *("items that may be trained on with synthetic queries", "items_with_queries", "known_items"),
                *("minimum_items_with_queries", "items_with_queries", unread),
            ),
        )
    ]


def _training_data(context: StageContext, figures: RunFigures) -> list[Measure]:
    settings, run = context.settings, context.run
    bounds, log = settings.checks, place_of(context.settings.shop.root) / "click_log"
    clicks = figures.by_day("clicks", run.days)[run.training_days].sum()
    measures = [
        _run(
            f"clicks in the training days at least {bounds.minimum_training_clicks} "
            "(settings.checks.minimum_training_clicks)",
            clicks,
            least=bounds.minimum_training_clicks,
            metric="training_clicks",
            observed=f"{clicks:,.0f}",
            detail=f"Read from {log}, {run.training_days[0]} to {run.training_days[-1]}; take more days "
            "(settings.window.days) or lower the bound.",
        )
    ]
    asked = settings.synthetic_queries.per_true_query
    for part, severity in ((1.0, WARNING), (0.1, CRITICAL)):
        measures.append(
            _run(
                f"synthetic queries for each true one at least {asked * part:g}"
                f"{'' if part == 1 else ', a tenth of settings.synthetic_queries.per_true_query'}",
                context.input("generate-queries").metrics["per_true_query"],
                severity=severity,
                least=asked * part,
                metric="per_true_query",
                detail="What sellers wrote gives too few different texts; let them write more, or raise "
                "settings.synthetic_queries.maximum_words.",
            )
        )
    labels = figures.by_key("labels").reindex(["visual", "other", "unsure"], fill_value=0.0)
    sure, (least, most) = labels["visual"] + labels["other"], bounds.visual_queries
    if sure:
        measures.append(
            _run(
                f"share of labelled queries that are visual between {least:g} and {most:g} (settings.checks.visual_queries)",
                labels["visual"] / sure,
                severity=WARNING,
                least=least,
                most=most,
                metric="visual_queries",
                detail=f"{labels['visual']:,.0f} of {sure:,.0f} queries; P(q) has nothing to tell apart. See "
                f"settings.shop.visual_departments: {settings.shop.visual_departments}.",
            )
        )
    measures.append(
        _run(
            f"share of labels that are unsure at most {bounds.maximum_unsure:g} (settings.checks.maximum_unsure)",
            _share(labels["unsure"], labels.sum()),
            severity=WARNING,
            most=bounds.maximum_unsure,
            metric="unsure_labels",
            detail="Most queries lead to visual and to other departments alike; see settings.labels and "
            "settings.shop.visual_departments.",
        )
    )
    return measures


def _leakage(context: StageContext, figures: RunFigures) -> list[Measure]:
    """Nothing after the cutoff enters training (design, decision 10)."""
    run = context.run
    leaks = figures.by_key("leak")
    measures = [
        _run(
            check,
            leaks[view],
            most=0,
            metric=view,
            observed=f"{leaks[view]:,.0f} rows",
            detail=lambda view=view, what=what, stage=stage: (
                f"{what} {figures.leaking_keys(view)[:SAMPLE]}. The stage {stage} read what it must not; it has to be "
                "corrected, not the data."
            ),
        )
        for view, what, stage, check in (
            (
                *("late_items", "Items", "generate-queries"),
                f"synthetic queries come from items whose text stood before {run.cutoff:%Y-%m-%d}",
            ),
            ("days_outside", "Days", "extract-clicks", "clicks lie in the window"),
            (
                *("differing_labels", "Queries", "label-fashion"),
                "fashion labels count the clicks of the training days alone",
            ),
        )
    ]
    for event, figure in (("impressions", "shown_at"), ("clicks", "clicked_at")):
        known = figures.by_day(event, run.days)[run.training_days].sum()
        counted = figures.by_key(figure).sum()
        measures.append(
            _run(
                f"propensities count {event} of the training days alone",
                counted,
                most=known,
                observed=f"{counted:,.0f} counted, {known:,.0f} in the training days",
                detail="The stage extract-clicks read later days; it has to be corrected, not the data.",
            )
        )
    return measures
