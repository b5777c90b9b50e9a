"""Spark's standalone cluster with two workers gives what `local[2]` gives, by all jobs that make tables: the same content digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.test_cluster import assert_same_content

SPARK_STAGES = ("prepare-items", "extract-clicks", "generate-queries", "label-fashion")


def test_a_cluster_of_two_workers_gives_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_content(tmp_path, monkeypatch, *SPARK_STAGES, workers=2, options={})
