"""The files of a shop, as the README lays them out, found and named but not yet read.

<root>/items.parquet | items/*.parquet
<root>/pictures/ | pictures.zip                 or an object store: settings.shop.pictures
<root>/click_log/dt=YYYY-MM-DD/*.parquet        and what says that the day is complete: settings.shop.complete_day
<root>/judgments.parquet                        optional
<root>/shop.yaml                                optional: `time_zone: Europe/Berlin`, of times that say none
<root>/truth/items.parquet                      simulated shops only: for shoppers, judge and oracle
<root>/truth/requests/dt=YYYY-MM-DD/*.parquet   likewise
<root>/truth/pictures.parquet                   likewise, where items show pictures that are not theirs

Wherever shops deliver `.parquet`, `.jsonl` and `.jsonl.gz` (JSON lines) do as well, side by side too. `<root>` is a folder, or the URL of an
object store (`lake/object_paths.py`).
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from smar_model.delivery.picture_stores import PictureStore
from smar_model.delivery.shop_time_zone import find_zone
from smar_model.errors import InputError
from smar_model.lake.digests import digest_json, digest_raw_files
from smar_model.lake.object_paths import AnyPath, place_of
from smar_model.settings import CompleteDay, Settings

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class ShopInputs:
    root: AnyPath
    pictures_uri: str | None = None
    zone_setting: str | None = None
    """Zone of times that say none, in the place of what `shop.yaml` says."""
    complete_day: CompleteDay | None = None
    """What says that a day of the click log is complete; None: every day is."""

    @classmethod
    def of(cls, settings: Settings) -> ShopInputs:
        shop = settings.shop
        return cls(place_of(settings.shop_root), shop.pictures, shop.time_zone, shop.complete_day)

    @property
    def zone(self) -> ZoneInfo | None:
        """Zone of times that say none.

        Raises:
            InputError: `shop.yaml` is damaged, or there is no such zone.
        """
        return find_zone(self.root, self.zone_setting)

    def items(self) -> list[AnyPath]:
        """Files of the catalogue.

        Raises:
            InputError: there is none, or more than one single file.
        """
        single = self._single("items")
        files = [single] if single else table_files(self.root / "items")
        if not files:
            raise InputError(
                f"{self.root / 'items.parquet'}: no catalogue; write it as README.md, 'Your own shop', shows"
            )
        return files

    def click_log(self, day: date) -> list[AnyPath]:
        """Files of one day of the click log.

        Raises:
            InputError: the day has none.
        """
        folder = self.root / "click_log" / f"dt={day}"
        files = table_files(folder)
        if not files:
            raise InputError(
                f"{folder}: no Parquet file for this day, nor JSON lines; deliver the day's log or choose another date"
            )
        return files

    def incomplete_days(self, days: Iterable[date]) -> dict[date, str]:
        """Those that are not complete now, which nobody reads, and why."""
        looked_at = {day: self._why_incomplete(self.root / "click_log" / f"dt={day}") for day in days}
        return {day: why for day, why in looked_at.items() if why}

    def _why_incomplete(self, folder: AnyPath) -> str | None:
        wanted = self.complete_day
        if wanted is None:
            return None
        if wanted.marker:
            return None if (folder / wanted.marker).is_file() else f"has no {wanted.marker}"
        assert wanted.quiet_minutes
        written = [file.stat().st_mtime for file in (folder.iterdir() if folder.is_dir() else ()) if file.is_file()]
        if not written:
            return "has no file"
        minutes = (time.time() - max(written)) / 60
        if minutes >= wanted.quiet_minutes:
            return None
        return f"was written to {max(0, int(minutes))} minutes ago, less than {wanted.quiet_minutes}"

    def pictures(self) -> PictureStore:
        """The pictures' folder, zip or object store.

        Raises:
            InputError: there is none, or the zip is damaged.
        """
        if self.pictures_uri:
            return PictureStore(self.pictures_uri)
        folder, archive = self.root / "pictures", self.root / "pictures.zip"
        if folder.is_dir():
            return PictureStore(folder)
        if archive.is_file():
            with archive.open("rb") as content:
                is_whole = zipfile.is_zipfile(content)
            if not is_whole:
                raise InputError(f"{archive}: not a whole zip file (cut off or damaged); copy it again")
            return PictureStore(archive)
        raise InputError(
            f"{folder}: neither this folder nor {archive.name} is there; deliver the pictures or an empty folder"
        )

    def judgments(self) -> AnyPath | None:
        """People's grades.

        Raises:
            InputError: there is more than one file of them.
        """
        return self._single("judgments")

    def _single(self, table: str) -> AnyPath | None:
        found = self.single_files(table)
        if len(found) > 1:
            raise InputError(f"{found[1]}: {found[0].name} is there as well; keep one of them")
        return found[0] if found else None

    def single_files(self, table: str) -> list[AnyPath]:
        """Files that each claim to be the whole of a table; more than one are refused where it is read."""
        return [path for suffix in SUFFIXES if (path := self.root / f"{table}{suffix}").is_file()]

    def truth_items(self) -> AnyPath | None:
        """True attributes; to be read by shoppers, evaluation and the oracle alone."""
        path = self.root / "truth" / "items.parquet"
        return path if path.is_file() else None

    def truth_pictures(self) -> AnyPath | None:
        """Items whose pictures are not theirs; to be read by evaluation alone."""
        path = self.root / "truth" / "pictures.parquet"
        return path if path.is_file() else None

    def truth_requests(self, day: date) -> list[AnyPath]:
        """What each request wanted; to be read by shoppers, evaluation and the oracle alone."""
        return sorted((self.root / "truth" / "requests" / f"dt={day}").glob("*.parquet"))

    def digest_items(self) -> str:
        return self._with_zone(digest_raw_files(self.items(), root=self.root))

    def digest_click_log(self, days: list[date]) -> str:
        return self._with_zone(digest_raw_files([f for day in days for f in self.click_log(day)], root=self.root))

    def _with_zone(self, digest: str) -> str:
        """With the zone, where there is one: a shop whose times say theirs keeps its digests."""
        zone = self.zone
        return digest_json([digest, zone.key]) if zone else digest

    def digest_judgments_and_truth(self, days: list[date]) -> str:
        files = [f for f in (self.judgments(), self.truth_items(), self.truth_pictures()) if f]
        files += [f for day in days for f in self.truth_requests(day)]
        return digest_raw_files(files, root=self.root)


def table_files(folder: AnyPath) -> list[AnyPath]:
    """Files of a table in a folder; what writers leave half-way or beside them (`_…`, `.…`) is none of it."""
    return sorted(f for f in folder.glob("[!._]*") if f.name.endswith(SUFFIXES) and f.is_file())
