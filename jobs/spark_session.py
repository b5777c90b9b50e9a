"""What every Spark job shares: the session, running a file of `sql/`, reading and writing tables by contract.

The same code runs in one process (`local[2]`) and on a cluster: `settings.spark.master` decides, and
`settings.spark.options` overrides every default below.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote
from zoneinfo import ZoneInfo

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DateType, LongType, StructType

from jobs.borrowed_java import borrowed_java
from jobs.cast_files import FilePart, check_lines, read_parts
from jobs.java import require_java
from jobs.lake_tables import write_to_store
from smar_model.delivery.delivered_tables import plan_file
from smar_model.delivery.json_lines import count_lines, is_json_lines, stretches
from smar_model.errors import InputError, NoAnswer
from smar_model.lake.contracts import Contract, load_contract, read_parquet_footer
from smar_model.lake.object_paths import AnyPath
from smar_model.lake.stage import StageContext
from smar_model.lake.stored_outputs import damaged_output, lake_url
from smar_model.lake.stored_parts import DamagedPart
from smar_model.settings import REPOSITORY, Spark, home

SQL = REPOSITORY / "sql"
_OF_THE_DISK = ("Input/output error", "Stale file handle", "Permission denied", "timed out", "Connection re")
TIMES_BY_UNIT = {
    "ns": "timestamp_micros({0} DIV 1000) AS {0}",
    # Spark's own reader fails at a time that microseconds cannot hold.
    "ms": "if(abs({0} DIV 1000) < 9223372036854, timestamp_millis({0}), NULL) AS {0}",
}
"""Unit of a stored time → how a column read as whole numbers becomes a timestamp."""
_MENDING = {
    "string": "mend_text({0}) AS {0}",
    "list<string>": "mend_texts({0}) AS {0}",
    "map<string,string>": "mend_map({0}) AS {0}",
}
"""Type of a delivered column → what makes its values such that no later step fails at them (`sql/functions.sql`)."""


@contextmanager
def spark_session(context: StageContext) -> Iterator[SparkSession]:
    """A session for one stage, stopped at the end; one that is there already (a notebook's) is used and left running.

    Raises:
        InputError: Java is missing or too old, or Spark failed at what a file or a row holds.
        NoAnswer: Spark had too little memory, or went away.
        OSError: the disk is full.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        try:
            with _failures_named(context):
                yield configure(active)
        finally:
            active.catalog.clearCache()
        return
    # Under the attempt's folder, so that what a killed stage leaves is swept with it.
    with tempfile.TemporaryDirectory(dir=context.folder, prefix=".spark-", ignore_cleanup_errors=True) as scratch:
        settings = context.settings.spark
        with borrowed_java(java_options(settings)):
            session = start_session(settings, name=context.stage.name, scratch=Path(scratch))
            try:
                with _failures_named(context):
                    yield session
            finally:
                session.stop()


@contextmanager
def _failures_named(context: StageContext) -> Iterator[None]:
    """Spark's failures as the command line tells them apart: the input's, which are not tried again, and the machine's."""
    try:
        yield
    except (PySparkException, Py4JError, Py4JNetworkError) as error:
        if named := name_failure(str(error), context.stage.name, context.shop.root):
            raise named from error
        raise


def name_failure(text: str, stage: str, shop: AnyPath) -> Exception | None:
    """What to raise in the place of a failure of Spark with this text; None: it is a fault of the job itself.

    By SQLSTATE: class 22 is a value that cannot be computed with, 23 a key that may not repeat, KD001 a file that cannot be read.
    """
    if "No space left on device" in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(home()))
    if told := re.search(r"^smar_model\.lake\.stored_parts\.DamagedPart: (.+)$", text, re.MULTILINE):
        return damaged_output(DamagedPart(told[1]))
    if told := re.search(
        r"^smar_model\.errors\.(InputError|NoAnswer): (.+)$", text, re.MULTILINE
    ):  # raised in a Python worker
        return InputError(told[2]) if told[1] == "InputError" else NoAnswer(told[2])
    if any(sign in text for sign in ("OutOfMemoryError", "SparkOutOfMemoryError", "UNABLE_TO_ACQUIRE_MEMORY")):
        return NoAnswer(
            f"{stage}: Spark has too little memory; raise settings.spark.driver_memory, or give it more machines"
        )
    if any(sign in text for sign in ("Py4JNetworkError", "Answer from Java side is empty", "ExecutorLostFailure")):
        return NoAnswer(f"{stage}: Spark went away while it worked; see the messages above, then do this step again")
    failure = re.search(r"\[([A-Z_0-9.]+)\] (.*?) *SQLSTATE: (22|23|KD001)", text, re.DOTALL)
    if failure is None:
        return None
    condition, words, state = failure[1], " ".join(failure[2].split())[:300], failure[3]
    if state != "KD001":
        return InputError(
            f"{stage}: a row of {shop} has a value that Spark cannot work with ({condition}: {words}); correct that row or leave it out"
        )
    if any(sign in text for sign in _OF_THE_DISK):
        return None
    file = re.search(r"file (?:file:)?(/\S+?)\.? ", failure[2] + " ")
    causes = re.findall(r"^Caused by: [\w.$]+: (.+)$", text, re.MULTILINE)
    why = causes[-1].strip()[:200] if causes else words
    return InputError(
        f"{unquote(file[1]).replace('///', '/') if file else shop}: cannot be read ({why}); write it again"
    )


def java_options(settings: Spark) -> dict[str, str]:
    """What Java is started with: the settings' options over our own, but for what is of one stage."""
    options = {"spark.driver.memory": settings.driver_memory} | settings.options
    logging = f"-Dlog4j2.configurationFile=file:{REPOSITORY}/jobs/log4j2.properties"
    extra = f"{logging} {options.get('spark.driver.extraJavaOptions', '')}".strip()
    return options | {"spark.driver.extraJavaOptions": extra}


def start_session(settings: Spark, *, name: str, scratch: Path) -> SparkSession:
    """Start Spark with the settings' master, memory and options; shuffles and spills go to `scratch`.

    Raises:
        InputError: Java is missing or too old.
    """
    require_java()
    # Spark's own variable: where a cluster's executors, on other machines, find this process.
    host = os.environ.get("SPARK_LOCAL_HOSTNAME")
    options = {
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
    } | java_options(settings)
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
    # Views name views: each would be parsed and resolved anew, with all below it, by every one that names it.
    session.conf.set("spark.sql.legacy.storeAnalyzedPlanForView", "true")
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
    session: SparkSession,
    table: str,
    files: Iterable[AnyPath],
    *,
    partitioned_below: AnyPath | None = None,
    zone: ZoneInfo | None = None,
    report: Callable[[str], None] = lambda message: None,
    read_again: bool = False,
) -> DataFrame:
    """Read a delivered table, Parquet and JSON lines; columns that its contract does not know are left out.

    Spark reads Parquet files of a disk that are stored as the contract has them. What has to be cast, or lies in an object store, goes
    through the one reader of delivered tables (`smar_model/delivery/delivered_tables.py`), in Python workers.

    What a row holds never fails: text that is not UTF-8 has U+FFFD in its place, a map's repeated key has all of its values, and a
    time that cannot be is null. The job's own rules judge what is left.

    Args:
        partitioned_below: the folder name `dt=YYYY-MM-DD` under that path becomes the column `dt`, a date.
        zone: of times that say none.
        report: is told which columns are cast.
        read_again: the table is read more than once, so what Python workers have cast is kept on disk while the session lasts.

    Raises:
        InputError: a file is damaged, or lacks or retypes a column; of JSON lines the first bad one is named.
    """
    contract = load_contract(table)
    files = list(files)
    # Columns in nano- or milliseconds with their unit → files.
    by_kind: dict[tuple[tuple[str, str], ...], list[str]] = {}
    parts: list[FilePart] = []
    casts: dict[str, None] = {}
    for file in files:
        if is_json_lines(file):
            parts += [FilePart(file, start=start, stop=stop) for start, stop in stretches(file)]
            continue
        plan = plan_file(file, contract, zone)
        if fault := plan.fault(contract):
            raise InputError(str(fault))
        casts |= dict.fromkeys(plan.casts)
        if plan.in_spark and isinstance(file, Path):
            by_kind.setdefault(tuple(time for time in plan.times if time[1] in TIMES_BY_UNIT), []).append(str(file))
        else:
            parts += [FilePart(file, row_group=group) for group in range(plan.row_groups)]
    frames = [
        _read_stored(session, contract, paths, times, partitioned_below=partitioned_below)
        for times, paths in by_kind.items()
    ]
    if parts or not frames:
        casts |= dict.fromkeys(check_lines(session, contract, parts, zone))
        cast_rows = read_parts(session, contract, parts, zone, with_day=partitioned_below is not None)
        frames.append(cast_rows.persist(StorageLevel.DISK_ONLY) if read_again else cast_rows)
    if casts:
        report(f"{table}, cast without loss: {'; '.join(casts)}")
    mended = [_MENDING.get(column.type, "{0}").format(column.name) for column in contract.columns]
    return reduce(DataFrame.unionByName, frames).selectExpr(*mended, *(["dt"] if partitioned_below else []))


def _read_stored(
    session: SparkSession,
    contract: Contract,
    paths: list[str],
    times_as_numbers: Iterable[tuple[str, str]],
    *,
    partitioned_below: AnyPath | None,
) -> DataFrame:
    """Parquet files that are stored as the contract has them, but for times (column, unit) that Spark reads as numbers."""
    stored = spark_schema(contract)
    basis = {"basePath": str(partitioned_below)} if partitioned_below else {}
    if partitioned_below:
        stored = stored.add("dt", DateType())
    selected = list(stored.names)
    for name, unit in times_as_numbers:
        stored[name].dataType = LongType()
        selected[selected.index(name)] = TIMES_BY_UNIT[unit].format(name)
    return session.read.schema(stored).options(**basis).parquet(*paths).selectExpr(*selected)


def write_table(
    frame: DataFrame,
    context: StageContext,
    table: str,
    *,
    rebalance: bool = True,
    rows_per_group: int | None = None,
    plain: tuple[str, ...] = (),
) -> list[AnyPath]:
    """Write a table with its contract's columns and types into the attempt; returns its files, on this machine or in the object store.

    Rebalancing makes files of a useful size (Spark's advisory one, 64 MB): one for a small table, as many as it takes
    for a large one. It shuffles all rows, which a frame that `REPARTITION` has just laid out evenly does not need.

    Args:
        rows_per_group: most rows of a row group.
        plain: columns without a dictionary.

    Raises:
        InputError: the frame lacks columns of the contract or has others; Spark would fill in nulls and drop the rest.
    """
    if strange := set(frame.columns) ^ set(load_contract(table).arrow_schema().names):
        raise InputError(
            f"table {table}: columns {sorted(strange)} stand in schemas/{table}.yaml or in the job, not in both"
        )
    frame = frame.to(spark_schema(load_contract(table)))
    frame = frame.hint("rebalance") if rebalance else frame
    if lake_url():
        return list(write_to_store(frame, context, table, rows_per_group=rows_per_group, plain=plain))
    options: dict[str, str | int] = {f"parquet.enable.dictionary#{column}": "false" for column in plain}
    options |= {"parquet.block.row.count.limit": rows_per_group} if rows_per_group else {}
    folder = context.output(table)
    frame.write.mode("overwrite").options(**options).parquet(str(folder))
    return sorted(folder.glob("*.parquet"))


def count_rows(files: Iterable[AnyPath]) -> int:
    """Rows of Parquet files, from their footers, and lines of JSON lines."""
    return sum(count_lines([file]) if is_json_lines(file) else read_parquet_footer(file).num_rows for file in files)
