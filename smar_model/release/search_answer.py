"""What `smar search` is asked, what it answers, and how it shows that. No registry and no index is needed to tell it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypedDict

from smar_model.release.paths import short_path


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuestion:
    """As `Searcher.search` takes it."""

    query: str
    k: int
    version: str | None = None
    """None: the champion."""
    departments: Collection[str] = ()
    filters: Sequence[str] = ()
    routing: Literal["soft", "hard", "text", "pictures"] | None = None


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
    server: str | None
    """Address of the `smar serve` that answered; None: this process searched."""


def _by_server(answer: SearchAnswer) -> str:
    return f"; answered by `smar serve` at {answer['server']}" if answer["server"] else ""


def show_search(answer: SearchAnswer, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no edge at which paths would have to be broken
    console.print(
        f"“{answer['query']}”, version {answer['version']}: P(q) = {answer['p']:.2f} "
        f"(from 0, the text decides, to 1, text and pictures do){_by_server(answer)}",
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
        picture = short_path(hit["pictures"][0]) if hit["pictures"] else "none"
        cells = [str(hit["rank"]), f"{hit['score']:.3f}", hit["title"], hit["department"], picture]
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    console.print(table)
