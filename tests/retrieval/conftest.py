"""What the tests of embedding and indexing on several machines have in common."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.s3_server import BUCKET, running_s3


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lake of its own in an object store, which every home folder then reads and writes."""
    with running_s3() as variables:
        for name, value in (variables | {"SMAR_STORE": f"s3://{BUCKET}/{uuid.uuid4().hex}"}).items():
            monkeypatch.setenv(name, value)
        yield
