"""Settings of what follows training: index, evaluation, gate, registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from smar_model.settings.section import Count, Section, Share

QueryTower = Literal["onnx", "onnx_int8"]


class Index(Section):
    factory: str | None = None
    """FAISS factory string; unset: by the size of the catalogue and the recall asked for (`smar_model/retrieval/index.py`)."""
    minimum_recall: Share = 0.99
    """Of the exact 100 best, measured at build with real queries: search parameters are chosen to reach it whatever the share of
    pictures in a query's score; below it the build fails."""
    parts: Count = 1
    """Into how many files the index is cut, each with its stretch of the items: a server may hold one of them (`smar serve --part`), and
    one in front asks them all (`smar serve --front`)."""
    query_tower: QueryTower = "onnx"
    """What encodes queries, never through PyTorch: the tower as it was trained, `onnx`, or `onnx_int8` with its matrices in 8 bits, for towers
    with many layers. A mean of words is read from the model's own weights; others are exported to ONNX."""

    @field_validator("query_tower", mode="before")
    @classmethod
    def _of_older_versions(cls, value: object) -> object:
        """`pytorch` was the network itself, whose numbers `onnx` has."""
        return "onnx" if value == "pytorch" else value


class Evaluation(Section):
    depth: Count = 100
    maximum_queries: Count = 10_000
    bootstrap_samples: Count = 1_000
    shown_queries: Count = 40
    """In the report, with the pictures found."""
    seed: int = 0


class Interleaving(Section):
    """What shoppers must say of a version that passed the gate, in lists interleaved with the champion's (`docs/gate.md`)."""

    users: Count = 200
    """Shoppers with interleaved requests, below which nothing is decided but by the end of `days`."""
    days: Count = 14
    """After so many days an experiment ends: without a preference for the version it is rejected, or by `enough` promoted."""
    enough: Literal["better", "not_worse"] = "better"
    """What promotes at the end of `days`: nothing but a shown preference, or that none for the champion is shown."""


class Gate(Section):
    """What a challenger must show to become the champion (`docs/gate.md`). Margins are of Recall@50 as a share, 0.01 is one point,
    and of paired differences on the same queries."""

    minimum_queries: Count = 100
    over_popularity: float = 1.0
    """Least ratio of the model's Recall@50 to popularity's."""
    over_bm25: float = 1.0
    champion_margin: Share = 0.01
    """The challenger must be shown to be at most this much worse than the champion: one-sided 95 % bound of the difference. What a
    number of queries can show is in `docs/gate.md`: 0.01 takes 10,000 of them."""
    anchor_margin: Share = 0.015
    """Likewise than the best release of the last 28 days, and than the newest cold start: how much small losses may add up to."""
    incumbent_margin: Share | None = None
    """Likewise than the engine whose lists the log shows, by the order within these lists, clicks weighed by place; unset: told, not
    judged."""
    guarded_segments: dict[str, Share] = Field(
        default_factory=lambda: dict.fromkeys(
            ("fashion", "not_fashion", "novel", "query_once", "unseen_words", "title_sparse"), 0.005
        )
    )
    """Segment → loss against the champion that is let pass there. A larger one refuses once it is shown: all of them together
    refuse at most one in ten challengers whose losses are no larger."""
    better_in: tuple[str, ...] = ()
    """Segments (`overall` is all queries) in which the challenger must be shown to be better than the champion."""
    precision_margin: Annotated[float, Field(ge=0)] = 0.05
    """By how much of the champion's relevance precision, P@50 outside fashion, the challenger's may be worse, shown like
    `champion_margin`: precision is what recall can be bought with."""
    maximum_calibration_error: Share = 0.05
    """Mean distance of P(q) from the share of visual queries that it promises."""
    maximum_search_p99_ms: Annotated[float, Field(gt=0)] | None = None
    """Of one query on one thread through the built index; unset: whatever it is."""
    minimum_effective_rank: Annotated[float, Field(ge=0)] = 10.0
    """Directions that the embeddings use, of `network.dimension`: near 1 when they have collapsed, about half of 128 when healthy."""
    maximum_near_duplicates: Share = 0.5
    """Share of items that search cannot tell from another one, by text and pictures together."""
    maximum_hub_skewness: Annotated[float, Field(ge=0)] = 5.0
    """Skewness of how often items are found, less what chance gives: high when a few items are in everybody's results."""
    drift: Literal["critical", "warning"] = "critical"
    """From which severity a failed check of how queries and clicks have shifted refuses. check-data ends the run at critical ones."""
    interleaving: Interleaving | None = None
    """Unset: a version that passed is promoted without it."""


class Release(Section):
    tracking_uri: str | None = None
    """MLflow tracking and registry; unset: SQLite in the home folder."""
    experiment: str = "smar_retrain"
    model: Annotated[str, Field(pattern=r"^[^/:\\.][^/:\\]{0,119}$")] = "smar"
    """Its name in the registry, without / : and \\."""
    keep: Count = 5
    """The last so many releases whose index builds and local copies `smar prune` leaves; champion, challenger and their predecessors
    always."""
    keep_days: Annotated[int, Field(ge=8)] = 14
    """Outputs of runs that did something in the last so many days stay as well; a run builds on one of at most 7 days before."""
