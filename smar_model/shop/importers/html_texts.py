"""HTML in texts that shoppers read: tags that editors and plug-ins leave in titles."""

from __future__ import annotations

import re

PARTING = ("br", "p", "div", "li", "ul", "ol", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "tr", "td")
"""Elements that part words."""
INLINE = (
    "b",
    "strong",
    "i",
    "em",
    "u",
    "s",
    "span",
    "font",
    "small",
    "big",
    "sup",
    "sub",
    "a",
    "img",
    "mark",
    "center",
)
HTML_TAGS = frozenset((*PARTING, *INLINE))
_TAG = re.compile(rf"</?({'|'.join(sorted(HTML_TAGS, key=len, reverse=True))})(?:\s[^<>]{{0,2000}})?/?>", re.IGNORECASE)


def without_tags(text: str) -> str:
    """The text without HTML's tags; `<5 m>` and other signs stay."""
    if "<" not in text:
        return text
    return _TAG.sub(lambda tag: " " if tag[1].lower() in PARTING else "", text)
