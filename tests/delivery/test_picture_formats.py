"""What a picture may cost is told before it is decoded."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from smar_model.delivery.picture_formats import MAXIMUM_SCANS, decode_picture
from smar_model.delivery.picture_stores import UnusablePicture


def progressive(scans: int) -> bytes:
    """A JPEG of so many scans: its last one, again and again."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last, end = content.rindex(b"\xff\xda"), len(content) - 2
    return content[:end] + content[last:end] * (scans - content.count(b"\xff\xda")) + content[end:]


def test_scans_of_a_progressive_jpeg_are_counted_before_any_is_decoded() -> None:
    assert decode_picture(progressive(MAXIMUM_SCANS), (32, 32)).size == (32, 32)
    with pytest.raises(UnusablePicture, match="101 scans, more than 100"):
        decode_picture(progressive(MAXIMUM_SCANS + 1), (32, 32))
