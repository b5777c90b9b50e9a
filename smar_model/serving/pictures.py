"""Pictures for people to look at: from where the shop keeps them, made small, always as JPEG."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache

from PIL import Image, ImageOps

from smar_model.lake.picture_formats import FORMATS
from smar_model.lake.picture_stores import NO_SUCH_PICTURE, UnusablePicture, fetched_folder, fetched_path, is_url
from smar_model.lake.shop_inputs import ShopInputs
from smar_model.settings import Settings

SIDE = 320
"""Longest side in pixels."""
MAXIMUM_PIXELS = 100_000_000
"""Told from the header: more is not decoded."""
KEPT = 4_096
"""Small pictures in memory, about 10 kB each."""


class SmallPictures:
    """Pictures of a shop by the names that its catalogue has for them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = ExitStack()
        self._read_named: Callable[[str], bytes] | None = None
        self._lock = threading.Lock()
        self.read = lru_cache(maxsize=KEPT)(self._read)

    def _read(self, name: str) -> bytes:
        """JPEG of at most SIDE pixels a side; a picture named by URL is there if the pipeline has fetched it, none is fetched here.

        Raises:
            UnusablePicture: there is none of this name, or it is too large or no picture.
            InputError: the shop's pictures cannot be opened.
        """
        content = self._content(name)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAXIMUM_PIXELS:
                    raise UnusablePicture("too_large", f"{image.width} × {image.height} pixels")
                image.draft("RGB", (SIDE, SIDE))
                image.load()
                upright = ImageOps.exif_transpose(image)
                upright.thumbnail((SIDE, SIDE))
                layer = upright.convert("RGBA")
        except UnusablePicture:
            raise
        except Exception as error:  # decoders fail in many ways, all of them the picture's fault
            raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}") from error
        white = Image.new("RGBA", layer.size, "white")
        small = io.BytesIO()
        Image.alpha_composite(white, layer).convert("RGB").save(small, "JPEG", quality=88)
        return small.getvalue()

    def _content(self, name: str) -> bytes:
        limit = self._settings.pictures.maximum_bytes
        if is_url(name):
            path = fetched_path(fetched_folder(), name)
            if not path.is_file():
                raise UnusablePicture("missing_file", NO_SUCH_PICTURE)
            if path.stat().st_size > limit:
                raise UnusablePicture("too_large", "more than settings.pictures.maximum_bytes")
            return path.read_bytes()
        with self._lock:
            if self._read_named is None:
                store = ShopInputs.of(self._settings).pictures()
                self._read_named = self._opened.enter_context(store.opened(maximum_bytes=limit))
        return self._read_named(name)

    def close(self) -> None:
        self._opened.close()
