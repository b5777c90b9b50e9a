"""What answers: a model with the index that was built for it, opened and checked, under the names that the registry gives them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss

from smar_model.errors import InputError
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.runs import load_run
from smar_model.retrieval import embed_baseline
from smar_model.retrieval.baseline_files import baseline_folder, has_baseline, read_items
from smar_model.retrieval.index_items import read_columns, read_index_items
from smar_model.retrieval.item_embeddings import routed_items
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.query_tower import TOWER_FILE
from smar_model.retrieval.search import Searcher, items_by_column
from smar_model.serving.api_schemas import TEXT_ONLY
from smar_model.serving.event_item_ids import masked_ids
from smar_model.settings import REPOSITORY
from smar_model.training.model_folder import model_digest

EXAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPair:
    """Never changed once it is open: who holds one has a model and an index that belong together."""

    version: str
    """Number in the registry, or `text-only`."""
    run: str
    model_digest: str
    index_digest: str | None
    """Of the index build; None of the text-only baseline, whose index is made here, in memory."""
    searcher: Searcher
    masked_ids: frozenset[str] = frozenset()
    """Ids of its items that look like personal data (`event_item_ids.py`), where it was opened to take events."""


def open_release(release: Release, *, part: int | None = None, takes_events: bool = False) -> ServedPair:
    """Open a version as `Registry.release` describes it, which has verified every file of it.

    Args:
        part: number of the part of its index that is opened, from 0; None: all of it.
        takes_events: whether `masked_ids` is looked for.

    Raises:
        InputError: the index was built by another model, or has no such part.
    """
    searcher = Searcher.load(
        Path(release.model_folder), Path(release.index_folder), part=part, model_digest=release.model_digest
    )
    _warm(searcher)
    return ServedPair(
        version=release.version,
        run=release.run,
        model_digest=release.model_digest,
        index_digest=release.index_digest,
        searcher=searcher,
        masked_ids=_masked_ids(searcher) if takes_events else frozenset(),
    )


def open_text_only(run_name: str, *, takes_events: bool = False) -> ServedPair:
    """The text-only baseline of a run over the run's own catalogue, as evaluate has judged it: it has no index, so one is made here.

    Raises:
        InputError: the run's record or its outputs are not in this machine's lake, it has trained no baseline, or an older version has
            judged it, which kept nothing to answer with, and PyTorch is not installed.
    """
    run = load_run(run_name)
    folder = run.output("train-text-only").folder / "model"
    files = run.output("prepare-items").files("catalogue")
    if not files or not folder.is_dir():
        raise InputError(f"run {run_name}: its catalogue or its text-only model is gone from the lake")
    judged = run.find_output("evaluate")
    with TemporaryDirectory() as scratch:
        if judged is not None and has_baseline(judged):
            kept = baseline_folder(judged)
        else:
            kept = _embedded_now(run_name, folder, files, Path(scratch))
        embeddings, encoder = read_items(kept), QueryEncoder.load(folder, kept / TOWER_FILE)
    vectors = routed_items(embeddings)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    offers = run.output("prepare-items").files("offers")
    items = items_by_column(read_index_items(files, embeddings.item_ids, offer_files=offers))
    searcher = Searcher(encoder, index, items)
    _warm(searcher)
    return ServedPair(
        version=TEXT_ONLY,
        run=run_name,
        model_digest=model_digest(folder),
        index_digest=None,
        searcher=searcher,
        masked_ids=_masked_ids(searcher) if takes_events else frozenset(),
    )


def _embedded_now(run_name: str, model: Path, files: Sequence[Path], folder: Path) -> Path:
    """The catalogue embedded by a baseline of which an older version kept nothing else, in a process of its own: PyTorch and the rest of a
    training's libraries are not to stay in the server."""
    if find_spec("torch") is None:
        raise InputError(_needs_torch(run_name))
    command = [sys.executable, "-m", embed_baseline.__name__, *map(str, (model, folder, *files))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(f"run {run_name}: its catalogue cannot be embedded: {done.stderr.strip()[-500:]}")
    return folder


def _needs_torch(run_name: str) -> str:
    return (
        f"run {run_name}: an older version kept nothing to answer with by its text-only baseline, and embedding the catalogue needs PyTorch, "
        "which is not installed; the next run's baseline answers without"
    )


def _masked_ids(searcher: Searcher) -> frozenset[str]:
    return masked_ids(searcher.item_ids, searcher.encoder.catalogue_numbers)


def _warm(searcher: Searcher) -> None:
    """Make now what the first search would otherwise wait for."""
    searcher.search([searcher.items["title"][0]], k=1)
    _ = searcher.department_sizes


def why_no_text_only(run_name: str) -> str | None:
    """Why `open_text_only` would refuse a run; None where it would not. Asks the run's record alone, opens nothing."""
    try:
        run = load_run(run_name)
        run.output("train-text-only")
        if not has_baseline(run.find_output("evaluate")) and find_spec("torch") is None:
            return _needs_torch(run_name)
    except Exception as error:  # a record of another version of this project may lack anything
        return str(error) or type(error).__name__
    return None


def example_queries(pair: ServedPair) -> list[str]:
    """What shoppers asked most in the run's days, from each department in turn; words of titles where the run is not in this lake."""
    items = pair.searcher.items
    department_of = dict(zip(items["item_id"], items["department"], strict=True))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        files = load_run(pair.run).output("extract-clicks").files("clicks")
    except InputError:
        files = []
    if files:
        table = read_columns(files, ["query", "item_id", "clicks"])
        clicks = table.group_by(["query", "item_id"]).aggregate([("clicks", "sum")]).to_pydict()
        for query, item, count in zip(clicks["query"], clicks["item_id"], clicks["clicks_sum"], strict=True):
            if count and item in department_of:
                counts[department_of[item]][query] += count
    for item in range(0, len(items["title"]) if not counts else 0, max(1, len(items["title"]) // 100)):
        counts[items["department"][item]][" ".join(items["title"][item].lower().split()[:3])] += 1
    by_department = [sorted(asked, key=lambda q: (-asked[q], q))[:EXAMPLES] for _, asked in sorted(counts.items())]
    return list(dict.fromkeys(query for query in chain(*zip_longest(*by_department)) if query))[:EXAMPLES]
