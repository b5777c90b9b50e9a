"""What a GPU's worth of training changes: larger networks beside the daily one, trained on one GPU over a finished run's data.

    SMAR_HOME=HOME python benchmarks/gpu.py --run RUN --folder FOLDER

RUN is a run of HOME that `smar compare` has judged: its tables, tokens and held-out queries are taken as they are, so figures stand beside
those of benchmarks/quality.md. Each row is a run of its own whose training stages, embedding and judgement are the product's own stages.
Rows come one after the other and are kept in FOLDER/rows.json as they end; one that does not fit into `--minutes` is not begun.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from smar_model.evaluation.compare import summarise
from smar_model.evaluation.comparison import TRAINED
from smar_model.evaluation.judge import MODEL, read_results
from smar_model.evaluation.segments import NOVEL
from smar_model.lake.runs import create_run, load_run
from smar_model.lake.stage import run_stage
from smar_model.settings import validate_settings
from smar_model.stages import COMPARISON_STAGES
from smar_model.yaml_files import merged

DATA = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion", "check-data", "assign-segments")
LEARNING = ("train-tokenizer", "adapt-vision", "encode-pictures", "pretrain", "finetune", "embed", "judge")
WIDE = {
    "dimension": 256,
    "text": {"tower": "transformer", "query_layers": 4, "item_layers": 4, "heads": 8, "width": 512},
}
LAYERS = {"image_tower": "transformer", "image_layers": 2, "fusion": "cross_attention", "dropout": 0.1}
CONVNEXT = {"vision": {"name": "convnext_tiny", "options": {"output_stride": 16}, "descriptors": False}}
ROWS: dict[str, tuple[str, dict[str, Any], float]] = {
    "text_only_words": ("Text-only, the daily text towers", {"variant": "text_only", "text": {"tower": "words"}}, 1e-3),
    "daily": ("Ours, the daily network", {"variant": "default"}, 1e-3),
    "text_only_wide": ("Text-only, transformers of 4 layers, width 512", {"variant": "text_only"} | WIDE, 5e-4),
    "wide": ("Ours with those text towers", {"variant": "default"} | WIDE, 5e-4),
    "convnext": (
        "The network of configs/gpu_real_products.yaml: those text towers, ConvNeXt-tiny, cross-attention",
        {"variant": "default"} | WIDE | LAYERS | CONVNEXT,
        5e-4,
    ),
    "beyond_text": (
        "Beyond Text with the same text towers and ConvNeXt-tiny",
        {"variant": "beyond_text"} | WIDE | CONVNEXT,
        5e-4,
    ),
}
"""Name → label, what differs in `network`, learning rate of pretraining; fine-tuning has a third of it."""


def measure(options: argparse.Namespace, name: str) -> dict[str, Any]:
    label, network, rate = ROWS[name]
    source = load_run(options.run)
    steps = dict(zip(TRAINED, options.steps, strict=True))
    training = {
        "precision": "bf16",
        "text_first_share": 0.5,
        "threads": 8,
        "adapt_vision": {"steps": steps["adapt-vision"], "batch": options.batch // 2, "learning_rate": rate},
        "pretrain": {"steps": steps["pretrain"], "batch": options.batch, "learning_rate": rate},
        "finetune": {"steps": steps["finetune"], "batch": options.batch, "learning_rate": rate / 3},
    }
    content = merged(source.settings.model_dump(mode="json"), {"network": network, "training": training})
    run = create_run(
        replace(
            source,
            name=f"gpu-{name}-{time.time_ns()}",
            settings=validate_settings(content, source=f"row {name}"),
        )
    )
    for stage in DATA:
        run.take(source.output(stage), stage=stage)
    made = {stage: run_stage(COMPARISON_STAGES[stage], run) for stage in LEARNING}
    found = summarise(read_results(made["judge"], MODEL), run.settings.evaluation.bootstrap_samples)
    return {
        "label": label,
        "steps": steps,
        "pairs": sum(int(made[stage].metrics.get("pairs", 0)) for stage in TRAINED),
        "training_seconds": sum(made[stage].metrics.get("training_seconds", 0.0) for stage in TRAINED),
        "seconds": {stage: made[stage].manifest["seconds"] for stage in LEARNING},
        "recall": {
            segment: list(asdict(found[segment].estimates["target_recall_at_50"]).values())
            for segment in (NOVEL, "all", "not_fashion")
        },
        "queries": found[NOVEL].n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run in SMAR_HOME that `smar compare` has judged")
    parser.add_argument("--folder", type=Path, required=True, help="for rows.json")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--steps", nargs=3, type=int, default=(1000, 3000, 1500), metavar=("ADAPT", "PRETRAIN", "FINETUNE")
    )
    parser.add_argument("--batch", type=int, default=1024, help="adapt-vision has half of it")
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "rows.json"
    rows: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    until = time.monotonic() + 60 * options.minutes
    longest = 0.0
    for name in options.rows:
        if name in rows or time.monotonic() + longest > until:
            continue
        began = time.monotonic()
        rows[name] = measure(options, name)
        longest = max(longest, time.monotonic() - began)
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"\n{machine}; torch {torch.__version__}, Python {platform.python_version()}, `{' '.join(sys.argv[1:])}`\n")
    print("| row | steps | pairs, million | training, s | R@50, novel queries | all | not fashion |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows.values():
        novel, every, other = (
            f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})" for mean, low, high in row["recall"].values()
        )
        steps = " + ".join(f"{n:,}" for n in row["steps"].values())
        print(
            f"| {row['label']} | {steps} | {row['pairs'] / 1e6:.2f} | {row['training_seconds']:.0f} | {novel} | {every} | {other} |"
        )


if __name__ == "__main__":
    main()
