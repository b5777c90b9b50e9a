"""A shop small enough for any test: 24 items with real pictures, 3 days of log; the same bytes each time."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from smar_model.lake.artifacts import Artifact, lake, manifest_path
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_json
from smar_model.lake.runs import Run, create_run
from smar_model.lake.shared_files import read_file, replace_file
from smar_model.lake.stage import run_stage
from smar_model.settings import Settings, validate_settings
from smar_model.stages import STAGES

LAST_DAY = date(2026, 11, 19)
DAYS = [LAST_DAY - timedelta(days=n) for n in (2, 1, 0)]
ITEMS = 24
REQUESTS_PER_DAY = 40
LIST_LENGTH = 5
QUICK_JVM = (
    "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC "
    "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
"""The JVM's second compiler does not pay on tables of a few rows; without it the room for compiled code would be a fifth,
which the jobs of a whole folder of tests fill. Nor does it pay to verify the bytecode of Spark's 20,000 classes at each start."""
QUICK_SPARK = {
    "spark.driver.extraJavaOptions": QUICK_JVM,
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.legacy.storeAnalyzedPlanForView": "true",
}
"""Nor does it pay to compile queries over a few rows and to plan them again, or to analyse a view anew in each view that is made of it.
tests/end_to_end and tests/cluster/test_standalone.py do as a shop's runs do; the latter compares the content."""

_COLOURS = ["red", "blue", "green", "black", "white", "yellow"]
_KINDS = [
    ("Clothing > Topwear > Shirts", "shirt"),
    ("Clothing > Dresses > Dresses", "dress"),
    ("Books > Fiction > Novels", "novel"),
    ("Groceries > Dry > Cereals", "cereals"),
]


def write_tiny_shop(root: Path, *, zipped: bool = False, items_wanted: int = ITEMS) -> Path:
    """Write items.parquet, pictures/ (or pictures.zip), click_log/ and truth/ under `root`; returns it."""
    items = tiny_items(items_wanted)
    write_rows(root / "items.parquet", "items", items)
    pictures = {name: draw_picture(item["attributes"]["colour"]) for item in items for name in item["images"]}
    write_pictures(root, pictures, zipped=zipped)
    for day in DAYS:
        events, requests = tiny_events(day, items)
        write_rows(root / "click_log" / f"dt={day}" / "part-0.parquet", "click_log", events)
        write_rows(root / "truth" / "requests" / f"dt={day}" / "part-0.parquet", "truth_requests", requests)
    truth = [{"item_id": i["item_id"], "attributes": [("colour", i["attributes"]["colour"])]} for i in items]
    write_rows(root / "truth" / "items.parquet", "truth_items", truth)
    return root


def tiny_items(wanted: int = ITEMS) -> list[dict[str, Any]]:
    rows = []
    for n in range(wanted):
        category, kind = _KINDS[n % len(_KINDS)]
        colour = _COLOURS[n // len(_KINDS) % len(_COLOURS)]
        rows.append(
            {
                "item_id": f"item-{n:03}",
                "title": f"Plain  {kind} number {n} for every day",
                "category": category,
                "brand": "Acme" if n % 3 else None,
                "attributes": {"colour": colour, "material": "cotton" if n % 2 else "paper"},
                "images": [f"{n:03}.jpg", f"{n:03}-back.png"] if n % 2 else [f"{n:03}.jpg"],
                "updated_at": datetime(2026, 11, 1, 8, n, tzinfo=UTC),
            }
        )
    return rows


def tiny_events(day: date, items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Events of a day without any fault, and what each request wanted."""
    chance = random.Random(f"tiny {day}")
    events, requests = [], []
    for n in range(REQUESTS_PER_DAY):
        wanted = chance.choice(items)
        kind = wanted["category"].rsplit(" > ", 1)[1]
        query = f"{wanted['attributes']['colour'].title()} {kind}"
        request = f"{day}-{n:03}"
        requests.append(
            {"request_id": request, "query": query, "item_id": wanted["item_id"], "named": [], "policy": "random"}
        )
        shown = [wanted, *chance.sample([i for i in items if i is not wanted], LIST_LENGTH - 1)]
        for position, item in enumerate(shown, start=1):
            time = datetime(day.year, day.month, day.day, 9, n, position, tzinfo=UTC)
            for step, event in enumerate(["impression", "click", "cart", "order"][: chance.randint(2, 4)]):
                if event == "impression" or item is wanted:
                    events.append(
                        {
                            "event_time": time + timedelta(minutes=step),
                            "event": event,
                            "request_id": request,
                            "session_id": f"session-{n // 2}",
                            "user_id": f"user-{n // 4}",
                            "query": query,
                            "item_id": item["item_id"],
                            "position": position,
                        }
                    )
    return events, requests


def draw_picture(colour: str, *, size: tuple[int, int] = (60, 90), file_format: str = "JPEG") -> bytes:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((10, 10, size[0] - 10, size[1] - 10), fill=colour, outline="grey")
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def write_pictures(root: Path, pictures: dict[str, bytes], *, zipped: bool = False) -> None:
    if zipped:
        root.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
            for name, content in pictures.items():
                archive.writestr(name, content)
        return
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (root / "pictures" / name).write_bytes(content)


def write_rows(path: Path, table: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a delivered table; nulls are allowed everywhere, as real deliveries have them."""
    schema = pa.schema([field.with_nullable(True) for field in load_contract(table).arrow_schema()])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


ANY_MODEL: dict[str, Any] = {
    "anchor_margin": 1.0,
    "guarded_segments": {},
    "precision_margin": 1_000.0,
    "maximum_calibration_error": 1.0,
    "minimum_effective_rank": 0.0,
    "maximum_near_duplicates": 1.0,
    "maximum_hub_skewness": 1_000.0,
}
"""Settings of the gate that let an untrained model of 24 items pass; the floors and margins are each test's own."""


def tiny_settings(root: Path | str, **sections: Any) -> Settings:
    """Settings for the tiny shop: training sizes are small, checks fit its 40 requests a day."""
    steps = {"steps": 4, "batch": 8}
    content = {
        "shop": {"root": str(root), "visual_departments": ["Clothing"]},
        "window": {"days": len(DAYS), "evaluation_days": 1},
        "spark": {
            "driver_memory": "1g",
            "shuffle_partitions": 2,
            "options": QUICK_SPARK,
        },
        "synthetic_queries": {"per_true_query": 20},
        "checks": {"minimum_training_clicks": 20},
        "training": {"step_threads": 1, "adapt_vision": steps, "pretrain": steps, "finetune": steps},
        "gate": ANY_MODEL,
    }
    return validate_settings(content | sections, source="tests")


def tiny_run(root: Path | str, name: str = "tiny", **sections: Any) -> Run:
    """Record a run over the tiny shop in SMAR_HOME; `sections` replace those of `tiny_settings`."""
    return create_run(
        Run(
            name=name,
            date=LAST_DAY,
            settings_source="tests",
            settings=tiny_settings(root, **sections),
            champion=None,
            promotion="automatic",
        )
    )


def run_stages(run: Run, *names: str) -> dict[str, Artifact]:
    """Run stages in order, as the DAG does."""
    return {name: run_stage(STAGES[name], run) for name in names}


DATA_STAGES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion", "measure-drift", "check-data")


def take_over(tiny_data: Path, home: Path, *stages: str) -> None:
    """Give a home the outputs that stages have made of the tiny shop for the fixture `tiny_data`: there they are found, and not made again."""
    for stage in stages:
        shutil.copytree(tiny_data / "var" / "lake" / stage, home / "lake" / stage)


def published(stage: str) -> tuple[set[str], set[str]]:
    """Manifests of a stage in SMAR_HOME, and folders of attempts: what a failed stage must not add to."""
    folder = lake() / stage
    attempts = folder / "attempts"
    return {f.name for f in folder.glob("*.json")}, {f.name for f in attempts.iterdir()} if attempts.is_dir() else set()


def publish_with(stage: str, key: str, **values: Any) -> None:
    """Let an output have been published with other values in its manifest, as at another time."""
    manifest = json.loads(read_file(manifest_path(stage, key))) | values
    del manifest["manifest_digest"]
    manifest["manifest_digest"] = digest_json(manifest)
    replace_file(manifest_path(stage, key), json.dumps(manifest))


def flip_byte(path: Path) -> None:
    """Change one bit in the middle of a file, as a bad disk or cable does: its size stays."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
