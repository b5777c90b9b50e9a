"""`smar search`: a query through the champion, in this process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.release.registry import serving_or_version
from smar_model.release.search_answer import Hit, SearchAnswer, SearchQuestion
from smar_model.settings import Settings, load_recorded_settings

if TYPE_CHECKING:
    from smar_model.retrieval.search import Searcher


def search_release(settings: Settings, asked: SearchQuestion) -> SearchAnswer:
    """The k best items for a query through the champion, or through a stated version.

    Raises:
        InputError: there is no champion, no such version or no such department, a filter is none, or its files are damaged.
    """
    release = serving_or_version(settings, asked.version)
    # Not where there is nothing to search.
    from smar_model.retrieval.search import Searcher

    pictures = ShopInputs.of(load_recorded_settings(release.settings_file)).pictures()
    searcher = Searcher.load(Path(release.model_folder), Path(release.index_folder), model_digest=release.model_digest)
    if asked.filters:
        from smar_model.release.stock_tables import current_stock, load_stock

        if pointer := current_stock(settings):
            searcher.take_stock(load_stock(settings, pointer).rows, pointer.digest)
    found, p = searcher.search(
        [asked.query], k=asked.k, departments=asked.departments, filters=asked.filters, routing=asked.routing
    )
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
    why = [] if hits else _why_nothing(searcher, asked.departments, asked.filters)
    return SearchAnswer(
        query=asked.query, version=release.version, p=round(float(p[0]), 4), hits=hits, nothing_found=why, server=None
    )


def _why_nothing(searcher: Searcher, departments: Collection[str], filters: Sequence[str]) -> list[str]:
    if not filters:
        return ["the index has no item that can be found"]
    if departments and searcher.filters.select(filters).any():
        return [f"no item of {', '.join(departments)} matches {', '.join(map(repr, filters))}"]
    return searcher.filters.why_none(filters)
