"""The files of a shop, as the README lays them out, found and named but not yet read.

<root>/items.parquet | items/*.parquet
<root>/pictures/ | pictures.zip
<root>/click_log/dt=YYYY-MM-DD/*.parquet
<root>/judgments.parquet                        optional
<root>/truth/items.parquet                      simulated shops only: for shoppers, judge and oracle
<root>/truth/requests/dt=YYYY-MM-DD/*.parquet   likewise
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from smar_model.errors import InputError
from smar_model.lake.digests import digest_json, digest_raw_files


@dataclass(frozen=True, slots=True)
class ShopInputs:
    root: Path

    def items(self) -> list[Path]:
        """Files of the catalogue.

        Raises:
            InputError: there is none.
        """
        single, folder = self.root / "items.parquet", self.root / "items"
        files = [single] if single.is_file() else sorted(folder.glob("*.parquet"))
        if not files:
            raise InputError(f"{single}: no catalogue; write it as README.md, 'Your own shop', shows")
        return files

    def click_log(self, day: date) -> list[Path]:
        """Files of one day of the click log.

        Raises:
            InputError: the day has none.
        """
        folder = self.root / "click_log" / f"dt={day}"
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise InputError(f"{folder}: no Parquet file for this day; deliver the day's log or choose another date")
        return files

    def pictures(self) -> PictureStore:
        """The pictures' folder or zip.

        Raises:
            InputError: neither is there, or the zip is damaged.
        """
        folder, archive = self.root / "pictures", self.root / "pictures.zip"
        if folder.is_dir():
            return PictureStore(folder)
        if archive.is_file():
            if not zipfile.is_zipfile(archive):
                raise InputError(f"{archive}: not a whole zip file (cut off or damaged); copy it again")
            return PictureStore(archive)
        raise InputError(
            f"{folder}: neither this folder nor {archive.name} is there; deliver the pictures or an empty folder"
        )

    def judgments(self) -> Path | None:
        path = self.root / "judgments.parquet"
        return path if path.is_file() else None

    def truth_items(self) -> Path | None:
        """True attributes; to be read by shoppers, evaluation and the oracle alone."""
        path = self.root / "truth" / "items.parquet"
        return path if path.is_file() else None

    def truth_requests(self, day: date) -> list[Path]:
        """What each request wanted; to be read by shoppers, evaluation and the oracle alone."""
        return sorted((self.root / "truth" / "requests" / f"dt={day}").glob("*.parquet"))

    def truth_files(self) -> Iterator[Path]:
        yield from sorted((self.root / "truth").rglob("*.parquet"))

    def digest_items(self) -> str:
        return digest_raw_files(self.items(), root=self.root)

    def digest_click_log(self, days: list[date]) -> str:
        return digest_raw_files([f for day in days for f in self.click_log(day)], root=self.root)

    def digest_judgments_and_truth(self, days: list[date]) -> str:
        files = [f for f in (self.judgments(), self.truth_items()) if f]
        files += [f for day in days for f in self.truth_requests(day)]
        return digest_raw_files(files, root=self.root)


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Pictures by file name, in a folder or a zip."""

    path: Path

    def digest(self) -> str:
        """Digest of names and contents."""
        if self.path.is_dir():
            return digest_raw_files([f for f in self.path.rglob("*") if f.is_file()], root=self.path)
        return digest_json(digest_raw_files([self.path], root=self.path.parent))
