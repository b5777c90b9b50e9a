"""Whether a release can serve: it loads as readers load it, its index was built by its model, and it answers. No code of it is run."""

from __future__ import annotations

import math
from pathlib import Path

from typing_extensions import TypedDict

from smar_model.errors import InputError, first_line
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.release_manifest import verify_content


class Answered(TypedDict):
    """What a version was asked, one of its own titles, how many items it found, and P(q)."""

    query: str
    found: int
    p: float


def verify_release(release: Release) -> Answered:
    """Open a version as `Registry.release` describes it, by the class that MLflow serves it with, and ask it for one of its own items by
    title. The class is this project's own, never the version's copy of it.

    Raises:
        InputError: it does not load, its files are not those that the registry names, its index was built by another model, or it
            does not answer.
    """
    try:
        return _answer(release)
    except InputError as error:
        raise InputError(f"version {release.version} cannot serve: {error}") from error
    except Exception as error:  # a damaged file fails in whatever library reads it
        raise InputError(
            f"version {release.version} cannot serve: {type(error).__name__}: {first_line(error)}"
        ) from error


def _answer(release: Release) -> Answered:
    model_folder, index_folder = Path(release.model_folder), Path(release.index_folder)
    for folder in (model_folder, index_folder):
        if not folder.is_dir():
            raise InputError(f"{folder}: this folder is gone")
    # torch and FAISS take seconds to import: not where there is nothing to open.
    import pandas as pd
    from mlflow.pyfunc import PythonModelContext

    from smar_model.retrieval.pyfunc_model import SmarSearchModel

    artifacts = {"model": str(model_folder), "index": str(index_folder), "settings.yaml": str(release.settings_file)}
    context, model = PythonModelContext(artifacts, model_config={}), SmarSearchModel()
    model.load_context(context)
    searcher = model.searcher
    if not searcher.manifest or searcher.manifest.model_digest != release.model_digest:
        raise InputError(f"{model_folder}: another model than {release.model_digest[:12]}, which the version names")
    verify_content(release, "index")
    query = searcher.items["title"][0]
    found, p = searcher.search([query], k=10)
    served = model.predict(context, pd.DataFrame({"query": [query]}), {"k": 10})
    scores = [hit.score for hit in found[0]] + list(served["score"][0])
    if not found[0] or not len(served["score"][0]) or not all(map(math.isfinite, [*scores, float(p[0])])):
        raise InputError(f"no usable answer to {query!r}, scores {scores}")
    return {"query": query, "found": len(found[0]), "p": float(p[0])}
