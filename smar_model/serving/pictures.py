"""Pictures for people to look at: from where the shop keeps them, made small, always as JPEG.

What was read once is looked at again: small pictures are kept for minutes, failures for seconds, and neither beyond a change of the folder or
zip that they came from.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from cachetools import TTLCache
from PIL import Image, ImageOps

from smar_model.delivery.picture_formats import FORMATS, refuse_endless
from smar_model.delivery.picture_stores import NO_SUCH_PICTURE, UnusablePicture, fetched_folder, fetched_path, is_url
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError, NoAnswer
from smar_model.lake.object_paths import AnyPath, ObjectPath
from smar_model.settings import Settings

SIDE = 320
"""Longest side in pixels."""
DECODED_BYTES = {"PNG": 4, "BMP": 4, "GIF": 4, "TIFF": 8, "JPEG": 6, "AVIF": 10, "WEBP": 17}
"""A pixel, as measured; of a JPEG where it is progressive, whose coefficients are all held."""
MAXIMUM_DECODED = 144_000_000
"""Bytes that decoding may take, told from the header: 36 megapixels; 24 of a progressive JPEG, 8 of a WebP; of other JPEGs any, as they are decoded small."""
LARGE_DECODED = 16_000_000
"""Pictures that take more are decoded one at a time."""
KEPT = 4_096
"""Small pictures in memory, about 10 kB each."""
KEPT_SECONDS = 300.0
FAILURES_KEPT = 10_000
FAILURE_SECONDS = 30.0
"""Until a picture that could not be shown is tried again."""
LOOK_SECONDS = 1.0
"""Between two looks at whether the folder or zip is still the same."""

Drawn = bytes | UnusablePicture | InputError


@dataclass(slots=True)
class _Store:
    """The shop's pictures as they lay at one moment. Open for as long as anybody reads from it: a zip may be replaced meanwhile."""

    identity: tuple[object, ...]
    opened: ExitStack
    read: Callable[[str], bytes]


class SmallPictures:
    """Pictures of a shop by the names that its catalogue has for them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: _Store | InputError | None = None
        self._looked_at = float("-inf")
        self._identity: tuple[object, ...] = ()
        self._drawn: TTLCache[str, bytes] = TTLCache(KEPT, KEPT_SECONDS)
        self._failed: TTLCache[str, UnusablePicture] = TTLCache(FAILURES_KEPT, FAILURE_SECONDS)
        self._lock = threading.Lock()
        self._one_large = threading.Lock()
        self._under_way: dict[str, threading.Lock] = {}

    def small(self, name: str) -> Drawn:
        """JPEG of at most SIDE pixels a side; a picture named by URL is there if the pipeline has fetched it, none is fetched here.

        Returns:
            The picture; UnusablePicture: there is none of this name, or it is too large or no picture; InputError: the shop's pictures
            cannot be opened.
        """
        with self._lock:
            store = self._current_store()
            if known := self._known(name):
                return known
            drawing = self._under_way.setdefault(name, threading.Lock())
        with drawing:  # who asks for the same at the same time waits for the first
            with self._lock:
                if known := self._known(name):
                    return known
            try:
                drawn: Drawn = self._draw(name, store)
            except (UnusablePicture, InputError) as error:
                drawn = error.with_traceback(None)  # which would hold the picture's bytes
            with self._lock:
                self._under_way.pop(name, None)
                if store is self._store and isinstance(drawn, bytes):
                    self._drawn[name] = drawn
                elif store is self._store and isinstance(drawn, UnusablePicture):
                    self._failed[name] = drawn
            return drawn

    def _known(self, name: str) -> Drawn | None:
        return self._drawn.get(name) or self._failed.get(name)

    def _current_store(self) -> _Store | InputError:
        """The folder, zip or object store as it is now; what came from an earlier one is forgotten."""
        now = time.monotonic()
        if self._store is not None and now < self._looked_at + LOOK_SECONDS:
            return self._store
        self._looked_at = now
        try:
            place = ShopInputs.of(self._settings).pictures()
            identity = _identity(place.place)
            if isinstance(self._store, _Store) and self._store.identity == identity:
                return self._store
            opened = ExitStack()
            limit = self._settings.pictures.maximum_bytes
            store: _Store | InputError = _Store(
                identity, opened, opened.enter_context(place.opened(maximum_bytes=limit))
            )
        except (InputError, NoAnswer) as error:
            store = error.with_traceback(None) if isinstance(error, InputError) else InputError(str(error))
        except OSError as error:
            store = InputError(f"the shop's pictures cannot be opened ({error.strerror or error}); deliver them again")
        self._store = store
        self._drawn.clear()
        self._failed.clear()
        return store

    def _draw(self, name: str, store: _Store | InputError) -> bytes:
        content = self._content(name, store)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = f"{image.width} × {image.height} pixels"
                needed = _decoded_bytes(image)
                if needed > MAXIMUM_DECODED:
                    raise UnusablePicture("too_large", pixels)
                refuse_endless(image, content)
                if needed > LARGE_DECODED:
                    with self._one_large:
                        return _shrunk(image)
                return _shrunk(image)
        except UnusablePicture:
            raise
        except Exception as error:  # decoders fail in many ways, all of them the picture's fault
            raise UnusablePicture("undecodable", f"{type(error).__name__}: {error}"[:200]) from None

    def _content(self, name: str, store: _Store | InputError) -> bytes:
        limit = self._settings.pictures.maximum_bytes
        try:
            if is_url(name):
                path = fetched_path(fetched_folder(), name)
                if not path.is_file():
                    raise UnusablePicture("missing_file", NO_SUCH_PICTURE)
                if path.stat().st_size > limit:
                    raise UnusablePicture("too_large", "more than settings.pictures.maximum_bytes")
                return path.read_bytes()
            if isinstance(store, InputError):
                raise store
            return store.read(name)
        except NoAnswer as away:
            raise InputError(str(away)) from None
        except (
            OSError,
            UnicodeError,
        ) as error:  # a path that is too long, a folder that may not be read, half a character
            why = error.strerror if isinstance(error, OSError) else "no name of a file"
            raise UnusablePicture("missing_file", why or type(error).__name__) from None

    def close(self) -> None:
        with self._lock:
            if isinstance(self._store, _Store):
                self._store.opened.close()


def _identity(place: AnyPath | str) -> tuple[object, ...]:
    if isinstance(place, str):
        return (place,)
    if isinstance(place, ObjectPath):
        return (place, place.stat().e_tag) if place.is_file() else (place,)
    state = place.stat()
    return (
        place,
        state.st_dev,
        state.st_ino,
        *((state.st_size, state.st_mtime_ns, state.st_ctime_ns) if place.is_file() else ()),
    )


def _decoded_bytes(image: Image.Image) -> int:
    """What decoding a picture takes, about. Makes a JPEG's decoder shrink it by up to eight, which saves most of that."""
    pixels = image.width * image.height
    if image.draft("RGB", (SIDE, SIDE)) and not image.info.get("progressive"):
        return 4 * image.width * image.height
    return DECODED_BYTES.get(image.format or "", 8) * pixels


def _shrunk(image: Image.Image) -> bytes:
    image.load()
    image.thumbnail((SIDE, SIDE))
    layer = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    small = io.BytesIO()
    Image.alpha_composite(white, layer).convert("RGB").save(small, "JPEG", quality=88)
    return small.getvalue()
