"""Pictures of an imported data set in a folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.importers.cells import decoded
from smar_model.shop.shop_writer import ShopWriter, is_inner_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_ADDRESS = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)


class PictureFolder:
    """Adds the pictures that items name; those that the folder lacks are counted and left out."""

    def __init__(self, folder: Path | None, writer: ShopWriter) -> None:
        """Open the folder; None stands for no pictures at all.

        Raises:
            InputError: there is no such folder.
        """
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder of pictures")
        self._folder, self._writer = folder, writer

    def add(self, *names: str, where: str | None = None) -> list[str]:
        """Names in the shop of what was found under the first of the names that is there; empty where none is.

        Args:
            where: the example of what is missing; by default the first name.
        """
        if self._folder is None:
            return []
        for name in names:
            path = self._folder / name
            if is_inner_path(name) and _is_file(path):
                return [self._writer.add_picture(f"{self._writer.source}/{name}", path)]
        self._writer.leave_out("pictures that the folder lacks", where or names[0])
        return []


class NamedPictures:
    """Adds the pictures that the cells of a table name: addresses as they are, files from a folder on this machine."""

    def __init__(self, folder: Path | None, writer: ShopWriter) -> None:
        """Open the folder; None where the table names addresses alone."""
        self._writer, self._missing = writer, folder
        self._files = PictureFolder(folder, writer) if folder is not None and folder.is_dir() else None

    def add(self, where: str, names: Iterable[str]) -> list[str]:
        """Names in the shop, or addresses, of the pictures of row `where`; what is none, or not there, is counted."""
        added: dict[str, None] = {}
        for name in map(decoded, names):
            if name.startswith("//"):
                name = f"https:{name}"
            if _ADDRESS.match(name):
                added[name] = None
            elif _OTHER_SCHEME.match(name):
                reason = "addresses of pictures that begin with neither http:// nor https://"
                self._writer.leave_out(reason, f"{where}: {name[:80]!r}")
            elif self._files:
                windows = name.replace("\\", "/")
                added |= dict.fromkeys(
                    self._files.add(*dict.fromkeys([name, windows]), where=f"{where}: {name[:80]!r}")
                )
            else:
                self._writer.leave_out(self._no_folder(), f"{where}: {name[:80]!r}")
        return list(added)

    def _no_folder(self) -> str:
        if self._missing is not None:
            return f"pictures, as there is no folder {self._missing}"
        return "names of pictures, as the mapping does not say in which folder they lie (`pictures:`)"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the disk, or with a NUL in it
        return False
