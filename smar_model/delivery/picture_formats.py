"""Which formats of pictures are read, wherever pictures are read."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError, features

from smar_model.delivery.picture_stores import UnusablePicture

FORMATS = ("JPEG", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else []), "GIF", "BMP", "TIFF")
ACCEPT = ", ".join(f"image/{name.lower()}" for name in FORMATS)
"""Header of a request for a picture: no `image/*`, which would let a host choose a format that is not read."""
MAXIMUM_PIXELS = 50_000_000
MAXIMUM_SCANS = 100
"""Of a progressive JPEG, which has about ten: each is a pass over all pixels, for as little as 42 bytes."""


def decode_picture(content: bytes, size: tuple[int, int]) -> Image.Image:
    """Decode a picture's file: upright, RGB, on white, as large as fits into `size` (width, height; pixels).

    Raises:
        UnusablePicture: `too_large` (over MAXIMUM_PIXELS, told from the header) or `undecodable`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAXIMUM_PIXELS:
                raise UnusablePicture("too_large", f"{image.width} × {image.height} pixels")
            refuse_endless(image, content)
            # JPEG files are decoded at a fraction of their size, at least twice the thumbnail's.
            image.draft(None, (2 * max(size), 2 * max(size)))
            return ImageOps.contain(_to_rgb(ImageOps.exif_transpose(image)), size, method=Image.Resampling.LANCZOS)
    except UnusablePicture:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePicture("too_large", str(error)) from error
    except UnidentifiedImageError as error:  # whose text has an address in memory: no two outputs would be alike
        raise UnusablePicture("undecodable", f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
    except Exception as error:  # decoders meet arbitrary bytes and raise nearly anything
        raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}") from error


def refuse_endless(image: Image.Image, content: bytes) -> None:
    """Told before anything is decoded: no bound on bytes or pixels bounds the time that a JPEG's scans take.

    Raises:
        UnusablePicture: `undecodable`, over MAXIMUM_SCANS.
    """
    if image.format in {"JPEG", "MPO"} and (scans := content.count(b"\xff\xda")) > MAXIMUM_SCANS:
        raise UnusablePicture("undecodable", f"{scans:,} scans, more than {MAXIMUM_SCANS}")


def is_picture(path: Path) -> bool:
    """Whether a file is there and begins as a picture does; 0.03 ms, as the pixels are not decoded."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # as in `decode_picture`
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would cut off what is lighter than 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("I", "F"):
        raise UnusablePicture("undecodable", f"32-bit pixels (mode {image.mode}), whose white is not agreed on")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
