"""Questions that wait and are searched for together: each gets what it would have got alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from smar_model.errors import InputError
from smar_model.release.registry import Registry
from smar_model.retrieval.search import Searcher
from smar_model.serving.api_schemas import BatchQuestion
from smar_model.serving.app import search_together
from smar_model.serving.searched_lists import SearchedLists
from smar_model.serving.served_pair import ServedPair, open_release
from tests.serving.serving_shop import serving_shop


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPair]:
    with serving_shop(tmp_path_factory, versions=1) as shop:
        yield open_release(Registry(shop.settings).release("1"))


def answers(pair: ServedPair, *questions: BatchQuestion) -> list[Any]:
    """Parsed, without what differs from one answer to the next."""
    done = search_together([(SearchedLists(question, pair, None), True) for question in questions])
    read = [each if isinstance(each, Exception) else json.loads(each)["answers"] for each in done]
    for each in read:
        for answer in each if isinstance(each, list) else []:
            del answer["request_id"]
            for hit in answer["hits"]:
                hit["score"] = pytest.approx(hit["score"], abs=1e-6)
    return read


def test_each_gets_its_own_answer(pair: ServedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [
        BatchQuestion(queries=queries, k=5)
        for queries in (["red shirt"], ["blue dress", "novel"], ["red shirt"], ["ш" * 9_999], ["green"])
    ]
    alone = [answers(pair, question)[0] for question in questions]
    searches, search = list[int](), Searcher.search

    def counted(self: Searcher, queries: list[str], *arguments: Any, **named: Any) -> Any:
        searches.append(len(queries))
        return search(self, queries, *arguments, **named)

    monkeypatch.setattr(Searcher, "search", counted)
    assert answers(pair, *questions) == alone
    assert searches == [6]
    assert len({json.dumps([hit["item_id"] for a in each for hit in a["hits"]]) for each in alone}) > 2


def test_what_is_wrong_with_a_question_is_said_to_it_alone(pair: ServedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Searcher.search

    def failing(self: Searcher, queries: list[str], *arguments: Any, **named: Any) -> Any:
        if "poison" in queries:
            raise RuntimeError("no answer to this one")
        return search(self, queries, *arguments, **named)

    monkeypatch.setattr(Searcher, "search", failing)
    sound, poisoned = BatchQuestion(queries=["red shirt"]), BatchQuestion(queries=["poison"])
    first, wrong, last = answers(pair, sound, poisoned, sound)
    assert isinstance(wrong, RuntimeError)
    assert first == last == answers(pair, sound)[0]


def test_a_department_that_is_none_is_named_to_each(pair: ServedPair) -> None:
    asked = BatchQuestion(queries=["red shirt"], departments=["Nowhere"])
    for refused in answers(pair, asked, asked):
        assert isinstance(refused, InputError)
        assert "department 'Nowhere'" in str(refused)


def test_only_questions_that_ask_alike_are_of_one_kind(pair: ServedPair) -> None:
    plain = BatchQuestion(queries=["red"])
    others = [{"k": 11}, {"departments": ["Fashion"]}, {"filters": ["available"]}, {"routing": "text"}]
    kinds = [SearchedLists(plain.model_copy(update=other), pair, None).kind for other in ({}, *others)]
    assert len(set(kinds)) == len(kinds)
    assert SearchedLists(BatchQuestion(queries=["blue"], user="u"), pair, None).kind == kinds[0]
