"""Which item a log means: its ids, other names of them (`item_aliases.parquet`), and what no catalogue row answers to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smar_model.delivery.delivered_tables import DeliveredFile
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.shop.import_summary import Unknown
from smar_model.shop.table_files import source_of

ALIASES = "item_aliases.parquet"


class ItemNames:
    """Finds the item of a shop that a name stands for."""

    def __init__(self, root: Path, source: str) -> None:
        """Read the shop's aliases, and its ids where a feed has brought the whole catalogue.

        Raises:
            InputError: the table of aliases is damaged.
        """
        self._prefix = f"{source}-" if source else ""
        self._aliases: dict[str, str] = {}
        path = root / ALIASES
        if path.is_file():
            load_contract("item_aliases").verify_files([path])
            table = pq.read_table(path, columns=["alias", "item_id"])
            self._aliases = dict(zip(table["alias"].to_pylist(), table["item_id"].to_pylist(), strict=True))
        self.own_catalogue = source_of(root / "items.parquet")
        """The source of a catalogue that was brought as a whole, with the shop's own ids."""
        self._ids: set[str] = set()
        if self.own_catalogue:
            self._ids = set(pq.read_table(root / "items.parquet", columns=["item_id"])["item_id"].to_pylist())

    def item(self, name: str) -> str:
        """The item's id; the name itself where the shop knows no such item.

        The importers of tables and of published sets put their source before each id: where the shop's catalogue has
        ids of its own, the id without it counts as well.
        """
        if name in self._ids or not (self._aliases or self._ids):
            return name
        if name in self._aliases:
            return self._aliases[name]
        if self._prefix and name.startswith(self._prefix):
            bare = name.removeprefix(self._prefix)
            if bare in self._ids:
                return bare
            return self._aliases.get(bare, name)
        return name


def unknown_items(root: Path, files: Iterable[Path], what: str) -> Unknown | None:
    """How many rows of Parquet files name an item that the shop's catalogue lacks; None where no row does.

    Memory holds the catalogue's ids and a batch.
    """
    known = pa.array(_item_ids(root), type=pa.string())
    count = total = 0
    example = ""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["item_id"]):
            named = batch["item_id"].drop_null()
            strangers = named.filter(pc.invert(pc.is_in(named, value_set=known)))
            total += len(named)
            count += len(strangers)
            if len(strangers) and not example:
                example = strangers[0].as_py()
    return Unknown(what, count, total, example) if count else None


def _item_ids(root: Path) -> list[str]:
    """Ids as a run reads them; rows at fault are left to `smar shop check`."""
    try:
        files = ShopInputs(root).items()
    except InputError:  # a log, or judgments, may come before the catalogue
        return []
    contract = load_contract("items")
    ids_alone = contract.model_copy(update={"columns": tuple(c for c in contract.columns if c.name == "item_id")})
    return [
        item_id
        for file in files
        for batch in DeliveredFile(file, ids_alone, zone=None).batches(lambda fault: None)
        for item_id in batch["item_id"].drop_null().to_pylist()
    ]
