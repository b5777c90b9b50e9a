"""Spark's standalone cluster with two workers gives what `local[2]` gives, by all jobs that make tables: the same content digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.test_cluster import assert_same_content
from tests.privileged import need_own_mounts
from tests.s3_server import BUCKET, running_s3, upload_folder

SPARK_STAGES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion")


def test_a_cluster_of_two_workers_gives_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_content(tmp_path, monkeypatch, *SPARK_STAGES, workers=2, options={})


def test_driver_and_workers_share_nothing_but_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_own_mounts()
    with running_s3() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert_same_content(
            tmp_path,
            monkeypatch,
            *SPARK_STAGES,
            workers=2,
            options={},
            store=f"s3://{BUCKET}/lake",
            upload=lambda shop: upload_folder(variables, shop, "shop"),
        )
