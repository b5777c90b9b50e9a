"""Importer of jd-pretrain-data (Qiu et al. 2022, arXiv 2208.06150): titles, categories and queries as encoded ids.

The files name no items: an item is its title, `jdpretrain-<digest of the title>`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from smar_model.shop.importers.grades import RELEVANT
from smar_model.shop.importers.jdsearch import words_of_ids
from smar_model.shop.importers.published_rows import require, separated_rows
from smar_model.shop.shop_writer import ShopWriter, squeeze

SOURCE = "jdpretrain"


def import_jd_pretrain(
    folder: Path, writer: ShopWriter, *, evaluation: str | None = None, separator: str = ","
) -> None:
    """Add the titles of `pretrain_data.tsv`, and the pairs of `finetune_data_er.tsv` as relevant.

    Args:
        evaluation: `overall` or `tail`: the pairs come from `eval_<overall|tail>.tsv` instead.
        separator: what stands between the titles that a row of the evaluation set puts into one field.

    Raises:
        InputError: a file is missing or damaged, or a row lacks a value.
    """
    for where, row in _rows(folder / "pretrain_data.tsv", "title", "category"):
        _add_title(where, row["title"], writer, category=squeeze(row["category"]))
    if evaluation is None:
        for where, row in _rows(folder / "finetune_data_er.tsv", "query", "title"):
            _add_pair(where, row["query"], row["title"], writer)
        return
    for where, row in _rows(folder / f"eval_{evaluation}.tsv", "query", "categories", "titles"):
        for title in filter(None, map(squeeze, row["titles"].split(separator))):
            _add_pair(where, row["query"], title, writer)


def _rows(path: Path, *columns: str):
    for where, row in separated_rows(path, (), delimiter="\t", quotes=False, header=columns):
        require(where, row, *columns)
        yield where, row


def _add_pair(where: str, query: str, title: str, writer: ShopWriter) -> None:
    writer.add_judgment(query=words_of_ids(query), item_id=_add_title(where, title, writer), grade=RELEVANT)


def _add_title(where: str, title: str, writer: ShopWriter, *, category: str | None = None) -> str:
    item_id = f"{SOURCE}-{hashlib.blake2b(squeeze(title).encode(), digest_size=10).hexdigest()}"
    if not writer.has(item_id):
        writer.add_item(where, item_id=item_id, title=words_of_ids(title), category=category)
    return item_id
