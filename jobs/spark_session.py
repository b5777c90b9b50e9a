"""What every Spark job shares: the session, running a file of `sql/`, reading and writing tables by contract.

The same code runs in one process (`local[2]`) and on a cluster: `settings.spark.master` decides, and
`settings.spark.options` overrides every default below.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, LongType, StringType, StructType

from smar_model.errors import InputError
from smar_model.lake.contracts import Contract, load_contract, read_parquet_footer, read_parquet_schema
from smar_model.lake.json_lines import count_lines, is_json_lines, refuse_line
from smar_model.lake.stage import StageContext
from smar_model.settings import REPOSITORY, Spark

SQL = REPOSITORY / "sql"
MINIMUM_JAVA = 17


def require_java() -> None:
    """Check that the Java that Spark will start is there and new enough.

    Raises:
        InputError: there is none, or it is too old.
    """
    advice = (
        f"Spark 4 needs Java {MINIMUM_JAVA} or newer: install it (Debian: `apt-get install openjdk-17-jre-headless`, "
        "macOS: `brew install openjdk@17`) or set JAVA_HOME to the folder of one"
    )
    java_home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(java_home) / "bin" / "java") if java_home else "java")
    if java is None:
        raise InputError(f"java: not found {f'under JAVA_HOME={java_home}' if java_home else 'on PATH'}. {advice}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if answer.returncode != 0 or not version or int(version.group(1)) < MINIMUM_JAVA:
        raise InputError(
            f"{java}: not Java {MINIMUM_JAVA} ({(answer.stderr or answer.stdout).strip()[:100]}). {advice}"
        )


@contextmanager
def spark_session(context: StageContext) -> Iterator[SparkSession]:
    """A session for one stage, stopped at the end; one that is there already (a notebook's) is used and left running.

    Raises:
        InputError: Java is missing or too old.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        try:
            yield configure(active)
        finally:
            active.catalog.clearCache()
        return
    # Under the attempt's folder, so that what a killed stage leaves is swept with it.
    with tempfile.TemporaryDirectory(dir=context.folder, prefix=".spark-", ignore_cleanup_errors=True) as scratch:
        session = start_session(context.settings.spark, name=context.stage.name, scratch=Path(scratch))
        try:
            yield session
        finally:
            session.stop()


def start_session(settings: Spark, *, name: str, scratch: Path) -> SparkSession:
    """Start Spark with the settings' master, memory and options; shuffles and spills go to `scratch`.

    Raises:
        InputError: Java is missing or too old.
    """
    require_java()
    # Spark's own variable: where a cluster's executors, on other machines, find this process.
    host = os.environ.get("SPARK_LOCAL_HOSTNAME")
    options = {
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.host": host or "127.0.0.1",
        "spark.driver.bindAddress": "0.0.0.0" if host else "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        # Files near the advisory size, not one a core: with the hint in `write_table` a small table is one file.
        "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
        "spark.pyspark.python": sys.executable,
    } | settings.options
    logging = f"-Dlog4j2.configurationFile=file:{REPOSITORY}/jobs/log4j2.properties"
    options["spark.driver.extraJavaOptions"] = f"{logging} {options.get('spark.driver.extraJavaOptions', '')}".strip()
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # Without it the workers would take the first `python3` on PATH, which lacks our packages.
    os.environ["PYSPARK_PYTHON"] = options["spark.pyspark.python"]
    builder = SparkSession.builder.master(settings.master).appName(f"smar {name}")
    for key, value in options.items():
        builder = builder.config(key, value)
    session = configure(builder.getOrCreate())
    if not settings.master.startswith("local"):
        _ship_code(session, scratch)
    return session


def _ship_code(session: SparkSession, scratch: Path) -> None:
    """Give a cluster's Python workers our packages; what these import (`spark` in pyproject.toml) must be installed there."""
    archive = scratch / "smar_code.zip"
    with zipfile.PyZipFile(str(archive), "w") as packages:
        for package in ("jobs", "smar_model"):
            packages.writepy(str(REPOSITORY / package))
    session.sparkContext.addPyFile(str(archive))


def configure(session: SparkSession) -> SparkSession:
    """Set what the results depend on, whatever the session's own settings are, and define `sql/functions.sql`."""
    session.conf.set("spark.sql.session.timeZone", "UTC")
    session.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    # pandas writes nanoseconds, which Spark reads as integers only; `read_table` turns them into timestamps.
    session.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    run_sql(session, "functions")
    return session


def run_sql(session: SparkSession, name: str, **parameters: Any) -> None:
    """Run the statements of `sql/<name>.sql` in order; `:name` in them is the parameter of that name.

    A statement ends with a semicolon at the end of a line. Results are the temporary views that they create.
    """
    text = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    for statement in re.split(r";[ \t]*(?:\n|\Z)", text):
        if re.sub(r"--[^\n]*", "", statement).strip():
            session.sql(statement, args=parameters)


def spark_schema(contract: Contract) -> StructType:
    return cast(StructType, StructType.fromDDL(contract.spark_schema()))


def read_table(
    session: SparkSession, table: str, files: Iterable[Path], *, partitioned_below: Path | None = None
) -> DataFrame:
    """Read a delivered table, Parquet and JSON lines; columns that its contract does not know are left out.

    With `partitioned_below` the folder name `dt=YYYY-MM-DD` under that path becomes the column `dt`, a date.

    Raises:
        InputError: a file is damaged, or lacks or retypes a column; of JSON lines the first bad one is named.
    """
    contract = load_contract(table)
    files = list(files)
    basis = {"basePath": str(partitioned_below)} if partitioned_below else {}
    by_kind: dict[tuple[str, ...], list[str]] = {}  # columns in nanoseconds → files
    for file in files:
        if is_json_lines(file):
            continue
        schema = read_parquet_schema(file)
        if problems := contract.differences(schema, extra_allowed=True):
            raise InputError(
                f"{file}: does not fit schemas/{table}.yaml: {'; '.join(problems)}; deliver it as that file says"
            )
        nanoseconds = tuple(f.name for f in schema if pa.types.is_timestamp(f.type) and f.type.unit == "ns")
        by_kind.setdefault(nanoseconds, []).append(str(file))
    frames = []
    for nanoseconds, paths in by_kind.items():
        stored = spark_schema(contract)
        if partitioned_below:
            stored = stored.add("dt", DateType())
        selected = list(stored.names)
        for name in nanoseconds:
            if name in stored.names:
                stored[name].dataType = LongType()
                selected[selected.index(name)] = f"timestamp_micros({name} DIV 1000) AS {name}"
        frames.append(session.read.schema(stored).options(**basis).parquet(*paths).selectExpr(*selected))
    if lines := [file for file in files if is_json_lines(file)]:
        text = session.read.schema("value string, dt date" if partitioned_below else "value string")
        delivered = text.options(**basis, lineSep="\n").text(list(map(str, lines)))
        frames.append(_parse_json_lines(delivered, contract, lines))
    return reduce(DataFrame.unionByName, frames)


def _parse_json_lines(delivered: DataFrame, contract: Contract, files: list[Path]) -> DataFrame:
    """Columns of the contract (and `dt`) from `value`, one JSON object a line; every line is looked at once before."""
    stored, columns = spark_schema(contract).add("_bad", StringType()), [c.name for c in contract.columns]
    parsed = delivered.where(r"value RLIKE '\\S'").select(
        *(name for name in delivered.columns if name != "value"),
        F.col("_metadata.file_path").alias("_file"),
        F.from_json("value", stored, {"columnNameOfCorruptRecord": "_bad"}).alias("_row"),
    )
    counts = [F.count(f"_row.{name}").alias(name) for name in columns]
    try:
        found = parsed.groupBy("_file").agg(F.count("_row._bad").alias("_bad"), *counts).orderBy("_file").collect()
    except Exception:
        count_lines(files)  # names the file where one is cut off
        raise
    for row in found:
        file = Path(unquote(urlsplit(row["_file"]).path))
        if row["_bad"]:
            raise refuse_line(file, contract)
        if absent := [c.name for c in contract.columns if not c.nullable and not row[c.name]]:
            raise InputError(
                f"{file}: does not fit schemas/{contract.table}.yaml: no line has {', '.join(absent)}; "
                "deliver it as that file says"
            )
    return parsed.select("_row.*", *parsed.columns[:-2]).drop("_bad")


def read_published(session: SparkSession, table: str, files: Iterable[Path]) -> DataFrame:
    """Read a table that a stage published; one without files (no rows, or expired) is empty."""
    schema, paths = spark_schema(load_contract(table)), list(map(str, files))
    return session.read.schema(schema).parquet(*paths) if paths else session.createDataFrame([], schema)


def write_table(
    frame: DataFrame,
    context: StageContext,
    table: str,
    *,
    rebalance: bool = True,
    options: Mapping[str, str | int] | None = None,
) -> list[Path]:
    """Write a table with its contract's columns and types into the attempt; returns its files.

    Rebalancing makes files of a useful size (Spark's advisory one, 64 MB): one for a small table, as many as it takes
    for a large one. It shuffles all rows, which a frame that `REPARTITION` has just laid out evenly does not need.

    Args:
        options: of Spark's Parquet writer.

    Raises:
        InputError: the frame lacks columns of the contract or has others; Spark would fill in nulls and drop the rest.
    """
    folder = context.output(table)
    if strange := set(frame.columns) ^ set(load_contract(table).arrow_schema().names):
        raise InputError(
            f"table {table}: columns {sorted(strange)} stand in schemas/{table}.yaml or in the job, not in both"
        )
    frame = frame.to(spark_schema(load_contract(table)))
    frame = frame.hint("rebalance") if rebalance else frame
    frame.write.mode("overwrite").options(**(options or {})).parquet(str(folder))
    return sorted(folder.glob("*.parquet"))


def count_rows(files: Iterable[Path]) -> int:
    """Rows of Parquet files, from their footers, and lines of JSON lines."""
    return sum(count_lines([file]) if is_json_lines(file) else read_parquet_footer(file).num_rows for file in files)
