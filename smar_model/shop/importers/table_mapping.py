"""The YAML file that says which column of a shop's tables is which; `docs/importers.md` shows one."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from smar_model.settings import Section
from smar_model.shop.importers.mapping_faults import in_plain_words
from smar_model.yaml_files import read_yaml, validated

Format = Literal["csv", "tsv", "jsonl", "parquet"]
_PLACEHOLDER = re.compile(r"\{item_id(?::(-?[1-9][0-9]?))?\}")


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
        if sum(getattr(self, name, None) is not None for name in ("column", "value", "pattern")) != 1:
            raise ValueError("name a column, or a value for all rows")
        return self


class ItemId(Text):
    """An item's id."""

    digits: Annotated[int | None, Field(ge=2, le=40)] = None
    """An id of fewer digits than these has lost its zeros at the left, and gets them back."""


class ShownItems(ItemId):
    """The item of an event, or a list of items that were shown together."""

    spread: bool = False
    """Whether a list becomes an event for each item, with places from the row's own on."""
    split: Annotated[str | None, Field(min_length=1)] = None
    """What stands between several ids in one text; such a text is a list."""

    @property
    def is_spread(self) -> bool:
        return self.spread or self.split is not None


class Parts(Text):
    """Several texts: a list (of the file, or as JSON or as Python writes it in a text), or one text in which `split` stands between them."""

    split: Annotated[str | None, Field(min_length=1)] = None


class Category(Parts):
    """A path, from department to leaf, whose levels `split` separates; or several in one field, of which one is taken."""

    between_paths: str | None = None
    """What stands between several paths, if it is not escaped by `\\`; empty: there is one. Unset: a comma, where it must be one."""
    take: Literal["first", "deepest"] = "first"


class Pictures(Parts):
    """Names of pictures, or addresses; or the one name that an item's id gives."""

    pattern: str | None = None
    """A name or address with `{item_id}`, `{item_id:3}` (its first three characters) or `{item_id:-2}` (its last two)."""

    @field_validator("pattern")
    @classmethod
    def _known_placeholders(cls, pattern: str | None) -> str | None:
        if pattern is not None and ("{" in (rest := _PLACEHOLDER.sub("", pattern)) or "}" in rest or rest == pattern):
            raise ValueError("write {item_id}, {item_id:3} (its first three characters) or {item_id:-2} (its last two)")
        return pattern

    def name_for(self, item_id: str) -> str:
        """The pattern's name of an item's picture."""

        is_address = "//" in (self.pattern or "")

        def part(placeholder: re.Match[str]) -> str:
            count = int(placeholder[1] or 0)
            text = item_id[count:] if count < 0 else item_id[: count or None]
            return quote(text, safe="") if is_address else text

        return _PLACEHOLDER.sub(part, self.pattern or "")


class Choice(Text):
    """A text, replaced where `values` knows it."""

    values: dict[str, str] = Field(default_factory=dict)


class Time(Text):
    """A time by ISO 8601 or `format`, or a number since 1970 in `unit`."""

    unit: Literal["s", "ms", "us"] | None = None
    format: str | None = None
    """As `datetime.strptime` takes it: `%d.%m.%Y %H:%M`."""
    zone: str = "UTC"
    """Of a time that names none, such as Europe/Berlin."""

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError("no such zone; name one such as Europe/Berlin") from None
        return zone

    @model_validator(mode="after")
    def _a_number_or_a_text(self) -> Time:
        if self.unit and self.format:
            raise ValueError("a time is a number in a `unit`, or a text by a `format`")
        return self


class Grade(Text):
    """A grade of 0–3; or a label by a `scale`; or a score, graded by the number of `bounds` that it reaches."""

    scale: Literal["esci", "wands"] | dict[str, Annotated[int, Field(ge=0, le=3)]] | None = None
    bounds: tuple[float, float, float] | None = None


def _listed(content: Any) -> Any:
    return content if content is None or isinstance(content, list) else [content]


class ItemColumns(Section):
    item_id: ItemId
    title: Text
    category: list[Category] = Field(default_factory=list)
    """Of several columns each gives a level, or a part of the path."""
    brand: Text | None = None
    attributes: dict[str, Parts] = Field(default_factory=dict)
    images: list[Pictures] = Field(default_factory=list)
    updated_at: Time | None = None
    price: Text | None = None
    """As 19.99, or with its currency as `19.99 EUR`."""
    currency: Text | None = None
    """ISO 4217 code of the price, in the place of what the price itself names."""
    available: Choice | None = None
    """true or false, or as product feeds write it; `values` says what other words mean."""

    @field_validator("category", "images", mode="before")
    @classmethod
    def _one_or_several(cls, content: Any) -> Any:
        return [] if content is None else _listed(content)

    @property
    def rules(self) -> list[Text]:
        """Of all columns that are read."""
        offer = (self.price, self.currency, self.available)
        single = [rule for rule in (self.item_id, self.title, self.brand, self.updated_at, *offer) if rule]
        return [*single, *self.category, *self.attributes.values(), *self.images]


class EventColumns(Section):
    event_time: Time
    event: Choice
    request_id: Text
    session_id: Text
    user_id: Text
    query: Text
    item_id: ShownItems
    position: Text

    @property
    def rules(self) -> list[Text]:
        return [getattr(self, name) for name in EventColumns.model_fields]


class JudgmentColumns(Section):
    query: Text
    item_id: ItemId
    grade: Grade

    @property
    def rules(self) -> list[Text]:
        return [self.query, self.item_id, self.grade]


class File(Section):
    file: str
    """Path below the folder of the files."""
    format: Format | None = None
    """Unset: told from the ending."""
    quotes: bool = True
    """Whether fields of CSV and TSV may be quoted."""
    delimiter: Annotated[str | None, Field(min_length=1, max_length=1)] = None
    """Of CSV and TSV. Unset: found, as that by which the file has the columns that are named here."""
    encoding: str | None = None
    """Of text files. Unset: found."""
    null_markers: list[str] | None = None
    """Texts that mean that a cell is empty. Unset: those in `cells.py`."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str | None) -> str | None:
        try:
            if encoding is not None:
                "a".encode(codecs.lookup(encoding).name)
        except (LookupError, ValueError):  # also one that is of bytes, such as base64
            raise ValueError("no such encoding of text; name one such as utf-8, cp1252, utf-16 or gb18030") from None
        return "utf-8-sig" if encoding and codecs.lookup(encoding).name == "utf-8" else encoding


class Items(File):
    columns: ItemColumns
    pictures: str | None = None
    """Folder, below that of the files, with what `images` names."""
    rows: Literal["joined", "apart"] = "joined"
    """Whether rows with one `item_id` are one item, or a second one is an error."""
    product: Text | None = None
    """Column that rows of one product have in common: what the row of a variant leaves empty it has from the others."""


class Events(File):
    columns: EventColumns


class Judgments(File):
    columns: JudgmentColumns
    combine: Literal["median", "mean", "highest", "lowest"] = "median"
    """What several grades of an item for a query become: those of several raters, as a rule."""


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
    return validated(Mapping.model_validate, read_yaml(path, advice="docs/importers.md shows one"), in_plain_words)
