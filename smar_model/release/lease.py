"""One writer at a time for the registry: a lock beside the lake, held on a lease (design, decision 4).

MLflow has no compare-and-swap, so whoever moves an alias holds this lock.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from smar_model.lake.lease import Lease, leased
from smar_model.release.history import registry_lock

LEASE_SECONDS = 600.0
"""Longer than checking that a version loads and answers; a holder that needs more has lost the lock."""
WAIT_SECONDS = LEASE_SECONDS + 60
"""So that a holder that died and cannot be asked for, as its container was restarted, stops nobody."""


def registry_lease(
    *, purpose: str, lease_seconds: float = LEASE_SECONDS, wait_seconds: float = WAIT_SECONDS
) -> AbstractContextManager[Lease]:
    """Hold the registry's lock, after waiting for it if need be.

    Raises:
        NoAnswer: somebody else held it all the time that we waited.
    """
    return leased(registry_lock(), purpose=purpose, lease_seconds=lease_seconds, wait_seconds=wait_seconds)
