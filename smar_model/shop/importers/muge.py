"""Importer of MUGE's multimodal retrieval data (Alibaba, Tianchi): Chinese queries and pictures of products.

Titles were withheld on purpose: every item is called `TITLE`, so that pictures alone tell items apart.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.grades import RELEVANT
from smar_model.shop.importers.published_rows import find_file, json_rows, require, separated_rows
from smar_model.shop.shop_writer import ShopWriter

SOURCE = "muge"
SPLITS = ("train", "valid", "test")
TITLE = "商品"
"""Chinese for "product"."""
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def import_muge(folder: Path, writer: ShopWriter, *, split: str | None = None) -> None:
    """Add the pictures, each an item, and the queries' items as relevant, of one split (default: of all there are).

    Raises:
        InputError: a file is missing or damaged, a row lacks a value or its picture is not base64.
    """
    splits = [split] if split else [name for name in SPLITS if (folder / f"MR_{name}_imgs.tsv").is_file()]
    if not splits:
        find_file(folder, "MR_train_imgs.tsv")
    for name in splits:
        pictures = folder / f"MR_{name}_imgs.tsv"
        for where, row in separated_rows(pictures, (), delimiter="\t", quotes=False, header=("item_id", "picture")):
            require(where, row, "item_id", "picture")
            try:
                content = base64.b64decode(row["picture"].encode().translate(_URL_SAFE), validate=True)
            except (binascii.Error, UnicodeEncodeError) as error:
                raise InputError(f"{where}: picture is not base64 ({error}); download or copy it again") from None
            file = writer.add_picture(f"{SOURCE}/{row['item_id']}.jpg", content)
            writer.add_item(where, item_id=f"{SOURCE}-{row['item_id']}", title=TITLE, images=[file])
        for where, row in json_rows(folder / f"MR_{name}_queries.jsonl"):
            require(where, row, "query_text")
            # The test set's answers are not published; a later edition calls the items by their pictures.
            items = row.get("item_ids", row.get("image_ids", []))
            if not isinstance(items, list):
                raise InputError(f"{where}: item_ids {items!r} is not a list; correct or remove the row")
            if not items:
                writer.leave_out("queries without items", where)
            for item in items:
                writer.add_judgment(query=row["query_text"], item_id=f"{SOURCE}-{item}", grade=RELEVANT)
