"""One Spark session for all tests of this folder: stages use an active session and leave it running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from jobs.spark_session import start_session
from smar_model.settings import Spark


@pytest.fixture(scope="session", autouse=True)
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    # The second compiler of the JVM does not pay on tables of a few rows. Without it the room for compiled code would be
    # a fifth, which the jobs of a whole folder of tests fill.
    options = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"}
    settings = Spark(driver_memory="1g", shuffle_partitions=2, options=options)
    session = start_session(settings, name="tests", scratch=tmp_path_factory.mktemp("spark"))
    yield session
    session.stop()
