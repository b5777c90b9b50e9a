"""Shop and lake in an object store: Spark's workers read and write there, the driver keeps records alone, and what is made is the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.lake_tables import at_hand, published_files, read_published, write_parts
from jobs.spark_session import spark_session
from smar_model.lake import sweeping
from smar_model.lake.artifacts import Artifact, DamagedOutput, find_artifact, load_artifact
from smar_model.lake.object_paths import ObjectPath
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run, create_run, load_run
from smar_model.lake.stage import StageContext, stage_inputs
from smar_model.lake.sweeping import sweep_orphans
from smar_model.stages import STAGES
from tests.patience import wait_until
from tests.picture_server import serve
from tests.s3_server import BUCKET, running_s3, s3_client, upload_folder
from tests.tiny_shop import DAYS, ITEMS, draw_picture, run_stages, tiny_items, tiny_run, write_rows

SPARK_STAGES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Far:
    """A driver's machine, with shop and lake in an object store."""

    home: Path
    root: str
    """URL of the shop."""
    url: str
    """Of the lake."""
    client: Any
    made: dict[str, Artifact]

    def objects(self) -> set[str]:
        """Names below the lake's URL."""
        prefix = f"{key_of(self.url)}/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {found["Key"].removeprefix(prefix) for page in pages for found in page.get("Contents", [])}

    def put(self, url: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key_of(url), Body=content)


def key_of(url: object) -> str:
    return str(url).removeprefix(f"s3://{BUCKET}/")


def far_run(name: str, root: str, **sections: Any) -> Run:
    return tiny_run(Path(), name, **{"shop": {"root": root, "visual_departments": ["Clothing"]}} | sections)


@pytest.fixture(scope="module")
def far(spark: SparkSession, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with running_s3() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
            # Workers have their own environment, which was there before this test.
            patch.setitem(spark.sparkContext.environment, name, value)
        url, home = f"s3://{BUCKET}/lake", tmp_path_factory.mktemp("driver")
        patch.setenv("SMAR_STORE", url)
        patch.setenv("SMAR_HOME", str(home))
        root = upload_folder(variables, tiny_data / "shop", "shop")
        made = run_stages(far_run("bucket", root), *SPARK_STAGES)
        yield Far(home=home, root=root, url=url, client=s3_client(variables), made=made)


def test_a_shop_and_a_lake_in_a_bucket_give_the_same_content(
    far: Far, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [*far.home.rglob("*.parquet"), *far.home.rglob(".read"), *far.home.rglob("*.jpg")]
    assert tables == [], "the driver's home holds records alone"
    with monkeypatch.context() as here:
        here.delenv("SMAR_STORE")
        here.setenv("SMAR_HOME", str(tiny_data / "var"))
        local = load_run("data")
        contents = {stage: local.output(stage).manifest["content"] for stage in SPARK_STAGES}
    assert {stage: far.made[stage].manifest["content"] for stage in SPARK_STAGES} == contents
    # The same again is found, and nothing is made.
    before = far.objects()
    assert run_stages(far_run("again", far.root), *SPARK_STAGES)["extract-clicks"].key == far.made["extract-clicks"].key
    assert {name for name in far.objects() - before if name.startswith("lake/")} == set()


def test_another_machine_reads_what_workers_have_written(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    made = load_artifact("prepare-items", far.made["prepare-items"].key)
    assert sum(pq.read_metadata(file).num_rows for file in made.files("catalogue")) == ITEMS
    # Nothing is in quarantine: a table without rows is a file without rows, as Spark's own writer leaves it.
    assert [pq.read_metadata(file).num_rows for file in made.files("quarantine")] == [0]


def test_a_day_that_is_left_out_is_not_read(far: Far, spark: SparkSession) -> None:
    whole = ObjectPath(far.root) / f"click_log/dt={DAYS[1]}/part-0.parquet"
    content = whole.read_bytes()
    far.put(str(whole), b"half of it")
    try:
        run = far_run("nightly", far.root)
        run = create_run(replace(run, name="left-out", left_out={DAYS[1]: "has no _SUCCESS"}))
        made = run_stages(run, "prepare-items", "extract-clicks")["extract-clicks"]
    finally:
        far.put(str(whole), content)
    clicks = read_published(spark, "clicks", published_files(made, "clicks"))
    assert {row.day for row in clicks.select("day").distinct().collect()} == {DAYS[0], DAYS[2]}


def context_of(run: Run, stage: str) -> StageContext:
    attempt = Attempt(stage, uuid.uuid4().hex)
    return StageContext(
        stage=STAGES[stage],
        run=run,
        inputs=stage_inputs(STAGES[stage], run),
        folder=attempt.folder,
        key=attempt.key,
        attempt=attempt,
    )


def discard(context: StageContext) -> None:
    assert context.attempt is not None
    context.attempt.discard()


def test_what_is_damaged_in_the_store_is_known_as_the_output_that_it_is_of(far: Far) -> None:
    (file, *_) = published_files(far.made["extract-clicks"], "clicks")
    content = file.read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    for damage, found in (
        (bytes(changed), "its content is not what was published"),
        (None, "gone from the object store"),
    ):
        if damage is None:
            far.client.delete_object(Bucket=BUCKET, Key=key_of(file))
        else:
            far.put(str(file), damage)
        context = context_of(load_run("bucket"), "label-fashion")
        try:
            with pytest.raises(DamagedOutput, match=rf"{file}: missing or damaged \({found}\)") as raised:
                at_hand(context, [file])
        finally:
            discard(context)
        assert raised.value.artifact.key == far.made["extract-clicks"].key
    far.put(str(file), content)


def test_a_workers_finding_of_damage_is_the_drivers(far: Far, spark: SparkSession) -> None:
    # A table that no executor has a copy of.
    (file, *_) = published_files(far.made["prepare-items"], "pictures")
    content = file.read_bytes()
    far.put(str(file), content[:-1] + b"?")
    context = context_of(load_run("bucket"), "label-fashion")
    try:
        with (
            pytest.raises(DamagedOutput, match="its content is not what was published") as raised,
            spark_session(context),
        ):
            read_published(spark, "pictures", [file]).count()
    finally:
        far.put(str(file), content)
        discard(context)
    assert raised.value.artifact.key == far.made["prepare-items"].key


def test_what_tasks_leave_that_fail_or_are_done_twice_is_no_output_and_is_swept(
    far: Far, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(load_run("bucket"), "extract-clicks")
    assert context.attempt is not None
    labels = spark.range(0, 2, 1, 2).selectExpr(
        "if(id = 1, raise_error('a task fails'), 'red') AS query",
        "1L AS clicks",
        "1.0D AS visual_share",
        "true AS is_visual",
    )
    with pytest.raises(PySparkException, match="a task fails"):
        write_parts(labels, context, "fashion_labels", attempts={"": context.attempt.stored_folder})
    discard(context)
    assert find_artifact("extract-clicks", context.key) is None
    # What a task that was done twice has put lies beside the files of a published output.
    made = far.made["prepare-items"].manifest
    folder = f"lake/prepare-items/attempts/{made['attempt']}"
    twice = f"{folder}/catalogue/part-00000-twice.parquet"
    far.put(f"{far.url}/{twice}", b"x")
    sweep_orphans()
    assert twice in far.objects(), "it is young: its task may still be at it"
    monkeypatch.setattr(sweeping, "ORPHAN_AGE_SECONDS", -60)

    def left_after_a_sweep() -> set[str]:
        sweep_orphans()
        return {name for name in far.objects() if name == twice or context.attempt.id in name}

    # A job fails with its first task. A worker of another one may then still put its file, which the next sweep finds.
    wait_until(lambda: not left_after_a_sweep())
    assert {f"{folder}/{name}" for name in made["files"]} <= far.objects()


def test_pictures_that_are_fetched_by_url_are_read_from_the_store(far: Far, tmp_path: Path) -> None:
    with serve({"/red.jpg": draw_picture("crimson")}) as (address, _):
        items = tiny_items()[:1]
        items[0]["images"] = [f"{address}/red.jpg", f"{address}/none.jpg"]
        file = write_rows(tmp_path / "items.parquet", "items", items)
        far.put(f"{far.root}-by-url/items.parquet", file.read_bytes())
        far.put(f"{far.root}-by-url/pictures/none.jpg", b"")
        fetch = {"delay_seconds": 0, "private_addresses": True, "timeout_seconds": 5}
        run = far_run("urls", f"{far.root}-by-url", pictures={"fetch": fetch})
        metrics = run_stages(run, "prepare-items")["prepare-items"].metrics
    assert (metrics["pictures"], metrics["quarantined_unreachable"]) == (1, 1)
    assert len([name for name in far.objects() if name.startswith("fetched_pictures/")]) == 1
