"""Which formats of pictures are read, wherever pictures are read."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, features

from smar_model.lake.picture_stores import UnusablePicture

FORMATS = ("JPEG", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else []), "GIF", "BMP", "TIFF")
ACCEPT = ", ".join(f"image/{name.lower()}" for name in FORMATS)
"""Header of a request for a picture: no `image/*`, which would let a host choose a format that is not read."""
MAXIMUM_PIXELS = 50_000_000


def require_picture(content: bytes) -> None:
    """Decode a picture's file, as small as its format allows.

    Raises:
        UnusablePicture: `too_large` (over MAXIMUM_PIXELS, told from the header) or `undecodable`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAXIMUM_PIXELS:
                raise UnusablePicture("too_large", f"{image.width} × {image.height} pixels")
            image.draft(None, (1, 1))
            image.load()
    except UnusablePicture:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePicture("too_large", str(error)) from error
    except Exception as error:  # decoders meet arbitrary bytes and raise nearly anything
        raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}") from error


def is_picture(path: Path) -> bool:
    """Whether a file is there and begins as a picture does; 0.03 ms, as the pixels are not decoded."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # as in `require_picture`
        return False
