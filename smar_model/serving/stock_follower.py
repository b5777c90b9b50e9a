"""Following the shop's stock table, as the registry is followed: without a restart, a failed request, or a look at vectors.

One thread looks every few seconds at which table counts (`release/stock_tables.py`). A new one is read, verified, and given to each open pair in one
assignment; a search that is under way ends with the prices it began with. One that is damaged changes nothing but what is reported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from smar_model.errors import InputError
from smar_model.release.stock_tables import StockTable, current_stock, load_stock
from smar_model.serving.api_schemas import StockState
from smar_model.serving.metrics import Metrics
from smar_model.serving.served_pair import ServedPair
from smar_model.settings import Settings

log = logging.getLogger("smar.serving")


class StockFollower:
    def __init__(
        self, settings: Settings, metrics: Metrics, pairs: Callable[[], Iterable[ServedPair]], *, poll_seconds: float
    ) -> None:
        """
        Args:
            pairs: those that are open, the one that answers first.
        """
        self._settings, self._metrics, self._pairs, self._poll_seconds = settings, metrics, pairs, poll_seconds
        self.table: StockTable | None = None
        self.problem: str | None = None
        """Why the table that counts is not used."""
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._follow, name="follow-stock", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self.look()
            self._stopped.wait(self._poll_seconds)

    def look(self) -> None:
        """Look once at which table counts, and give it to all open pairs that have another. Raises nothing."""
        try:
            pointer = current_stock(self._settings)
            if pointer and (self.table is None or pointer != self.table.pointer):
                self.table = load_stock(self._settings, pointer)
                self._metrics.stock_items.set(pointer.items)
                self._metrics.stock_published.set(pointer.published_at)
                log.info("stock: %s items of %s", f"{pointer.items:,}", pointer.source)
            self.problem = None
        except Exception as error:  # a disk, a store: each fails in its own ways
            said = str(error).splitlines()[0] if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            problem = f"stock: {said}; {'the table before is used' if self.table else 'prices and stock of the index are used'}"
            self._metrics.stock_failures.inc()
            if problem != self.problem:
                log.error("%s", problem)
            self.problem = problem
        try:
            for pair in self._pairs():
                self.apply(pair)
        except Exception:  # the next look tries again
            log.exception("stock: not given to an open pair")

    def apply(self, pair: ServedPair) -> None:
        """Let a pair filter by the table, if it does not yet."""
        if self.table is not None and pair.searcher.stock_digest != self.table.pointer.digest:
            pair.searcher.take_stock(self.table.rows, self.table.pointer.digest)

    def state(self) -> StockState | None:
        """What `/readyz` says of it; None: there is no table."""
        if self.table is None:
            return None
        pointer = self.table.pointer
        answering = next(iter(self._pairs()), None)
        return StockState(
            digest=pointer.digest,
            published_at=pointer.published_at,
            age_seconds=max(0.0, time.time() - pointer.published_at),
            items=pointer.items,
            items_of_index=answering.searcher.stocked_items if answering else 0,
            is_used=answering is not None and answering.searcher.stock_digest == pointer.digest,
        )
