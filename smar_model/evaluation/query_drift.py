"""Stage measure-drift: how synthetic queries differ from the true ones of the training days.

Outputs: query_drift (a table), `drift.html`. It needs no Spark: generate-queries left a sample, whose size does not
grow with the shop. Texts count once on either side, and both sides have the same number of them, as vocabularies and
divergences depend on it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
from matplotlib.axes import Axes
from scipy import sparse
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from smar_model.evaluation.charts import draw_svg
from smar_model.lake.contracts import load_contract, write_rows

if TYPE_CHECKING:
    from smar_model.lake.stage import StageContext

TRUE = "true"
QUERIES, SEGMENT_QUERIES = 10_000, 500
"""Most texts of either side that are compared: of all, and of one department or method. The more there are, the better
the classifier learns: methods are compared at about the same number."""
LEAST = 50
"""Texts of either side below which no classifier is trained."""
FOLDS = 3
SEED = 0
SHOWN_WORDS = 15
BLUE, ORANGE = "#0072B2", "#D55E00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A row of `schemas/query_drift.yaml`, which says what each figure is."""

    scope: str
    segment: str
    true_queries: int
    synthetic_queries: int
    true_words: float
    synthetic_words: float
    true_characters: float
    synthetic_characters: float
    true_vocabulary: int
    synthetic_vocabulary: int
    unknown_true: float
    unknown_synthetic: float
    word_divergence: float
    chance_divergence: float
    auc: float | None


def run(context: StageContext) -> dict[str, float]:
    """Write the table and the page; returns the figures of all queries, and the AUC by method."""
    files, schema = context.table("generate-queries", "query_sample"), load_contract("query_sample").arrow_schema()
    sample = ds.dataset(files, schema=schema).to_table().to_pandas()
    sample = sample.sort_values(["origin", "query", "department"], ignore_index=True)
    true, synthetic = sample[sample["origin"] == TRUE], sample[sample["origin"] != TRUE]
    if true.empty or synthetic.empty:
        context.report("no true or no synthetic query to compare; check-data says why")
        return {"true_queries": len(true), "synthetic_queries": len(synthetic)}
    rows = measure_all(true, synthetic)
    write_rows(context.output("query_drift"), "query_drift", [asdict(row) for row in rows])
    title = f"Synthetic and true queries, {context.run.training_days[0]} to {context.run.training_days[-1]}"
    context.output("drift.html").write_text(render_page(rows, true, synthetic, title=title), encoding="utf-8")
    # Of a handful of queries chance makes what it likes: the page shows it, no limit is held against it.
    if rows[0].auc is None:
        return {"true_queries": rows[0].true_queries, "synthetic_queries": rows[0].synthetic_queries}
    figures = {name: value for name, value in asdict(rows[0]).items() if isinstance(value, int | float)}
    return figures | {f"auc_{row.segment}": row.auc for row in rows if row.scope == "method" and row.auc is not None}


def measure_all(true: pd.DataFrame, synthetic: pd.DataFrame) -> list[Drift]:
    """Drift of all queries, of each department that both sides have, and of each method.

    Args:
        true: query, department.
        synthetic: query, department, origin (its method).
    """
    encoder = Encoder()
    rows = [measure("all", "all", true["query"], synthetic["query"], QUERIES, encoder)]
    for department in sorted(set(true["department"]) & set(synthetic["department"])):
        mine, made = (side.loc[side["department"] == department, "query"] for side in (true, synthetic))
        rows.append(measure("department", department, mine, made, SEGMENT_QUERIES, encoder))
    for method in sorted(set(synthetic["origin"])):
        made = synthetic.loc[synthetic["origin"] == method, "query"]
        rows.append(measure("method", method, true["query"], made, SEGMENT_QUERIES, encoder))
    return rows


class Encoder:
    """Texts → hashed words, pairs of words (the ends of a text are words too) and characters."""

    def __init__(self) -> None:
        self._words = HashingVectorizer(
            n_features=2**16, ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False, alternate_sign=False
        )
        self._characters = HashingVectorizer(
            n_features=2**16, analyzer="char_wb", ngram_range=(2, 4), lowercase=False, alternate_sign=False
        )

    def __call__(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(N, 2¹⁷)"""
        framed = [f"^ {text} $" for text in texts]
        return sparse.hstack([self._words.transform(framed), self._characters.transform(texts)], format="csr")


def measure(scope: str, segment: str, true: pd.Series, synthetic: pd.Series, most: int, encoder: Encoder) -> Drift:
    """Compare up to `most` distinct texts of either side, drawn with a fixed seed."""
    random = np.random.default_rng(SEED)
    sides = [pd.unique(side) for side in (true, synthetic)]
    most = min(most, *map(len, sides))
    one, other = (random.permutation(side)[:most].tolist() for side in sides)
    words, made_words = (Counter(word for text in side for word in text.split()) for side in (one, other))
    mixed = random.permutation([*one, *other]).tolist()
    halves = [Counter(word for text in half for word in text.split()) for half in (mixed[:most], mixed[most:])]
    return Drift(
        scope=scope,
        segment=segment,
        true_queries=len(one),
        synthetic_queries=len(other),
        true_words=_mean(words.total(), most),
        synthetic_words=_mean(made_words.total(), most),
        true_characters=_mean(sum(map(len, one)), most),
        synthetic_characters=_mean(sum(map(len, other)), most),
        true_vocabulary=len(words),
        synthetic_vocabulary=len(made_words),
        unknown_true=_unknown(words, made_words),
        unknown_synthetic=_unknown(made_words, words),
        word_divergence=divergence(words, made_words),
        chance_divergence=divergence(*halves),
        auc=tell_apart(one, other, encoder) if most >= LEAST else None,
    )


def _mean(total: int, texts: int) -> float:
    return round(total / texts, 4)


def _unknown(words: Counter[str], known: Counter[str]) -> float:
    return round(sum(n for word, n in words.items() if word not in known) / words.total(), 4)


def divergence(one: Counter[str], other: Counter[str]) -> float:
    """Jensen–Shannon divergence of two distributions, in bits: from 0, the same, to 1, nothing in common (Lin 1991)."""
    words = sorted(one.keys() | other.keys())
    p, q = (np.array([side[word] for word in words], dtype=float) for side in (one, other))
    return round(float(jensenshannon(p, q, base=2) ** 2), 4)


def tell_apart(true: Sequence[str], synthetic: Sequence[str], encoder: Encoder) -> float:
    """Cross-validated AUC of a logistic regression on hashed words and character n-grams (a classifier two-sample test,
    Lopez-Paz and Oquab 2017). A text that is on both sides is in one fold, so that it cannot be learned by heart."""
    texts = [*true, *synthetic]
    features, label = encoder(texts), np.repeat([1, 0], [len(true), len(synthetic)])
    fold = np.array([zlib.crc32(text.encode()) % FOLDS for text in texts])
    areas = []
    for held_out in range(FOLDS):
        test = fold == held_out
        model = LogisticRegression(solver="liblinear", dual=True, random_state=SEED)
        model.fit(features[~test], label[~test])
        areas.append(roc_auc_score(label[test], model.decision_function(features[test])))
    return round(float(np.mean(areas)), 4)


def render_page(rows: list[Drift], true: pd.DataFrame, synthetic: pd.DataFrame, *, title: str) -> str:
    """One page that needs nothing else: figures, plots, and the words that set the two apart."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("query_drift.html.j2").render(
        title=title,
        rows=rows,
        limits=load_contract("query_drift").drift,
        plots=draw_plots(rows, true, synthetic),
        words=telling_words(true["query"], synthetic["query"]),
    )


def draw_plots(rows: list[Drift], true: pd.DataFrame, synthetic: pd.DataFrame) -> dict[str, str]:
    """Name → SVG: lengths in words and in characters, word divergence by department, AUC by method."""
    departments = [row for row in rows if row.scope == "department"]
    methods = [row for row in rows if row.scope != "department" and row.auc is not None]
    texts = [pd.unique(side["query"]) for side in (true, synthetic)]

    def lengths(count: Any, what: str, bins: np.ndarray) -> Any:
        def draw(axes: Axes) -> None:
            for side, name, colour in zip(texts, ("true", "synthetic"), (BLUE, ORANGE), strict=True):
                counts = np.clip([count(text) for text in side], bins[0], bins[-1] - 1e-6)
                axes.hist(
                    counts, list(bins), weights=np.full(len(side), 100 / len(side)), label=name, color=colour, alpha=0.5
                )
            axes.set_xlabel(f"length, {what}")
            axes.set_ylabel("% of queries")
            axes.legend(fontsize=8)

        return draw

    def draw_departments(axes: Axes) -> None:
        places = np.arange(len(departments))
        axes.barh(places, [r.word_divergence for r in departments], color=BLUE, label="measured")
        chance = [r.chance_divergence for r in departments]
        axes.plot(chance, places, "|", color=ORANGE, markersize=12, markeredgewidth=2, label="by chance")
        axes.set_yticks(places, [r.segment for r in departments], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("word divergence")
        axes.legend(fontsize=8)

    def draw_methods(axes: Axes) -> None:
        axes.barh([r.segment for r in methods], [r.auc - 0.5 for r in methods], left=0.5, color=ORANGE)  # type: ignore[operator]
        axes.invert_yaxis()
        axes.set_xlim(0.5, 1)
        axes.set_xlabel("AUC, 0.5: cannot be told apart")

    return {
        "words": draw_svg(
            "words", "Lengths in words", [lengths(lambda t: len(t.split()), "words", np.arange(1, 12) - 0.5)]
        ),
        "characters": draw_svg(
            "characters", "Lengths in characters", [lengths(len, "characters", np.arange(0, 84, 4))]
        ),
        "departments": draw_svg(
            "departments", "Word divergence", [draw_departments], height=1.2 + 0.3 * len(departments)
        ),
        "methods": draw_svg("methods", "AUC by method", [draw_methods], height=1.2 + 0.3 * len(methods)),
    }


def telling_words(true: pd.Series, synthetic: pd.Series) -> dict[str, list[tuple[str, float, float]]]:
    """Side → (word, its share of the true words in %, of the synthetic ones) of the words that are most in excess there."""
    counts = [Counter(word for text in pd.unique(side) for word in text.split()) for side in (true, synthetic)]
    shares = {w: tuple(100 * c[w] / c.total() for c in counts) for w in sorted(counts[0].keys() | counts[1].keys())}
    excess = sorted(shares, key=lambda w: shares[w][0] - shares[w][1])
    return {
        name: [(w, shares[w][0], shares[w][1]) for w in chosen]
        for name, chosen in (("true", excess[::-1][:SHOWN_WORDS]), ("synthetic", excess[:SHOWN_WORDS]))
    }
