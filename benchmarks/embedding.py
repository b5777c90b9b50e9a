"""The stage embed beside the bare forward pass of its towers: writes benchmarks/embedding.md.

    SMAR_HOME=HOME python benchmarks/embedding.py --run RUN --folder FOLDER

RUN is a run of HOME that has finished finetune. Its catalogue is taken so many times (`--times`), each time as other items, so that what a stage
does once does not decide. Each measurement is a process of its own; figures are kept in FOLDER/embedding.json.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from smar_model.data.item_pictures import decode_thumbnail, iterate_pictures, read_item_pictures
from smar_model.data.patch_tokens import read_patch_tokens
from smar_model.data.token_tables import read_item_tokens
from smar_model.lake.artifacts import Artifact
from smar_model.lake.checkout import commit
from smar_model.lake.digests import digest_file
from smar_model.lake.runs import Run, create_run, load_run
from smar_model.lake.stage import StageContext
from smar_model.retrieval import embed, item_embedder
from smar_model.settings import REPOSITORY, home, load_settings
from smar_model.stages import STAGES
from smar_model.training.device import device
from smar_model.training.model_files import load_model, new_model, save_model

REPETITIONS = 5
NETWORKS = ("default", "paper size")
PAPER_ITEMS = 6_000
PAGE = Path(__file__).with_suffix(".md")
COMMAND = "    SMAR_HOME=HOME .venv/bin/python benchmarks/embedding.py --run RUN --folder FOLDER"
METHOD = f"""The stage: `embed_stage` from its first to its last line (reading and digesting the catalogue, token ids that train-tokenizer has made, patch
tokens, towers, writing), with nothing taken over from before. The bare forward pass: the same towers over the same batches, which lie in memory
as tensors, in one process with `training.threads` threads; where no patch tokens are published (`paper size`, an untrained model of
`configs/paper_smar.yaml` over {PAPER_ITEMS:,} items), the vision encoder over pixels in memory as well. Each measurement is a process of its own; the
clock does not run while Python and its packages are loaded. Both in turn, {REPETITIONS} times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for results and scratch")
    parser.add_argument("--times", type=int, default=40, help="how many times the catalogue is taken")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.task:
        network, contender, source = json.loads(options.task)
        print(json.dumps(CONTENDERS[contender](options, network, source)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "embedding.json"
    found: dict[str, dict[str, list[dict[str, float]]]] = json.loads(file.read_text()) if file.is_file() else {}
    lines = [
        "| network | items | stage, items/s | bare forward, items/s | stage ÷ bare, median of five (least, most) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for network in options.networks:
        figures = found.setdefault(f"{network} ×{options.times}", {name: [] for name in CONTENDERS})
        for number in range(REPETITIONS):
            for name in list(CONTENDERS) if number % 2 == 0 else reversed(CONTENDERS):
                if len(figures[name]) <= number:
                    figures[name].append(run_process(options, network, name))
                    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
                    print(f"{network}, {name}, {number + 1}: {figures[name][-1]}", file=sys.stderr, flush=True)
        rates = {name: [f["items"] / f["seconds"] for f in each] for name, each in figures.items()}
        ratios = [a / b for a, b in zip(rates["stage"], rates["bare"], strict=True)]
        lines.append(
            f"| {network} | {figures['stage'][0]['items']:,.0f} | {statistics.median(rates['stage']):,.0f} | {statistics.median(rates['bare']):,.0f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f}) |"
        )
    about = f"{dt.date.today()}, commit {commit()}, {machine()}."
    page = (
        "\n\n".join(["# Embedding: the stage and the bare forward pass", COMMAND, about, METHOD, "\n".join(lines)])
        + "\n"
    )
    options.page.write_text(page, encoding="utf-8")
    print(page)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cards = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return f"{', '.join([model, *cards])}, {os.cpu_count()} cores; torch {torch.__version__}, Python {platform.python_version()}"


def run_process(options: argparse.Namespace, network: str, contender: str) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--run",
        options.run,
        "--folder",
        str(options.folder),
        "--times",
        str(options.times),
    ]
    command += ["--task", json.dumps([network, contender, str(home())])]
    environment = {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    if done.returncode:
        sys.exit(f"{network}, {contender}: failed")
    return json.loads(done.stdout.strip().splitlines()[-1])


def open_context(options: argparse.Namespace, network: str, source_home: str) -> tuple[StageContext, Path]:
    """The stage over another home's data, which stay untouched, and the model's folder."""
    os.environ["SMAR_HOME"] = source_home
    source = load_run(options.run)
    names = (*STAGES["embed"].inputs, *STAGES["embed"].optional_inputs)
    inputs = {name: found for name in names if (found := source.find_output(name))}
    os.environ["SMAR_HOME"] = str(options.folder / "home")
    limit = None if network == "default" else PAPER_ITEMS
    times = options.times if network == "default" else 1
    folder = options.folder / f"catalogue-{times}-{limit or 'all'}"
    inputs |= repeat_items(inputs, times, limit, folder)
    model_folder = inputs["finetune"].folder / "model"
    if network != "default":
        model_folder = paper_model(options.folder / "paper_model", inputs)
        inputs.pop("encode-pictures"), inputs.pop("train-tokenizer")  # another network's
    run: Run = replace(source, name=f"embed-{time.time_ns()}", base=None)
    context = StageContext(
        stage=STAGES["embed"],
        run=create_run(run),
        inputs=inputs,
        folder=options.folder / "out",
        key=run.name,  # nothing of before is taken over, no finished shard either
        made_by=run.name,
    )
    shutil.rmtree(context.folder, ignore_errors=True)
    return context, model_folder


def repeat_items(inputs: dict[str, Artifact], times: int, limit: int | None, folder: Path) -> dict[str, Artifact]:
    """prepare-items and train-tokenizer's items, so many times, each time as other items."""
    tables, tokens = folder / "prepare-items", folder / "train-tokenizer"
    if not (folder / "whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        marks = [f"{n:03}:" for n in range(times)]
        kept: pa.Array | None = None
        for name in ("catalogue", "pictures"):
            (tables / name).mkdir(parents=True)
            table = pa.concat_tables(pq.read_table(file) for file in inputs["prepare-items"].files(name))
            if limit:
                kept = table["item_id"].unique().sort()[:limit] if kept is None else kept
                table = table.filter(pc.is_in(table["item_id"], value_set=kept))
            place = table.schema.get_field_index("item_id")
            for mark in marks:
                ids = pc.binary_join_element_wise(pa.scalar(mark), table["item_id"], pa.scalar(""))
                marked = table.set_column(place, table.schema.field(place), ids)
                pq.write_table(marked, tables / name / f"{mark[:3]}.parquet", row_group_size=1_000)
        items = read_item_tokens(inputs["train-tokenizer"].folder / "tokens" / "items")
        (tokens / "tokens" / "items").mkdir(parents=True)
        ids = np.concatenate([np.char.add(mark.encode(), items.item_ids) for mark in marks])
        np.save(tokens / "tokens" / "items" / "item_ids.npy", ids)
        for name in ("ids", "segments", "categories"):
            column = getattr(items, name)
            np.save(tokens / "tokens" / "items" / f"{name}.npy", np.tile(column, (times, *(1,) * (column.ndim - 1))))
        shutil.copy(inputs["train-tokenizer"].folder / "tokenizer.json", tokens)
        (folder / "whole").touch()
    return {
        "prepare-items": artifact_of("prepare-items", tables),
        "train-tokenizer": artifact_of("train-tokenizer", tokens),
    }


def artifact_of(stage: str, folder: Path) -> Artifact:
    files = {
        str(f.relative_to(folder)): {"bytes": f.stat().st_size, "sha256": digest_file(f)}
        for f in folder.rglob("*")
        if f.is_file()
    }
    about = {
        "files": files,
        "content": {},
        "metrics": {},
        "made_by": "",
        "digest": "benchmark",
        "inputs": {"prepare-items": "benchmark"},
    }
    return Artifact(stage=stage, key="benchmark", place=folder, manifest=about)


def paper_model(folder: Path, inputs: dict[str, Artifact]) -> Path:
    """Untrained model of configs/paper_smar.yaml's size: what it takes does not depend on its weights."""
    if not (folder / "network.json").is_file():
        settings = load_settings(REPOSITORY / "configs" / "paper_smar.yaml")
        source = inputs["finetune"].folder / "model"
        torch.manual_seed(0)
        model = new_model(
            settings.network,
            vocabulary=load_model(source).shape.vocabulary,
            query_length=settings.tokenizer.query_length,
            item_length=settings.tokenizer.item_length,
            pictures=settings.pictures,
        )
        save_model(model, folder, source / "tokenizer.json")
    return folder


def measure_stage(options: argparse.Namespace, network: str, source: str) -> dict[str, float]:
    context, model_folder = open_context(options, network, source)
    began = time.perf_counter()
    metrics = embed.embed_stage(context, model_folder)
    return {"items": metrics["items"], "seconds": time.perf_counter() - began}


def measure_bare(options: argparse.Namespace, network: str, source: str) -> dict[str, float]:
    """The same towers over the same batches, which lie in memory as tensors; where no patch tokens are published, the vision encoder over pixels
    as well."""
    context, model_folder = open_context(options, network, source)
    torch.set_num_threads(context.settings.training.threads)
    model = load_model(model_folder)
    files = context.table("prepare-items", "pictures")
    published = context.inputs.get("encode-pictures")
    if published:
        tokens = read_patch_tokens(published.folder / "patch_tokens")
        items = read_item_tokens(context.inputs["train-tokenizer"].folder / "tokens" / "items")
        pictures = read_item_pictures(files, items.item_ids, tokens.digests)
        patches = item_embedder.ItemPatches(pictures=pictures, read=lambda rows: tokens.read(rows, 0))
    else:
        items = item_embedder.tokenise(
            model,
            model_folder / "tokenizer.json",
            context.table("prepare-items", "catalogue"),
            context.folder / "items",
        )
        patches = item_embedder.encode_pictures(model, files, items.item_ids, context.folder / "patches.npy")
    embedder = item_embedder.ItemEmbedder(model, patches, device())
    rows = np.arange(len(items.item_ids))
    batches = [embedder.inputs(items, places, places) for places in item_embedder.batches(items, rows)]
    pixels = [] if published else [picture for picture in distinct_pictures(files)]
    stacked = [torch.from_numpy(np.stack(pixels[n : n + 64])) for n in range(0, len(pixels), 64)]
    for batch in batches[:20]:
        embedder.forward(*batch)
    began = time.perf_counter()
    with torch.inference_mode():
        for part in stacked:
            model.picture_patches(part.to(device()).float() / 255)
    for batch in batches:
        embedder.forward(*batch)
    if device().type == "cuda":
        torch.cuda.synchronize()
    return {"items": float(len(rows)), "seconds": time.perf_counter() - began}


def distinct_pictures(files: list[Path]) -> list[np.ndarray]:
    found: dict[str, Any] = {}
    for batch in iterate_pictures(files, ["picture_digest", "thumbnail"], frames=None):
        for digest, data in zip(batch["picture_digest"].to_pylist(), batch["thumbnail"].to_pylist(), strict=True):
            if digest not in found:
                found[digest] = decode_thumbnail(data)
    return list(found.values())


CONTENDERS = {"stage": measure_stage, "bare": measure_bare}


if __name__ == "__main__":
    main()
