"""YAML that people write: one reader, which names file and line of whatever is wrong."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from smar_model.errors import InputError

MAXIMUM_BYTES = 1_000_000
MAXIMUM_VALUES = 100_000
"""In a file, counting what an alias stands for each time."""
LARGEST_NUMBER = 10**12
Place = tuple[str | int, ...]
Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and the files and lines on which they stand."""

    source: str
    content: dict[str, Any]
    lines: dict[Place, str] = field(repr=False)
    """Place of a value → `FILE, line N`."""

    def where(self, place: Place) -> str:
        """File, line and dotted name of a value; of one that is not there, the line of what it would stand in."""
        found = (self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines)
        return f"{next(found, self.source)}: {'.'.join(map(str, place)) or '(file)'}"

    def over(self, base: Document) -> Document:
        """This document's values over another's, sections into sections; each value keeps its file and line."""
        return Document(self.source, merged(base.content, self.content), base.lines | self.lines)


def merged(content: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with the values of `change`, sections into sections."""
    both = {
        name: merged(content[name], value) if isinstance(value, dict) and isinstance(content.get(name), dict) else value
        for name, value in change.items()
    }
    return content | both


def read_yaml(path: Path, *, advice: str) -> Document:
    """Read a file whose top level has names.

    Args:
        advice: what to do where there is no such file, or nothing in it.

    Raises:
        InputError: it is missing, no plain file, too large, not UTF-8, not YAML, or has a name twice, a number that is none or beyond
            10^12, half a character, or aliases that stand for too much.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would be waited for
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no plain file'}; name a YAML file")
            content = file.read(MAXIMUM_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; {advice}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; name a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)!r}: cannot be read ({reason}); name a YAML file that you may read") from None
    return document_of(content, source=str(path), advice=advice)


def document_of(content: bytes, *, source: str, advice: str) -> Document:
    """What a file holds, of which no more than a byte above MAXIMUM_BYTES has to be read; as `read_yaml`."""
    if len(content) > MAXIMUM_BYTES:
        raise InputError(f"{source}: larger than {MAXIMUM_BYTES:,} bytes, which no such file is; name another one")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{source}: in UTF-16; save it as UTF-8") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from None
    document = parse_yaml(text, source=source)
    if document is None:
        raise InputError(f"{source}: empty; {advice or 'write it as the files in configs/'}")
    if not isinstance(document.content, dict):
        raise InputError(
            f"{source}: names and their values are asked for at the top level, not a list or a single value"
        )
    return document


def parse_yaml(text: str, *, source: str) -> Document | None:
    """Values of a YAML text, of whatever kind at the top; None where there is nothing in it.

    Raises:
        InputError: as `read_yaml`.
    """
    lines: dict[Place, str] = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _require_bounded(node, source)
            for place, inner in _nodes(node, source):
                lines.setdefault(place, f"{source}, line {inner.start_mark.line + 1}")
                if isinstance(inner, yaml.ScalarNode):
                    _check_scalar(loader, inner, source)
            return Document(source, loader.construct_document(node), lines)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, int(error.position)) + 1
        raise InputError(
            f"{source}, line {number}: not valid YAML: character U+{int(error.character):04X} may not stand there"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{source}{line}: not valid YAML: {said}; correct the line") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply; write it as the files in configs/") from None


def _require_bounded(node: yaml.Node, source: str) -> None:
    """Refuses aliases that stand for themselves, or together for more values than anybody writes."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MAXIMUM_VALUES + 1  # while it is counted: what holds itself has no end
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
        if sizes[id(node)] > MAXIMUM_VALUES:
            line = node.start_mark.line + 1
            raise InputError(
                f"{source}, line {line}: aliases that stand for over {MAXIMUM_VALUES:,} values; write them out"
            )
        return sizes[id(node)]

    size(node)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from (name, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _nodes(node: yaml.Node, source: str, place: Place = ()) -> Iterator[tuple[Place, yaml.Node]]:
    """Each value with its place; refuses a name that stands twice in one section."""
    if place:
        yield place, node
    if isinstance(node, yaml.MappingNode):
        met: dict[tuple[str, str], int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise InputError(f"{source}, line {line}: a name is asked for, not a list or section")
            if (name.tag, name.value) in met:
                first = met[name.tag, name.value]
                raise InputError(
                    f"{source}, line {line}: {name.value!r} stands there twice, first in line {first}; keep one"
                )
            met[name.tag, name.value] = line
            yield (*place, name.value), name
            yield from _nodes(value, source, (*place, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _nodes(value, source, (*place, number))


def _check_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, source: str) -> None:
    where = f"{source}, line {node.start_mark.line + 1}"
    if node.tag.endswith((":merge", ":value")):  # `<<` and `=`
        return
    shown = node.value if len(node.value) <= 40 else f"{node.value[:40]}…"
    try:
        value = loader.construct_object(node)
    except ValueError:  # 2026-02-30, or 10,000 digits
        raise InputError(f"{where}: {shown!r} is no number, and no date that there is; correct it") from None
    if problem := problem_of(value):
        raise InputError(f"{where}: {problem}")


def problem_of(value: Any) -> str | None:
    """What is wrong with a text or number wherever it may stand, and what to do."""
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            return "half a character (a lone surrogate such as \\ud800) in a text; write the character itself"
        if "\0" in value:
            return "a NUL character in a text; take it out"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number to work with; write a finite one"
    if isinstance(value, int | float) and abs(value) > LARGEST_NUMBER:
        return "a number beyond 10^12; write a smaller one"
    return None


def validated(
    validate: Callable[[Any], Kind], document: Document, words: Callable[[ErrorDetails], str] = itemgetter("msg")
) -> Kind:
    """What `model_validate` makes of a document.

    Args:
        words: what is said of a fault; unset, Pydantic's own.

    Raises:
        InputError: something in it is unknown or out of its bounds: one line that names all of that by file, line and name.
    """
    try:
        valid = validate(document.content)
    except ValidationError as error:
        raise InputError(describe_faults(error, document, words)) from None
    # Numbers that YAML takes for texts: 1e30, nan.
    for place, value in values_in(valid.model_dump()):
        if problem := problem_of(value):
            raise InputError(f"{document.where(place)}: {problem}")
    return valid


def values_in(content: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Each value, and each name of a section, with its place."""
    if isinstance(content, dict | list | tuple):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield (*place, name), name
            yield from values_in(value, (*place, name))
    else:
        yield place, content


def describe_faults(
    error: ValidationError, document: Document, words: Callable[[ErrorDetails], str] = itemgetter("msg")
) -> str:
    """One line that names each fault by its place."""
    return "; ".join(f"{document.where(tuple(e['loc']))}: {words(e)}" for e in error.errors(include_url=False))
