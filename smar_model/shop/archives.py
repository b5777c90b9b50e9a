"""Files of a published data set, in a folder or a zip, with or without a folder around them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from smar_model.errors import InputError


class SourceFiles:
    """Reads files by their path beside a marker file, such as `styles.csv`; without a marker, by their path inside."""

    def __init__(self, path: Path, *, marker: str | None = None) -> None:
        """Open the folder or zip and find the marker.

        Raises:
            InputError: the path is missing, is a damaged zip, or holds no marker file.
        """
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            names = [str(f.relative_to(path)) for f in path.rglob("*") if f.name == marker]
        elif path.is_file():
            try:
                self._archive = zipfile.ZipFile(path)
            except zipfile.BadZipFile:
                raise InputError(
                    f"{path}: not a whole zip file (cut off or damaged); download or copy it again"
                ) from None
            names = [n for n in self._archive.namelist() if n.rsplit("/", 1)[-1] == marker]
            self._members = set(self._archive.namelist())
        else:
            raise InputError(f"{path}: no such file or folder; give the published archive, zipped or unpacked")
        self._prefix = ""
        if marker is None:
            return
        if not names:
            raise InputError(f"{path}: holds no {marker}; give the archive in its published layout")
        # Some published zips repeat themselves in a sub-folder: the one nearest to the top counts.
        nearest = min(names, key=lambda n: (n.count("/"), n))
        self._prefix = nearest[: -len(marker)]

    def read(self, name: str) -> bytes | None:
        """Content of a file; None where there is none.

        Raises:
            InputError: the zip is damaged at this file.
        """
        if self._archive is None:
            file = self.path / self._prefix / name
            return file.read_bytes() if file.is_file() else None
        if self._prefix + name not in self._members:
            return None
        try:
            return self._archive.read(self._prefix + name)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise InputError(f"{self.path}: damaged at {name} ({error}); download or copy it again") from None
