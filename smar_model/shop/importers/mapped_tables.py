"""Importer of any tables, by a YAML file that says which column is which; `docs/importers.md` shows one.

Formats: CSV, TSV, JSON lines (each also packed with gzip) and Parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smar_model.errors import InputError
from smar_model.settings import Section
from smar_model.shop.importers.grades import SCALES, grade_of_label, grade_of_score
from smar_model.shop.importers.pictures import PictureFolder
from smar_model.shop.importers.published_rows import Row, Rows, json_rows, parquet_rows, require, separated_rows
from smar_model.shop.shop_writer import LISTED_AT, ShopWriter
from smar_model.yaml_files import read_yaml, validated

Format = Literal["csv", "tsv", "jsonl", "parquet"]
MOST_PLACES = 2**31 - 1
"""What the log's column `position` holds."""
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}


class Text(Section):
    """A column of the file, or one value for all rows. Written shortly: the column's name alone."""

    column: str | None = None
    value: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, content: Any) -> Any:
        return {"column": content} if isinstance(content, str) else content

    @model_validator(mode="after")
    def _one_of_both(self) -> Text:
        if (self.column is None) == (self.value is None):
            raise ValueError("name a column, or a value for all rows")
        return self

    def raw(self, row: Row) -> Any:
        return row.get(self.column) if self.column is not None else self.value

    def read(self, row: Row) -> str | None:
        content = self.raw(row)
        return None if content is None or content == "" else str(content)


class Parts(Text):
    """Several texts: a list, or one text in which `split` stands between them."""

    split: Annotated[str | None, Field(min_length=1)] = None

    def read_all(self, row: Row) -> list[str]:
        content = self.raw(row)
        if not isinstance(content, list):
            content = [] if content is None else str(content).split(self.split) if self.split else [content]
        return [text for part in content if part is not None and (text := str(part).strip())]


class Choice(Text):
    """A text, replaced where `values` knows it."""

    values: dict[str, str] = Field(default_factory=dict)

    def read(self, row: Row) -> str | None:
        text = super().read(row)
        return text if text is None else self.values.get(text, text)


class Time(Text):
    """A time by ISO 8601 (UTC where it names no zone), or a number since 1970 in `unit`."""

    unit: Literal["s", "ms", "us"] | None = None

    def read_time(self, where: str, row: Row) -> datetime:
        content = self.raw(row)
        try:
            if self.unit:
                return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=float(content) * _UNITS[self.unit])
            time = content if isinstance(content, datetime) else datetime.fromisoformat(content)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            expected = f"a number ({self.unit} since 1970)" if self.unit else "a time such as 2026-11-19T12:00:00Z"
            raise InputError(f"{where}: {content!r} is not {expected}; correct the row or `unit`") from None


class Grade(Text):
    """A grade of 0–3; or a label by a `scale`; or a score, graded by the number of `bounds` that it reaches."""

    scale: Literal["esci", "wands"] | dict[str, Annotated[int, Field(ge=0, le=3)]] | None = None
    bounds: tuple[float, float, float] | None = None

    def read_grade(self, where: str, row: Row) -> int:
        content = self.raw(row)
        if self.bounds:
            return grade_of_score(where, content, self.bounds)
        scale = self.scale or {str(grade): grade for grade in range(4)}
        return grade_of_label(where, str(content), SCALES[scale] if isinstance(scale, str) else scale)


class ItemColumns(Section):
    item_id: Text
    title: Text
    category: Parts | None = None
    brand: Text | None = None
    attributes: dict[str, Text] = Field(default_factory=dict)
    images: Parts | None = None
    updated_at: Time | None = None


class EventColumns(Section):
    event_time: Time
    event: Choice
    request_id: Text
    session_id: Text
    user_id: Text
    query: Text
    item_id: Text
    position: Text


class JudgmentColumns(Section):
    query: Text
    item_id: Text
    grade: Grade


class File(Section):
    file: str
    """Path below the folder of the files."""
    format: Format | None = None
    """Unset: told from the ending."""
    quotes: bool = True
    """Whether fields of CSV and TSV may be quoted."""


class Items(File):
    columns: ItemColumns
    pictures: str | None = None
    """Folder, below that of the files, with what `images` names."""


class Events(File):
    columns: EventColumns


class Judgments(File):
    columns: JudgmentColumns


class Mapping(Section):
    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Item ids begin with it. An import replaces the source's items, its judgments and the days of its log that it brings."""
    items: Items | None = None
    click_log: Events | None = None
    judgments: Judgments | None = None

    @model_validator(mode="after")
    def _something(self) -> Mapping:
        if not (self.items or self.click_log or self.judgments):
            raise ValueError("name items, click_log or judgments")
        return self

    @property
    def replaces(self) -> list[str]:
        """Tables that are delivered as a whole; a log comes day by day."""
        return [name for name in ("items", "judgments") if getattr(self, name)]


def load_mapping(path: Path) -> Mapping:
    """Read the YAML file of columns.

    Raises:
        InputError: it cannot be read (`read_yaml`), or names something that is not in the contract.
    """
    return validated(Mapping.model_validate, read_yaml(path, advice="docs/importers.md shows one"))


def import_tables(folder: Path, mapping: Mapping, writer: ShopWriter) -> None:
    """Add the rows of the tables that the mapping names.

    Raises:
        InputError: a file is missing or damaged, lacks a column, or has a row that cannot be read.
    """
    if mapping.items:
        _add_items(folder, mapping.items, writer)
    if mapping.click_log:
        _add_events(folder, mapping.click_log, writer)
    if mapping.judgments:
        columns = mapping.judgments.columns
        for where, row in _rows(folder, mapping.judgments, [columns.query, columns.item_id, columns.grade]):
            query, item_id = columns.query.read(row), columns.item_id.read(row)
            require(where, {"query": query, "item_id": item_id}, "query", "item_id")
            writer.add_judgment(
                query=str(query), item_id=f"{writer.source}-{item_id}", grade=columns.grade.read_grade(where, row)
            )


def _add_items(folder: Path, table: Items, writer: ShopWriter) -> None:
    columns = table.columns
    files = PictureFolder(folder / table.pictures if table.pictures else None, writer)
    single = [columns.item_id, columns.title, columns.category, columns.brand, columns.images, columns.updated_at]
    for where, row in _rows(folder, table, [*single, *columns.attributes.values()]):
        item_id = columns.item_id.read(row)
        require(where, {"item_id": item_id}, "item_id")
        images = columns.images.read_all(row) if columns.images else []
        attributes = {name: text for name, rule in columns.attributes.items() if (text := rule.read(row))}
        writer.add_item(
            where,
            item_id=f"{writer.source}-{item_id}",
            title=columns.title.read(row),
            category=" > ".join(columns.category.read_all(row)) if columns.category else None,
            brand=columns.brand.read(row) if columns.brand else None,
            attributes=attributes,
            images=[name for image in images for name in ([image] if "://" in image else files.add(image))],
            updated_at=columns.updated_at.read_time(where, row) if columns.updated_at else LISTED_AT,
        )


def _add_events(folder: Path, table: Events, writer: ShopWriter) -> None:
    columns = table.columns
    for where, row in _rows(folder, table, [getattr(columns, name) for name in EventColumns.model_fields]):
        position, item_id = columns.position.read(row), columns.item_id.read(row)
        try:
            place = None if position is None else int(position)
            if place is not None and not -MOST_PLACES <= place <= MOST_PLACES:
                raise ValueError
        except ValueError:
            raise InputError(
                f"{where}: position {str(position)[:40]!r} is not a whole number within {MOST_PLACES:,}; correct the row"
            ) from None
        writer.add_event(
            columns.event_time.read_time(where, row),
            event=columns.event.read(row),
            request_id=columns.request_id.read(row),
            session_id=columns.session_id.read(row),
            user_id=columns.user_id.read(row),
            query=columns.query.read(row),
            item_id=item_id and f"{writer.source}-{item_id}",
            position=place,
        )


def _rows(folder: Path, table: File, rules: Sequence[Text | None]) -> Rows:
    path = folder / table.file
    needed = list(dict.fromkeys(rule.column for rule in rules if rule and rule.column is not None))
    ending = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    match table.format or ending:
        case "csv":
            yield from separated_rows(path, needed, quotes=table.quotes)
        case "tsv":
            yield from separated_rows(path, needed, delimiter="\t", quotes=table.quotes)
        case "parquet":
            yield from parquet_rows(path, dict.fromkeys(needed, "any"))
        case "jsonl":
            met: set[str] = set()
            for where, row in json_rows(path):
                met |= row.keys()
                yield where, row
            if missing := [name for name in needed if name not in met]:
                raise InputError(f"{path}: no row has {', '.join(missing)}; correct the name in the mapping")
        case _:
            raise InputError(f"{path}: which format is it? Set `format` to csv, tsv, jsonl or parquet")
