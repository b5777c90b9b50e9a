"""Whose a shop's catalogue and judgments are, and which imports would mix what cannot be told apart afterwards."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.shop.table_files import source_of


def refuse_unmergeable(root: Path, replaces: Collection[str]) -> None:
    """Raises InputError where the shop keeps a table in several files or in JSON lines, or its pictures in a zip."""
    if "items" in replaces and (root / "pictures.zip").is_file():
        raise InputError(
            f"{root / 'pictures.zip'}: pictures in a zip cannot be added to; unpack it into {root / 'pictures'}"
        )
    for table in {"items", "judgments"} & {*replaces}:
        for path in (root / table, root / f"{table}.jsonl", root / f"{table}.jsonl.gz"):
            if path.exists():
                what = "a table in several files" if path.is_dir() else "JSON lines"
                raise InputError(f"{path}: {what} cannot be added to; turn it into {root / table}.parquet first")


def refuse_mixed_catalogue(root: Path, source: str, *, own: bool, replace_others: bool) -> None:
    """Raises InputError where another source's items would stand beside a whole catalogue, or give way to one unasked."""
    path = root / "items.parquet"
    theirs = source_of(path)
    if own:
        there = path.is_file() and pq.read_metadata(path).num_rows
        if there and theirs != source and not replace_others:
            raise InputError(
                f"{path}: holds the items of {theirs or 'another source'}; a {source} import is a whole catalogue: "
                "import into another folder, or put it in their place with --replace"
            )
    elif theirs and source:
        raise InputError(
            f"{path}: is the shop's whole catalogue, from {theirs}; import the items of {source} into another folder"
        )


def judgments_are_alone(root: Path, source: str, own_catalogue: str | None) -> bool:
    """Whether the shop's catalogue has ids of its own, so that nothing in a judgement tells whose it is.

    Raises:
        InputError: another source has brought them.
    """
    path = root / "judgments.parquet"
    if not own_catalogue:
        return False
    if path.is_file() and source_of(path) != source:
        theirs = source_of(path) or "another source"
        raise InputError(f"{path}: holds the judgments of {theirs}; remove the file to bring those of {source}")
    return True
