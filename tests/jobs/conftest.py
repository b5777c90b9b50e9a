"""One Spark session for all tests of this folder: stages use an active session and leave it running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import spark_session
from smar_model.settings import Spark
from tests.tiny_shop import QUICK_SPARK


@pytest.fixture(scope="session", autouse=True)
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    settings = Spark(driver_memory="1g", shuffle_partitions=2, options=QUICK_SPARK)
    session = spark_session.start_session(settings, name="tests", scratch=tmp_path_factory.mktemp("spark"))
    run_sql = spark_session.run_sql

    def run_once(session: SparkSession, name: str, **parameters: Any) -> None:
        # The session has them; each stage would define them anew.
        if name != "functions":
            run_sql(session, name, **parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spark_session, "run_sql", run_once)
        yield session
    session.stop()
