"""What is wrong with the pictures that items list: names that lead nowhere, files that are no pictures, pictures that say nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
from PIL import ImageStat

from smar_model.delivery.figures_database import insert
from smar_model.delivery.picture_formats import decode_picture
from smar_model.delivery.picture_stores import UnusablePicture
from smar_model.lake.digests import digest_bytes
from smar_model.settings import Pictures

_LISTED = "(SELECT unnest(images) AS file FROM usable_items)"
_IS_URL = "regexp_matches(file, '^(?i)https?://')"
NAMES = {
    "scheme": ("begin with a scheme that is none", "a URL begins with http:// or https://"),
    "no_scheme": ("are URLs without a scheme", "write https:// before them"),
    "windows_path": ("are paths of Windows", "write the path below pictures/, with / between its parts"),
    "absolute": ("are absolute paths", "a name is a path below pictures/, neither absolute nor with `..`"),
    "climbing": ("climb out of pictures/", "a name is a path below pictures/, neither absolute nor with `..`"),
    "blank": ("are blank", "leave them out"),
    "letter_case": ("are there with other capital letters", "write the name as the file has it"),
    "absent": ("are not there", "deliver them, under these names below pictures/"),
}
"""Kind of a name that leads to no picture → what is said of it, and how to mend it."""
FILES = {
    "empty": ("empty files", "deliver them again"),
    "web_page": ("web pages", "what was fetched is a page, as of an error: fetch the picture itself"),
    "svg": ("SVG drawings", "write them as PNG or JPEG"),
    "damaged": ("cut off or damaged", "copy them again"),
    "no_picture": ("of a kind that is not read", "deliver JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF"),
    "too_large": ("too large", "write them smaller: settings.pictures.maximum_bytes, and 50 million pixels"),
    "missing_file": ("links that lead nowhere, or out of pictures/", "put the files themselves there"),
    "unreadable": ("not readable", "see the rights of the files"),
}
"""Kind of a file that cannot be used → likewise. Others are reasons why a URL could not be fetched."""
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


@dataclass(slots=True)
class PictureFindings:
    """Of the pictures that were opened."""

    opened: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Name or URL → the kind of its fault."""
    contents: dict[str, list[str]] = field(default_factory=dict)
    """Digest → names of the files that have this content."""
    one_colour: list[str] = field(default_factory=list)

    def broken(self) -> dict[str, tuple[int, str]]:
        """Kind → how many, and one of them."""
        kinds: dict[str, tuple[int, str]] = {}
        for name, kind in self.failed.items():
            count, example = kinds.get(kind, (0, name))
            kinds[kind] = (count + 1, example)
        return kinds

    def open(self, names: list[str], read: Callable[[str], bytes], settings: Pictures) -> None:
        """Open a store's pictures."""
        self.opened += len(names)
        for name in names:
            content = b""
            try:
                content = read(name)
                picture = decode_picture(content, (settings.width, settings.height))
            except UnusablePicture as error:
                self.failed[name] = _kind_of(content) if error.reason == "undecodable" else error.reason
            except OSError:
                self.failed[name] = "unreadable"
            else:
                self.contents.setdefault(digest_bytes(content), []).append(name)
                if ImageStat.Stat(picture.convert("L")).stddev[0] < settings.uniform_below:
                    self.one_colour.append(name)


def _kind_of(content: bytes) -> str:
    """What a file is that could not be decoded."""
    start = content[:1_000].lstrip().lower()
    if not content:
        return "empty"
    if b"<svg" in start:
        return "svg"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "web_page"
    return "damaged" if content.startswith(_SIGNATURES) else "no_picture"


@dataclass(frozen=True, slots=True)
class ListedPictures:
    """Names and URLs in `images` of the usable items."""

    database: duckdb.DuckDBPyConnection

    def by_url(self) -> int:
        """How many are URLs."""
        row = self.database.execute(f"SELECT count(*) FROM {_LISTED} WHERE {_IS_URL}").fetchone()
        return row[0] if row else 0

    def lead_nowhere(self, names: Iterator[list[str]]) -> dict[str, tuple[int, str]]:
        """How many of those that are no URLs are not among these names, by kind (of NAMES), and one of each."""
        self.database.execute("CREATE OR REPLACE TEMP TABLE picture_files (file VARCHAR)")
        for some in names:
            insert(self.database, "picture_files", {"file": pa.array(some, pa.string())})
        rows = self.database.execute(
            f"""SELECT
              CASE
                WHEN regexp_matches(file, '^[A-Za-z][A-Za-z0-9+.-]*:/') AND NOT regexp_matches(file, '^[A-Za-z]:') THEN 'scheme'
                WHEN regexp_matches(file, '^//|^(?i)www\\.') THEN 'no_scheme'
                WHEN regexp_matches(file, '^[A-Za-z]:|\\\\') THEN 'windows_path'
                WHEN starts_with(file, '/') THEN 'absolute'
                WHEN regexp_matches(file, '(^|/)\\.\\.(/|$)') THEN 'climbing'
                WHEN trim(file) = '' THEN 'blank'
                WHEN lower(file) IN (SELECT lower(file) FROM picture_files) THEN 'letter_case'
                ELSE 'absent'
              END AS kind, count(*), min(file)
            FROM {_LISTED} WHERE NOT {_IS_URL} AND file NOT IN (SELECT file FROM picture_files) GROUP BY kind ORDER BY kind"""
        ).fetchall()
        return {kind: (count, example) for kind, count, example in rows}

    def sample(self, number: int, *, by_url: bool, there: bool = False) -> list[str]:
        """Some of them, always the same.

        Args:
            there: of those alone that `lead_nowhere` found.
        """
        found = "AND file IN (SELECT file FROM picture_files)" if there else ""
        rows = self.database.execute(
            f"SELECT DISTINCT file FROM {_LISTED} WHERE file IS NOT NULL AND {'' if by_url else 'NOT'} {_IS_URL} {found} "
            f"ORDER BY hash(file), file LIMIT {number}"
        )
        return [file for (file,) in rows.fetchall()]

    def shared(self, bound: int) -> tuple[int, int, str]:
        """Pictures that more than `bound` items list, the most items that list one, and that one's name or URL."""
        row = self.database.execute(
            f"""SELECT count(*), coalesce(max(items), 0), coalesce(arg_max(file, items), '')
            FROM (SELECT file, count(*) AS items FROM {_LISTED} GROUP BY file
                  HAVING count(*) > {bound})"""
        ).fetchone()
        return row or (0, 0, "")
