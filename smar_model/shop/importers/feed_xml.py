"""Entries of a product feed in XML (RSS 2.0, Atom), one at a time, without entities, document types or anything external.

Memory holds one entry, of LONGEST_ENTRY bytes at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, iterparse

from smar_model.errors import InputError
from smar_model.shop.importers.feed_tables import FeedRow
from smar_model.shop.importers.html_texts import HTML_TAGS
from smar_model.shop.importers.text_files import UTF8, bad_row

LONGEST_ENTRY = 4 * 2**20
"""Bytes from the end of an entry to the end of the next."""
DEEPEST = 40
"""Elements in each other; feeds have six."""
_ENTRIES = {"item", "entry"}
_FEEDS = {"rss", "feed", "rdf", "channel"}
_ENCODING = re.compile(rb"""\s*(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_ONE_BYTE = re.compile(rb"iso-?8859-?\d+|latin-?\d|windows-?\d+|cp\d+|us-ascii|ascii", re.IGNORECASE)
_GOOGLE = "base.google.com/ns"


def xml_entries(name: str, file: Path, note: Callable[[str], None]) -> Iterator[tuple[str, FeedRow]]:
    """Entries with where they stand, by their number: field → its texts, those of Google's namespace first.

    Args:
        note: is told of an encoding that is another than the file says.

    Raises:
        InputError: the file is no feed or no well-formed XML, has a document type or entities, is nested too deeply, or has an
            entry, or something between them, of over LONGEST_ENTRY bytes.
    """
    with file.open("rb") as raw:
        source = _Bounded(name, raw)
        open_elements: list[Element] = []
        number = 0
        root = ""
        encoding = _encoding_against_its_declaration(name, file, note)
        parser = DefusedXMLParser(target=TreeBuilder(), encoding=encoding, forbid_dtd=True)
        try:
            for event, element in iterparse(source, events=("start", "end"), parser=parser):
                if event == "start":
                    root = root or _local(element)
                    open_elements.append(element)
                    if len(open_elements) > DEEPEST:
                        raise InputError(
                            f"{name}: elements nested over {DEEPEST} deep, which no feed has; export it again"
                        )
                    continue
                open_elements.pop()
                inside = any(_local(parent) in _ENTRIES for parent in open_elements)
                if not inside and _local(element) in _ENTRIES:
                    number += 1
                    yield f"{name} entry {number}", _fields(element)
                    source.begin_entry()
                if not inside and open_elements:
                    open_elements[-1].remove(element)
        except InputError:
            raise
        except DefusedXmlException:
            raise InputError(
                f"{name}: has a document type or entities, which are never followed and no feed needs; export it without them"
            ) from None
        except ParseError as error:
            raise InputError(_not_well_formed(name, file, error)) from None
        except (LookupError, ValueError) as error:  # an encoding that is not known, or its bytes
            raise InputError(f"{name}: cannot be read as XML ({error}); export it in UTF-8") from None
    if not number and root not in _FEEDS:
        raise InputError(
            f"{name}: XML of <{root[:40]}> without an <item> or <entry>; expected is a product feed as Google Merchant "
            "Center takes it, RSS 2.0 (<rss>) or Atom (<feed>)"
        )


def _encoding_against_its_declaration(name: str, file: Path, note: Callable[[str], None]) -> str | None:
    """UTF-8, where a file says that it is of one byte a letter, but is UTF-8 with letters outside ASCII."""
    with file.open("rb") as raw:
        declared = _ENCODING.match(raw.read(200))
        if not declared or not _ONE_BYTE.fullmatch(declared[1]):
            return None
        raw.seek(0)
        if all(block.isascii() for block in iter(partial(raw.read, 2**20), b"")) or bad_row(file, UTF8) is not None:
            return None
    note(f"{name}: read as UTF-8, which it is, although it says {declared[1].decode()}")
    return "utf-8"


def _not_well_formed(name: str, file: Path, error: ParseError) -> str:
    with file.open("rb") as raw:
        start = raw.read(200)
    declared = _ENCODING.match(start)
    says_utf8 = not start.startswith((b"\xff\xfe", b"\xfe\xff")) and (not declared or declared[1].lower() == b"utf-8")
    if says_utf8 and (row := bad_row(file, UTF8)) is not None:
        return (
            f"{name} row {row}: not UTF-8, which XML is unless its first line says otherwise; export it in UTF-8, or write "
            'encoding="windows-1252" there if it is that'
        )
    return f"{name}: not well-formed XML ({error}); export it again"


def _fields(entry: Element) -> FeedRow:
    fields: FeedRow = {}
    for child in sorted(entry, key=lambda child: _GOOGLE not in child.tag.partition("}")[0]):
        if text := _text_of(child).strip():
            fields.setdefault(_local(child), []).append(text)
    return fields


def _text_of(element: Element) -> str:
    """All text inside; HTML's tags in it are written out again, as they stand in a CDATA section."""
    parts = [element.text or ""]
    for child in element:
        name = _local(child)
        inner = _text_of(child)
        parts.append(f"<{name}>{inner}</{name}>" if name in HTML_TAGS else inner)
        parts.append(child.tail or "")
    return "".join(parts)


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2].lower().replace("-", "_")


class _Bounded:
    """A file whose reader may not go further than LONGEST_ENTRY without an entry's end."""

    def __init__(self, name: str, raw: IO[bytes]) -> None:
        self._name, self._raw, self._since = name, raw, 0

    def begin_entry(self) -> None:
        self._since = 0

    def read(self, size: int = -1) -> bytes:
        if self._since > LONGEST_ENTRY:
            raise InputError(
                f"{self._name}: over {LONGEST_ENTRY:,} bytes without the end of an entry; is it a product feed?"
            )
        content = self._raw.read(min(size, 2**16) if size > 0 else 2**16)
        self._since += len(content)
        return content
