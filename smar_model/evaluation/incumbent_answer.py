"""Whether this run's model is better than the incumbent, in words: what the report says before its tables."""

from __future__ import annotations

from dataclasses import dataclass

from smar_model.evaluation.evaluation_record import Difference, Incumbent
from smar_model.evaluation.terminal_table import points

CALLED = 0.01
"""p at which a difference is called better or worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncumbentMeasure:
    name: str
    difference: Difference
    """This run's model minus the incumbent."""

    @property
    def outcome(self) -> str:
        """`better`, `worse` or `open`."""
        mean, p = self.difference.mean, self.difference.p
        if mean is None or p is None or p > CALLED or mean == 0:
            return "open"
        return "better" if mean > 0 else "worse"

    @property
    def text(self) -> str:
        found = self.difference
        if found.mean is None:
            return f"{self.name}: not measured"
        p = "–" if found.p is None else "< .001" if found.p < 0.001 else f"= {found.p:.3f}"
        return f"{self.name}: {points(found.mean)} points, 95 %: {points(found.low)} to {points(found.high)}, p {p}"


def incumbent_measures(incumbent: Incumbent) -> list[IncumbentMeasure]:
    """What of this run's model was measured beside the incumbent; the most telling first."""
    of_graded = incumbent.graded.differences.get("challenger", {}) if incumbent.graded else {}
    within = incumbent.within_list.differences.get("challenger") if incumbent.within_list else None
    found = {
        "graded nDCG@10": of_graded.get("ndcg_at_10"),
        "graded P@10": of_graded.get("precision_at_10"),
        "order within the shown list": within,
    }
    return [IncumbentMeasure(name=name, difference=each) for name, each in found.items() if each]


def answer_in_words(measures: list[IncumbentMeasure]) -> str:
    """One sentence: in how many measures it is better, worse or neither is shown, by how much and how sure."""
    if not measures:
        return "Not measured: nobody judged these queries, and no shown list of two items was clicked in."
    said = {"better": "better than the incumbent in", "worse": "worse in", "open": "neither is shown in"}
    parts: list[str] = []
    for outcome, words in said.items():
        if chosen := [each for each in measures if each.outcome == outcome]:
            words = "worse than the incumbent in" if outcome == "worse" and not parts else words
            told = "; ".join(each.text for each in chosen)
            parts.append(f"{words} {len(chosen)} of {len(measures)} measures ({told})")
    first = parts[0]
    opening = "Of this run's model " if first.startswith("neither") else "This run's model is "
    return f"{opening}{', '.join(parts)}."


def counts_in_words(incumbent: Incumbent) -> str:
    """What was read of the log's lists and what was left out."""
    counts = incumbent.counts | (incumbent.within_list.left_out if incumbent.within_list else {})
    words = {
        "lists_interleaved": "were interleaved",
        "lists_of_one_place": "had one place",
        "lists_without_a_click_to_judge_by": "had no click to judge their order by",
        "lists_beyond_evaluation.maximum_queries": "are more than evaluation.maximum_queries allows and were not drawn",
        "places_beyond_the_depth_read": "places stood deeper than lists are read",
        "places_with_items_not_in_catalogue": "places held items that are not in the catalogue",
    }
    told = [f"{counts[name]:,} {said}" for name, said in words.items() if counts.get(name)]
    read = f"Of {counts.get('lists_read', incumbent.lists):,} lists read, "
    return read + (", ".join(told) if told else "none was left out") + "."
