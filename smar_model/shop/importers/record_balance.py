"""What became of each record of a log: added, used for others, or left out for a reason; nothing goes uncounted."""

from __future__ import annotations

from collections import Counter

from smar_model.shop.shop_writer import ShopWriter

MOST_REASONS = 40
"""Reasons of which a log's own words are a part, such as the names of its actions."""


class RecordBalance:
    def __init__(self, writer: ShopWriter) -> None:
        self._writer = writer
        self._read: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._named_reasons: set[str] = set()

    def read(self, kind: str, count: int = 1) -> None:
        self._read[kind] += count

    def use(self, kind: str, count: int = 1) -> None:
        self._used[kind] += count

    def leave_out(self, kind: str, reason: str, where: str, count: int = 1) -> None:
        self._left_out[kind] += count
        self._writer.leave_out(reason, where, count=count)

    def leave_out_named(
        self, kind: str, reason: str, name: str, where: str, *, else_reason: str, count: int = 1
    ) -> None:
        """Leave out for a reason that has a word of the log in it, in the place of `{}`; where there are too many such
        words, for another reason.
        """
        if name not in self._named_reasons and len(self._named_reasons) < MOST_REASONS:
            self._named_reasons.add(name)
        known = name in self._named_reasons
        self.leave_out(kind, reason.format(repr(name)) if known else else_reason, where, count)

    def line(self, verbs: dict[str, str]) -> str:
        """The balance; `verbs` says for each kind what becomes of those that are used, as in {"events": "added"}."""
        for kind, count in self._read.items():
            assert count == self._used[kind] + self._left_out[kind], f"{kind}: {count} are not all accounted for"
        parts = [
            f"{self._read[kind]:,} {kind} ({self._used[kind]:,} {verb}, {self._left_out[kind]:,} left out)"
            for kind, verb in verbs.items()
            if self._read[kind]
        ]
        return f"records: {self._read.total():,} read: {', '.join(parts)}"
