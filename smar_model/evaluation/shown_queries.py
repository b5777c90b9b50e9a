"""Which queries people look at in the report, and what models found for them: not the best ones, a mix that shows gains, losses and
ordinary ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from smar_model.evaluation.evaluation_record import Shown, ShownAnswer, ShownQuery
from smar_model.evaluation.evaluation_set import EvaluationSet
from smar_model.evaluation.judged_models import TOP_ITEMS, ModelResults
from smar_model.retrieval.ranking import NO_ROW

# Basic colour terms of English (Berlin and Kay 1969) and the commonest of fashion.
_COLOUR = re.compile(
    r"\b(black|white|red|green|yellow|blue|brown|orange|pink|purple|gr[ae]y|navy|beige|maroon|olive|silver|gold)\b"
)
_PATTERN = re.compile(
    r"\b(stripe[ds]?|check(s|ed|ered)?|plaid|tartan|gingham|floral|flower(s|y)?|polka|dot(s|ted)?|print(s|ed)?|graphic"
    r"|camo(uflage)?|paisley|animal|leopard|zebra|geometric|abstract|solid|tie dye|ombre|embroidered|herringbone|houndstooth)\b"
)
_SHARES = {
    "largest gain": 0.25,
    "largest loss": 0.25,
    "most frequent": 0.15,
    "colour word": 0.1,
    "pattern word": 0.1,
    "not fashion": 0.15,
}


INCUMBENT_WINS = 6
"""Queries shown on which the incumbent is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenQuery:
    number: int
    """Its place in the evaluation set."""
    reason: str


def choose_shown_queries(
    *, queries: np.ndarray, is_visual: np.ndarray, gain: np.ndarray, count: int, seed: int
) -> list[ChosenQuery]:
    """Choose at most `count` distinct texts.

    Args:
        queries: (Q,) texts.
        gain: (Q,) value of the model minus that of the one it is compared with.
    """
    texts, first, frequency = np.unique(queries.astype(str), return_index=True, return_counts=True)
    gain, is_visual = gain[first], is_visual[first]
    shuffled = np.random.default_rng(seed).permutation(len(texts))
    # A stable sort of the shuffled numbers: among equals chance decides, not the alphabet.
    by_gain = shuffled[np.argsort(-gain[shuffled], kind="stable")]
    orders = {
        "largest gain": by_gain[gain[by_gain] > 0],
        "largest loss": by_gain[::-1][gain[by_gain[::-1]] < 0],
        "most frequent": shuffled[np.argsort(-frequency[shuffled], kind="stable")],
        "colour word": shuffled[[bool(_COLOUR.search(texts[n])) for n in shuffled]],
        "pattern word": shuffled[[bool(_PATTERN.search(texts[n])) for n in shuffled]],
        "not fashion": shuffled[~is_visual[shuffled]],
    }
    chosen: dict[int, str] = {}
    for reason, order in orders.items():
        new = [n for n in order.tolist() if n not in chosen]
        chosen |= dict.fromkeys(new[: round(_SHARES[reason] * count)], reason)
    # Kinds that lack queries leave room, as rounding may.
    rest = [n for n in shuffled.tolist() if n not in chosen]
    chosen |= dict.fromkeys(rest[: max(0, count - len(chosen))], "drawn at random")
    return [ChosenQuery(number=int(first[n]), reason=reason) for n, reason in list(chosen.items())[:count]]


def show_queries(
    queries: EvaluationSet, results: dict[str, ModelResults], item_ids: list[str], *, count: int, seed: int
) -> Shown:
    """Queries for the report, answered by the challenger, the champion and the text-only model (without it by BM25).

    Gains and losses are over `beside`: the champion, as that is what would be replaced, else text-only, else BM25.
    """
    others = [name for name in ("text_only" if "text_only" in results else "bm25", "champion") if name in results]
    if not others or "challenger" not in results:
        return Shown(beside=None, queries=[])
    models = {name: results[name] for name in (*others, "challenger")}
    # Both measures at once: where the wanted item stands, and how good the first ten are.
    merit = {name: r.values["mrr"] + r.values["ndcg_at_10"] for name, r in models.items()}
    grades = {
        name: (queries.graded.grades_of(r.ranking.rows), queries.found.grades_of(r.ranking.rows))
        for name, r in models.items()
    }
    chosen = choose_shown_queries(
        queries=queries.queries,
        is_visual=queries.is_visual,
        gain=merit["challenger"] - merit[others[-1]],
        count=count,
        seed=seed,
    )
    shown = [
        ShownQuery(
            query=str(queries.queries[n]),
            reason=reason,
            is_visual=bool(queries.is_visual[n]),
            target=item_ids[queries.targets[n]] if queries.targets[n] >= 0 else None,
            target_rank={name: int(r.target_rank[n]) or None for name, r in models.items()},
            answers={
                name: [
                    ShownAnswer(
                        item_id=item_ids[row],
                        grade=float(graded),
                        wanted=bool(wanted),
                        people=queries.people.get(n, {}).get(int(row)),
                    )
                    for row, graded, wanted in zip(r.ranking.rows[n], *(g[n] for g in grades[name]), strict=True)
                    if row != NO_ROW
                ]
                for name, r in models.items()
            },
        )
        for n, reason in ((entry.number, entry.reason) for entry in chosen)
    ]
    return Shown(beside=others[-1], queries=shown)


def show_incumbent_wins(
    queries: EvaluationSet,
    results: Mapping[str, ModelResults],
    item_ids: list[str],
    lists: np.ndarray,
    numbers: np.ndarray,
    losses: np.ndarray,
    *,
    by_grade: np.ndarray,
) -> list[ShownQuery]:
    """The queries on which the incumbent's list beats the challenger by most, a text once, with both lists.

    Args:
        lists: (R, L) rows shown.
        numbers: (R,) of the evaluation queries that they answer; −1: none.
        losses: (R,) by how much the list is better than the challenger's answer, or its order of the list.
        by_grade: (R,) bool, which of the two.
    """
    chosen: dict[str, int] = {}
    for request in np.argsort(-losses, kind="stable").tolist():
        if len(chosen) == INCUMBENT_WINS or losses[request] <= 0:
            break
        if numbers[request] >= 0:
            chosen.setdefault(str(queries.queries[numbers[request]]), request)
    shown = []
    for text, request in chosen.items():
        n = int(numbers[request])
        found = {"incumbent": lists[request, :TOP_ITEMS], "challenger": results["challenger"].ranking.rows[n]}
        shown.append(
            ShownQuery(
                query=text,
                reason=f"{'nDCG@10' if by_grade[request] else 'order within the shown list'}: the incumbent is better by "
                f"{losses[request]:.2f}",
                is_visual=bool(queries.is_visual[n]),
                target=item_ids[queries.targets[n]] if queries.targets[n] >= 0 else None,
                target_rank={},
                answers={name: _answers(queries, n, rows, item_ids) for name, rows in found.items()},
            )
        )
    return shown


def _answers(queries: EvaluationSet, n: int, rows: np.ndarray, item_ids: list[str]) -> list[ShownAnswer]:
    """What stands at the places of one list for query n."""
    kept = rows[rows != NO_ROW]
    graded, found = (
        replace(relevance, set_of_query=relevance.set_of_query[[n]]).grades_of(kept[None])[0]
        for relevance in (queries.graded, queries.found)
    )
    people = queries.people.get(n, {})
    return [
        ShownAnswer(item_id=item_ids[row], grade=float(grade), wanted=bool(wanted), people=people.get(int(row)))
        for row, grade, wanted in zip(kept, graded, found, strict=True)
    ]
