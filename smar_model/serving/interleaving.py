"""`smar serve --interleave`: a share of the users gets lists of two versions, interleaved (`team_draft.py`).

Who is among them is a hash of the user, the same on every server and day. A user of the share for whom one of the two versions is not open
gets the champion's list as everybody else, which is counted and told by `/readyz`.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256

from prometheus_client import CollectorRegistry, Counter

from smar_model.errors import InputError
from smar_model.serving.api_schemas import CHALLENGER, CHAMPION, BatchQuestion
from smar_model.serving.follower import Follower, NotServed
from smar_model.serving.served_pair import ServedPair

log = logging.getLogger("smar.serving")

BEING_OPENED = "is being opened"
_NAMES = re.compile(rf"({CHAMPION}|{CHALLENGER}|[0-9]{{1,9}}):({CHAMPION}|{CHALLENGER}|[0-9]{{1,9}})")


def parse_names(text: str) -> tuple[str, str]:
    """Names of the two versions that `--interleave` says: the first is team champion, the second team challenger.

    Raises:
        InputError: it does not say two different ones.
    """
    match = _NAMES.fullmatch(text)
    names = [str(int(name)) if name.isdigit() else name for name in (match.groups() if match else ())]
    if len(set(names)) < 2:
        raise InputError(
            f"--interleave {text}: two different versions are interleaved; write champion:challenger, or their numbers as 3:5"
        )
    return names[0], names[1]


class Interleaving:
    """Which requests are interleaved, and by what."""

    def __init__(self, names: tuple[str, str], share: float, follower: Follower, registry: CollectorRegistry) -> None:
        """Raises InputError: the follower may not keep as many versions."""
        if follower.others_kept < len({*names} - {CHAMPION}):
            raise InputError(
                f"--interleave {':'.join(names)}: needs the versions in memory; --others {len({*names} - {CHAMPION})} at least"
            )
        self.names, self.share, self._follower = names, share, follower
        self._opener = ThreadPoolExecutor(1, "open-interleaved")
        self._opening: Future[ServedPair] | None = None
        self._said = ""
        self.interleaved = Counter(
            "smar_interleaved_requests", "Queries answered by interleaved lists.", registry=registry
        )
        self.not_interleaved = Counter(
            "smar_not_interleaved_requests",
            "Queries of users of the share that one version answered, as the other could not.",
            registry=registry,
        )

    def stop(self) -> None:
        self._opener.shutdown(wait=False, cancel_futures=True)

    def asks(self, question: BatchQuestion) -> bool:
        """Whether a question may be interleaved: it asks for nothing but what shoppers get."""
        return question.version == CHAMPION and question.routing is None and question.log

    def includes(self, shopper: str) -> bool:
        """Whether a shopper (a user, or the request of none) is of the share."""
        digest = sha256(f"smar interleaving\0{shopper}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64

    def pairs(self) -> tuple[ServedPair, ServedPair] | None:
        """Both pairs where they are open; else they are being opened when this returns. It never waits."""
        found = self._look()
        return None if isinstance(found, str) else found

    def problem(self) -> str | None:
        """Why nothing is interleaved now; None where all is well."""
        found = self._look()
        return found if isinstance(found, str) else None

    def _look(self) -> tuple[ServedPair, ServedPair] | str:
        found = self._found()
        said = found if isinstance(found, str) else ""
        if said and said != self._said and BEING_OPENED not in said:
            log.warning(said)
        self._said = said  # once, not at every question
        return found

    def _found(self) -> tuple[ServedPair, ServedPair] | str:
        pairs, why = [], ""
        for name in self.names:
            try:
                pointer = self._follower.resolved(name)
            except NotServed as error:
                view = self._follower.view
                nobody = name == CHALLENGER and view is not None and CHALLENGER not in view.aliases
                why = "no challenger waits" if nobody else str(error)
                break
            pair = self._follower.opened(pointer)
            if pair is None:
                why = self._open(name, pointer)
                break
            pairs.append(pair)
        if len(pairs) == 2:
            first, second = pairs
            if (first.version, first.index_digest) != (second.version, second.index_digest):
                return first, second
            why = f"both are version {first.version}"
        return f"--interleave {':'.join(self.names)}: {why}; users of the share get the champion's lists"

    def _open(self, name: str, pointer: tuple[str, str | None]) -> str:
        """Have a pair opened, unless one is being opened; returns what to say meanwhile."""
        failed = ""
        if self._opening is None or self._opening.done():
            error = self._opening.exception() if self._opening and not self._opening.cancelled() else None
            failed = str(error or "")
            self._opening = self._opener.submit(self._follower.open, pointer)
        return failed or f"{name} {BEING_OPENED}"
