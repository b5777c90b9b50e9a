"""One Spark session for all tests of this folder: stages use an active session and leave it running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from jobs.spark_session import start_session
from smar_model.settings import Spark
from tests.tiny_shop import QUICK_SPARK


@pytest.fixture(scope="session", autouse=True)
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    settings = Spark(driver_memory="1g", shuffle_partitions=2, options=QUICK_SPARK)
    session = start_session(settings, name="tests", scratch=tmp_path_factory.mktemp("spark"))
    yield session
    session.stop()
