"""Importer of Marqo-GS-10M (arXiv 2404.08535): places of products in a shopping search, as graded judgements.

A folder such as `marqo_gs_wfash_1m` holds four splits, `query_{0,1}_product_id_{0,1}.csv`: seen or novel queries by seen
or novel products. A product is listed under many queries; its first row counts.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from smar_model.errors import InputError
from smar_model.shop.importers.grades import MARQO_GS, grade_of_score
from smar_model.shop.importers.pictures import PictureFolder
from smar_model.shop.importers.published_rows import find_file, require, separated_rows
from smar_model.shop.shop_writer import ShopWriter

SOURCE = "marqo"
_COLUMNS = ("query", "product_id", "title", "image_local", "score_linear")
_QUERY_END = "_{!@#~}_"
"""What the authors' evaluation puts behind a query to make its key."""


def import_marqo_gs(
    folder: Path,
    writer: ShopWriter,
    *,
    split: str | None = None,
    ground_truth: str | None = None,
    pictures: Path | None = None,
) -> None:
    """Add the products and judged pairs of one split (default: of all that are there).

    Args:
        split: such as `query_0_product_id_0`.
        ground_truth: `dev` or `test`: only the pairs of `<split>_gt_<dev|test>.json` become judgements.
        pictures: folder with the files that `image_local` names, by their path or their last part.

    Raises:
        InputError: a file is missing or damaged, or a row lacks a value.
    """
    tables = [folder / f"{split}.csv"] if split else sorted(folder.glob("query_[01]_product_id_[01].csv"))
    if not tables:
        find_file(folder, "query_0_product_id_0.csv")
    files = PictureFolder(pictures, writer)
    for table in tables:
        for where, row in separated_rows(table, _COLUMNS):
            require(where, row, "query", "product_id")
            item_id = f"{SOURCE}-{row['product_id']}"
            if not writer.has(item_id):
                local = row["image_local"]
                images = files.add(local, PurePosixPath(local).name) if local else []
                writer.add_item(where, item_id=item_id, title=row["title"], images=images)
            grade = grade_of_score(where, row["score_linear"], MARQO_GS)
            if not ground_truth:
                writer.add_judgment(query=row["query"], item_id=item_id, grade=grade)
        if ground_truth:
            _add_ground_truth(table.with_name(f"{table.stem}_gt_{ground_truth}.json"), writer)


def _add_ground_truth(path: Path, writer: ShopWriter) -> None:
    """{query: {product_id: score of 1–100}}, a few thousand queries."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(query, product, score) for query, scores in content.items() for product, score in scores.items()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the folder of the published files, unpacked") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; download or copy it again") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} row {error.lineno}: not JSON ({error}); download or copy it again") from None
    except AttributeError:
        raise InputError(f"{path}: expected {{query: {{product_id: score}}}}; download or copy it again") from None
    for query, product, score in pairs:
        grade = grade_of_score(f"{path} query {query!r}, product {product}", score, MARQO_GS)
        writer.add_judgment(query=query.removesuffix(_QUERY_END), item_id=f"{SOURCE}-{product}", grade=grade)
