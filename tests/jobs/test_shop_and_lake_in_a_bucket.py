"""Shop and lake in an object store: Spark's workers read and write there, the driver keeps records alone, and what is made is the same."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs import label_fashion
from jobs.lake_tables import published_files, read_published, write_parts
from smar_model.lake import sweeping
from smar_model.lake.artifacts import Artifact, DamagedOutput, find_artifact, load_artifact
from smar_model.lake.publishing import Attempt
from smar_model.lake.runs import Run, create_run, load_run
from smar_model.lake.stage import StageContext, stage_inputs
from smar_model.lake.sweeping import sweep_orphans
from smar_model.stages import STAGES
from tests.picture_server import serve
from tests.s3_server import BUCKET, running_s3, s3_client, upload_folder
from tests.tiny_shop import DAYS, draw_picture, run_stages, tiny_items, tiny_run, write_rows, write_tiny_shop

SPARK_STAGES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with running_s3() as variables:
        yield variables


@pytest.fixture
def far(spark: SparkSession, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home folder of the driver's machine, with the lake in an object store."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
        # Workers have their own environment, which was there before this test.
        monkeypatch.setitem(spark.sparkContext.environment, name, value)
    monkeypatch.setenv("SMAR_STORE", f"s3://{BUCKET}/{uuid.uuid4().hex}")
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "driver"))
    return tmp_path / "driver"


def stored(s3: dict[str, str], url: str) -> set[str]:
    """Names of the objects below a URL."""
    prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
    pages = s3_client(s3).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {found["Key"].removeprefix(prefix) for page in pages for found in page.get("Contents", [])}


def far_run(name: str, root: str, **sections: Any) -> Run:
    return tiny_run(Path(), name, **{"shop": {"root": root, "visual_departments": ["Clothing"]}} | sections)


def tables_in(home: Path) -> list[Path]:
    return [*home.rglob("*.parquet"), *home.rglob(".read"), *home.rglob("*.jpg")]


def test_a_shop_and_a_lake_in_a_bucket_give_the_same_content(
    tiny_data: Path, s3: dict[str, str], far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = upload_folder(s3, tiny_data / "shop", f"shops/{uuid.uuid4().hex}")
    run = far_run("bucket", root)
    made = run_stages(run, *SPARK_STAGES)
    assert tables_in(far) == [], "the driver's home holds records alone"
    with monkeypatch.context() as here:
        here.delenv("SMAR_STORE")
        here.setenv("SMAR_HOME", str(tiny_data / "var"))
        local = load_run("data")
        contents = {stage: local.output(stage).manifest["content"] for stage in SPARK_STAGES}
    assert {stage: made[stage].manifest["content"] for stage in SPARK_STAGES} == contents
    # A stage that is no Spark job, on a machine of its own.
    monkeypatch.setenv("SMAR_HOME", str(far.with_name("other")))
    run_stages(load_run("bucket"), "measure-drift")
    monkeypatch.setenv("SMAR_HOME", str(far))
    made |= run_stages(load_run("bucket"), "check-data", "assign-segments")
    assert tables_in(far) == []
    metrics = made["check-data"].metrics
    assert metrics["checks"] > 100, metrics
    assert read_as_tables(made["prepare-items"], far.with_name("other"), monkeypatch) == 24
    # The same again is found, and nothing is made.
    assert run_stages(far_run("again", root), *SPARK_STAGES)["extract-clicks"].key == made["extract-clicks"].key


def read_as_tables(artifact: Artifact, home: Path, patch: pytest.MonkeyPatch) -> int:
    """Rows of the catalogue as a stage on another machine reads it."""
    with patch.context() as there:
        there.setenv("SMAR_HOME", str(home))
        whole = load_artifact(artifact.stage, artifact.key)
        return sum(pq.read_metadata(file).num_rows for file in whole.files("catalogue"))


def test_a_day_that_is_left_out_is_not_read(tiny_data: Path, s3: dict[str, str], far: Path) -> None:
    root = upload_folder(s3, tiny_data / "shop", f"shops/{uuid.uuid4().hex}")
    day = f"{root}/click_log/dt={DAYS[1]}/part-0.parquet".removeprefix(f"s3://{BUCKET}/")
    s3_client(s3).put_object(Bucket=BUCKET, Key=day, Body=b"half of it")
    run = far_run("nightly", root)
    run = create_run(replace(run, name="left-out", left_out={DAYS[1]: "has no _SUCCESS"}))
    made = run_stages(run, "prepare-items", "extract-clicks")["extract-clicks"]
    days = {row["day"] for file in local_files(made, "clicks") for row in pq.read_table(file).to_pylist()}
    assert days == {DAYS[0], DAYS[2]}


def local_files(artifact: Artifact, table: str) -> list[Path]:
    return artifact.files(table)


def test_a_row_group_and_an_empty_table_are_written_as_on_a_disk(
    spark: SparkSession, tiny_data: Path, s3: dict[str, str], far: Path
) -> None:
    root = upload_folder(s3, tiny_data / "shop", f"shops/{uuid.uuid4().hex}")
    made = run_stages(far_run("groups", root), "prepare-items")["prepare-items"]
    # Nothing is in quarantine: a table without rows is a file without rows, as Spark's own writer leaves it.
    assert [pq.read_metadata(f).num_rows for f in made.files("quarantine")] == [0]
    assert read_published(spark, "quarantine", published_files(made, "quarantine")).count() == 0


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


def test_what_is_damaged_in_the_store_is_named_and_known_as_the_output_that_it_is_of(
    tiny_data: Path, s3: dict[str, str], far: Path
) -> None:
    root = upload_folder(s3, tiny_data / "shop", f"shops/{uuid.uuid4().hex}")
    run = far_run("damaged", root)
    made = run_stages(run, "prepare-items", "extract-clicks")
    (file, *_) = published_files(made["extract-clicks"], "clicks")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    key = str(file).removeprefix(f"s3://{BUCKET}/")
    for damage, found in (
        (bytes(content), "its content is not what was published"),
        (None, "gone from the object store"),
    ):
        if damage is None:
            s3_client(s3).delete_object(Bucket=BUCKET, Key=key)
        else:
            s3_client(s3).put_object(Bucket=BUCKET, Key=key, Body=damage)
        with pytest.raises(DamagedOutput, match=rf"{file}: missing or damaged \({found}\)") as raised:
            label_fashion.run(context_of(run, "label-fashion"))
        assert raised.value.artifact.key == made["extract-clicks"].key


def test_what_tasks_leave_that_fail_or_are_done_twice_is_no_output_and_is_swept(
    spark: SparkSession, tiny_data: Path, s3: dict[str, str], far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = upload_folder(s3, tiny_data / "shop", f"shops/{uuid.uuid4().hex}")
    run = far_run("failing", root)
    made = run_stages(run, "prepare-items")["prepare-items"]
    context = context_of(run, "extract-clicks")
    assert context.attempt is not None
    names = spark.range(0, 2, 1, 2).selectExpr(
        "if(id = 1, raise_error('a task fails'), 'red') AS query",
        "1L AS clicks",
        "1.0D AS visual_share",
        "true AS is_visual",
    )
    with pytest.raises(PySparkException, match="a task fails"):
        write_parts(names, context, "fashion_labels", attempts={"": context.attempt.stored_folder})
    context.attempt.discard()
    assert find_artifact("extract-clicks", context.key) is None
    # What a task has put that was done twice lies beside the files of a published output.
    url = f"s3://{BUCKET}/{str(published_files(made, 'catalogue')[0]).removeprefix(f's3://{BUCKET}/').partition('/lake/')[0]}"
    twice = f"lake/prepare-items/attempts/{made.manifest['attempt']}/catalogue/part-00000-twice.parquet"
    s3_client(s3).put_object(Bucket=BUCKET, Key=f"{url.removeprefix(f's3://{BUCKET}/')}/{twice}", Body=b"x")
    assert sweep_orphans() == 0, "it is young: its task may still be at it"
    monkeypatch.setattr(sweeping, "ORPHAN_AGE_SECONDS", -60)
    before = stored(s3, url)
    sweep_orphans()
    after = stored(s3, url)
    listed = {f"lake/prepare-items/attempts/{made.manifest['attempt']}/{name}" for name in made.manifest["files"]}
    assert twice in before - after
    assert listed <= after
    assert not {name for name in after if name.startswith("lake/extract-clicks/attempts/")}


def test_pictures_that_are_fetched_by_url_are_read_from_the_store(
    s3: dict[str, str], far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = write_tiny_shop(tmp_path / "shop")
    with serve({"/red.jpg": draw_picture("crimson")}) as (address, _):
        items = tiny_items()
        items[0]["images"] = [f"{address}/red.jpg", f"{address}/none.jpg"]
        write_rows(shop / "items.parquet", "items", items)
        root = upload_folder(s3, shop, f"shops/{uuid.uuid4().hex}")
        fetch = {"delay_seconds": 0, "private_addresses": True, "timeout_seconds": 5}
        made = run_stages(far_run("urls", root, pictures={"fetch": fetch}), "prepare-items")["prepare-items"]
    assert made.metrics["quarantined_unreachable"] == 1, made.metrics
    names = [row["item_id"] for file in made.files("pictures") for row in pq.read_table(file).to_pylist()]
    assert "item-000" in names
    assert json.loads(made.file("missing_pictures.json").read_text()) == [f"{address}/none.jpg"]
