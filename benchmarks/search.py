"""Speed, memory and recall of search, at sizes that no catalogue at hand has: writes benchmarks/search.md.

    SMAR_HOME=HOME python benchmarks/search.py --run RUN --folder FOLDER [--sizes 100000 1000000] [--parts index latency …]

RUN is a run of HOME that has finished finetune (of the default network) on real products. Each part and size is a process of its own whose
figures are kept in FOLDER/results.json: what is there is not measured again. hnswlib is a peer that only this script needs
(`uv pip install hnswlib`); without it its rows are missing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import torch

from benchmarks.index_parts import publish_embeddings, publish_plan, published
from smar_model.lake.checkout import commit
from smar_model.lake.contracts import load_contract
from smar_model.lake.runs import Run, load_run
from smar_model.retrieval import index_building, index_recall, search_parameters
from smar_model.retrieval.index_files import IndexDescription, Recall, set_parameters, write_index
from smar_model.retrieval.index_parts import Plan, fill_part, tune_part
from smar_model.retrieval.item_embedder import embed_catalogue
from smar_model.retrieval.item_embeddings import routed_items
from smar_model.retrieval.network_queries import network_encoder
from smar_model.retrieval.parted_index import PartedIndex
from smar_model.retrieval.query_encoder import QueryEncoder
from smar_model.retrieval.query_tower import TOWER_FILE, ExportedTower, WordsTower
from smar_model.retrieval.ranking import order_candidates
from smar_model.retrieval.search import Searcher
from smar_model.retrieval.tower_export import export_query_tower
from smar_model.settings import REPOSITORY, Index, load_settings
from smar_model.training.model_files import load_model, new_model, save_model
from smar_model.training.model_folder import model_digest, read_query_side, read_words_weights

PAGE = Path(__file__).with_suffix(".md")
SIZES = (100_000, 1_000_000)
FLOOR = Index().minimum_recall
DEPTH = 100
SHOWN = 10
"""Results a shopper's page asks for."""
TIMED = 1_000
REPETITIONS = 5
CLIENTS = 16
SECONDS = 15
FLAT_TIMED = 100
SCALES = (0.3, 0.4, 0.5, 0.6, 0.7)
MEASURED_A_BUCKET = 200
HNSW = {"M": 32, "ef_construction": 200}
NEAREST = 2_000
CUT = 4
"""Parts of a cut index."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for results and scratch; 5 GB at a million items")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--peer-minutes", type=float, default=15, help="a peer's index that would take longer is left out"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        part, size = json.loads(options.task)
        print(json.dumps(PARTS[part](Bench(options, size))))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.folder / "results.json")
    began = time.monotonic()
    for part in [part for part in PARTS if part in options.parts]:
        for size in options.sizes if part not in SIZELESS else [0]:
            results.measure(part, size, options)
    print(f"measured in {(time.monotonic() - began) / 60:.1f} minutes", file=sys.stderr)
    page = results.page(options)
    options.page.write_text(page, encoding="utf-8")
    print(page)


class Results:
    """Figures by part and size, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def measure(self, part: str, size: int, options: argparse.Namespace) -> None:
        name = f"{part} {size}" if size else part
        if name in self.found:
            return
        print(f"{dt.datetime.now():%H:%M:%S} {name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        command = [sys.executable, __file__, "--run", options.run, "--folder", str(options.folder)]
        command += ["--peer-minutes", str(options.peer_minutes), "--task", json.dumps([part, size])]
        environment = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        if done.returncode:
            sys.exit(f"{name}: failed; what is measured stays in {self.file}")
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        self.found[name] = figures | {"minutes": (time.monotonic() - began) / 60, "at": str(dt.date.today())}
        self.file.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        print(f"  {self.found[name]['minutes']:.1f} minutes: {json.dumps(figures)[:300]}", file=sys.stderr, flush=True)

    def of(self, part: str, options: argparse.Namespace) -> dict[int, dict[str, Any]]:
        return {size: self.found[f"{part} {size}"] for size in options.sizes if f"{part} {size}" in self.found}

    def page(self, options: argparse.Namespace) -> str:
        command = f"SMAR_HOME=HOME .venv/bin/python benchmarks/search.py --run RUN --folder FOLDER --sizes {' '.join(map(str, options.sizes))}"
        dates = sorted({figures["at"] for figures in self.found.values()})
        sections = [
            f"# Search: recall, latency, throughput, memory\n\n    {command}\n\n"
            f"{' to '.join(dict.fromkeys((dates[0], dates[-1]))) if dates else ''}, commit {commit()}, {machine()}. One table alone: `--parts`.",
            METHOD,
        ]
        for part, table in TABLES.items():
            found = self.of(part, options) if part not in SIZELESS else {0: self.found.get(part)}
            found = {size: figures for size, figures in found.items() if figures}
            if found:
                sections.append(table(found))
        return "\n\n".join(sections) + "\n"


def machine() -> str:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores; FAISS {faiss.__version__}, torch {torch.__version__}, Python {platform.python_version()}"


METHOD = f"""Everything is made by the product's own functions (`smar_model/retrieval/`): the factory string, training, the search parameters found for
`index.minimum_recall` {FLOOR:g}, the files, `Searcher`. Vectors are [S_t ; S_m − S_t]; queries are texts of the click log, encoded by the
trained model. Search parameters are found with one half of the distinct queries, {MEASURED_A_BUCKET} of each fifth of the share of S_m that routes them, in
thin fifths filled up with others asked with such a share, as the stage does it; figures are measured with the other half, as they are. Threads that wait sleep (`OMP_WAIT_POLICY=passive`), as in every command."""


class Bench:
    """What the parts share: the run's model and queries, and vectors of a size."""

    def __init__(self, options: argparse.Namespace, size: int) -> None:
        self.folder, self.size, self.peer_minutes = options.folder.resolve(), size, options.peer_minutes
        self.source: Run = load_run(options.run)
        self.model_folder = self.source.output("finetune").folder / "model"

    def base(self) -> dict[str, np.ndarray]:
        """The run's own items and queries, embedded once."""
        file = self.folder / "base.npz"
        if not file.is_file():
            model, tokenizer = load_model(self.model_folder), self.model_folder / "tokenizer.json"
            tables = self.source.output("prepare-items")
            items = embed_catalogue(model, tokenizer, tables.files("catalogue"), tables.files("pictures"))
            clicks = [str(f) for f in self.source.output("extract-clicks").files("clicks")]
            texts = np.array(sorted(ds.dataset(clicks).to_table(columns=["query"])["query"].unique().to_pylist()))
            texts = texts[np.random.default_rng(0).permutation(len(texts))]
            asked, routes, _ = network_encoder(model, tokenizer).encode(texts.tolist())
            np.savez(
                file, ids=np.array(items.item_ids), vectors=routed_items(items), texts=texts, asked=asked, routes=routes
            )
        return dict(np.load(file))

    def scale(self) -> float:
        file = self.folder / "scale.json"
        if not file.is_file():
            file.write_text(json.dumps(fit_scale(self.base()["vectors"])), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    def vectors(self) -> np.ndarray:
        """The run's items, then resampled ones, memory-mapped."""
        file = self.folder / f"vectors-{self.size}.npy"
        if not file.is_file():
            real = self.base()["vectors"]
            temporary = file.with_suffix(".part.npy")
            out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(self.size, real.shape[1]))
            resample(real, self.scale(), out)
            temporary.rename(file)
        return np.asarray(np.load(file, mmap_mode="r"))

    def queries(self, half: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Texts, asked, routes and shares, some of each bucket: half 0 is for finding search parameters, 1 for measuring."""
        base = self.base()
        rows = np.arange(half, len(base["texts"]), 2)
        place = np.digitize(base["routes"][rows], index_recall.BUCKETS)
        counts = np.bincount(place, minlength=len(index_recall.BUCKETS) + 1)
        rows = np.concatenate([rows[place == b][:MEASURED_A_BUCKET] for b in range(len(counts))])
        asked, routes = base["asked"][rows][:, None], base["routes"][rows]
        if half == 0:
            asked, routes = index_recall.fill_buckets(asked, routes)
        return base["texts"][rows].tolist(), asked, routes, counts / counts.sum()

    def recall_queries(self, half: int) -> index_recall.RecallQueries:
        """With what exact search answers, kept: it takes longest."""
        file = self.folder / f"exact-{self.size}-{half}.npz"
        _, asked, routes, shares = self.queries(half)
        if not file.is_file():
            found = index_recall.recall_queries(self.vectors(), asked, routes, shares)
            np.savez(file, scores=found.scores, rows=found.rows)
        kept = np.load(file)
        return index_recall.RecallQueries(
            asked=asked, routes=routes, shares=shares, scores=kept["scores"], rows=kept["rows"]
        )

    @property
    def index_folder(self) -> Path:
        return self.folder / f"index-{self.size}"


def resample(real: np.ndarray, scale: float, out: np.ndarray, seed: int = 0) -> None:
    """Fill (M, 2D) with the real items and then draws of a smoothed bootstrap: a real item, moved by 0 to 2 · `scale` times its cluster's
    spread and drawn back, so that the spread within clusters stays; S_t and S_m are unit vectors again. Some stay close to theirs, as real
    catalogues have near duplicates."""
    count, width = real.shape
    means = faiss.Kmeans(width, int(np.sqrt(count)), niter=10, seed=seed, min_points_per_centroid=1)
    means.train(real)
    own = means.index.search(real, 1)[1][:, 0]
    apart = real - means.centroids[own]
    spread = np.linalg.cholesky(apart.T @ apart / count + 1e-9 * np.eye(width)).astype(np.float32)
    random = np.random.default_rng(seed)
    out[:count] = real[: len(out)]
    for start in range(count, len(out), 50_000):
        rows = random.integers(0, count, min(len(out), start + 50_000) - start)
        noise = random.standard_normal((len(rows), width), dtype=np.float32) @ spread.T
        scales = (2 * scale * random.random((len(rows), 1))).astype(np.float32)
        drawn = means.centroids[own[rows]] + (apart[rows] + scales * noise) / np.sqrt(1 + scales**2)
        text, both = drawn[:, : width // 2], drawn[:, : width // 2] + drawn[:, width // 2 :]
        text /= np.linalg.norm(text, axis=1, keepdims=True)
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        out[start : start + len(rows)] = np.hstack([text, both - text])


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Distance of the first NEAREST to their nearest other one."""
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    return np.sqrt(np.maximum(index.search(vectors[:NEAREST], 2)[0][:, 1], 0))


def resampled_alone(real: np.ndarray, scale: float) -> np.ndarray:
    """As many resampled items as there are real ones, out of eight times as many."""
    out = np.empty((9 * len(real), real.shape[1]), np.float32)
    resample(real, scale, out)
    rows = np.random.default_rng(1).choice(8 * len(real), len(real), replace=False)
    return out[len(real) :][rows]


def fit_scale(real: np.ndarray) -> float:
    """With which resampled items lie as far from each other as real ones, in the median."""
    wanted = np.median(nearest(real))
    return min(SCALES, key=lambda scale: abs(np.median(nearest(resampled_alone(real, scale))) - wanted))


def measure_data(bench: Bench) -> dict[str, Any]:
    real = bench.base()["vectors"]
    scale = bench.scale()
    bounds = np.arange(0, 1.3, 0.1)
    histograms = {
        name: (np.histogram(nearest(vectors), bounds)[0] / NEAREST).tolist()
        for name, vectors in {"real": real, "resampled": resampled_alone(real, scale)}.items()
    }
    routes = np.histogram(bench.base()["routes"], (0, *index_recall.BUCKETS, 1))[0].tolist()
    return {"items": len(real), "queries": len(bench.base()["texts"]), "scale": scale, "routes": routes} | histograms


def table_data(found: dict[int, dict[str, Any]]) -> str:
    figures = found[0]
    lines = [
        "## Items\n",
        f"{figures['items']:,} real items and {figures['queries']:,} distinct queries of the click log; shares of queries by the share of S_m that routes "
        "them, fifth by fifth: " + ", ".join(f"{n / figures['queries']:.1%}" for n in figures["routes"]) + ". "
        "Further items are resampled: a real item, moved by a normal draw with the covariance within clusters (as many as the root of the items) "
        f"times 0 to {2 * figures['scale']:g}, evenly; the bound is that with which resampled items lie as far from each other as real ones in the median. Distance to the nearest "
        "other item, share of items, as many resampled as real ones:\n",
        "| distance | real | resampled |",
        "| --- | ---: | ---: |",
    ]
    for n, (real, drawn) in enumerate(zip(figures["real"], figures["resampled"], strict=True)):
        lines.append(f"| {n / 10:.1f}–{(n + 1) / 10:.1f} | {real:.1%} | {drawn:.1%} |")
    return "\n".join(lines)


def measure_index(bench: Bench) -> dict[str, Any]:
    """Build as the stage does, write the files, measure recall."""
    vectors, seconds = bench.vectors(), {}
    for half in (0, 1):
        bench.recall_queries(half)
    factory = index_building.choose_factory(len(vectors), vectors.shape[1], FLOOR)
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = time.monotonic() - began
        began = time.monotonic()

    index = index_building.train_index(vectors, factory)
    lap("train")
    index_building.fill_index(index, vectors)
    lap("fill")
    _, asked, routes, shares = bench.queries(0)
    queries = index_recall.recall_queries(vectors, asked, routes, shares)
    lap("exact search")
    parameters = search_parameters.tune_search(index, vectors, queries, FLOOR)
    lap("search parameters")
    folder = bench.index_folder
    folder.mkdir(exist_ok=True)
    made = IndexDescription(
        model_digest=model_digest(bench.model_folder),
        factory=factory,
        search_parameters=parameters,
        trained_on=len(vectors),
        shares=shares.tolist(),
    )
    items = resampled_titles(bench)
    write_index(folder, [index], items, asked, routes, made)
    lap("write")
    recall: dict[str, Any] = record(bench.recall_queries(1).measure(index, vectors))
    _, asked, routes, shares = bench.queries(1)
    filled = index_recall.recall_queries(vectors, *index_recall.fill_buckets(asked, routes), shares).measure(
        index, vectors
    )
    recall["filled"] = min(bucket.recall for bucket in filled.buckets)
    sizes = {"bytes": (folder / "index.faiss").stat().st_size, "table_bytes": items.nbytes}
    return {"factory": factory, "parameters": parameters, "seconds": seconds, "recall": recall} | sizes


def record(recall: Recall) -> dict[str, Any]:
    return recall.model_dump(by_alias=True, exclude_none=True)


def resampled_titles(bench: Bench) -> pa.Table:
    """index_items: each resampled item with a real one's title."""
    files = [str(f) for f in bench.source.output("prepare-items").files("catalogue")]
    table = ds.dataset(files).to_table(columns=["title", "department", "images"])
    table = table.take(np.arange(bench.size) % len(table))
    numbers = pa.array(range(bench.size), pa.int64())
    table = table.add_column(0, "item_id", pa.array([f"{n:09}" for n in range(bench.size)])).add_column(
        0, "row", numbers
    )
    return table.cast(load_contract("index_items").arrow_schema())


def table_index(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## Index\n",
        f"Recall@{DEPTH} against exact search with queries that had no part in choosing the search parameters; an item that scores as the last of the best counts "
        f"as found. Filled up: thin fifths have {MEASURED_A_BUCKET} queries by asking others with such a share. Bytes an item: of `index.faiss`; and of the table of titles and pictures in memory.\n",
        "| items | factory | search parameters | recall, overall | worst fifth (queries; standard error) | worst fifth, filled up | bytes an item | build s (train, fill, exact search, parameters) |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, f in found.items():
        least = min(f["recall"]["buckets"], key=lambda bucket: bucket["recall"])
        spent = f["seconds"]
        laps = ", ".join(f"{spent[n]:.0f}" for n in ("train", "fill", "exact search", "search parameters"))
        lines.append(
            f"| {size:,} | `{f['factory']}` | `{f['parameters'] or 'none'}` | {f['recall']['overall']:.4f} | {least['recall']:.4f} ({least['queries']}; {least['error']:.4f}) | "
            f"{f['recall']['filled']:.4f} | {f['bytes'] / size:.0f} + {f['table_bytes'] / size:.0f} | {sum(spent.values()):.0f} ({laps}) |"
        )
    return "\n".join(lines)


def on_one_core() -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def times_of(work: Callable[[int], object], count: int) -> np.ndarray:
    """Milliseconds of each call, after some that are not counted."""
    for n in range(min(50, count)):
        work(n)
    out = np.empty(count)
    for n in range(count):
        began = time.perf_counter()
        work(n)
        out[n] = 1000 * (time.perf_counter() - began)
    return out


def percentiles(times: np.ndarray) -> list[float]:
    return [float(np.percentile(times, q)) for q in (50, 99)]


def timed_texts(bench: Bench) -> list[str]:
    """Queries of the measured half as they come, not by bucket."""
    return bench.base()["texts"][1::2][:TIMED].tolist()


def paper_tower(bench: Bench) -> Path:
    """Untrained model of configs/paper_smar.yaml's size with this run's tokenizer: what it takes does not depend on its weights."""
    folder = bench.folder / "paper_model"
    if not (folder / "network.json").is_file():
        settings = load_settings(REPOSITORY / "configs" / "paper_smar.yaml")
        vocabulary = load_model(bench.model_folder).shape.vocabulary
        torch.manual_seed(0)
        lengths = {"query_length": settings.tokenizer.query_length, "item_length": settings.tokenizer.item_length}
        model = new_model(settings.network, vocabulary=vocabulary, pictures=settings.pictures, **lengths)
        save_model(model, folder, bench.model_folder / "tokenizer.json")
    return folder


NETWORKS: dict[str, Callable[[Bench], Path]] = {"default": lambda bench: bench.model_folder, "paper size": paper_tower}


def encoders(bench: Bench, networks: Sequence[str] = tuple(NETWORKS)) -> dict[str, QueryEncoder]:
    found = {}
    for network in networks:
        folder = NETWORKS[network](bench)
        model = load_model(folder)
        found[f"{network}, PyTorch"] = network_encoder(model, folder / "tokenizer.json")
        if weights := read_words_weights(folder):
            words = WordsTower(weights)
            found[f"{network}, NumPy"] = QueryEncoder(read_query_side(folder), words, folder / "tokenizer.json")
        for name, int8 in {"ONNX Runtime": False, "ONNX Runtime int8": True}.items():
            file = bench.folder / f"{network.replace(' ', '_')}-{int(int8)}-{TOWER_FILE}"
            if not file.is_file():
                export_query_tower(model, file, int8=int8)
            found[f"{network}, {name}"] = QueryEncoder(
                read_query_side(folder), ExportedTower(file), folder / "tokenizer.json"
            )
    return found


def measure_latency(bench: Bench) -> dict[str, Any]:
    """A query from text to titles, alone on one core."""
    on_one_core()
    before = resident()
    searcher = Searcher.load(bench.model_folder, bench.index_folder)
    memory = resident() - before
    texts = timed_texts(bench)
    asked = [searcher.encoder.encode([text])[0] for text in texts]
    hits = [searcher.rank_routed(vector, SHOWN) for vector in asked]
    found = {
        "search alone": percentiles(times_of(lambda n: searcher.rank_routed(asked[n], SHOWN), len(texts))),
        "titles alone": percentiles(
            times_of(lambda n: [searcher._hit(r, 0.0) for r in hits[n].rows[0].tolist()], len(texts))
        ),
    }
    # One network after the other: the first is measured without the other's memory.
    for network in NETWORKS:
        towers = encoders(bench, [network])
        for name, encoder in towers.items():
            found[f"encode, {name}"] = percentiles(times_of(lambda n, e=encoder: e.encode([texts[n]]), len(texts)))
        for name, encoder in towers.items():
            if network == "default":
                searcher.encoder = encoder
                whole = lambda n: searcher.search([texts[n]], k=SHOWN)  # noqa: E731
            else:
                # An untrained tower's queries are not where real ones are: what it encodes is thrown away, what is searched is real.
                whole = partial(search_beside, searcher, encoder, texts, asked)
            found[f"whole, {name}"] = percentiles(times_of(whole, len(texts)))
    return {"times": found, "bytes": memory}


def search_beside(searcher: Searcher, encoder: QueryEncoder, texts: list[str], asked: list[np.ndarray], n: int) -> None:
    encoder.encode([texts[n]])
    ranking = searcher.rank_routed(asked[n], SHOWN)
    for row in ranking.rows[0].tolist():
        searcher._hit(row, 0.0)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table_latency(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## One query on one core\n",
        f"A query from text to the titles of {SHOWN} items: normalise, tokenise, tower and P(q), routed search ({DEPTH} deep), titles; one after the other, one thread "
        f"on one core, {TIMED:,} queries. `paper size` is the query tower of `configs/paper_smar.yaml` (4 layers, 12 heads, width 384), untrained. Milliseconds.\n",
        "| " + " | ".join(["", *(f"{size:,} items: p50 | p99" for size in found)]) + " |",
        "| --- " + "| ---: | ---: " * len(found) + "|",
    ]
    for name in next(iter(found.values()))["times"]:
        cells = " | ".join(f"{p50:.2f} | {p99:.2f}" for p50, p99 in (f["times"][name] for f in found.values()))
        lines.append(f"| {name} | {cells} |")
    grown = ", ".join(f"{f['bytes'] / size:.0f} bytes an item at {size:,}" for size, f in found.items())
    return "\n".join(lines) + f"\n\nMemory that a process gains by `Searcher.load`: {grown}."


def measure_throughput(bench: Bench) -> dict[str, Any]:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    searcher = Searcher.load(bench.model_folder, bench.index_folder)
    texts, done, times = timed_texts(bench), threading.Event(), [[] for _ in range(CLIENTS)]

    def ask(client: int) -> None:
        faiss.omp_set_num_threads(1)  # is a thread's own
        n = client
        while not done.is_set():
            began = time.perf_counter()
            searcher.search([texts[n % len(texts)]], k=SHOWN)
            times[client].append(1000 * (time.perf_counter() - began))
            n += CLIENTS

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    began = time.monotonic()
    for client in clients:
        client.start()
    time.sleep(SECONDS)
    done.set()
    for client in clients:
        client.join()
    every = np.concatenate([np.array(t) for t in times])
    return {"per_second": len(every) / (time.monotonic() - began), "times": percentiles(every)}


def table_throughput(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## Many clients\n",
        f"{CLIENTS} threads of one process ask one query after the other for {SECONDS} s, on all cores.\n",
        "| items | queries/s | p50 ms | p99 ms |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {s:,} | {f['per_second']:,.0f} | {f['times'][0]:.1f} | {f['times'][1]:.1f} |" for s, f in found.items()
    ]
    return "\n".join(lines)


def alternate(contenders: dict[str, Callable[[int], object]], counts: dict[str, int]) -> dict[str, list[float]]:
    """Median milliseconds of each contender's calls, five times in turn."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(REPETITIONS):
        for name in list(contenders) if number % 2 == 0 else reversed(contenders):
            found[name].append(float(np.median(times_of(contenders[name], counts[name]))))
    return found


def measure_peers(bench: Bench) -> dict[str, Any]:
    """hnswlib with the smallest ef that finds as much, and exact search, with the same queries, one at a time on one thread."""
    vectors, queries = bench.vectors(), bench.recall_queries(1)
    ours = faiss.read_index(str(bench.index_folder / "index.faiss"))
    recall = queries.measure(ours, vectors)
    asked = np.ascontiguousarray(queries.asked[:, 0])
    about: dict[str, Any] = {
        "ours": {"recall": recall.worst, "bytes": (bench.index_folder / "index.faiss").stat().st_size}
    }
    contenders: dict[str, Callable[[int], object]] = {"ours": lambda n: ours.search(asked[n : n + 1], DEPTH)}
    flat = index_building.fill_index(index_building.train_index(vectors, "Flat"), vectors)
    contenders["FAISS Flat"] = lambda n: flat.search(asked[n : n + 1], DEPTH)
    about["FAISS Flat"] = {"recall": 1.0, "bytes": flat.ntotal * flat.d * 4}
    graph, note = build_hnsw(bench, vectors)
    if graph is not None:
        found = Graph(graph)

        def enough(ef: int) -> bool:
            graph.set_ef(ef)
            return queries.measure(found, vectors).worst >= recall.worst

        efs = [round(DEPTH * 2 ** (n / 4)) for n in range(25)]
        place = bisect_left(efs, True, key=enough)
        ef = efs[min(place, len(efs) - 1)]
        graph.set_ef(ef)
        graph.set_num_threads(1)
        contenders["hnswlib"] = lambda n: graph.knn_query(asked[n : n + 1], k=DEPTH)
        about["hnswlib"] = note | {
            "ef": ef,
            "recall": queries.measure(found, vectors).worst,
            "bytes": (bench.folder / f"hnsw-{bench.size}.bin").stat().st_size,
        }
    on_one_core()
    counts = {name: min(len(asked), FLAT_TIMED if name == "FAISS Flat" else 500) for name in contenders}
    return {"about": about, "times": alternate(contenders, counts), "note": "" if graph is not None else note["note"]}


class Graph:
    """hnswlib's index as FAISS's are asked."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def search(self, asked: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        rows, distances = self.graph.knn_query(asked, k=depth)
        return 1 - distances, rows.astype(np.int64)


def build_hnsw(bench: Bench, vectors: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """The graph, or None and why there is none."""
    try:
        import hnswlib
    except ImportError:
        return None, {"note": "hnswlib is not installed"}
    file, seconds = bench.folder / f"hnsw-{bench.size}.bin", bench.folder / f"hnsw-{bench.size}.json"
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    if seconds.is_file():
        graph.load_index(str(file))
        return graph, json.loads(seconds.read_text(encoding="utf-8"))
    graph.init_index(len(vectors), random_seed=0, **HNSW)
    graph.set_num_threads(os.cpu_count() or 1)
    began = time.monotonic()
    step = max(1_000, len(vectors) // 50)
    for start in range(0, len(vectors), step):
        graph.add_items(
            np.ascontiguousarray(vectors[start : start + step]), np.arange(start, min(len(vectors), start + step))
        )
        share, spent = min(1.0, (start + step) / len(vectors)), (time.monotonic() - began) / 60
        if start // step % 10 == 4:
            print(f"  hnswlib: {share:.0%} in {spent:.1f} minutes", file=sys.stderr, flush=True)
        if start // step >= 2 and spent / share > bench.peer_minutes:
            return None, {
                "note": f"hnswlib would take over {spent / share:.0f} minutes to build, more than --peer-minutes"
            }
    note = {"build_seconds": time.monotonic() - began}
    graph.save_index(str(file))
    seconds.write_text(json.dumps(note), encoding="utf-8")
    return graph, note


def table_peers(found: dict[int, dict[str, Any]]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in HNSW.items())
    lines = [
        "## Beside hnswlib and exact search\n",
        f"The same vectors, queries and results ({DEPTH}), one query at a time on one thread of one core, {REPETITIONS} times in turn; medians. hnswlib: inner product, {settings} (its documentation names "
        "M from 12 to 48 and says to raise ef_construction until it no longer helps), and of ef the smallest of a grid with which the worst fifth finds as much as in ours.\n",
        "| items | index | recall@100, worst fifth | ms a query | its time ÷ ours, median of five (least, most) | bytes an item | build s |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, f in found.items():
        for name, times in f["times"].items():
            about = f["about"][name]
            ratio = ratios(times, f["times"]["ours"]) if name != "ours" else ""
            label = f"hnswlib, ef {about['ef']}" if name == "hnswlib" else name
            build = f"{about['build_seconds']:.0f}" if "build_seconds" in about else ""
            lines.append(
                f"| {size:,} | {label} | {about['recall']:.4f} | {statistics.median(times):.2f} | {ratio} | {about['bytes'] / size:.0f} | {build} |"
            )
    notes = [f"At {size:,}: {f['note']}." for size, f in found.items() if f["note"]]
    return "\n".join(lines + (["", *notes] if notes else []))


def ratios(times: Sequence[float], ours: Sequence[float]) -> str:
    each = [a / b for a, b in zip(times, ours, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}, {max(each):.2f})"


def measure_towers(bench: Bench) -> dict[str, Any]:
    on_one_core()
    towers, texts = encoders(bench), timed_texts(bench)
    base = bench.base()
    found: dict[str, Any] = {}
    for network in ("default", "paper size"):
        ways = {name.split(", ")[1]: encoder for name, encoder in towers.items() if name.startswith(network)}
        eager = ways["PyTorch"]
        ids = tokenised(eager, texts)

        def run(n: int, encoder: QueryEncoder, ids: list[np.ndarray] = ids) -> None:
            encoder.tower(ids[n])

        contenders = {name: (lambda n, e=encoder: run(n, e)) for name, encoder in ways.items()}
        times = alternate(contenders, dict.fromkeys(contenders, 500))
        asked, _, p = eager.encode(texts)
        _, best = index_recall.exact_search(base["vectors"], asked, DEPTH) if network == "default" else (None, None)
        for name, encoder in ways.items():
            theirs, _, their_p = encoder.encode(texts)
            figures = {
                "times": times[name],
                "difference": float(max(np.abs(theirs - asked).max(), np.abs(their_p - p).max())),
                "cosine": float((theirs[:, : theirs.shape[1] // 2] * asked[:, : asked.shape[1] // 2]).sum(1).min()),
            }
            if best is not None:
                rows = index_recall.exact_search(base["vectors"], theirs, DEPTH)[1]
                figures["kept"] = float(np.mean([np.isin(r, b).mean() for r, b in zip(rows, best, strict=True)]))
            found[f"{network}, {name}"] = figures
    return found


def tokenised(encoder: QueryEncoder, texts: Sequence[str]) -> list[np.ndarray]:
    from smar_model.data.text_tokens import encode_queries

    return [encode_queries(encoder.tokenizer, [text], encoder.side.query_length) for text in texts]


def table_towers(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## Exported query tower\n",
        f"Tower and P(q) alone, one query's token ids at a time on one core, {REPETITIONS} times in turn; medians. Difference: the largest of an element of [Q ; p·Q] or of P(q) over {TIMED:,} queries. "
        f"Kept: share of the best {DEPTH} of the real items that stay (of the trained tower; the paper's size is untrained).\n",
        "| tower | µs a query | PyTorch ÷ it, median of five (least, most) | difference | least cosine | kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, f in found[0].items():
        if not isinstance(f, dict):
            continue
        eager = found[0][f"{name.split(', ')[0]}, PyTorch"]["times"]
        kept = f"{f['kept']:.4f}" if "kept" in f else ""
        lines.append(
            f"| {name} | {1000 * statistics.median(f['times']):.0f} | {ratios(eager, f['times'])} | {f['difference']:.1e} | {f['cosine']:.4f} | {kept} |"
        )
    return "\n".join(lines)


class TwoIndexes:
    """S_t and S_m in an index each; what either finds is scored again exactly by the route's mixture."""

    def __init__(self, vectors: np.ndarray, factory: str) -> None:
        half = vectors.shape[1] // 2
        self.half, self.factor = half, 1.0
        kinds = (
            lambda rows: np.ascontiguousarray(vectors[rows, :half]),
            lambda rows: vectors[rows, :half] + vectors[rows, half:],
        )
        self.indexes = []
        for kind in kinds:
            index = faiss.index_factory(half, factory, faiss.METRIC_INNER_PRODUCT)
            size = max(index_building.LEAST_SAMPLE, index_building.POINTS_A_LIST * index.nlist)
            index.train(kind(np.sort(np.random.default_rng(0).permutation(len(vectors))[:size])))
            for start in range(0, len(vectors), index_building.BLOCK):
                index.add(kind(slice(start, start + index_building.BLOCK)))
            self.indexes.append(index)
        self.exact = faiss.IndexFlatIP(vectors.shape[1])
        self.exact.add(vectors)

    def search(self, asked: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = np.full((len(asked), depth), -1), np.full((len(asked), depth), -np.inf, np.float32)
        query = np.ascontiguousarray(asked[:, : self.half])
        each = [index.search(query, round(self.factor * depth))[1] for index in self.indexes]
        for n in range(len(asked)):
            found = np.unique(np.concatenate([e[n] for e in each]))
            found = np.ascontiguousarray(found[found >= 0])
            distances = np.empty(len(found), np.float32)
            self.exact.compute_distance_subset(
                1, faiss.swig_ptr(asked[n]), len(found), faiss.swig_ptr(distances), faiss.swig_ptr(found)
            )
            best = np.argsort(-distances)[:depth]
            rows[n, : len(best)], scores[n, : len(best)] = found[best], distances[best]
        return scores, rows


def measure_two(bench: Bench) -> dict[str, Any]:
    """Both to the same recall, on the same queries."""
    vectors, tuning, queries = bench.vectors(), bench.recall_queries(0), bench.recall_queries(1)
    one = faiss.read_index(str(bench.index_folder / "index.faiss"))
    lists = faiss.extract_index_ivf(one).nlist if faiss.try_extract_index_ivf(one) else 64
    two = TwoIndexes(vectors, f"IVF{lists},PQ{vectors.shape[1] // 4}x4fs")
    aim = FLOOR + search_parameters.MARGIN * (1 - FLOOR)
    few = replace_rows(tuning, 100)
    best: tuple[float, int, float] | None = None
    for factor in (4.0, 8.0, 16.0, 32.0):
        two.factor = factor
        probes = sorted({round(2 ** (n / 4)) for n in range(round(4 * np.log2(lists)) + 1)})

        def enough(nprobe: int) -> bool:
            for index in two.indexes:
                index.nprobe = nprobe
            return few.measure(two, vectors).worst >= aim

        place = bisect_left(probes, True, key=enough)
        if place < len(probes):
            enough(probes[place])
            spent = float(np.median(times_of(lambda n: two.search(few.asked[n], DEPTH), 100)))
            if best is None or spent < best[0]:
                best = (spent, probes[place], factor)
    if best is None:
        return {"times": {}, "recall": {}}
    two.factor = best[2]
    for index in two.indexes:
        index.nprobe = best[1]
    recall = {"one index": record(queries.measure(one, vectors)), "two indexes": record(queries.measure(two, vectors))}
    on_one_core()
    asked = np.ascontiguousarray(queries.asked[:, 0])
    contenders = {
        "one index": lambda n: one.search(asked[n : n + 1], DEPTH),
        "two indexes": lambda n: two.search(asked[n : n + 1], DEPTH),
    }
    times = alternate(contenders, dict.fromkeys(contenders, min(500, len(asked))))
    return {
        "times": times,
        "recall": recall,
        "parameters": f"nprobe {best[1]}, {best[2]:g} candidates a result from each",
    }


def replace_rows(queries: index_recall.RecallQueries, a_bucket: int) -> index_recall.RecallQueries:
    """The first so many of each bucket."""
    place = np.digitize(queries.routes, index_recall.BUCKETS)
    rows = np.concatenate([np.flatnonzero(place == b)[:a_bucket] for b in range(len(index_recall.BUCKETS) + 1)])
    return replace(
        queries,
        asked=queries.asked[rows],
        routes=queries.routes[rows],
        scores=queries.scores[rows],
        rows=queries.rows[rows],
    )


def table_two(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## One index or two\n",
        "Two indexes: S_t and S_m in inverted lists of 4-bit codes each, as many lists as in ours; both are asked with Q, what either finds is scored exactly by Q·S_t + p·Q·(S_m − S_t) "
        f"(FAISS's flat index, fp32). Parameters found for the same recall; the fastest of those is timed, on one core, {REPETITIONS} times in turn.\n",
        "| items | | recall@100, worst fifth | ms a query | its time ÷ one index's, median of five (least, most) |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for size, f in found.items():
        if not f["times"]:
            lines.append(f"| {size:,} | two indexes | under the floor with any parameters | | |")
        for name, times in f["times"].items():
            ratio = ratios(times, f["times"]["one index"]) if name != "one index" else ""
            label = f"{name}, {f['parameters']}" if name != "one index" else name
            lines.append(
                f"| {size:,} | {label} | {f['recall'][name]['worst']:.4f} | {statistics.median(times):.2f} | {ratio} |"
            )
    return "\n".join(lines)


class Merged:
    """The best of what the parts of an index find, one part asked after the other."""

    def __init__(self, parts: Sequence[faiss.Index]) -> None:
        self.parts = [PartedIndex([part]) for part in parts]
        self.starts = np.cumsum([0, *(part.ntotal for part in parts)])

    def search(self, asked: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        found = [part.search(asked, depth) for part in self.parts]
        rows = np.concatenate([r + start for (_, r), start in zip(found, self.starts, strict=False)], axis=1)
        best = order_candidates(rows.astype(np.int32), np.concatenate([scores for scores, _ in found], axis=1))
        return best.scores[:, :depth], best.rows[:, :depth]


def build_cut(bench: Bench, parts: int, folder: Path, answer: Connection) -> None:
    """What the stage does for an index in so many parts, in a process of its own: files in `folder`; sends the search parameters, seconds
    and the most anonymous memory of filling and tuning, in bytes."""
    vectors, queries = bench.vectors(), bench.recall_queries(0)
    trained = index_building.train_index(vectors, index_building.choose_factory(len(vectors), vectors.shape[1], FLOOR))
    if parts > 1:
        os.environ["SMAR_HOME"] = str(folder / "home")
        made = partial(published, "benchmark")
        embed = made("embed", partial(publish_embeddings, np.asarray(vectors)))
        plan = Plan(
            items=len(vectors),
            parts=parts,
            asked=queries.asked,
            routes=queries.routes,
            shares=queries.shares,
            served=np.empty((0, vectors.shape[1]), np.float32),
            made={},
            difference=0.0,
            kept=(),
        )
        planned = made("plan", partial(publish_plan, plan, trained))
    ended, before = threading.Event(), anonymous_bytes()
    most = [before]

    def watch() -> None:
        while not ended.wait(0.05):
            most.append(anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.monotonic()
    if parts == 1:
        built = [index_building.fill_index(trained, vectors)]
        chosen = [search_parameters.tune_search(built[0], vectors, queries, FLOOR)]
    else:
        fills = [made(f"fill-{n}", partial(fill_part, embed=embed, planned=planned, part=n)) for n in range(parts)]
        tuning = partial(tune_part, embed=embed, planned=planned, fills=fills, floor=FLOOR)
        chosen = [made(f"tune-{n}", partial(tuning, part=n)).metrics["search_parameters"] for n in range(parts)]
        built = [faiss.read_index(str(fill.file("index.faiss")), faiss.IO_FLAG_MMAP_IFC) for fill in fills]
    seconds = time.monotonic() - began
    ended.set()
    watcher.join()
    parameters = " / ".join(dict.fromkeys(chosen))
    for number, (part, its) in enumerate(zip(built, chosen, strict=True)):
        set_parameters(part, its)
        faiss.write_index(part, str(folder / f"built-{number}.faiss"))
    answer.send({"parameters": parameters, "seconds": seconds, "bytes": max(most) - before})


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def measure_cut(bench: Bench) -> dict[str, Any]:
    vectors, queries = bench.vectors(), bench.recall_queries(1)
    spawn = multiprocessing.get_context("spawn")
    built: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=bench.folder) as scratch:
        indexes = {}
        for number in (1, CUT):
            folder = Path(scratch, str(number))
            folder.mkdir()
            here, there = spawn.Pipe()
            process = spawn.Process(target=build_cut, args=(bench, number, folder, there))
            process.start()
            there.close()  # so that nothing is waited for if the process fails
            built[number] = here.recv()
            process.join()
            indexes[number] = [faiss.read_index(str(folder / f"built-{n}.faiss")) for n in range(number)]
    (one,), parts = indexes.values()
    four = Merged(parts)
    recall = {"one index": record(queries.measure(one, vectors)), "four parts": record(queries.measure(four, vectors))}
    on_one_core()
    asked = np.ascontiguousarray(queries.asked[:, 0])
    contenders = {
        "one index": lambda n: one.search(asked[n : n + 1], DEPTH),
        "four parts": lambda n: four.search(asked[n : n + 1], DEPTH),
        "one part of four": lambda n: parts[0].search(asked[n : n + 1], DEPTH),
    }
    return {
        "times": alternate(contenders, dict.fromkeys(contenders, min(500, len(asked)))),
        "recall": recall,
        "bytes": faiss.serialize_index(parts[0]).nbytes,
        "built": {"one index": built[1], "four parts": built[CUT]},
    }


def table_cut(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## One index or its parts\n",
        f"`index.parts: {CUT}`: the same trained lists in {CUT} files, each with a quarter of the items; the best of what all find, with the search parameters that were found for them together. Asked one after the other "
        f"on one core, and one part alone, which is what a machine of {CUT} does for a query. {REPETITIONS} times in turn. Filling and tuning, each in a process of its own: parts are filled one after the other and asked "
        "from their files, so that of what they hold only the lists are in memory that no file stands behind.\n",
        "| items | | search parameters | recall@100, overall | worst fifth | ms a query | its time ÷ one index's, median of five (least, most) | filling and tuning, s | anonymous memory for it, MB |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, f in found.items():
        for name, times in f["times"].items():
            recall = f["recall"].get(name)
            found_share = f"{recall['overall']:.4f} | {recall['worst']:.4f}" if recall else " | "
            ratio = "" if name == "one index" else ratios(times, f["times"]["one index"])
            built = f["built"].get(name)
            effort = f"{built['seconds']:.1f} | {built['bytes'] / 1e6:,.0f}" if built else " | "
            parameters = built["parameters"] if built else ""
            lines.append(
                f"| {size:,} | {name} | {parameters} | {found_share} | {np.median(times):.2f} | {ratio} | {effort} |"
            )
    return "\n".join(lines)


def measure_refresh(bench: Bench) -> dict[str, Any]:
    """1 % removed, 1 % new, 1 % changed: filled again and measured, against a build from the beginning; one after the other."""
    vectors = np.array(bench.vectors())
    random, part = np.random.default_rng(5), len(vectors) // 100
    changed = random.choice(
        len(vectors), 2 * part, replace=False
    )  # half in the place of those removed, half of those changed
    drawn = np.empty((len(bench.base()["vectors"]) + 2 * part, vectors.shape[1]), np.float32)
    resample(bench.base()["vectors"], bench.scale(), drawn, seed=7)
    vectors[changed] = drawn[-2 * part :]
    _, asked, routes, shares = bench.queries(0)
    began = time.monotonic()
    index = faiss.read_index(str(bench.index_folder / "index.faiss"))
    index_building.fill_index(index, vectors)
    queries = index_recall.recall_queries(vectors, asked, routes, shares)
    refreshed = queries.measure(index, vectors)
    refresh_seconds = time.monotonic() - began
    began = time.monotonic()
    factory = index_building.choose_factory(len(vectors), vectors.shape[1], FLOOR)
    full = index_building.fill_index(index_building.train_index(vectors, factory), vectors)
    queries = index_recall.recall_queries(vectors, asked, routes, shares)
    search_parameters.tune_search(full, vectors, queries, FLOOR)
    built = queries.measure(full, vectors)
    return {
        "refresh_seconds": refresh_seconds,
        "build_seconds": time.monotonic() - began,
        "refreshed": refreshed.worst,
        "built": built.worst,
    }


def table_refresh(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "## Refresh\n",
        "1 % of the items new, 1 % changed, 1 % removed. A refresh fills the trained index again and measures its recall; a build trains, fills, measures and finds search parameters. Besides, a refresh embeds "
        "2 % of the items, a build all (`embedding.md`).\n",
        "| items | refresh s | build s | refresh ÷ build | recall@100 in the worst fifth, refreshed | built |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, f in found.items():
        share = f["refresh_seconds"] / f["build_seconds"]
        lines.append(
            f"| {size:,} | {f['refresh_seconds']:.1f} | {f['build_seconds']:.1f} | {share:.2f} | {f['refreshed']:.4f} | {f['built']:.4f} |"
        )
    return "\n".join(lines)


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "data": measure_data,
    "index": measure_index,
    "latency": measure_latency,
    "throughput": measure_throughput,
    "towers": measure_towers,
    "two": measure_two,
    "cut": measure_cut,
    "refresh": measure_refresh,
    "peers": measure_peers,
}
TABLES: dict[str, Callable[[dict[int, dict[str, Any]]], str]] = {
    "data": table_data,
    "index": table_index,
    "latency": table_latency,
    "throughput": table_throughput,
    "peers": table_peers,
    "towers": table_towers,
    "two": table_two,
    "cut": table_cut,
    "refresh": table_refresh,
}
SIZELESS = {"data", "towers"}


if __name__ == "__main__":
    main()
