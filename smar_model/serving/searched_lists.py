"""The lists that answer a question: one version's, or two versions' interleaved; and what the log is to have of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from smar_model.errors import InputError
from smar_model.retrieval.search import Hit
from smar_model.serving.api_schemas import BatchQuestion
from smar_model.serving.interleaving import Interleaving
from smar_model.serving.log_rows import Place, ShownList, new_request_id
from smar_model.serving.served_pair import ServedPair
from smar_model.serving.team_draft import draft


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundList:
    """The answer to one query."""

    request_id: str
    query: str
    p: float
    version: str
    model_digest: str
    index_digest: str | None
    hits: Sequence[Hit]


Found = tuple[list[list[Hit]], np.ndarray]
"""Hits and P(q) of each query."""


class SearchedLists:
    """A question with the pairs that answer it. `search` runs in a thread of searches, all else in the event loop."""

    def __init__(self, question: BatchQuestion, pair: ServedPair, interleaving: Interleaving | None) -> None:
        self.question, self.pair = question, pair
        self.shown: list[ShownList] = []
        self._request_ids = [new_request_id() for _ in question.queries]
        self._interleaving = interleaving if interleaving and interleaving.asks(question) else None
        self._of_share: set[str] = set()
        """Requests that are to be interleaved; those of a user alike, those without a user each by itself."""
        self._interleaved = 0
        self._pairs: tuple[ServedPair, ServedPair] | None = None
        if self._interleaving:
            includes = self._interleaving.includes
            self._of_share = {each for each in self._request_ids if includes(question.user or each)}
            self._pairs = self._interleaving.pairs() if self._of_share else None

    @property
    def parts(self) -> int:
        """Answers that are held at once for each query."""
        return 3 if self._pairs else 1

    @property
    def kind(self) -> Hashable:
        """What it has in common with questions that can be asked together with it (`find_together`); where lists are interleaved, with none."""
        asked = self.question
        if self._pairs:
            return id(self)
        return id(self.pair), asked.k, tuple(asked.departments), tuple(asked.filters), asked.routing

    def search(self, found: Found | None = None) -> Iterator[FoundList]:
        """One list a query, in their order.

        Args:
            found: what `find_together` has found.

        Raises:
            InputError: nothing can answer the question.
        """
        interleaved = self._interleaved_lists()
        alone = [n for n in range(len(self._request_ids)) if n not in interleaved]
        of_one: dict[int, FoundList] = {}
        if alone:
            hits, p = found or self._ask(self.pair, alone)
            of_one = {n: self._list(n, [self.pair], p[row], hits[row]) for row, n in enumerate(alone)}
        self._interleaved = len(interleaved)
        for n in range(len(self._request_ids)):
            one, places = interleaved[n] if n in interleaved else (of_one[n], None)
            self._show(one, places or [Place(hit.item_id, one.version, None) for hit in one.hits])
            yield one

    def _interleaved_lists(self) -> dict[int, tuple[FoundList, list[Place]]]:
        """Number of a query of the share → its list and whose item stands where; none where either version cannot answer."""
        wanted = [n for n, request_id in enumerate(self._request_ids) if request_id in self._of_share]
        if not self._pairs or not wanted:
            return {}
        try:
            champion, p = self._ask(self._pairs[0], wanted)
            challenger, _ = self._ask(self._pairs[1], wanted)
        except InputError:  # one of the two indexes may lack what is asked for, a department for one
            return {}
        lists = {}
        for row, n in enumerate(wanted):
            rankings = champion[row], challenger[row]
            ids = [[hit.item_id for hit in hits] for hits in rankings]
            picks = draft(ids[0], ids[1], self.question.k, self._request_ids[n])
            hits = [rankings[pick.from_challenger][pick.place] for pick in picks]
            places = [
                Place(hit.item_id, self._pairs[pick.from_challenger].version, pick.team)
                for hit, pick in zip(hits, picks, strict=True)
            ]
            lists[n] = self._list(n, self._pairs, p[row], hits), places
        return lists

    def _ask(self, pair: ServedPair, numbers: Sequence[int]) -> Found:
        """Of the queries with these numbers. Raises InputError: the pair cannot answer them."""
        return _ask(pair, self.question, [self.question.queries[n] for n in numbers])

    def _list(self, number: int, pairs: Sequence[ServedPair], p: float, hits: Sequence[Hit]) -> FoundList:
        indexes = [pair.index_digest for pair in pairs if pair.index_digest]
        return FoundList(
            request_id=self._request_ids[number],
            query=self.question.queries[number],
            p=float(p),
            version="+".join(pair.version for pair in pairs),
            model_digest="+".join(pair.model_digest for pair in pairs),
            index_digest="+".join(indexes) or None,
            hits=hits,
        )

    def _show(self, found: FoundList, places: Sequence[Place]) -> None:
        self.shown.append(
            ShownList(
                request_id=found.request_id,
                query=found.query,
                user=self.question.user,
                session=self.question.session,
                routing=self.question.routing,
                places=places,
                catalogue_numbers=self.pair.searcher.encoder.catalogue_numbers,
            )
        )

    def count(self) -> None:
        """Count what was interleaved, and what should have been."""
        if self._interleaving:
            self._interleaving.interleaved.inc(self._interleaved)
            self._interleaving.not_interleaved.inc(len(self._of_share) - self._interleaved)


def find_together(asked: Sequence[SearchedLists]) -> list[Found]:
    """What the questions of one kind find, all queries at once.

    Raises:
        InputError: nothing can answer them.
    """
    hits, p = _ask(asked[0].pair, asked[0].question, [query for each in asked for query in each.question.queries])
    ends = list(accumulate(len(each.question.queries) for each in asked))
    return [(hits[start:end], p[start:end]) for start, end in pairwise([0, *ends])]


def _ask(pair: ServedPair, question: BatchQuestion, queries: list[str]) -> Found:
    return pair.searcher.search(
        queries,
        k=question.k,
        departments=question.departments,
        filters=question.filters,
        routing=question.routing,
    )
