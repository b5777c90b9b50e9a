"""Small JSON files by which commands find each other's work: read with their form, so that a damaged one is named and not met half-way."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from smar_model.errors import InputError

OPEN = ConfigDict(extra="allow", strict=True)
"""For the TypedDict of a record's form: keys that it does not name are kept, as a later version may have written them."""


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


IsoTime = Annotated[str, AfterValidator(_iso_time)]


class DamagedRecord(InputError):
    """A record that is cut, no JSON, not UTF-8, or of another form than its kind has."""

    def __init__(self, path: Path | str, why: str, what_to_do: str) -> None:
        super().__init__(f"{path}: damaged ({why}); {what_to_do}")
        self.path, self.why = path, why


def parse_record(content: bytes, form: TypeAdapter[Any], *, path: Path | str, what_to_do: str) -> Any:
    """A record's values.

    Raises:
        DamagedRecord: it has not this form; what to do is part of the message.
        InputError: what one of the form's own validators refuses so, which knows the path as its context.
    """
    if not content.strip(b" \t\r\n\0"):
        raise DamagedRecord(path, "empty", what_to_do)
    try:
        return form.validate_json(content, context=path)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if isinstance(refused := first.get("ctx", {}).get("error"), InputError):
            raise refused from None
        place = ".".join(str(part) for part in first["loc"])
        raise DamagedRecord(path, f"{place}: {first['msg']}" if place else first["msg"], what_to_do) from None


_said: set[str] = set()


def say_once(line: str) -> None:
    """Print a line on standard error, unless this process has done so already."""
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr, flush=True)


_OBJECT = TypeAdapter(dict[str, Any])


def read_lines(file: Path, *, needs: set[str]) -> list[dict[str, Any]]:
    """Figures that a process wrote line by line, an object each; what is torn or damaged is passed over, which is said."""
    figures = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            values = _OBJECT.validate_json(line)
        except ValidationError:
            values = {}
        if needs <= values.keys():
            figures.append(values)
        else:
            say_once(f"{file}: line {number} is damaged, and left out of the curves")
    return figures
