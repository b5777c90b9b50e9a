"""The category of an item from what a cell says: the levels of one path, or several paths of which one is taken.

A comma separates paths where the column's name is a plural (WooCommerce's `Categories`) or a comma of the cell is escaped
(`Perfume\\, Cologne`). In a column called product category (Google's taxonomy, and Shopify's) it belongs to a name, as in
`Food, Beverages & Tobacco > Food Items`. Elsewhere it separates paths where what stands before it is a path of
several levels. `between_paths` in the mapping says it for sure.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from smar_model.shop.importers.cells import decoded
from smar_model.shop.importers.table_mapping import Category

_OF_SEVERAL = re.compile(r"(categories|kategorien|catégories|categor[íi]as)$", re.IGNORECASE)
_OF_A_TAXONOMY = re.compile(r"product[ _]category$", re.IGNORECASE)
_COMMA = re.compile(r"(?<!\\),")

LeaveOut = Callable[[str, str, int], None]


def path_levels(where: str, rule: Category, texts: list[str], *, is_list: bool, leave_out: LeaveOut) -> list[str]:
    """Levels of the path that is taken, from the department on.

    Args:
        texts: the cell's one text, or those of its list: paths if levels are split, else levels.
        leave_out: is told of paths that are not taken: what, an example, how many.
    """
    texts = [decoded(text) for text in texts]
    if is_list and rule.split is None:
        return texts
    paths = [path for text in texts for path in ([text] if is_list else _paths(text, rule))]
    levels = [found for path in paths if (found := _levels(path, rule.split))]
    if not levels:
        return []
    taken = max(levels, key=len) if rule.take == "deepest" else levels[0]
    if len(levels) > 1:
        reason = f"further categories of an item, of which the {rule.take} one is taken"
        other = next(path for path in levels if path is not taken)
        leave_out(reason, f"{where}: {' > '.join(other)}", len(levels) - 1)
    return taken


def has_comma_in_doubt(rule: Category, levels: list[str]) -> bool:
    """Whether a comma was taken for a part of a name without being sure."""
    sure = rule.split in (None, ",") or rule.between_paths is not None or _OF_A_TAXONOMY.search(rule.column or "")
    return not sure and any("," in level for level in levels) and not _OF_SEVERAL.search(rule.column or "")


def _paths(text: str, rule: Category) -> list[str]:
    if rule.between_paths is not None:
        if not rule.between_paths:
            return [text]
        between = re.escape(rule.between_paths)
        return [
            path.replace(f"\\{rule.between_paths}", rule.between_paths) for path in re.split(rf"(?<!\\){between}", text)
        ]
    if rule.split is None or rule.split == "," or "," not in text:
        return [text]
    column = rule.column or ""
    pieces = _COMMA.split(text)
    if _OF_A_TAXONOMY.search(column):
        pieces = [text]
    elif not _OF_SEVERAL.search(column) and r"\," not in text:
        before = next((n for n, piece in enumerate(pieces, start=1) if rule.split in piece), len(pieces))
        pieces = [",".join(pieces[:before]), *pieces[before:]]
    return [piece.replace(r"\,", ",") for piece in pieces]


def _levels(path: str, split: str | None) -> list[str]:
    return [level for part in (path.split(split) if split else [path]) if (level := part.strip())]
