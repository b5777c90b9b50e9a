"""Passwords and keys inside URLs: masked wherever a text is shown or recorded, refused in settings.

Masked: the password of `scheme://user:password@host`, and what stands behind names such as `secret_key=`, `sig=` or `X-Amz-Signature=`
in a query or a text of its own. A user alone (`postgresql://mlflow@host/db`) is no secret. Percent-encoded forms count as plain ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"
_COLON, _SLASH, _AT = r"(?::|%(?:25){0,3}3A)", r"(?:/|%(?:25){0,3}2F)", r"(?:@|%(?:25){0,3}40)"
_END = r"\s'\"<>`"
_PASSWORD = re.compile(
    # Up to the last @: people forget to encode a slash or an @ in a password. Digits and a slash are a port, [ begins an address.
    rf"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]{{0,30}}{_COLON}{_SLASH}{{1,3}}(?:(?!{_COLON}|{_SLASH}|{_AT})[^{_END}?#\[]){{0,300}}{_COLON})"
    rf"(?!\d{{1,5}}(?:{_SLASH}|[?#]))[^{_END}]{{1,4000}}(?={_AT})",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    rf"(^|[?&;#\s]|%(?:25){{0,3}}(?:3F|26|3B|23))([^{_END}?&;#=]{{1,100}}?)(=|%(?:25){{0,3}}3D)([^{_END}&;#]+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"secret|passw(?:or)?d|token|signature|credential|api[-_.]?key|access[-_.]?key|account[-_.]?key|private[-_.]?key"
    r"|^(?:sig|pwd|pass|pw|key|auth|jwt|sas)$",
    re.IGNORECASE,
)
_SECRET_OPTION = re.compile(
    # Some name an account or a host behind it.
    r"(?:secret|passw(?:or)?d|[._-]pass|(?:secret|access|account|private|encryption)[-_.]?key|token|[._-]sas)(?:\..*)?$",
    re.I,
)


def mask_secrets(text: str) -> str:
    """The text with `***` in the place of each password and key inside a URL."""
    return _PARAMETER.sub(_mask_parameter, _PASSWORD.sub(rf"\g<1>{MASK}", text))


def _mask_parameter(found: re.Match[str]) -> str:
    mark, name, equals, _ = found.groups()
    plain = name
    while (decoded := unquote(plain)) != plain:
        plain = decoded
    return f"{mark}{name}{equals}{MASK}" if _SECRET_NAME.search(plain) else found[0]


def secrets_in(content: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in plain values (of a YAML or JSON file) a URL holds a password or key, or an option is one by its name."""
    if isinstance(content, dict):
        for name, value in content.items():
            if (
                isinstance(name, str)
                and isinstance(value, str | int)
                and value
                and _SECRET_OPTION.search(name)
                and "." in name
            ):
                yield (*place, name)
            else:
                yield from secrets_in(value, (*place, name))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from secrets_in(value, (*place, number))
    elif isinstance(content, str) and (mask_secrets(content) != content or _has_password(content)):
        yield place


def _has_password(url: str) -> bool:
    """Also one with quotes or spaces, at which a URL within a text would end."""
    try:
        return "://" in url and bool(urlsplit(url).password)
    except ValueError:
        return False
