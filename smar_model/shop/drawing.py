"""Product pictures drawn with Pillow: garments and shoes that show their type, colour and pattern, and packages that
show little. All randomness comes from the generator given; the same generator state gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 96, 128
"""Pixels of a picture."""
_FINER = 2
"""Drawn this many times larger, then reduced, for smooth edges."""

Colour = tuple[int, int, int]
Point = tuple[float, float]
Outline = list[Point]
"""Polygon in the unit square, y downwards."""

COLOURS: dict[str, Colour] = {
    "beige": (214, 196, 160),
    "black": (32, 32, 36),
    "blue": (40, 100, 205),
    "brown": (115, 72, 40),
    "green": (45, 140, 65),
    "grey": (138, 138, 142),
    "navy": (24, 34, 88),
    "orange": (238, 128, 30),
    "pink": (242, 150, 185),
    "purple": (122, 60, 155),
    "red": (205, 30, 40),
    "white": (246, 246, 244),
    "yellow": (246, 212, 45),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "floral")

_LONG_SLEEVED: Outline = [
    (0.38, 0.10), (0.50, 0.16), (0.62, 0.10), (0.76, 0.16), (0.95, 0.72), (0.84, 0.76), (0.72, 0.42), (0.73, 0.90),
    (0.27, 0.90), (0.28, 0.42), (0.16, 0.76), (0.05, 0.72), (0.24, 0.16),
]  # fmt: skip
GARMENTS: dict[str, list[Outline]] = {
    "t-shirt": [[
        (0.35, 0.12), (0.44, 0.17), (0.56, 0.17), (0.65, 0.12), (0.93, 0.28), (0.83, 0.45), (0.72, 0.38), (0.72, 0.88),
        (0.28, 0.88), (0.28, 0.38), (0.17, 0.45), (0.07, 0.28),
    ]],
    "shirt": [_LONG_SLEEVED],
    "sweater": [_LONG_SLEEVED],
    "jacket": [_LONG_SLEEVED],
    "dress": [[
        (0.36, 0.06), (0.43, 0.17), (0.57, 0.17), (0.64, 0.06), (0.68, 0.26), (0.62, 0.44), (0.88, 0.93), (0.12, 0.93),
        (0.38, 0.44), (0.32, 0.26),
    ]],
    "skirt": [[(0.36, 0.20), (0.64, 0.20), (0.88, 0.82), (0.12, 0.82)]],
    "trousers": [[
        (0.31, 0.05), (0.69, 0.05), (0.75, 0.95), (0.57, 0.95), (0.50, 0.36), (0.43, 0.95), (0.25, 0.95),
    ]],
    "shorts": [[
        (0.26, 0.25), (0.74, 0.25), (0.84, 0.70), (0.54, 0.72), (0.50, 0.50), (0.46, 0.72), (0.16, 0.70),
    ]],
    "hat": [
        [(0.28, 0.58), (0.30, 0.40), (0.38, 0.31), (0.50, 0.28), (0.62, 0.31), (0.70, 0.40), (0.72, 0.58)],
        [(0.06, 0.62), (0.28, 0.56), (0.72, 0.56), (0.94, 0.62), (0.72, 0.68), (0.28, 0.68)],
    ],
    "sneakers": [[
        (0.07, 0.66), (0.09, 0.44), (0.28, 0.41), (0.46, 0.50), (0.70, 0.55), (0.90, 0.60), (0.95, 0.68),
    ]],
    "boots": [[(0.20, 0.16), (0.53, 0.16), (0.53, 0.54), (0.74, 0.59), (0.88, 0.66), (0.90, 0.78), (0.20, 0.78)]],
    "sandals": [
        [(0.05, 0.66), (0.94, 0.63), (0.96, 0.70), (0.05, 0.74)],
        [(0.16, 0.67), (0.28, 0.44), (0.40, 0.44), (0.29, 0.67)],
        [(0.58, 0.65), (0.66, 0.49), (0.80, 0.50), (0.80, 0.65)],
    ],
    "heels": [[
        (0.10, 0.34), (0.22, 0.37), (0.50, 0.57), (0.84, 0.66), (0.95, 0.73), (0.60, 0.74), (0.40, 0.68), (0.22, 0.52),
        (0.19, 0.80), (0.14, 0.80),
    ]],
}  # fmt: skip
"""Type → its outlines."""
_SEAMS: dict[str, list[Outline]] = {
    "shirt": [
        [(0.50, 0.16), (0.50, 0.90)], [(0.38, 0.10), (0.44, 0.22), (0.50, 0.16), (0.56, 0.22), (0.62, 0.10)],
        *([(0.53, y), (0.55, y)] for y in (0.28, 0.40, 0.52, 0.64, 0.76)),
    ],
    "sweater": [[(0.27, 0.84), (0.73, 0.84)], [(0.38, 0.12), (0.44, 0.20), (0.56, 0.20), (0.62, 0.12)]],
    "jacket": [
        [(0.49, 0.16), (0.49, 0.90)], [(0.51, 0.16), (0.51, 0.90)], [(0.38, 0.10), (0.49, 0.40)], [(0.62, 0.10), (0.51, 0.40)],
        [(0.32, 0.66), (0.44, 0.66)], [(0.56, 0.66), (0.68, 0.66)],
    ],
    "dress": [[(0.38, 0.44), (0.62, 0.44)]],
    "skirt": [[(0.34, 0.26), (0.66, 0.26)]],
    "trousers": [[(0.31, 0.10), (0.69, 0.10)], [(0.50, 0.05), (0.50, 0.36)]],
    "shorts": [[(0.25, 0.31), (0.75, 0.31)], [(0.50, 0.25), (0.50, 0.50)]],
    "hat": [[(0.29, 0.53), (0.71, 0.53)]],
    "sneakers": [[(0.34, 0.47), (0.42, 0.41)], [(0.41, 0.51), (0.49, 0.45)], [(0.48, 0.54), (0.56, 0.48)]],
    "boots": [[(0.20, 0.22), (0.53, 0.22)]],
}  # fmt: skip
_SOLES: dict[str, tuple[Outline, Colour]] = {
    "sneakers": ([(0.06, 0.66), (0.96, 0.67), (0.94, 0.75), (0.07, 0.75)], (235, 235, 232)),
    "boots": ([(0.19, 0.78), (0.91, 0.78), (0.91, 0.84), (0.36, 0.84), (0.34, 0.87), (0.19, 0.87)], (48, 38, 34)),
}


def draw_garment(kind: str, colour: str, pattern: str, rng: np.random.Generator) -> bytes:
    """JPEG of a garment or shoe on a nearly white ground; place, size, light and shade of colour vary."""
    base = _shade(COLOURS[colour], rng)
    place = _placing(rng)
    cloth = _cloth(base, pattern, rng)
    mask = Image.new("L", cloth.size)
    mask_draw = ImageDraw.Draw(mask)
    outlines = [place(outline) for outline in GARMENTS[kind]]
    for outline in outlines:
        mask_draw.polygon(outline, fill=255)
    picture = _ground(rng)
    picture.paste(cloth, mask=mask)
    draw = ImageDraw.Draw(picture)
    seam = _darker(base, 0.6) if sum(base) > 150 else (88, 88, 96)
    for outline in outlines:
        draw.line([*outline, outline[0]], fill=seam, width=2)
    for line in _SEAMS.get(kind, ()):
        draw.line(place(line), fill=seam, width=2)
    if kind in _SOLES:
        sole, sole_colour = _SOLES[kind]
        draw.polygon(place(sole), fill=sole_colour, outline=_darker(sole_colour, 0.7))
    return _finish(picture, rng)


def draw_book(rng: np.random.Generator) -> bytes:
    """A cover in any colours, which tell nothing of what is inside."""
    picture, place = _ground(rng), _placing(rng)
    draw = ImageDraw.Draw(picture)
    cover, bar = _any_colour(rng), _any_colour(rng)
    draw.polygon(place(_box(0.20, 0.12, 0.80, 0.88)), fill=cover, outline=_darker(cover, 0.5))
    for y in np.cumsum(rng.uniform(0.08, 0.2, size=3)) + 0.12:
        draw.polygon(place(_box(0.28, y, rng.uniform(0.5, 0.72), y + 0.04)), fill=bar)
    return _finish(picture, rng)


def draw_package(rng: np.random.Generator) -> bytes:
    """A box, can or carton with a label in any colour."""
    picture, place = _ground(rng), _placing(rng)
    draw = ImageDraw.Draw(picture)
    left, top = rng.uniform(0.16, 0.34), rng.uniform(0.10, 0.40)
    box, label = _any_colour(rng), _any_colour(rng)
    draw.polygon(place(_box(left, top, 1 - left, 0.90)), fill=box, outline=_darker(box, 0.5))
    draw.polygon(place(_box(left, top + 0.12, 1 - left, top + rng.uniform(0.3, 0.45))), fill=label)
    return _finish(picture, rng)


def draw_device(rng: np.random.Generator) -> bytes:
    """A grey slab with a dark field."""
    picture, place = _ground(rng), _placing(rng)
    draw = ImageDraw.Draw(picture)
    level = int(rng.integers(40, 190))
    left, top = rng.uniform(0.10, 0.32), rng.uniform(0.15, 0.42)
    draw.polygon(place(_box(left, top, 1 - left, 1 - top)), fill=(level, level, level + 4), outline=(30, 30, 30))
    inner = 0.05 + 0.1 * rng.random()
    draw.polygon(place(_box(left + inner, top + inner, 1 - left - inner, 1 - top - inner)), fill=(level // 2,) * 3)
    return _finish(picture, rng)


def draw_placeholder(rng: np.random.Generator) -> bytes:
    """What a supplier shows where it has no photograph: a grey frame with a hill and a sun, in a shade and place of its own."""
    ground, frame = (int(level) for level in rng.integers((200, 120), (245, 190)))
    picture = Image.new("RGB", (WIDTH * _FINER, HEIGHT * _FINER), (ground,) * 3)
    draw = ImageDraw.Draw(picture)
    left, top = rng.uniform(0.14, 0.30), rng.uniform(0.20, 0.36)
    middle = rng.uniform(0.40, 0.60)

    def place(outline: Outline) -> list[Point]:
        return [(x * picture.width, y * picture.height) for x, y in outline]

    draw.polygon(place(_box(left, top, 1 - left, 1 - top)), outline=(frame,) * 3, width=6)
    draw.polygon(place([(left, 1 - top), (middle, 0.5), (1 - left, 1 - top)]), fill=(frame,) * 3)
    draw.ellipse(place([(left + 0.05, top + 0.04), (left + 0.17, top + 0.13)]), fill=(frame,) * 3)
    file = io.BytesIO()
    picture.reduce(_FINER).save(file, "JPEG", quality=88, subsampling=0, optimize=False)
    return file.getvalue()


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _ground(rng: np.random.Generator) -> Image.Image:
    level = int(rng.integers(232, 253))
    return Image.new("RGB", (WIDTH * _FINER, HEIGHT * _FINER), (level, level, level))


def _placing(rng: np.random.Generator) -> Callable[[Outline], list[Point]]:
    """From the unit square to pixels, a little moved, resized, and now and then mirrored."""
    size = rng.uniform(0.80, 0.98)
    stretch = rng.uniform(0.92, 1.08)
    dx, dy = rng.uniform(-0.04, 0.04, size=2)
    mirrored = -1 if rng.random() < 0.5 else 1
    width, height = WIDTH * _FINER, HEIGHT * _FINER

    def place(outline: Outline) -> list[Point]:
        return [
            ((0.5 + dx + mirrored * (x - 0.5) * size) * width, (0.5 + dy + (y - 0.5) * size * stretch) * height)
            for x, y in outline
        ]

    return place


def _cloth(base: Colour, pattern: str, rng: np.random.Generator) -> Image.Image:
    """A sheet of the pattern, as large as the picture; the base colour covers most of it."""
    width, height = WIDTH * _FINER, HEIGHT * _FINER
    sheet = Image.new("RGB", (width, height), base)
    draw = ImageDraw.Draw(sheet)
    light = sum(base) > 380
    second = _darker(base, 0.5) if light else (240, 240, 236)
    step = int(rng.integers(16, 26))
    shift = int(rng.integers(0, step))
    if pattern == "striped":
        for y in range(shift - step, height, step):
            draw.rectangle((0, y, width, y + step // 3), fill=second)
    elif pattern == "checked":
        for x in range(shift - step, width, step):
            draw.line((x, 0, x, height), fill=second, width=4)
        for y in range(shift - step, height, step):
            draw.line((0, y, width, y), fill=second, width=4)
    elif pattern == "dotted":
        radius = step // 4
        for row, y in enumerate(range(shift - step, height + step, step)):
            for x in range(shift - step + (row % 2) * step // 2, width + step, step):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    elif pattern == "floral":
        heart = (
            (250, 205, 60)
            if sum(abs(a - b) for a, b in zip(base, (250, 205, 60), strict=True)) > 150
            else (220, 90, 120)
        )
        for y in range(shift - step, height + step, step + 8):
            for x in range(shift - step, width + step, step + 8):
                cx, cy = x + rng.uniform(-5, 5), y + rng.uniform(-5, 5)
                for angle in np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, np.pi):
                    px, py = cx + 6 * np.cos(angle), cy + 6 * np.sin(angle)
                    draw.ellipse((px - 4, py - 4, px + 4, py + 4), fill=second)
                draw.ellipse((cx - 3, cy - 3, cx + 3, cy + 3), fill=heart)
    return sheet


def _shade(colour: Colour, rng: np.random.Generator) -> Colour:
    """The colour a little lighter or darker, and a little off its hue."""
    values = np.asarray(colour) * rng.uniform(0.88, 1.10) + rng.uniform(-8, 8, size=3)
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue


def _darker(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(c * factor) for c in colour)
    return red, green, blue


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(20, 245, size=3).tolist()
    return red, green, blue


def _finish(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """Reduce, light unevenly, add the camera's noise, compress."""
    pixels = np.asarray(picture.reduce(_FINER), dtype=np.float32)
    slope = rng.uniform(-0.06, 0.06, size=2)
    light = (
        rng.uniform(0.94, 1.03)
        + slope[0] * np.linspace(-1, 1, WIDTH)[None, :]
        + slope[1] * np.linspace(-1, 1, HEIGHT)[:, None]
    )
    pixels = pixels * light[:, :, None] + rng.normal(0, 2.5, size=pixels.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=88, subsampling=0, optimize=False
    )
    return file.getvalue()
