"""Records of User Behavior Insights (UBI 1.0–1.3, ubisearch.dev): which they are, and where their fields stand.

Lines of JSON, plain or as OpenSearch and Elasticsearch load them in bulk (an action, then its document), or as
elasticdump writes them (`_source`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import RootModel

from smar_model.shop.importers.delivered_files import numbered_lines, opened, refuse_spread_json
from smar_model.shop.importers.event_fields import id_of, place_of, text_of
from smar_model.shop.importers.mapping_faults import in_plain_words
from smar_model.yaml_files import read_yaml, validated

Meaning = Literal["impression", "click", "cart", "order", "ignore"]
IdField = Literal["object_id", "internal_id"]
ACTIONS: dict[str, Meaning] = {
    **dict.fromkeys(
        ("impression", "impressions", "view", "product_view", "product_impression", "item_impression", "item_view",
         "search_impression", "result_impression", "shown"), "impression",
    ),
    **dict.fromkeys(
        ("click", "clicked", "click_through", "clickthrough", "item_click", "product_click", "result_click",
         "search_click", "search_result_click", "document_click", "select_item"), "click",
    ),
    **dict.fromkeys(
        ("add_to_cart", "addtocart", "product_add_to_cart", "item_add_to_cart", "cart", "cart_add", "add_to_basket"), "cart",
    ),
    **dict.fromkeys(
        ("purchase", "product_purchase", "item_purchase", "purchased", "buy", "order", "place_order"), "order",
    ),
}  # fmt: skip
"""What an action says, by its name in lower case with `_` between its words."""
_BULK = {"index", "create", "update", "delete"}
_IDS = {
    "object_id": ("event_attributes.object.object_id", "event_attributes.object_id", "event_attributes.data.object_id", "object_id"),
    "internal_id": ("event_attributes.object.internal_id", "event_attributes.internal_id", "event_attributes.data.internal_id", "internal_id"),
}  # fmt: skip
_PLACES = (
    "event_attributes.position.ordinal", "event_attributes.position.ordinal.index", "event_attributes.position.index",
    "event_attributes.position", "position",
)  # fmt: skip
"""Version 1.0 puts the number into an object, the rest are older trackers."""
_LISTS = {
    "object_id": ("query_response_object_ids", "query_response_hit_ids"),
    "internal_id": ("query_response_hit_ids", "query_response_object_ids"),
}
_MISSING = object()


class _ActionNames(RootModel[dict[str, Meaning]]):
    """A file of `name: meaning`."""


def load_actions(path: Path | None) -> dict[str, Meaning]:
    """ACTIONS, and those of a YAML file, which win.

    Raises:
        InputError: the file cannot be read, or gives a name another meaning than there is.
    """
    if path is None:
        return ACTIONS
    document = read_yaml(path, advice="docs/importers.md shows one")
    own = validated(_ActionNames.model_validate, document, in_plain_words).root
    return ACTIONS | {action_key(name): meaning for name, meaning in own.items()}


def action_key(name: str) -> str:
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


@dataclass(frozen=True, slots=True)
class Record:
    """A document of `ubi_queries` or `ubi_events`."""

    where: str
    fields: dict[str, Any]

    @property
    def kind(self) -> str:
        if text_of(self.fields.get("action_name")):
            return "events"
        if "user_query" in self.fields or "query_response_id" in self.fields or self.hits("object_id") is not None:
            return "queries"
        return "lines"

    @property
    def application(self) -> str:
        return text_of(self.fields.get("application")) or ""

    def item_id(self, field: IdField) -> str | None:
        """Of the field, else of the other one, in whichever place it stands."""
        other = "internal_id" if field == "object_id" else "object_id"
        return next((found for path in (*_IDS[field], *_IDS[other]) if (found := id_of(self._at(path)))), None)

    def place(self) -> int | None:
        """As the tracker counts."""
        return next((found for path in _PLACES if (found := place_of(self._at(path))) is not None), None)

    def session(self) -> str | None:
        return id_of(self.fields.get("session_id")) or id_of(self._at("event_attributes.session_id"))

    def shopper(self) -> str | None:
        """The browser, which lasts; else who is logged in."""
        return id_of(self.fields.get("client_id")) or id_of(self.fields.get("user_id"))

    def hits(self, field: IdField) -> list[str] | None:
        """Ids that the engine returned, in their order; None where the record has no list."""
        for name in _LISTS[field]:
            if isinstance(listed := self.fields.get(name), list):
                return [found for value in listed if (found := id_of(value))]
        return None

    def told_query(self) -> str | None:
        """The query that an event of a search tells as its message."""
        is_query = self.fields.get("message_type") == "QUERY"
        return text_of(self.fields.get("message")) if is_query else None

    def _at(self, path: str) -> Any:
        """The value in nested objects, or under its whole path as one name."""
        if (flat := self.fields.get(path, _MISSING)) is not _MISSING:
            return flat
        value: Any = self.fields
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


def read_records(files: Sequence[Path]) -> Iterator[Record | str]:
    """Documents of files; where a line is none, the place where it stands.

    Raises:
        InputError: a file is damaged, or holds one JSON array.
    """
    for path in files:
        with opened(path) as streams:
            for name, stream in streams:
                for where, line in numbered_lines(name, stream):
                    refuse_spread_json(where, line)
                    if (found := _document(where, line)) is not None:
                        yield found


def _document(where: str, line: bytes) -> Record | str | None:
    """The line's document; None for an action of bulk form."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return where
    if not isinstance(content, dict):
        return where
    if len(content) == 1:
        ((name, value),) = content.items()
        if name in _BULK and isinstance(value, dict):
            return None
        if name == "doc" and isinstance(value, dict):  # of an update
            return Record(where, value)
    if isinstance(source := content.get("_source"), dict):
        return Record(where, source)
    return Record(where, content)
