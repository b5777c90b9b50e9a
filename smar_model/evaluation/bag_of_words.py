"""What a gate is worth that knows no network: logistic regression on the words of a query, learned from the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline

from smar_model.evaluation.baselines import words

FOLDS = 3
MAXIMUM_LABELS = 20_000
"""More are drawn from."""
SETTINGS = {"words__ngram_range": [(1, 1), (1, 2)], "regression__C": [0.1, 1.0, 10.0, 100.0]}
"""Words, or words and pairs of neighbours; inverse strength of the L2 penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOfWords:
    model: Pipeline
    labels: int
    """Queries that it learned from."""

    @classmethod
    def learn(cls, queries: Sequence[str], is_visual: np.ndarray, *, seed: int) -> BagOfWords | None:
        """The best of SETTINGS by area under the ROC curve over FOLDS parts of the labelled queries, learned from all of
        them; None where a part would lack one kind."""
        order = np.argsort(np.array(queries, dtype=str))
        random = np.random.default_rng(seed)
        if len(order) > MAXIMUM_LABELS:
            order = order[np.sort(random.choice(len(order), MAXIMUM_LABELS, replace=False))]
        texts, labels = _as_words([queries[n] for n in order]), np.asarray(is_visual, dtype=bool)[order]
        if min(labels.sum(), len(labels) - labels.sum()) < FOLDS:
            return None
        search = GridSearchCV(
            Pipeline(
                [
                    ("words", CountVectorizer(token_pattern=r"\S+", lowercase=False, binary=True)),
                    ("regression", LogisticRegression(solver="liblinear", random_state=seed)),
                ]
            ),
            SETTINGS,
            scoring="roc_auc",
            cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        )
        return cls(model=search.fit(texts, labels).best_estimator_, labels=len(texts))

    def probability(self, queries: Sequence[str]) -> np.ndarray:
        """That each query is visual, (Q,)."""
        return self.model.predict_proba(_as_words(queries))[:, 1]

    @property
    def setting(self) -> str:
        pairs = self.model.named_steps["words"].ngram_range[1] == 2
        return f"{'words and pairs of words' if pairs else 'words'}, C = {self.model.named_steps['regression'].C:g}"


def _as_words(queries: Sequence[str]) -> list[str]:
    """The words that BM25 sees, once for all folds and settings."""
    return [" ".join(words(query)) for query in queries]
