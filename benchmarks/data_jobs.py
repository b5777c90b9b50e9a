"""Time and memory of the Spark half at several sizes, beside DuckDB and plain Python: the figures of data.md.

    python benchmarks/data_jobs.py --events 1 10 30 --folder FOLDER --duckdb-python /path/to/python

For each size (millions of events) a shop is made without pictures, once. Then, `--repetitions` times, jobs run in a
process of their own over an empty lake, and the peers' work between them, so that whatever else the machine does meets all
alike: in the first repetition all jobs, in the others those that have a peer. Wall time is that of the whole process, start of Java included. Memory is the proportional set size (PSS) of the
process and all below it, sampled twice a second. Results go to FOLDER/results-<events>.json, where a
later call goes on counting, and, as Markdown, to the screen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import yaml

from jobs.extract_click_days import BOT_CLICKS, BOT_DWELL_SECONDS, SKEW_SECONDS
from jobs.generate_queries import draws_by_method
from smar_model.lake.runs import Run, create_run
from smar_model.settings import REPOSITORY, Settings, load_settings

LAST_DAY = date(2026, 11, 19)
DAYS = 30
EVENTS_PER_REQUEST = 13.2
JOBS = {
    "prepare-items": "items_in",
    "extract-clicks": "rows_in",
    "generate-queries": "synthetic_queries",
    "measure-drift": None,
    "label-fashion": "queries",
    "check-data": None,
    "assign-segments": "pairs",
}
"""Stage → the metric that counts its rows, where one does."""
WITH_PEERS = ("prepare-items", "extract-clicks", "generate-queries")
"""Jobs that a peer does too, and the one that they need."""
PEER_METHODS = ["substring", "combination"]
"""The methods that the peers' generators have as well."""
SAMPLING_SECONDS = 0.5
JAVA_OPTIONS = {"spark.driver.extraJavaOptions": "-XX:+UseParallelGC"}
"""For throughput: a few per cent less time than Java's default collector."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """One process and all below it."""

    wall: float = 0.0
    """Seconds."""
    cpu: float = 0.0
    """Seconds of user and system time, up to the last sample."""
    peak: int = 0
    """Bytes of PSS, of all processes at one moment."""
    peak_java: int = 0
    peak_python: int = 0
    rows: int | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    """Its lines about a rate."""


def measure(command: list[str], *, environment: dict[str, str]) -> Measured:
    """Run a command and sample its tree of processes.

    Raises:
        RuntimeError: it failed.
    """
    result = Measured()
    began = time.monotonic()
    # A file: a pipe that nobody reads would stop the process.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=os.environ | environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _sample(process, result)
        finally:
            if process.poll() is None:
                root = psutil.Process(process.pid)
                for member in [*_children(root), root]:
                    member.kill()
        result.wall = time.monotonic() - began
        log.seek(0)
        output = log.read()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)[:300]}: exit code {process.returncode}\n{output[-3000:]}")
    lines = output.strip().splitlines()
    result.said = [line for line in lines if line.endswith("a second)")]
    last = lines[-1] if lines else ""
    result.answer = json.loads(last) if last.startswith("{") else {}
    return result


def _sample(process: subprocess.Popen[bytes], result: Measured) -> None:
    """Note memory and CPU time of the tree until its root ends."""
    root, seconds = psutil.Process(process.pid), {}
    while process.poll() is None:
        java = python = 0
        for member in [root, *_children(root)]:
            try:
                size, times = member.memory_full_info().pss, member.cpu_times()
                seconds[member.pid] = times.user + times.system
                is_java = Path(member.exe()).name == "java"
                if is_java and member.name() != "java":
                    continue  # a thread of Java about to start a command: its memory is Java's own
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            java, python = java + size * is_java, python + size * (not is_java)
        result.peak = max(result.peak, java + python)
        result.peak_java, result.peak_python = max(result.peak_java, java), max(result.peak_python, python)
        time.sleep(SAMPLING_SECONDS)
    result.cpu = sum(seconds.values())


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def make_shop(folder: Path, settings: Path, *, events: int, items: int) -> Measured | None:
    """Make the shop, unless an earlier call did."""
    if (folder / "items").is_dir():
        return None
    shutil.rmtree(folder, ignore_errors=True)
    requests = round(events / EVENTS_PER_REQUEST / DAYS)
    command = [sys.executable, "-m", "smar_model.cli", "shop", "make", "--settings", str(settings), "--to", str(folder)]
    command += [
        "--items",
        str(items),
        "--days",
        str(DAYS),
        "--requests-per-day",
        str(requests),
        "--date",
        str(LAST_DAY),
    ]
    return measure(command, environment={})


def write_settings(path: Path, shop: Path, *, memory: str, methods: list[str] | None = None) -> Settings:
    steps = {"steps": 1}
    content: dict[str, Any] = {
        "shop": {"root": str(shop), "visual_departments": ["Clothing", "Shoes"]},
        "window": {"days": DAYS, "evaluation_days": 1},
        "spark": {"master": "local[2]", "driver_memory": memory, "shuffle_partitions": 32, "options": JAVA_OPTIONS},
        "training": {"adapt_vision": steps, "pretrain": steps, "finetune": steps},
    }
    if methods:
        content["synthetic_queries"] = {"methods": methods}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_settings(path)


def begin_run(name: str, settings: Settings) -> Run:
    return create_run(
        Run(name=name, date=LAST_DAY, settings_source=name, settings=settings, champion=None, promotion="never")
    )


def run_job(stage: str, run: Run, home: Path) -> Measured:
    measured = measure(
        [sys.executable, "-m", "smar_model.cli", stage, "--run", run.name], environment={"SMAR_HOME": str(home)}
    )
    measured.answer = run.output(stage).metrics
    counted = JOBS[stage]
    measured.rows = int(measured.answer[counted]) if counted else None
    return measured


def repetition(folder: Path, shop: Path, options: argparse.Namespace, *, whole: bool) -> dict[str, Measured]:
    """Every job once (if not `whole`, those with peers), and the peers' work beside the job that it is compared with."""
    home, out = folder / "home", str(folder / "peers")
    shutil.rmtree(home, ignore_errors=True)
    os.environ["SMAR_HOME"] = str(home)
    home.mkdir(parents=True)
    run = begin_run("all", write_settings(folder / "all.yaml", shop, memory=options.memory))
    peers = begin_run("peers", write_settings(folder / "peers.yaml", shop, memory=options.memory, methods=PEER_METHODS))
    catalogue = f"{home}/lake/prepare-items/attempts/*/catalogue/*.parquet"
    common = {"out": out, "threads": 2, "memory": f"{options.memory[:-1]}{options.memory[-1].upper()}B"}
    results: dict[str, Measured] = {}

    def run_peer(name: str, python: str, arguments: dict[str, Any], rows: int | None = None) -> None:
        shutil.rmtree(out, ignore_errors=True)
        command = [python, str(Path(__file__).with_name("data_peers.py")), name, json.dumps(common | arguments)]
        results[name] = measure(command, environment={})
        results[name].rows = rows or results[name].answer["rows"]

    for stage in JOBS if whole else WITH_PEERS:
        if whole or stage != "generate-queries":
            results[stage] = run_job(stage, run, home)
        if stage == "extract-clicks" and options.duckdb_python:
            clicks = run.settings.clicks
            arguments = clicks.model_dump(include={"bot_requests_per_day", "bot_requests_per_minute"})
            arguments |= {
                "bot_clicks": BOT_CLICKS,
                "bot_dwell_seconds": BOT_DWELL_SECONDS,
                "skew_seconds": SKEW_SECONDS,
            }
            arguments |= {"log": f"{shop}/click_log/*/*.parquet", "catalogue": catalogue, "salt": "salt"}
            run_peer("duckdb-clicks", options.duckdb_python, arguments, rows=results[stage].rows)
            for count in ("impressions", "clicks", "carts", "orders"):
                ours, theirs = results[stage].answer[count], results["duckdb-clicks"].answer[count]
                assert ours == theirs, f"DuckDB counts {theirs} {count}, the job {ours}"
        if stage == "generate-queries":
            for name in ("prepare-items", "extract-clicks"):
                run_job(name, peers, home)  # taken from the first run
            results["generate-queries, two methods"] = limited = run_job(stage, peers, home)
            draws = draws_by_method(int(limited.answer["draws_per_item"]), tuple(PEER_METHODS))
            arguments = {name: draws[name] for name in PEER_METHODS} | {"catalogue": catalogue}
            arguments["maximum_words"] = run.settings.synthetic_queries.maximum_words
            if options.duckdb_python:
                run_peer("duckdb-queries", options.duckdb_python, arguments)
            run_peer("python-queries", sys.executable, arguments)
    return results


def summarise(repetitions: list[dict[str, Measured]]) -> str:
    """Medians as a Markdown table; shares are of the Spark half's wall time; ratios are medians of those of each repetition."""
    lines = [
        "| job | rows | wall s | CPU s | rows/s | peak MiB | Java | Python | share of the Spark half |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def median(name: str, what: str) -> float:
        return statistics.median(getattr(results[name], what) for results in repetitions if name in results)

    whole = sum(median(name, "wall") for name in JOBS)
    for name in repetitions[0]:
        rows = repetitions[0][name].rows
        wall = median(name, "wall")
        peaks = [f"{median(name, peak) / 2**20:,.0f}" for peak in ("peak", "peak_java", "peak_python")]
        cells = [name, f"{rows:,}" if rows else "", f"{wall:.1f}", f"{median(name, 'cpu'):.1f}"]
        cells += [f"{rows / wall:,.0f}" if rows else "", *peaks, f"{wall / whole:.0%}" if name in JOBS else ""]
        lines.append(f"| {' | '.join(cells)} |")
    pairs = {
        "duckdb-clicks": "extract-clicks",
        "duckdb-queries": "generate-queries, two methods",
        "python-queries": "generate-queries, two methods",
    }
    for peer, ours in pairs.items():
        if peer in repetitions[0]:
            per_row = [(r[ours].wall / r[ours].rows) / (r[peer].wall / r[peer].rows) for r in repetitions]  # type: ignore[operator]
            lines.append(
                f"\nTime a row, {ours} ÷ {peer}: median {statistics.median(per_row):.2f} of "
                + ", ".join(f"{ratio:.2f}" for ratio in per_row)
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, nargs="+", default=[1, 10, 30], help="sizes, millions of events")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--repetitions", type=int, default=5, help="of each size, those in FOLDER's results included")
    parser.add_argument("--memory", default="2g", help="Spark's heap and DuckDB's limit")
    parser.add_argument("--folder", type=Path, required=True, help="for shops, lakes and results")
    parser.add_argument("--duckdb-python", help="an interpreter with duckdb; unset: without DuckDB")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for millions in options.events:
        events = round(millions * 1_000_000)
        folder = options.folder.resolve() / f"{millions:g}m"
        folder.mkdir(exist_ok=True)
        write_settings(folder / "all.yaml", folder / "shop", memory=options.memory)
        made = make_shop(folder / "shop", folder / "all.yaml", events=events, items=options.items)
        if made:
            print(
                f"shop of {events:,} events made: {made.wall:.0f} s wall, {made.cpu:.0f} s CPU, {made.peak / 2**20:,.0f} MiB"
            )
        kept = options.folder / f"results-{millions:g}m.json"
        earlier = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
        repetitions = [{name: Measured(**m) for name, m in results.items()} for results in earlier]
        while len(repetitions) < options.repetitions:
            repetitions.append(repetition(folder, folder / "shop", options, whole=not repetitions))
            print(f"{millions:g} million events, repetition {len(repetitions)}", flush=True)
            rows = [{name: asdict(m) for name, m in results.items()} for results in repetitions]
            kept.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        print(f"\n{millions:g} million events, {options.items:,} items\n\n{summarise(repetitions)}\n", flush=True)


if __name__ == "__main__":
    main()
