"""What people ask of the registry: search the champion, describe it, list the releases."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Column, Table
from typing_extensions import TypedDict

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.evaluation.decision import rule_mark
from smar_model.release.history import MOVES, Change, read_history
from smar_model.release.registry import serving_or_version
from smar_model.release.stock import current_stock, load_stock
from smar_model.settings import Settings, load_recorded_settings

if TYPE_CHECKING:
    from smar_model.retrieval.search import RoutedBy, Searcher


class Hit(TypedDict):
    rank: int
    item_id: str
    title: str
    department: str
    score: float
    pictures: list[str]
    """Paths or URLs."""


class SearchAnswer(TypedDict):
    query: str
    version: str
    p: float
    """P(q), 0 to 1."""
    hits: list[Hit]
    nothing_found: list[str]
    """Which filters left nothing, and what values there are; empty where there are hits."""


def search_release(
    settings: Settings,
    query: str,
    *,
    k: int,
    version: str | None,
    departments: Collection[str] = (),
    filters: Sequence[str] = (),
    routing: RoutedBy | None = None,
) -> SearchAnswer:
    """The k best items for a query through the champion, or through a stated version; as `Searcher.search` takes them.

    Raises:
        InputError: there is no champion, no such version or no such department, a filter is none, or its files are damaged.
    """
    release = serving_or_version(settings, version)
    # torch and FAISS take seconds to import: not where there is nothing to search.
    from smar_model.retrieval.search import Searcher

    pictures = ShopInputs.of(load_recorded_settings(release.settings_file)).pictures()
    searcher = Searcher.load(Path(release.model_folder), Path(release.index_folder), model_digest=release.model_digest)
    if filters and (pointer := current_stock(settings)):
        searcher.take_stock(load_stock(settings, pointer).rows, pointer.digest)
    found, p = searcher.search([query], k=k, departments=departments, filters=filters, routing=routing)
    hits = [
        Hit(
            rank=rank,
            item_id=hit.item_id,
            title=hit.title,
            department=hit.department,
            score=round(hit.score, 4),
            pictures=[pictures.address(name) for name in hit.images],
        )
        for rank, hit in enumerate(found[0], start=1)
    ]
    why = [] if hits else _why_nothing(searcher, departments, filters)
    return SearchAnswer(query=query, version=release.version, p=round(float(p[0]), 4), hits=hits, nothing_found=why)


def _why_nothing(searcher: Searcher, departments: Collection[str], filters: Sequence[str]) -> list[str]:
    if not filters:
        return ["the index has no item that can be found"]
    if departments and np.unpackbits(searcher.filters.select(filters)).any():
        return [f"no item of {', '.join(departments)} matches {', '.join(map(repr, filters))}"]
    return searcher.filters.why_none(filters)


def index_item_ids(settings: Settings) -> pa.Array | None:
    """Ids of the items in the champion's index; None where there is no champion."""
    try:
        release = serving_or_version(settings, None)
    except InputError:
        return None
    files = sorted((Path(release.index_folder) / "index_items").glob("*.parquet"))
    return ds.dataset([str(file) for file in files]).to_table(columns=["item_id"])["item_id"].combine_chunks()


def show_search(answer: SearchAnswer, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no edge at which paths would have to be broken
    console.print(
        f"“{answer['query']}”, version {answer['version']}: P(q) = {answer['p']:.2f} "
        "(from 0, the text decides, to 1, text and pictures do)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if not answer["hits"]:
        for line in answer["nothing_found"]:
            console.print(f"nothing found: {line}", highlight=False, markup=False, soft_wrap=True)
        return
    table = Table(
        Column("#", justify="right"),
        Column("score", justify="right"),
        Column("title", overflow="fold", max_width=48),
        Column("department"),
        Column("picture", overflow="fold"),
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for hit in answer["hits"]:
        picture = _short(hit["pictures"][0]) if hit["pictures"] else "none"
        cells = [str(hit["rank"]), f"{hit['score']:.3f}", hit["title"], hit["department"], picture]
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    console.print(table)


def show_champion(settings: Settings, *, as_json: bool) -> None:
    """Print where the champion comes from and where its files are.

    Raises:
        InputError: there is none yet.
    """
    release = serving_or_version(settings, None)
    if as_json:
        print(json.dumps(asdict(release), indent=1))
        return
    names = {
        "version": release.version,
        "trained by run": release.run,
        "trained up to": release.cutoff,
        "fine-tuned from": release.started_from,
        "judged up to": release.date,
        "model": _short(release.model_folder),
        "index": _short(release.index_folder),
        "report": _short(str(release.settings_file.with_name("report.html"))),
    }
    for name, value in names.items():
        print(f"{name:<15} {value}")


COMPARISONS = ("over_", "not_worse_than_")
"""Rules of the gate that a line of the history tells even where they passed: by how much the release is better."""


def show_history(*, as_json: bool) -> None:
    """Print every change, oldest first, with who and why; refreshes of one version that follow each other are one line."""
    # What was put back where a line was damaged stands at the end.
    entries = sorted(read_history(), key=lambda entry: datetime.fromisoformat(entry["at"]).timestamp())
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    if not entries:
        print("no release yet; `make retrain` makes the first")
        return
    refreshes = 0
    for entry, after in zip(entries, [*entries[1:], None], strict=True):
        alike = [(e["action"], e["model"], e.get("to")) if e else None for e in (entry, after)]
        refreshes += entry["action"] == "refresh"
        if entry["action"] == "refresh" and alike[0] == alike[1]:
            continue
        print(f"{entry['at']}  {entry['model']}: {_told(entry, refreshes)}")
        refreshes = 0
        if entry["action"] in MOVES:
            reasons = entry.get("evidence", {}).get("reasons", [])
            told = [r for r in reasons if not r["passed"] or r["rule"].startswith(COMPARISONS)]
            for reason in told:
                # Decisions of older versions do not say what was judged.
                mark = rule_mark(passed=reason["passed"], judged=reason.get("judged", True))
                print(f"    {mark} {reason['text']}")
            further = [reason.get("judged", True) for reason in reasons if reason not in told]
            if any(further):
                print(f"    ✓ {sum(further)} further rules (--json)")
            if not all(further):
                print(f"    – {len(further) - sum(further)} further rules, not judged (--json)")


def _told(change: Change, refreshes: int) -> str:
    # What a damaged line or a tag does not tell is shown as such.
    entry: Any = dict.fromkeys(("from", "to", "run", "date", "index", "version", "reason"), "?") | change
    origin = f"run {entry['run']}, data up to {entry['date']}"
    by = f" by {entry['by']}" if entry.get("by") else ""
    if entry["action"] == "refresh":
        times = f" {refreshes} times, the last" if refreshes > 1 else ""
        digests = f"{(entry.get('index_from') or 'none')[:12]} → {entry['index'][:12]}"
        return f"version {entry['to']}: index refreshed{times}{by}: {digests}  ({origin})"
    if entry["action"] == "reject":
        return f"version {entry['version']} rejected{by}, version {entry['to'] or 'none'} stays  ({origin}): {entry['reason']}"
    if entry["action"] == "sign":
        return f"version {entry['to']} signed again{by}  ({origin}): {entry['reason']}"
    # The rules below say why a gate promoted.
    why = f": {entry['reason']}" if entry.get("reason") and by != " by the gate" else ""
    return f"version {entry['from'] or 'none'} → {entry['to']}  ({entry['action']}{by}, {origin}){why}"


def _short(path: str) -> str:
    """Relative to the current folder where it is below it: terminals make that one clickable word."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
