"""What verifying and flushing the lake cost, side by side: `python -m benchmarks.verification` writes `benchmarks/verification.md`.

It works on a finished run in SMAR_HOME (`make retrain`) and changes nothing there. Each figure comes from a process of its own, with and
without in turn. Without: no content is digested that publishing did not digest before, none is verified, nothing is flushed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any

from smar_model.lake import artifacts, digests, durable_files, publishing, stage
from smar_model.lake.artifacts import manifest_path
from smar_model.lake.checkout import commit
from smar_model.lake.earlier_outputs import Release
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run, load_run
from smar_model.settings import REPOSITORY, home, load_settings
from smar_model.stages import STAGES

ROUNDS = 5
TOGETHER = ("embed", "index")
"""Stages that are carried out whole, with and without: quick ones that read and write much."""
PAGE = REPOSITORY / "benchmarks" / "verification.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=Path, default=REPOSITORY / "configs" / "sample_shop.yaml")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--part", choices=["lake", "stages", "serve"], help=argparse.SUPPRESS)
    parser.add_argument("--without", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    release = champion(options.settings)
    if options.part:
        with redirect_stdout(sys.stderr):
            answer = {"lake": lake_part, "stages": whole_stages, "serve": server_start}[options.part](
                release, without=options.without
            )
        print(json.dumps(answer))
        return
    measured: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds + 1):
        for part in ("lake", "stages", "serve"):
            for without in (True, False) if part != "serve" else (False,):
                command = [sys.executable, "-m", "benchmarks.verification", "--settings", str(options.settings)]
                command += ["--part", part, *(["--without"] if without else [])]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                if number:  # the first round warms the caches
                    measured.setdefault(f"{part} without" if without else part, []).append(json.loads(done.stdout))
    PAGE.write_text(page(load_run(release.run), measured), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def champion(settings: Path) -> Release:
    from smar_model.release.registry import serving_or_version

    return serving_or_version(load_settings(settings), None)


def without_checks() -> None:
    """As the code was before: sizes alone are looked at, and nothing but the manifest is flushed."""
    digest = digests.digests_once

    def published_before(files: Iterable[Path]) -> list[str]:
        files = list(files)
        found = dict(zip(others := [f for f in files if f.suffix != ".parquet"], digest(others), strict=True))
        return [found.get(file, "") for file in files]

    def look_at_sizes(self: artifacts.Artifact, names: Iterable[str]) -> None:
        assert all((self.place / n).stat().st_size == self.manifest["files"][n]["bytes"] for n in names)

    publishing.digests_once = published_before  # type: ignore[assignment]
    publishing.flush_files = lambda files, *, root: None  # type: ignore[assignment]
    durable_files.flush = lambda path: None
    artifacts.Artifact._verify = look_at_sizes  # type: ignore[method-assign]


def lake_part(release: Release, *, without: bool) -> dict[str, float]:
    """Seconds in which all stages of the run open their inputs, every file of them, and publish their outputs again elsewhere.

    More than a run does, whose stages open only what they read.
    """
    if without:
        without_checks()
    run = load_run(release.run)
    done = {name: made for name in STAGES if (made := run.find_output(name))}
    opened = published = 0.0
    for name in done:
        inputs = stage.stage_inputs(STAGES[name], run)
        digests._known.clear()  # each stage is a process of its own
        digests._known_rows.clear()
        began = time.perf_counter()
        for artifact in inputs.values():
            artifact.verify_files()
        opened += time.perf_counter() - began
    with tempfile.TemporaryDirectory(dir=home(), prefix=".verification-") as folder:
        os.environ["SMAR_HOME"] = folder
        for name, made in done.items():
            attempt = Attempt(name, made.key)
            shutil.copytree(made.place, attempt.folder, dirs_exist_ok=True)
            began = time.perf_counter()
            attempt.publish(metrics=made.metrics, inputs={}, settings={})
            published += time.perf_counter() - began
    return {"opened": opened, "published": published}


def whole_stages(release: Release, *, without: bool) -> dict[str, float]:
    """Seconds of stages that work anew, in a copy of the lake, once what they import is there."""
    if without:
        without_checks()
    import smar_model.retrieval.embed
    import smar_model.retrieval.index  # noqa: F401

    source = home()
    with tempfile.TemporaryDirectory(dir=source, prefix=".verification-") as folder:
        for name in ("lake", "runs"):
            shutil.copytree(source / name, Path(folder) / name)
        (Path(folder) / "shops").symlink_to(source / "shops")
        os.environ["SMAR_HOME"] = folder
        run = load_run(release.run)
        for name in TOGETHER:
            for path in manifest_path(name, "any").parent.glob("*.json"):
                path.unlink()
        began = time.perf_counter()
        for name in TOGETHER:
            stage.run_stage(STAGES[name], run)
        return {"seconds": time.perf_counter() - began}


def server_start(release: Release, *, without: bool) -> dict[str, float]:
    """Seconds to verify and open the champion's model and index as `smar serve` does, and of those in digesting files and rows."""
    del without
    from smar_model.release.registry import Registry
    from smar_model.serving.served_pair import open_release

    spent = 0.0

    def timed(call: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                spent += time.perf_counter() - began

        return wrapper

    hashlib.file_digest = timed(hashlib.file_digest)
    digests.digest_rows = timed(digests.digest_rows)
    digests._known.clear()  # `champion` has verified it
    digests._known_rows.clear()
    registry = Registry(load_run(release.run).settings)
    began = time.perf_counter()
    open_release(registry.release(release.version, index=release.index_digest))
    return {"seconds": time.perf_counter() - began, "digesting": spent}


def page(run: Run, measured: dict[str, list[dict[str, float]]]) -> str:
    # Of the processes that made them: the run itself may have taken them from another.
    seconds = sum(made.manifest["seconds"] for name in STAGES if (made := run.find_output(name)))
    size = sum(
        entry["bytes"]
        for name in STAGES
        if (made := run.find_output(name))
        for entry in made.manifest["files"].values()
    )
    lines = [
        "# What verifying and flushing cost",
        "",
        f"{date.today()}, commit {commit()[:7]}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}. "
        "Written by:",
        "",
        "    make retrain && .venv/bin/python -m benchmarks.verification",
        "",
        f"The run of the sample shop has {size / 1e6:,.1f} MB of outputs; its stages took {seconds:,.0f} s. Medians of "
        f"{len(measured['lake'])} rounds (smallest to largest), each figure from a process of its own, with and without in turn. *Without* "
        "looks at sizes alone and flushes nothing but the manifest.",
        "",
        "| | without, s | with, s | more, s | of the run's stages |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for part, name, what in (
        ("lake", "opened", "all stages open all files of their inputs"),
        ("lake", "published", "all stages publish their outputs"),
        ("stages", "seconds", f"the stages {' and '.join(TOGETHER)}, whole"),
    ):
        old, new = ([row[name] for row in measured[key]] for key in (f"{part} without", part))
        more = [b - a for a, b in zip(old, new, strict=True)]
        share = f"{100 * statistics.median(more) / seconds:.2f} %" if part == "lake" else ""
        lines.append(f"| {what} | {_spread(old)} | {_spread(new)} | {_spread(more)} | {share} |")
    total = [
        sum(with_[name] - old[name] for name in with_)
        for old, with_ in zip(measured["lake without"], measured["lake"], strict=True)
    ]
    opening, digesting = ([row[name] for row in measured["serve"]] for name in ("seconds", "digesting"))
    share = [100 * b / a for a, b in zip(opening, digesting, strict=True)]
    lines += [
        "",
        f"Verifying and flushing are **{100 * statistics.median(total) / seconds:.2f} %** of the daily run "
        f"({100 * min(total) / seconds:.2f} to {100 * max(total) / seconds:.2f} %): {_spread(total)} s.",
        "",
        f"A search server opens the champion's model and index in {_spread(opening)} s, once Python's packages are imported; "
        f"{_spread(digesting)} s of that, {_spread(share)} %, digest files and rows.",
        "",
    ]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
