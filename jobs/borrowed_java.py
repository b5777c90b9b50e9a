"""The Java that the warm process of a run lends its Spark stages (`smar_model/cli/lent_java.py`); without one PySpark starts its own."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from pyspark import SparkContext
from pyspark.find_spark_home import _find_spark_home

from smar_model.lake.resource_use import counted_too

LOOK_SECONDS = 0.05


@contextmanager
def borrowed_java(options: Mapping[str, str]) -> Iterator[None]:
    """For the time of one session.

    Args:
        options: those that Java must be started with; others, a context sets for itself.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with connection:
        found = _ask(connection, options)
        if found is None:
            yield
            return
        process, port, secret = found
        os.environ |= {"PYSPARK_GATEWAY_PORT": str(port), "PYSPARK_GATEWAY_SECRET": secret}
        try:
            with counted_too(process):
                yield
        finally:
            for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"):
                del os.environ[name]
            # PySpark keeps them for the next session of this process, which may be another stage's by then.
            SparkContext._gateway = SparkContext._jvm = None
        connection.send(json.dumps({"returned": True}).encode())


def _ask(connection: socket.socket, options: Mapping[str, str]) -> tuple[int, int, str] | None:
    """Process, port and secret of a Java that runs; None where there is none to be had."""
    settings = [part for name, value in options.items() for part in ("--conf", f"{name}={value}")]
    command = [str(Path(_find_spark_home()) / "bin" / "spark-submit"), *settings, "pyspark-shell"]
    try:
        connection.connect(os.environ.get("SMAR_WARM", ""))
        connection.send(
            json.dumps({"java": command, "environment": {"SPARK_LOCAL_IP": "127.0.0.1"} | os.environ}).encode()
        )
        answer = json.loads(connection.recv(1 << 16) or "{}")
    except OSError:
        return None
    if not answer.get("lent"):
        return None
    while not Path(answer["address"]).is_file():
        time.sleep(LOOK_SECONDS)
        if not _is_alive(answer["process"]):  # its own message is in the run's log
            return None
    data = Path(answer["address"]).read_bytes()
    port, length = struct.unpack(">ii", data[:8])
    return answer["process"], port, data[8 : 8 + length].decode()


def _is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # with the warm process, whose child it is
        return False
