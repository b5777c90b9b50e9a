"""A shop's click log while a source writes into it: one file a day and delivery, and what they take the place of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq

from smar_model.errors import InputError
from smar_model.shop.table_files import TableFile

MOST_FILES = 800
"""Files that an import writes: more days are times read wrongly, and more files than may be open at once."""
TRACKERS = ("ubi", "ga4")
"""Sources of logs with the shop's own ids."""
_SAME_EVENT = ("event_time", "request_id", "event", "item_id")
LEAST_SHARE = 0.5
"""Of the events that a log's day had before: an import with fewer has probably not been given all of the day's files."""


def simulated_log(root: Path, day: date) -> Path:
    """The file with a day's events of simulated shoppers."""
    return root / "click_log" / f"dt={day}" / "part-0.parquet"


def files_not_served(day: Path) -> list[Path]:
    """Files of a day's folder but those of `smar serve --log`, which may lie beside any other log: what it served is no other's click."""
    return sorted(f for f in day.glob("[!._]*") if not (f.name.startswith("smar-") and ".jsonl" in f.suffixes))


@dataclass(slots=True, kw_only=True)
class Replaced:
    """What gives way to a log."""

    files: list[Path] = field(default_factory=list)
    """To be removed: no file of the new log has their name."""
    before: int = 0
    """Events that this source had brought of the same days or deliveries."""
    after: int = 0
    """Events that take their place."""


class LogFiles:
    def __init__(self, root: Path, folder: Path, source: str, *, own: bool, replace_others: bool) -> None:
        """Write below `folder` what will lie below `root`; `own` and `replace_others` as for `ShopWriter`."""
        self._root, self._folder, self._source = root, folder, source
        self._own, self._replace_others = own, replace_others
        self._files: dict[tuple[date, str], TableFile] = {}

    def __iter__(self) -> Iterator[TableFile]:
        return iter(self._files.values())

    @property
    def days(self) -> set[date]:
        return {day for day, _ in self._files}

    def written(self) -> dict[Path, int]:
        """Places in the shop, with their number of events."""
        return {self._root / table.path.relative_to(self._folder): table.rows for table in self}

    def of(self, day: date, delivery: str | None) -> TableFile:
        """The file of a day, or of a delivery's part in it.

        Raises:
            InputError: another source of the shop's own has brought a log of the same day; or there are over MOST_FILES files.
        """
        name = f"{self._source}-{delivery}.parquet" if delivery else f"{self._source}.parquet"
        if (day, name) not in self._files:
            self._refuse_strange(day)
            self._files[day, name] = TableFile(self._folder / "click_log" / f"dt={day}" / name, "click_log")
        return self._files[day, name]

    def _refuse_strange(self, day: date) -> None:
        if len(self._files) >= MOST_FILES:
            raise InputError(
                f"{self._source}: events of over {MOST_FILES} days ({min(self.days)} and {day} among them); "
                "correct their times, or import fewer days at once"
            )
        strangers = self._strangers(self._root / "click_log" / f"dt={day}")
        if strangers and not self._replace_others:
            raise InputError(
                f"{strangers[0]}: this day's log is there already, from elsewhere; two logs of one day count each click twice: "
                "import into another folder, or put this one in its place with --replace"
            )

    def replaced(self, *, whole: bool) -> Replaced:
        """What gives way; `whole`: all that a source which is not the shop's own had brought.

        Raises:
            InputError: a log of the shop's own would give way to one with far fewer events.
        """
        written = self.written()
        strangers = [file for day in {file.parent for file in written} for file in self._strangers(day)]
        if not self._own:
            mine = self._root.glob(f"click_log/dt=*/{self._source}.parquet")
            return Replaced(files=[*(file for file in mine if whole and file not in written), *strangers])
        deliveries = {name for _, name in self._files} - {f"{self._source}.parquet"}
        moved = [
            f for name in sorted(deliveries) for f in self._root.glob(f"click_log/dt=*/{name}") if f not in written
        ]
        self._refuse_doubled({*written, *moved})
        before: Counter[str] = Counter()
        after: Counter[str] = Counter()
        for file in (*(file for file in written if file.is_file()), *moved):
            before[_part(file, deliveries)] += pq.read_metadata(file).num_rows
        for file, rows in written.items():
            after[_part(file, deliveries)] += rows
        for part, count in sorted(before.items()):
            if after[part] < LEAST_SHARE * count and not self._replace_others:
                raise InputError(
                    f"{self._root / 'click_log'}: of {part} it has {count:,} events, and these files have {after[part]:,}; "
                    "give all files of a day in one command, or replace them nevertheless with --replace"
                )
        return Replaced(files=[*moved, *strangers], before=before.total(), after=sum(after[part] for part in before))

    def _refuse_doubled(self, given: set[Path]) -> None:
        """Raises InputError where a delivery that stays has the same events, as where these came without their date before."""
        for (day, name), table in self._files.items():
            place = self._root / "click_log" / f"dt={day}"
            for other in place.glob(f"{self._source}-*.parquet"):
                if other in given or not table.rows:
                    continue
                mine, theirs = (pq.read_table(file, columns=list(_SAME_EVENT)) for file in (table.path, other))
                if count := mine.join(theirs, list(_SAME_EVENT), join_type="left semi").num_rows:
                    raise InputError(
                        f"{other}: has {count:,} of the events that these files bring as {Path(name).stem}; an event is of one "
                        "day's table: give the tables of both days in one command"
                    )

    def _strangers(self, day: Path) -> list[Path]:
        """Files of a day's folder that tell of the same clicks: for a log with the shop's own ids, all but its own; for
        another, which may share the shop with logs of other shops, those of trackers.
        """
        there = [file for file in self._of_day(day) if not self._mine(file)]
        return there if self._own else [file for file in there if file.stem.partition("-")[0] in TRACKERS]

    def _mine(self, file: Path) -> bool:
        return file.name == f"{self._source}.parquet" or file.name.startswith(f"{self._source}-")

    @staticmethod
    def _of_day(folder: Path) -> list[Path]:
        return sorted(folder.glob("[!._]*"))


def _part(file: Path, deliveries: set[str]) -> str:
    """What of a log is replaced as a whole: a delivery, or a day."""
    return file.stem if file.name in deliveries else file.parent.name.removeprefix("dt=")
