"""Reading a delivered table, Parquet or JSON lines, in the columns and types of its contract.

One description a file says how its columns are stored and how they are read (`column_casts.py`); everybody who reads what a
shop delivers reads through here: `smar shop check`, the Spark jobs (`read_table` in jobs/spark_session.py), evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.delivery.bounded_reading import refuse_unpacked
from smar_model.delivery.column_casts import ColumnPlan, plan_columns
from smar_model.delivery.delivery_faults import Fault, OnFault, refuse
from smar_model.delivery.json_lines import LineReader, is_json_lines, iterate_lines
from smar_model.delivery.value_casts import BadValue, is_text
from smar_model.errors import InputError
from smar_model.lake.contracts import Contract, load_contract, read_parquet_footer
from smar_model.lake.object_paths import AnyPath, ObjectPath, parquet_source

ROWS_AT_ONCE, BYTES_AT_ONCE = 65_536, 64 << 20
ROWS_DECODED = 4_096
OnBadValue = Callable[[int, str, BadValue], None]
"""Called with the row of the file from 0, the column, and what it holds."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """How a Parquet file is read."""

    file: AnyPath
    columns: list[ColumnPlan]
    problems: list[str]
    """What keeps it from being read, one phrase a column."""
    rows: int
    row_groups: int
    schema: pa.Schema

    @property
    def casts(self) -> list[str]:
        """What is read as another type than it is stored as, or absent, one phrase a column."""
        return [str(plan) for plan in self.columns if plan.convert or (plan.stored is None and not plan.column.seldom)]

    @property
    def in_spark(self) -> bool:
        """Whether Spark's own reader gives the same."""
        return all(plan.in_spark for plan in self.columns)

    @property
    def times(self) -> list[tuple[str, str]]:
        """Columns of times with the unit that they are stored in."""
        kinds = [(p.column.name, self.schema.field(p.column.name).type) for p in self.columns if p.stored]
        return [(name, kind.unit) for name, kind in kinds if pa.types.is_timestamp(kind) and name not in _int96(self)]

    def fault(self, contract: Contract) -> Fault | None:
        """What the problems come to, in one line."""
        if not self.problems:
            return None
        found = f"does not fit schemas/{contract.table}.yaml: {'; '.join(self.problems)}"
        return Fault(self.file, found, "deliver it as that file says")


def plan_file(file: AnyPath, contract: Contract, zone: ZoneInfo | None) -> FilePlan:
    """How a Parquet file is read, by its footer.

    Args:
        zone: of times that say none.

    Raises:
        InputError: it is missing or damaged.
    """
    metadata = read_parquet_footer(file)
    schema = metadata.schema.to_arrow_schema()
    leaves = [metadata.schema.column(n) for n in range(metadata.num_columns)]
    utc = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    columns, problems = plan_columns(schema, contract, zone, utc_by_kind=utc)
    return FilePlan(file, columns, problems, metadata.num_rows, metadata.num_row_groups, schema)


def _int96(plan: FilePlan) -> set[str]:
    return {p.column.name for p in plan.columns if p.stored == "INT96 times"}


def read_parquet(
    plan: FilePlan, contract: Contract, *, row_groups: Sequence[int] | None = None, on_bad_value: OnBadValue
) -> Iterator[pa.RecordBatch]:
    """Batches of a file whose plan has no problems, in the contract's columns; a value that is none of its type is null.

    Raises:
        InputError: a page of it is damaged.
    """
    schema = pa.schema([column.with_nullable(True) for column in contract.arrow_schema()])
    stored = [p.column.name for p in plan.columns if p.stored is not None]
    first = unpacked = 0
    packed = plan.file.stat().st_size
    source, is_far = parquet_source(plan.file), isinstance(plan.file, ObjectPath)
    try:
        with pq.ParquetFile(source, coerce_int96_timestamp_unit="us", pre_buffer=is_far) as opened:
            groups = list(row_groups) if row_groups is not None else None
            # A row group of an object comes by a few large requests, and one of them is held at a time.
            each = range(opened.num_row_groups) if groups is None else groups
            pieces = [[n] for n in each] if is_far else [groups]
            stored_batches = (
                batch
                for piece in pieces
                for batch in opened.iter_batches(ROWS_DECODED, columns=stored, row_groups=piece)
            )
            for batch in _gathered(stored_batches):
                unpacked += _decoded_bytes(batch)
                refuse_unpacked(plan.file, unpacked=unpacked, packed=packed)
                arrays = []
                for column, wanted in zip(plan.columns, schema, strict=True):
                    if column.stored is None:
                        arrays.append(pa.nulls(batch.num_rows, wanted.type))
                        continue
                    array, bad = batch.column(column.column.name), list[BadValue]()
                    arrays.append(_retyped(column.convert(array, bad) if column.convert else array, wanted.type))
                    for value in bad:
                        on_bad_value(first + value.row, column.column.name, value)
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{plan.file}: cannot be read ({' '.join(str(error).split())}); write it again") from error


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Few rows are decoded at a time, as a small dictionary may hold a text of a megabyte for each; most are then put together."""
    some: list[pa.RecordBatch] = []
    for batch in batches:
        some.append(batch)
        if sum(b.num_rows for b in some) >= ROWS_AT_ONCE or sum(map(_decoded_bytes, some)) > BYTES_AT_ONCE:
            yield pa.concat_batches(some)
            some = []
    if some:
        yield pa.concat_batches(some)


def _decoded_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of a batch once each row has its text, and not its number in a dictionary."""
    decoded = 0
    for array in batch.columns:
        if pa.types.is_dictionary(array.type) and is_text(array.type.value_type):
            lengths = pc.binary_length(array.dictionary).take(array.indices)
            decoded += pc.sum(lengths.cast(pa.int64())).as_py() or 0
    return batch.nbytes + decoded


def _retyped(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The names of list items and map entries, in which writers differ, as the contract has them."""
    return array if array.type == wanted else array.cast(wanted)


@dataclass(slots=True)
class DeliveredFile:
    """A file of a delivered table, and what was said of it while it was read."""

    file: AnyPath
    contract: Contract
    zone: ZoneInfo | None
    checking: bool = False
    """Whether more is told of than a job refuses: what it would mend in silence."""
    casts: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """Of its columns or keys, known or not."""
    rows: int = 0
    notes: list[Fault] = field(default_factory=list)
    """What it holds beside faults, to look at."""
    bad_values: Counter[str] = field(default_factory=Counter)
    """Column → values that were told of, and are null."""
    refused: Counter[str] = field(default_factory=Counter)
    """Column → those of them that are a fault for itself."""
    places: list[int] = field(default_factory=list)
    """Lines (from 1) or rows (from 0) of the file that the last batch's rows are."""

    def place(self, number: int) -> str:
        """`line 7` or `row 7`."""
        return f"{'line' if is_json_lines(self.file) else 'row'} {number}"

    def batches(self, on_fault: OnFault = refuse) -> Iterator[pa.RecordBatch]:
        """Everything in it, in the contract's columns. Rows at fault are left out or null where `on_fault` returns.

        Raises:
            InputError: it cannot be read at all.
        """
        for batch in self._lines(on_fault) if is_json_lines(self.file) else self._parquet(on_fault):
            if not is_json_lines(self.file):
                self.places = list(range(self.rows, self.rows + batch.num_rows)) if self.checking else []
            self.rows += batch.num_rows
            yield batch

    def _parquet(self, on_fault: OnFault) -> Iterator[pa.RecordBatch]:
        plan = plan_file(self.file, self.contract, self.zone)
        if fault := plan.fault(self.contract):
            on_fault(fault)
            return
        self.casts, self.names = plan.casts, set(plan.schema.names)

        def on_bad_value(row: int, column: str, value: BadValue) -> None:
            self.bad_values[column] += 1
            self.refused[column] += 1
            on_fault(fault_of_value(self.file, row, column, value))

        yield from read_parquet(plan, self.contract, on_bad_value=on_bad_value)

    def _lines(self, on_fault: OnFault) -> Iterator[pa.RecordBatch]:
        reader = LineReader(self.contract, self.zone, checking=self.checking)

        def on_bad_line(number: int, found: str, mend: str) -> None:
            on_fault(Fault(self.file, f"line {number} {found}", mend))

        for batch in reader.batches(iterate_lines(self.file), on_bad_line):
            self.places = reader.lines
            yield batch
        self.names = reader.keys
        if absent := reader.absent():
            on_fault(absent_columns(self.file, self.contract, absent))
            empty = [c.name for c in self.contract.columns if not c.nullable and not reader.filled[c.name]]
            self.bad_values.update({name: reader.rows for name in empty if name not in reader.unread_times})
            self.refused.update({name: reader.rows for name in empty})
        self.casts = number_casts(reader)
        for column in reader.unread_times:
            count, _, _ = reader.unread_times[column]
            self.bad_values[column] += count
            if reader.filled[column]:
                found, _, mend = reader.unread_time(column).partition("; ")
                self.notes.append(Fault(self.file, f"{column}: {found}", mend))
        if reader.repeated_keys:
            count, first = reader.repeated_keys
            found = f"{count:,} lines have a key twice, as line {first}: its last value counts"
            self.notes.append(Fault(self.file, found, "write each key once"))


def fault_of_value(file: AnyPath, row: int, column: str, value: BadValue) -> Fault:
    return Fault(file, f"row {row}: {column}: {value.found}", "correct it, or leave it empty")


def absent_columns(file: AnyPath, contract: Contract, absent: list[str]) -> Fault:
    found = f"does not fit schemas/{contract.table}.yaml: {'; '.join(absent)}"
    return Fault(file, found, "deliver it as that file says")


def number_casts(reader: LineReader) -> list[str]:
    """What was a number where a text is expected, one phrase a column."""
    kinds = {column.name: column.type for column in reader.contract.columns}
    return [
        f"{name} has numbers, read as {kinds[name]}"
        for name, count in reader.numbers.items()
        if count and kinds[name] == "string"
    ]


def read_whole_table(table: str, file: AnyPath, zone: ZoneInfo | None = None) -> pa.Table:
    """A delivered Parquet file that fits in memory.

    Raises:
        InputError: it is damaged, lacks or retypes a column, or a value is none of its column's type; names file and row.
    """
    contract = load_contract(table)
    schema = pa.schema([column.with_nullable(True) for column in contract.arrow_schema()])
    return pa.Table.from_batches(DeliveredFile(file, contract, zone).batches(), schema=schema)
