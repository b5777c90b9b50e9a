"""The sample shop: a catalogue with drawn pictures, where titles are sparse, noisy and sometimes wrong.

In Clothing and Shoes the picture shows what a title often leaves out; in Books, Grocery and Electronics it says little.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from smar_model.settings import Simulation
from smar_model.shop.catalogue import Catalogue, Product
from smar_model.shop.drawing import COLOURS, PATTERNS, draw_book, draw_device, draw_garment, draw_package
from smar_model.shop.vocabulary import typed_forms
from smar_model.shop.wording import misspell

DEPARTMENTS = {"Clothing": 0.45, "Shoes": 0.20, "Books": 0.12, "Grocery": 0.13, "Electronics": 0.10}
"""Share of the items."""
WRONG_COLOUR = 0.03
"""Share of the titles with a colour that name another one."""
SECOND_PICTURE = 0.2
"""Share of the items of Clothing and Shoes with two pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garment:
    shelf: str
    """Category levels under the department, the leaf last."""
    weight: float
    genders: tuple[str, ...] = ("men", "women", "unisex")
    season: str | None = None
    """Where the type decides it."""


_WOMEN = ("women",)
CLOTHING = {
    "t-shirt": Garment(shelf="Tops > T-shirts", weight=0.20),
    "shirt": Garment(shelf="Tops > Shirts", weight=0.14),
    "sweater": Garment(shelf="Knitwear > Sweaters", weight=0.10, season="winter"),
    "jacket": Garment(shelf="Outerwear > Jackets", weight=0.10),
    "dress": Garment(shelf="One-piece > Dresses", weight=0.16, genders=_WOMEN),
    "skirt": Garment(shelf="Bottoms > Skirts", weight=0.08, genders=_WOMEN),
    "trousers": Garment(shelf="Bottoms > Trousers", weight=0.10),
    "shorts": Garment(shelf="Bottoms > Shorts", weight=0.06, season="summer"),
    "hat": Garment(shelf="Headwear > Hats", weight=0.06),
}
SHOES = {
    "sneakers": Garment(shelf="Sneakers", weight=0.40),
    "boots": Garment(shelf="Boots", weight=0.22),
    "sandals": Garment(shelf="Sandals", weight=0.20),
    "heels": Garment(shelf="Heels", weight=0.18, genders=_WOMEN),
}
COLOUR_WEIGHTS = {
    "black": 0.15, "white": 0.11, "blue": 0.11, "red": 0.11, "grey": 0.09, "navy": 0.08, "green": 0.08, "pink": 0.07,
    "brown": 0.05, "beige": 0.04, "yellow": 0.05, "purple": 0.03, "orange": 0.03,
}  # fmt: skip
PATTERN_WEIGHTS = {"plain": 0.40, "striped": 0.18, "dotted": 0.13, "checked": 0.14, "floral": 0.15}
_DRESS_PATTERN_WEIGHTS = {"plain": 0.25, "striped": 0.12, "dotted": 0.18, "checked": 0.05, "floral": 0.40}
FASHION_BRANDS = (
    "Norvane", "Pellimo", "Quistra", "Tarn & Vale", "Halluna", "Brisk Row", "Ostrea", "Mivanti", "Kelder", "Lundy Loom",
)  # fmt: skip
MATERIALS = ("cotton", "linen", "wool", "viscose", "denim", "leather", "polyester")
PUFFERY = (
    "new", "sale", "premium", "classic fit", "best seller", "2026 collection", "limited", "comfort", "everyday wear",
    "original", "free shipping", "gift idea",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wares:
    """A department whose pictures say little."""

    types: tuple[str, ...]
    brands: tuple[str, ...]
    fact: str
    """Name of its third attribute."""
    values: tuple[str, ...]


WARES = {
    "Books": Wares(
        types=("novel", "guide", "textbook", "picture book", "comic"),
        brands=("Lanternleaf", "Harrow Gate", "Nine Rivers", "Quill & Co", "Ostwick Press"),
        fact="topic",
        values=(
            "history",
            "travel",
            "cooking",
            "gardening",
            "science",
            "crime",
            "romance",
            "fantasy",
            "music",
            "football",
        ),
    ),
    "Grocery": Wares(
        types=("tea", "coffee", "pasta", "cereal", "chocolate", "juice", "soup", "biscuits", "rice"),
        brands=("Millbrook", "Fernley", "Old Orchard", "Casa Lenta", "Polder", "Annika"),
        fact="flavour",
        values=("vanilla", "strawberry", "lemon", "mint", "honey", "tomato", "garlic", "apple", "hazelnut"),
    ),
    "Electronics": Wares(
        types=("headphones", "charger", "speaker", "keyboard", "mouse", "power bank", "desk lamp", "webcam"),
        brands=("Voltaro", "Nimbra", "Ekko One", "Zentek", "Lumar"),
        fact="feature",
        values=("wireless", "usb-c", "foldable", "mini", "bluetooth", "gaming", "waterproof", "fast"),
    ),
}
NAME_WORDS = (
    "Harbour", "Lantern", "Cedar", "Meadow", "Falcon", "Tempo", "Breeze", "Summit", "Juniper", "Atlas", "Ember", "Willow",
)  # fmt: skip


def draw_sample_shop(simulation: Simulation) -> Catalogue:
    """Products with pictures and truth, not yet masked. An item depends on the seed and its number alone: a larger shop
    begins with the same items."""
    catalogue = Catalogue(products=[], pictures={})
    for number in range(simulation.items):
        rng = np.random.default_rng([simulation.seed, 0x5A, number])
        random = Random(int(rng.integers(2**63)))
        department = _pick(DEPARTMENTS, random)
        item_id = f"item-{number:06d}"
        if department in WARES:
            product = _draw_ware(item_id, department, random)
            pictures = [{"Books": draw_book, "Grocery": draw_package, "Electronics": draw_device}[department](rng)]
        else:
            product = _draw_garment(item_id, department, random)
            truth = product.truth
            count = 2 if random.random() < SECOND_PICTURE else 1
            pictures = [draw_garment(truth["type"], truth["colour"], truth["pattern"], rng) for _ in range(count)]
        for frame, content in enumerate(pictures):
            name = f"{item_id}-{frame}.jpg"
            catalogue.pictures[name] = content
            product.images.append(name)
        catalogue.products.append(product)
    return catalogue


def _draw_garment(item_id: str, department: str, random: Random) -> Product:
    garments = CLOTHING if department == "Clothing" else SHOES
    kind = _pick({name: g.weight for name, g in garments.items()}, random)
    garment = garments[kind]
    colour = _pick(COLOUR_WEIGHTS, random)
    pattern = _pick(_DRESS_PATTERN_WEIGHTS if kind == "dress" else PATTERN_WEIGHTS, random)
    gender, brand = random.choice(garment.genders), random.choice(FASHION_BRANDS)
    truth = {"type": kind, "colour": colour, "pattern": pattern, "gender": gender, "brand": brand.lower()}
    if department == "Clothing":
        truth["season"] = garment.season or random.choice(("summer", "winter"))
    assert colour in COLOURS
    assert pattern in PATTERNS

    named = random.choice([c for c in COLOURS if c != colour]) if random.random() < WRONG_COLOUR else colour
    words = [
        brand if random.random() < 0.7 else "",
        _seller_word("gender", gender, 0.6, random),
        _seller_word("season", truth.get("season", ""), 0.3, random),
        "" if pattern == "plain" else _seller_word("pattern", pattern, 0.35, random),
        _seller_word("colour", named, 0.75, random),
        _seller_word("type", kind, 0.9, random),
    ]
    written = {"material": (random.choice(MATERIALS), 0.5), "gender": (gender, 0.6), "colour": (colour, 0.4)}
    written |= {"pattern": (pattern, 0.15), "season": (truth.get("season", ""), 0.3)}
    return Product(
        item_id=item_id,
        title=_title(words, random),
        category=f"{department} > {garment.shelf}",
        brand=brand if random.random() < 0.9 else None,
        attributes={name: value for name, (value, share) in written.items() if value and random.random() < share},
        truth=truth,
    )


def _draw_ware(item_id: str, department: str, random: Random) -> Product:
    wares = WARES[department]
    kind, brand, value = random.choice(wares.types), random.choice(wares.brands), random.choice(wares.values)
    words = [
        brand if random.random() < 0.8 else "",
        random.choice(NAME_WORDS),
        value if random.random() < 0.85 else "",
        _seller_word("type", kind, 0.9, random),
    ]
    return Product(
        item_id=item_id,
        title=_title(words, random),
        category=f"{department} > {kind.capitalize()}",
        brand=brand if random.random() < 0.9 else None,
        attributes={wares.fact: value} if random.random() < 0.5 else {},
        truth={"type": kind, "brand": brand.lower(), wares.fact: value},
    )


def _seller_word(attribute: str, value: str, share: float, random: Random) -> str:
    """One of the value's words, or none."""
    if not value or random.random() >= share:
        return ""
    return random.choice([f for f in typed_forms(attribute, value) if not f.startswith("for ")])


def _title(words: list[str], random: Random) -> str:
    """Words as sellers write them: in any case, with puffery and a slip now and then."""
    words = [w for w in words if w]
    if random.random() < 0.4:
        words.insert(random.choice((0, len(words))), random.choice(PUFFERY))
    if random.random() < 0.25:
        words.append(f"{random.choice('ABKLMRSTX')}{random.randrange(100, 9999)}")
    if words and random.random() < 0.03:
        words[-1] = misspell(words[-1], random)
    style = random.random()
    title = " ".join(words) or "item"
    return title.upper() if style < 0.05 else title.lower() if style < 0.15 else title[0].upper() + title[1:]


def _pick(weights: dict[str, float], random: Random) -> str:
    return random.choices(tuple(weights), tuple(weights.values()))[0]
