"""Rows that an earlier output of a stage holds already, taken over in place of being made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from smar_model.lake.artifacts import Artifact, newest_artifact
from smar_model.lake.stage import StageContext


def find_earlier(
    context: StageContext, made_of: Mapping[str, str] | None = None, *, stages: Sequence[str] = (), fetch: bool = True
) -> Artifact | None:
    """The newest output that was made as this one is (code, lock, settings, shop), if there is one.

    Args:
        made_of: what else its rows depend on, which must be the same in its metrics.
        stages: whose outputs it may be; none: the stage's own.
        fetch: whether its files are brought to this machine from the object store.
    """
    found = [
        newest_artifact(stage, context.made_by, metrics=dict(made_of or {}), fetch=fetch)
        for stage in stages or [context.stage.name]
    ]
    return max(filter(None, found), key=lambda artifact: artifact.manifest["finished_at"], default=None)


def match_digests(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row of each wanted digest, −1 for one that is not held: (N, 2), (M, 2) → (M,)."""
    held = np.asarray(held)
    order = np.argsort(held[:, 0], kind="stable")
    place = np.searchsorted(held[:, 0], wanted[:, 0], sorter=order)
    found = order[np.minimum(place, len(held) - 1)]
    return np.where((held[found] == wanted).all(1), found, -1)


def take_rows(
    held: np.ndarray,
    read: Callable[[np.ndarray], np.ndarray],
    write: Callable[[np.ndarray, np.ndarray], None],
    *,
    together: int,
) -> None:
    """Write what an earlier output holds, so many rows at a time.

    Args:
        held: (N,) the row there of each row here, −1 for one that it lacks.
        read: rows there (B,) → values (B, …).
        write: takes rows here (B,) and their values.
    """
    for start in range(0, len(held), together):
        rows = np.flatnonzero(held[start : start + together] >= 0) + start
        write(rows, read(held[rows]))
