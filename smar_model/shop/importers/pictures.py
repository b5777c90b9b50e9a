"""Pictures of an imported data set in a folder on this machine."""

from __future__ import annotations

from pathlib import Path

from smar_model.errors import InputError
from smar_model.shop.shop_writer import ShopWriter, is_inner_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


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

    def add(self, *names: str) -> list[str]:
        """Names in the shop of what was found under the first of the names that is there; empty where none is."""
        if self._folder is None:
            return []
        for name in names:
            path = self._folder / name
            if is_inner_path(name) and path.is_file():
                return [self._writer.add_picture(f"{self._writer.source}/{name}", path)]
        self._writer.leave_out("pictures that the folder lacks", names[0])
        return []
