"""Training speed: our loop beside a bare one and beside sentence-transformers' trainer, in two processes beside one, what makes the
batches, memory, a GPU.

    SMAR_HOME=HOME python benchmarks/training.py --run RUN --folder FOLDER --peer-python /path/to/python

RUN is a run in HOME that has finished encode-pictures; nothing is written there. Every measurement is a process of its own: the
stage `pretrain` itself, whose loop alone is another one where it is not ours. Contenders take turns, `--repetitions` times.
A measurement begins when step `WARM_UP` does and ends with the last one. Results go to FOLDER/results.json, where a later call goes on
counting, and, as Markdown, to the screen.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from smar_model.data.token_tables import read_item_tokens, read_pair_tokens
from smar_model.lake.artifacts import Artifact
from smar_model.lake.digests import digest_file
from smar_model.lake.runs import create_run, load_run
from smar_model.lake.stage import StageContext
from smar_model.settings import REPOSITORY, home, load_settings, validate_settings
from smar_model.stages import STAGES
from smar_model.training import loop, pretrain, tokenizer
from smar_model.training.batches import Batch
from smar_model.training.device import keep_freed_memory, mixed_precision
from smar_model.training.model_files import save_model
from smar_model.training.processes import rank
from smar_model.yaml_files import merged

WARM_UP = 8
"""Steps before the clock starts."""
THREE_LOSSES = {"training": {"text_first_share": 0}}
"""The stretch of pretraining that reads pictures."""
TEXT_ALONE = {"network": {"variant": "text_only", "text": {"tower": "words"}}, "training": {"token_dropout": 0}}
"""Two text towers, those of what ships; no hidden tokens, which the peer does not have."""
TRANSFORMERS = {"network": {"variant": "text_only", "text": {"tower": "transformer"}}, "training": {"token_dropout": 0}}
"""Likewise SMAR's."""
SHORT_STEPS = 10
"""So many times the steps where one takes a tenth of the time."""
END_TO_END = {"network": {"variant": "smar"}, "training": {"text_first_share": 0}}
"""Pictures instead of patch tokens: they are augmented at every visit."""
COUNTED_PAIRS = 64
"""Pairs whose FLOPs are counted: a larger batch has a few more for its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One measurement, of one process."""

    source: str
    """Home of the run whose data are trained on."""
    run: str
    folder: str
    loop: str = "ours"
    """`ours`, `bare`, `batches` (nothing is trained); or what the others need: `export`, `repeat`."""
    steps: int
    settings: dict[str, Any] = field(default_factory=dict)
    """Sections that differ from the run's."""
    config: str | None = None
    """Settings file in place of the run's; its tokens are made first."""
    times: int = 1
    """How often the data are repeated (`repeat_data`)."""
    processes: int = 1
    """That train together, under torchrun."""
    watch: str | None = None
    """`memory`: the largest so far, by a thread that looks; `device`: FLOPs and idle time of the GPU; `losses`: of all steps."""


def work(task: Task) -> dict[str, Any]:
    """Run the stage with the task's loop; returns its figures."""
    context = open_context(task)
    clock = Clock(WARM_UP, task.steps - 1)
    figures: dict[str, Any] = {}
    losses: list[torch.Tensor] = []
    in_loop: dict[str, Callable[..., Any]] = {"ours": loop.train, "bare": bare_loop, "batches": batches_alone}

    def watched_loop(
        model: torch.nn.Module, data: Any, batches: Iterable[Batch], *, encode: Any, objective: Any, **options: Any
    ) -> dict[str, float]:
        def watched_encode(step: int, batch: Batch) -> Any:
            clock.tick(step)
            return encode(step, batch)

        def watched_objective(step: int, embeddings: Any) -> Any:
            parts = objective(step, embeddings)
            losses.append(parts["loss"].detach())
            return parts

        iterator = iter(batches)
        with watch(task.watch, clock) as seen:
            metrics = in_loop[task.loop](
                model,
                data,
                islice(iterator, task.steps),
                encode=clock.tick if task.loop == "batches" else watched_encode,
                objective=watched_objective,
                **options,
            )
        figures.update(seen)
        if task.watch == "device":
            figures["matrix_flops"] = matrix_rate()
            batch = next(iterator).split(COUNTED_PAIRS)[0]
            figures["pair_flops"] = count_flops(lambda: objective(0, encode(0, batch))["loss"]) / len(batch.queries)
        return metrics

    with patch.object(pretrain, "train", watched_loop):
        pretrain.run(context)
    pairs = (task.steps - 1 - WARM_UP) * context.settings.training.pretrain.batch
    figures["loss"] = losses[-1].item() if losses else None
    if task.watch == "losses":
        figures["losses"] = [loss.item() for loss in losses]
    return figures | {"pairs_per_second": pairs / clock.seconds, "cpu_ms_a_pair": 1000 * clock.cpu_seconds / pairs}


def open_context(task: Task) -> StageContext:
    """The stage pretrain over another home's data, which stay untouched."""
    os.environ["SMAR_HOME"] = task.source
    source = load_run(task.run)
    inputs = {name: found for name in STAGES["pretrain"].inputs if (found := source.find_output(name))}
    folder = Path(task.folder)
    os.environ["SMAR_HOME"] = str(folder / "home")
    settings = load_settings(Path(task.config)) if task.config else source.settings
    content = merged(settings.model_dump(mode="json"), task.settings)
    settings = validate_settings(content, source="benchmark")
    run = create_run(replace(source, name=f"{task.loop}-{uuid.uuid4().hex}", settings=settings))
    context = StageContext(
        stage=STAGES["pretrain"], run=run, inputs=inputs, folder=folder / "home" / run.name, key="benchmark"
    )
    context.folder.mkdir(parents=True)
    if task.config:
        tokens = folder / f"tokens-{Path(task.config).stem}"
        if not tokens.is_dir():
            tokenizer.run(replace(context, stage=STAGES["train-tokenizer"], folder=context.folder / "tokens"))
            (context.folder / "tokens").rename(tokens)
        inputs["train-tokenizer"] = artifact_of("train-tokenizer", tokens)
    if task.times > 1:
        inputs |= repeat_data(inputs, task.times, folder / f"times-{task.times}")
    return context


def artifact_of(stage: str, folder: Path) -> Artifact:
    files = {
        str(f.relative_to(folder)): {"bytes": f.stat().st_size, "sha256": digest_file(f)}
        for f in folder.rglob("*")
        if f.is_file()
    }
    return Artifact(stage=stage, key="benchmark", place=folder, manifest={"files": files, "content": {}, "metrics": {}})


def repeat_data(inputs: dict[str, Artifact], times: int, folder: Path) -> dict[str, Artifact]:
    """The same items, pairs and pictures so many times, each time as other items."""
    out = {name: folder / name for name in ("train-tokenizer", "prepare-items")}
    if not (folder / "whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        tokens, tables = out["train-tokenizer"] / "tokens", inputs["train-tokenizer"].folder
        items = read_item_tokens(tables / "tokens" / "items")
        marks = [f"{n:03}:" for n in range(times)]
        ids = np.concatenate([np.char.add(mark.encode(), items.item_ids) for mark in marks])
        for name in ("ids", "segments", "categories"):
            _repeat(tokens / "items" / f"{name}.npy", getattr(items, name), times)
        _repeat(tokens / "items" / "item_ids.npy", ids, 1)
        for kind in ("clicked", "synthetic"):
            pairs, place = read_pair_tokens(tables / "tokens" / kind), tokens / kind
            for name in ("ids", "keys"):
                _repeat(place / f"{name}.npy", getattr(pairs, name), times)
            _repeat(place / "rows.npy", pairs.rows, times, shift=len(items.item_ids))
            starts = [pairs.starts[:-1] + n * len(pairs.rows) for n in range(times)]
            _repeat(place / "starts.npy", np.append(np.concatenate(starts), times * len(pairs.rows)), 1)
            if pairs.cumulative is not None:
                _repeat(place / "cumulative.npy", pairs.cumulative, times, shift=float(pairs.cumulative[-1]))
        shutil.copy(tables / "tokenizer.json", out["train-tokenizer"])
        (out["prepare-items"] / "pictures").mkdir(parents=True)
        for file in inputs["prepare-items"].files("pictures"):
            table = pq.read_table(file)
            for n, mark in enumerate(marks):
                names = pc.binary_join_element_wise(pa.scalar(mark), table["item_id"], pa.scalar(""))
                column = table.schema.get_field_index("item_id")
                marked = table.set_column(column, table.schema.field(column), names)
                pq.write_table(marked, out["prepare-items"] / "pictures" / f"{n:03}-{file.name}")
        (folder / "whole").touch()
    return {name: artifact_of(name, place) for name, place in out.items()}


def _repeat(path: Path, values: np.ndarray, times: int, *, shift: float = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (times * len(values), *values.shape[1:])
    out = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
    for n in range(times):
        part = out[n * len(values) : (n + 1) * len(values)]
        part[:] = values + np.asarray(n * shift).astype(values.dtype) if shift else values


class Clock:
    """Time and CPU time (of all threads) between the beginnings of two steps."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.marks: dict[int, tuple[float, float]] = {}
        self.at: dict[int, Callable[[], object]] = {}
        """What else is done at the beginning of a step."""

    def tick(self, step: int) -> None:
        if step in (self.first, self.last) and step not in self.marks:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks[step] = time.perf_counter(), time.process_time()
            self.at.get(step, lambda: None)()

    @property
    def seconds(self) -> float:
        return self.marks[self.last][0] - self.marks[self.first][0]

    @property
    def cpu_seconds(self) -> float:
        return self.marks[self.last][1] - self.marks[self.first][1]


def bare_loop(
    model: torch.nn.Module,
    data: Any,
    batches: Iterator[Batch],
    *,
    encode: Callable[..., Any],
    objective: Callable[..., Any],
    optimisation: Any,
    context: StageContext,
    **_: Any,
) -> dict[str, float]:
    """What training needs and nothing else, over batches that lie in memory."""
    keep_freed_memory()
    ready = list(batches)
    trainable = loop.trainable_parameters(model)
    optimizer = loop.make_optimizer(model, optimisation)
    model.train()
    for step, batch in enumerate(ready):
        loop.set_learning_rate(optimizer, loop.learning_rate_at(step, optimisation))
        optimizer.zero_grad()
        with mixed_precision(context.settings.training.precision):
            embeddings = encode(step, batch)
        objective(step, embeddings)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trainable, loop.GRADIENT_NORM)
        optimizer.step()
    return {}


def batches_alone(
    model: torch.nn.Module, data: Any, batches: Iterator[Batch], *, encode: Any, **_: Any
) -> dict[str, float]:
    """No training, only what makes the batches."""
    for step, _batch in enumerate(batches):
        encode(step)
    return {}


@contextmanager
def watch(what: str | None, clock: Clock) -> Iterator[dict[str, Any]]:
    """Figures of `memory` or `device` while the loop runs, complete when it has ended."""
    figures: dict[str, Any] = {}
    on_gpu = torch.cuda.is_available()
    if what == "memory":
        done = threading.Event()
        thread = threading.Thread(target=_note_peaks, args=(done, figures))
        thread.start()
        try:
            yield figures
        finally:
            done.set()
            thread.join()
    elif what == "device":
        kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        profiler = torch.profiler.profile(activities=[kind])
        clock.at = {clock.first: profiler.start, clock.last: profiler.stop}
        yield figures
        device = DeviceType.CUDA if on_gpu else DeviceType.CPU
        spans = [(e.time_range.start, e.time_range.end) for e in profiler.events() if e.device_type == device]
        figures["idle_share"] = idle_share(spans)
        figures["device_peak"] = torch.cuda.max_memory_allocated() if on_gpu else None
    else:
        yield figures


def _note_peaks(done: threading.Event, peaks: dict[str, int]) -> None:
    while not done.wait(0.1):
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
        for name, size in (("anonymous", sizes["Pss_Anon"]), ("mapped", sizes["Pss_File"]), ("pss", sizes["Pss"])):
            peaks[name] = max(peaks.get(name, 0), size)


def idle_share(spans: Iterable[tuple[float, float]]) -> float:
    """Share of the time from the first span's start to the last one's end in which there is none."""
    busy, until, ordered = 0.0, -math.inf, sorted(spans)
    for start, end in ordered:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (until - ordered[0][0])


def matrix_rate() -> float:
    """FLOP/s of a product of square matrices: in bf16 on a GPU, else in fp32."""
    on_gpu = torch.cuda.is_available()
    side, kind, device = (8192, torch.bfloat16, "cuda") if on_gpu else (1024, torch.float32, "cpu")
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    rates = []
    for _ in range(30):
        began = time.perf_counter()
        left @ right
        if on_gpu:
            torch.cuda.synchronize()
        rates.append(2 * side**3 / (time.perf_counter() - began))
    return statistics.median(rates[10:])


def count_flops(compute_loss: Callable[[], torch.Tensor]) -> float:
    """Forward and backward once: what gradient caching computes a second time is no part of it."""
    # The plain form of attention: not every fused one is counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        compute_loss().backward()
    return float(counter.get_total_flops())


def export(task: Task) -> dict[str, Any]:
    """The peer's model and texts: those pairs that our loop draws, in words."""
    context = open_context(task)
    out = Path(task.folder) / "peer"
    shutil.rmtree(out, ignore_errors=True)
    lengths, pairs = [], {"anchor": [], "positive": []}

    def write(model: Any, data: Any, batches: Iterable[Batch], **_: Any) -> dict[str, float]:
        save_model(model, out / "model", context.input("train-tokenizer").file("tokenizer.json"))
        for batch in islice(batches, task.steps):
            for column, ids in (("anchor", batch.queries), ("positive", batch.texts)):
                rows = [[i for i in row if i] for row in ids.tolist()]
                lengths.append(sum(map(len, rows)))
                pairs[column] += [data.tokenizer.decode(row).strip() for row in rows]
        return {}

    with patch.object(pretrain, "train", write):
        pretrain.run(context)
    pq.write_table(pa.table(pairs), out / "pairs.parquet")
    optimisation = context.settings.training.pretrain
    named = {name: getattr(optimisation, name) for name in ("batch", "learning_rate", "warmup_share", "weight_decay")}
    named |= {"steps": task.steps, "warm_up": WARM_UP, "gradient_norm": loop.GRADIENT_NORM}
    named |= {name: getattr(context.settings.training, name) for name in ("threads", "precision")}
    return named | {"folder": str(out), "tokens_a_pair": sum(lengths) / len(pairs["anchor"])}


def measure(task: Task) -> dict[str, Any]:
    together = ["-m", "torch.distributed.run", f"--nproc-per-node={task.processes}"] if task.processes > 1 else []
    return _answer([sys.executable, *together, __file__, "--task", json.dumps(asdict(task))])


def _answer(command: list[str]) -> dict[str, Any]:
    """What a process prints last, as JSON.

    Raises:
        RuntimeError: it failed.
    """
    # Threads that wait sleep, as in every command of the product, whose modules the peer trains.
    environment = {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(REPOSITORY), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=os.environ | environment, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:600]}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Results:
    """Figures of each part by contender, one for each repetition, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.parts: dict[str, dict[str, list[dict[str, Any]]]] = (
            json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        )

    def repeat(self, part: str, contenders: dict[str, Callable[[], dict[str, Any]]], repetitions: int) -> None:
        """Contenders take turns, every other time from the last to the first, until each has so many figures."""
        found = self.parts.setdefault(part, {})
        for number in range(repetitions):
            for name in list(contenders) if number % 2 == 0 else reversed(contenders):
                if len(found.setdefault(name, [])) <= number:
                    found[name].append(contenders[name]())
                    self.file.write_text(json.dumps(self.parts, indent=1), encoding="utf-8")
                    print(f"{part}, {name}, {number + 1}: {found[name][-1]}", file=sys.stderr, flush=True)

    def table(self, part: str) -> str:
        """Medians, and those of each repetition's ratio of ours to the others, as Markdown.

        Raises:
            RuntimeError: ours and the bare loop have not done the same.
        """
        found = self.parts[part]
        lines = ["| loop | pairs/s | CPU ms a pair |", "| --- | ---: | ---: |"]
        for name, figures in found.items():
            speed, cpu = (statistics.median(f[key] for f in figures) for key in ("pairs_per_second", "cpu_ms_a_pair"))
            lines.append(f"| {name} | {speed:,.0f} | {cpu:.3f} |")
        for name in [name for name in found if name != "ours"]:
            pairs = list(zip(found["ours"], found[name], strict=True))
            if wrong := [
                p for p in pairs if name == "bare" and not math.isclose(*(f["loss"] for f in p), rel_tol=1e-3)
            ]:
                raise RuntimeError(f"{part}: ours and the bare loop end with different losses: {wrong[0]}")
            speeds = [ours["pairs_per_second"] / other["pairs_per_second"] for ours, other in pairs]
            costs = [other["cpu_ms_a_pair"] / ours["cpu_ms_a_pair"] for ours, other in pairs]
            for what, ratios in (("pairs/s", speeds), ("pairs by CPU time", costs)):
                each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
                lines.append(f"\nours ÷ {name}, {what}: median {statistics.median(ratios):.3f} of {each}")
        return "\n".join(lines)


def measure_loop(base: Task, results: Results, options: argparse.Namespace) -> str:
    base = replace(base, steps=SHORT_STEPS * base.steps, settings=THREE_LOSSES)
    tasks = {name: replace(base, loop=name) for name in ("ours", "bare")}
    results.repeat("loop", {name: partial(measure, task) for name, task in tasks.items()}, options.repetitions)
    return f"## Our loop and a bare one, three losses\n\n{results.table('loop')}"


def measure_words(base: Task, results: Results, options: argparse.Namespace) -> str:
    base = replace(base, steps=SHORT_STEPS * base.steps, settings=TEXT_ALONE)
    return f"## Two text towers without layers\n\n{_measure_text('words', base, results, options)}"


def measure_transformers(base: Task, results: Results, options: argparse.Namespace) -> str:
    base = replace(base, settings=TRANSFORMERS)
    return f"## Two text towers, transformers\n\n{_measure_text('transformers', base, results, options)}"


def _measure_text(part: str, base: Task, results: Results, options: argparse.Namespace) -> str:
    contenders = {name: partial(measure, replace(base, loop=name)) for name in ("ours", "bare")}
    if options.peer_python:
        script = Path(__file__).with_name("training_peer.py")
        given = measure(replace(base, loop="export"))
        for workers in options.peer_workers:
            command = [options.peer_python, str(script), json.dumps(given | {"workers": workers})]
            contenders[f"sentence-transformers, {workers} data worker(s)"] = partial(_answer, command)
    results.repeat(part, contenders, options.repetitions)
    return results.table(part)


def measure_batches(base: Task, results: Results, options: argparse.Namespace) -> str:
    """What makes the batches, alone, against what our loop takes of them."""
    lines = ["| batches | alone, pairs/s | training, pairs/s | alone ÷ training |", "| --- | ---: | ---: | ---: |"]
    for name, settings in {"text alone": TEXT_ALONE, "patch tokens": THREE_LOSSES, "pictures": END_TO_END}.items():
        steps = {"batches": 5 * base.steps, "ours": base.steps if name != "pictures" else min(base.steps, 2 * WARM_UP)}
        tasks = {kind: replace(base, loop=kind, settings=settings, steps=n) for kind, n in steps.items()}
        results.repeat(f"batches, {name}", {kind: partial(measure, task) for kind, task in tasks.items()}, 1)
        alone, ours = (results.parts[f"batches, {name}"][kind][0]["pairs_per_second"] for kind in tasks)
        lines.append(f"| {name} | {alone:,.0f} | {ours:,.0f} | {alone / ours:.1f} |")
    return "## What makes the batches\n\n" + "\n".join(lines)


def measure_memory(base: Task, results: Results, options: argparse.Namespace) -> str:
    lines = ["| data | anonymous MiB | mapped files MiB | PSS MiB |", "| --- | ---: | ---: | ---: |"]
    for times in (1, 10):
        task = replace(base, settings=THREE_LOSSES, times=times, watch="memory")
        if times > 1:
            measure(replace(task, loop="repeat", watch=None))
        results.repeat("memory", {f"×{times}": partial(measure, task)}, 1)
        found = results.parts["memory"][f"×{times}"][0]
        sizes = " | ".join(f"{found[name] / 2**20:,.0f}" for name in ("anonymous", "mapped", "pss"))
        lines.append(f"| ×{times} | {sizes} |")
    return "## Largest memory\n\n" + "\n".join(lines)


def measure_processes(base: Task, results: Results, options: argparse.Namespace) -> str:
    """The same training in one process and in two, on one core each, and in one on two cores."""
    lines = [
        "| towers | processes × threads | pairs/s | ÷ one process on one core | a step's loss differs from it by at most, in 100 steps | in all | on average |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    towers = {"the run's, three losses": (THREE_LOSSES, SHORT_STEPS), "text alone, transformers": (TRANSFORMERS, 1)}
    for name, (settings, times) in towers.items():
        tasks = {}
        for processes, threads in ((1, 1), (2, 1), (1, 2)):
            content = merged(settings, {"training": {"threads": threads}})
            task = replace(base, steps=times * base.steps, settings=content, processes=processes, watch="losses")
            tasks[f"{processes} × {threads}"] = task
        part = f"processes, {name}"
        results.repeat(part, {kind: partial(measure, task) for kind, task in tasks.items()}, options.repetitions)
        found = results.parts[part]
        for kind, figures in found.items():
            speed = statistics.median(f["pairs_per_second"] for f in figures)
            pairs = list(zip(figures, found["1 × 1"], strict=True))
            ratios = [f["pairs_per_second"] / one["pairs_per_second"] for f, one in pairs]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            apart = np.abs([np.subtract(f["losses"], one["losses"]) for f, one in pairs])
            differences = f"{apart[:, :100].max():.1e} | {apart.max():.1e} | {apart.mean():.1e}"
            lines.append(f"| {name} | {kind} | {speed:,.0f} | {spread} | {differences} |")
    return "## One process and two\n\n" + "\n".join(lines)


def measure_gpu(base: Task, results: Results, options: argparse.Namespace) -> str:
    """The run's own settings and the paper's size, each measured for speed, then looked into."""
    lines = [
        "| settings | pairs/s | GFLOP a pair | TFLOP/s | of the matrix rate | idle | device memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    pretraining = {"batch": options.gpu_batch, "chunk": options.gpu_chunk}
    changes = {"training": {"text_first_share": 0, "precision": "bf16", "pretrain": pretraining}}
    for name, config in {"the run's": None, "paper_smar.yaml": str(REPOSITORY / "configs" / "paper_smar.yaml")}.items():
        task = replace(base, settings=changes, config=config)
        looks = {"speed": task, "device": replace(task, watch="device")}
        results.repeat(f"gpu, {name}", {look: partial(measure, t) for look, t in looks.items()}, 1)
        speed, device = (results.parts[f"gpu, {name}"][look][0] for look in looks)
        rate = speed["pairs_per_second"] * device["pair_flops"]
        lines.append(
            f"| {name} | {speed['pairs_per_second']:,.0f} | {device['pair_flops'] / 1e9:.2f} | {rate / 1e12:.2f} | "
            f"{rate / device['matrix_flops']:.1%} | {device['idle_share']:.1%} | {(device['device_peak'] or 0) / 2**20:,.0f} |"
        )
    return "## GPU\n\n" + "\n".join(lines)


PARTS = {"loop": measure_loop, "words": measure_words, "transformers": measure_transformers}
PARTS |= {"processes": measure_processes, "batches": measure_batches, "memory": measure_memory, "gpu": measure_gpu}


def base_task(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[Task, Path]:
    """What all measurements have in common, and the folder for results, which is made."""
    if not (options.run and options.folder and options.steps >= WARM_UP + 2):
        parser.error(f"--run and --folder are needed, and at least {WARM_UP + 2} steps")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return Task(source=str(home()), run=options.run, folder=str(folder), steps=options.steps), folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run in SMAR_HOME that has finished encode-pictures")
    parser.add_argument("--folder", type=Path, help="for results and scratch")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="unset: all, gpu only where there is one")
    parser.add_argument("--repetitions", type=int, default=5, help="those in FOLDER's results included")
    parser.add_argument("--steps", type=int, default=40, help="of a measurement")
    parser.add_argument("--peer-python", help="an interpreter with sentence-transformers; unset: without the peer")
    parser.add_argument("--peer-workers", type=int, nargs="+", default=[0, 1], help="processes that load its data")
    parser.add_argument("--gpu-batch", type=int, default=4096)
    parser.add_argument("--gpu-chunk", type=int, default=1024, help="pairs encoded at a time")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task = Task(**json.loads(options.task))
        kinds: dict[str, Callable[[Task], Any]] = {"export": export, "repeat": open_context}
        if task.processes > 1:
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        done = kinds.get(task.loop, work)(task)
        if rank() == 0:
            print(json.dumps(done if isinstance(done, dict) else {}))
        return
    base, folder = base_task(parser, options)
    results = Results(folder / "results.json")
    on_gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}; torch {torch.__version__}, Python {platform.python_version()}\n")
    for part in options.parts or [name for name in PARTS if name != "gpu" or on_gpu]:
        print(PARTS[part](base, results, options) + "\n", flush=True)


if __name__ == "__main__":
    main()
