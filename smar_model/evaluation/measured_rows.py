"""What `smar compare` has measured, as it is kept: a line of `rows.jsonl` for each row and seed, what the probe found in `timing.json`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import TypedDict

from smar_model.evaluation.evaluation_record import Estimate
from smar_model.settings import REPOSITORY

ROWS, TIMING = "rows.jsonl", "timing.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFigures:
    n: int
    """Queries."""
    estimates: dict[str, Estimate]
    """By metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What the probe of a row found, an entry of `timing.json`."""

    digest: str
    fixed_seconds: float
    """Reading, encoding pictures."""
    seconds_per_step: dict[str, float]
    """By stage's section."""
    commit: str
    date: str
    machine: str
    steps: dict[str, int] = field(default_factory=dict)
    """Within the budget, by stage's section."""
    scaled_by: dict[str, float] = field(default_factory=dict)
    """Of a row that was probed after others: which of them ran beside it, and what its seconds were multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A line of `rows.jsonl`: one row with one seed."""

    name: str
    seed: int
    digest: str
    """Of everything that the comparison asked of it: another digest is another row."""
    stage: str
    key: str
    """Of the judged output in the lake, which holds each query's values."""
    model: str
    commit: str
    date: str
    machine: str
    steps: dict[str, int]
    pairs: int
    """Seen in all trainings, the vision encoder's included."""
    training_seconds: float
    stage_seconds: float
    """Wall time of all its training stages, reading and encoding included; without those that it shares, `once_seconds`."""
    metrics: dict[str, SegmentFigures]
    """By segment."""
    once_seconds: float = 0.0
    """Of adapt-vision and encode-pictures, where a shop does them once for all rows that stand on them (`adapting_seconds`)."""


def read_row(line: str) -> Measured:
    """A line of `rows.jsonl`, which has `n` and metric → [mean, low, high] for each segment."""
    content = json.loads(line)
    metrics = {
        segment: SegmentFigures(
            n=figures.pop("n"),
            estimates={metric: Estimate(mean=m, low=low, high=high) for metric, (m, low, high) in figures.items()},
        )
        for segment, figures in content.pop("metrics").items()
    }
    return Measured(**content, metrics=metrics)


def append_row(file: Path, row: Measured) -> None:
    metrics = {
        segment: {"n": of.n} | {metric: list(asdict(estimate).values()) for metric, estimate in of.estimates.items()}
        for segment, of in row.metrics.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        content = asdict(row) | {"metrics": metrics}
        lines.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


class Circumstances(TypedDict):
    commit: str
    date: str
    machine: str


def circumstances() -> Circumstances:
    """Commit (with + where files differ from it), date and machine."""

    def git(*arguments: str) -> str:
        asked = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return asked.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no", "--", "smar_model", "jobs", "sql") else ""
    return {
        "commit": f"{git('rev-parse', '--short', 'HEAD')}{changed}" or "unknown",
        "date": str(datetime.now(UTC).date()),
        "machine": _machine(),
    }


def _machine() -> str:
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    cards = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return ", ".join([names[0] if names else platform.machine(), cores, *cards])
