"""How long a test waits for something that must come: far longer than the slowest machine needs, so that none fails for want of speed."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 1_800.0
"""For one command or one state. A tiny daily run takes one minute on two quiet cores."""


def wait_until(
    condition: Callable[[], object],
    *,
    still_possible: Callable[[], object] = lambda: True,
    says: Callable[[], str] = lambda: "it did not come about",
) -> None:
    """Wait for a state.

    Args:
        still_possible: whether it can come about at all, such as that a process lives.
        says: what to print where it does not.

    Raises:
        AssertionError: it cannot come about any more, or has not after PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        # Once more: what ended the process may be what we wait for.
        assert (still_possible() and time.monotonic() < deadline) or condition(), says()
        time.sleep(0.05)
