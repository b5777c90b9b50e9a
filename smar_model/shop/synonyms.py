"""Further synonyms, which shoppers type where settings keep words back for the days on which a model is judged.

1. `SYNONYMS` are plain English for the values of the sample shop, the fashion products and the groceries. Sellers use
   hardly any of them; what they use is taken out of what they wrote (`masking.py`), as no word is new that a catalogue has.
2. Each has one word of its own, which no form in `vocabulary.py` has. A hash of that word alone says whether it is held back at
   a share: a larger share holds back the same words and more. `docs/held_back_words.md` lists them.
3. With `simulation.held_back_words` unset no shopper types any of them. With a share all are typed, those held back from the
   day `simulation.held_back_from` on.
"""

from __future__ import annotations

import re
import zlib
from datetime import date
from functools import cache, partial

from smar_model.settings import Simulation
from smar_model.shop.vocabulary import TYPED, Forms, masked_forms, typed_forms

_GARMENTS: dict[str, tuple[str, ...]] = {
    "backpacks": ("knapsack", "daypack", "schoolbag"),
    "bangle": ("wrist cuff",),
    "belts": ("girdle", "cincture"),
    "boots": ("wellies", "bootees"),
    "bra": ("brassiere", "bralette"),
    "bracelet": ("armlet",),
    "briefs": ("undies", "knickers", "underpants"),
    "caps": ("snapback", "headgear"),
    "capris": ("clamdiggers",),
    "casual shoes": ("kicks", "plimsolls"),
    "clutches": ("minaudiere",),
    "compact": ("pressed powder",),
    "deodorant": ("antiperspirant",),
    "dresses": ("sundress", "pinafore"),
    "duffel bag": ("holdall", "weekender"),
    "dupatta": ("odhni", "veil"),
    "earrings": ("eardrops", "ear jewels"),
    "eyeshadow": ("eyelid colour",),
    "face moisturisers": ("hydrating cream",),
    "flats": ("moccasins",),
    "flip flops": ("chappals", "jandals", "shower shoes"),
    "formal shoes": ("brogues", "wingtips"),
    "handbags": ("pocketbook", "satchel", "carryall"),
    "hat": ("fedora", "bonnet", "headgear"),
    "heels": ("slingbacks", "kitten heels"),
    "innerwear vests": ("singlet", "tanktop"),
    "jackets": ("anorak", "windbreaker", "parka"),
    "jeans": ("dungarees", "bluejeans"),
    "kajal and eyeliner": ("kohl",),
    "kurtas": ("kameez",),
    "kurtis": ("kameez",),
    "laptop bag": ("briefcase", "computer bag"),
    "leggings": ("treggings",),
    "lip gloss": ("lipshine",),
    "lipstick": ("lippy",),
    "messenger bag": ("satchel", "crossbody"),
    "mufflers": ("neckwarmer",),
    "nail polish": ("nail varnish", "manicure colour"),
    "necklace and chains": ("choker", "neckpiece"),
    "night suits": ("sleepwear", "pajamas"),
    "nightdress": ("nightgown", "nightie"),
    "pendant": ("medallion", "amulet"),
    "perfume and body mist": ("scent", "cologne"),
    "ring": ("signet",),
    "sandals": ("huaraches",),
    "scarves": ("shawl", "neckerchief"),
    "shirts": ("buttonup", "collared top"),
    "shorts": ("knickerbockers",),
    "skirts": ("kilt", "sarong"),
    "sneakers": ("kicks", "plimsolls"),
    "socks": ("hosiery",),
    "sports sandals": ("trekking sandals",),
    "sports shoes": ("footgear",),
    "stoles": ("shawl", "pashmina"),
    "sunglasses": ("sunnies", "dark glasses"),
    "sweaters": ("woolly", "turtleneck"),
    "sweatshirts": ("jogging top",),
    "t-shirt": ("teeshirt", "crewneck"),
    "ties": ("cravat", "neckwear"),
    "tops": ("shirtwaist", "bodice"),
    "track pants": ("sweatpants",),
    "tracksuits": ("jogging suit", "sweatsuit"),
    "trousers": ("slacks", "pantaloons"),
    "trunk": ("underpants", "undershorts"),
    "tunics": ("smock",),
    "wallets": ("billfold", "cardholder"),
    "watches": ("timepiece", "chronometer"),
}  # fmt: skip
_WARES: dict[str, tuple[str, ...]] = {
    "aubergine": ("eggplant", "brinjal"),
    "banana": ("plantain",),
    "biscuits": ("cookies", "crackers"),
    "cereal": ("muesli", "granola"),
    "charger": ("adapter", "power supply"),
    "chocolate": ("cacao",),
    "coffee": ("espresso", "java"),
    "comic": ("manga", "cartoon"),
    "cucumber": ("gherkin", "cuke"),
    "desk lamp": ("reading light",),
    "ginger": ("gingerroot",),
    "guide": ("handbook", "manual"),
    "headphones": ("earphones", "headset"),
    "juice": ("nectar", "beverage"),
    "keyboard": ("keypad",),
    "kiwi": ("gooseberry",),
    "melon": ("muskmelon",),
    "milk": ("dairy milk",),
    "mouse": ("pointer",),
    "mushroom": ("champignon", "fungus"),
    "novel": ("fiction", "paperback"),
    "oat milk": ("oats milk",),
    "oatghurt": ("oatgurt",),
    "papaya": ("pawpaw",),
    "passion fruit": ("maracuja", "granadilla"),
    "pasta": ("noodles", "macaroni"),
    "pepper": ("capsicum", "paprika"),
    "picture book": ("storybook",),
    "pineapple": ("ananas",),
    "plum": ("damson", "prune"),
    "potato": ("spud", "tater"),
    "power bank": ("powerpack",),
    "red beet": ("beetroot",),
    "red grapefruit": ("pomelo",),
    "rice": ("basmati",),
    "satsumas": ("tangerine", "clementine"),
    "soup": ("broth", "bouillon"),
    "sour cream": ("smetana",),
    "sour milk": ("buttermilk", "kefir"),
    "soy milk": ("soya milk", "plant milk"),
    "soyghurt": ("soya yoghurt", "plant yoghurt"),
    "speaker": ("loudspeaker", "boombox"),
    "tea": ("chai", "infusion"),
    "textbook": ("coursebook", "schoolbook"),
    "webcam": ("videocam",),
    "yoghurt": ("yogurt", "curd"),
    "zucchini": ("courgette",),
}  # fmt: skip
SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
    "type": {
        **_GARMENTS,
        **_WARES,
        **{"dress": _GARMENTS["dresses"], "jacket": _GARMENTS["jackets"], "shirt": _GARMENTS["shirts"]},
        **{"skirt": _GARMENTS["skirts"], "sweater": _GARMENTS["sweaters"], "tshirts": _GARMENTS["t-shirt"]},
    },
    # A grocery's name is its type where the shop has one of the kind.
    "name": _WARES,
    "colour": {
        "beige": ("ecru", "oatmeal", "buff"),
        "black": ("jet", "ebony", "inky"),
        "blue": ("azure", "cobalt", "cerulean", "sapphire"),
        "brown": ("chestnut", "umber", "hazel"),
        "burgundy": ("claret", "bordeaux"),
        "charcoal": ("anthracite",),
        "cream": ("eggshell",),
        "fluorescent green": ("luminous green",),
        "gold": ("gilded", "gilt"),
        "green": ("emerald", "jade", "verdant"),
        "grey": ("ashen", "slate", "smoky"),
        "khaki": ("drab", "military"),
        "lavender": ("periwinkle",),
        "lime green": ("chartreuse",),
        "magenta": ("cerise",),
        "maroon": ("oxblood",),
        "multi": ("motley", "kaleidoscopic"),
        "mustard": ("ochre",),
        "navy": ("marine", "midnight blue"),
        "navy blue": ("marine", "midnight blue"),
        "off white": ("eggshell", "alabaster"),
        "olive": ("mossy",),
        "orange": ("tangerine", "amber"),
        "pink": ("salmon", "carnation"),
        "purple": ("amethyst", "heliotrope"),
        "red": ("scarlet", "crimson", "vermilion"),
        "rust": ("terracotta",),
        "sea green": ("seafoam",),
        "silver": ("argent",),
        "skin": ("flesh",),
        "steel": ("gunmetal",),
        "tan": ("fawn",),
        "teal": ("petrol blue",),
        "turquoise blue": ("cyan",),
        "white": ("snowy", "milky", "alabaster"),
        "yellow": ("canary", "sunny", "saffron"),
    },
    "gender": {
        "boys": ("lads", "schoolboy"),
        "girls": ("lasses", "schoolgirl"),
        "men": ("guys", "menswear"),
        "unisex": ("genderless",),
        "women": ("womenswear", "gals"),
    },
    "usage": {
        "casual": ("leisure", "weekend"),
        "ethnic": ("folk",),
        "formal": ("business",),
        "party": ("festive", "clubbing"),
        "sports": ("workout",),
    },
    "pattern": {
        "checked": ("chequered", "tartan"),
        "dotted": ("polkadots", "pindot"),
        "floral": ("botanical",),
        "plain": ("unpatterned", "monochrome"),
        "striped": ("pinstripe", "banded"),
    },
    "season": {"summer": ("summery",), "winter": ("cosy", "wintry")},
    "topic": {
        "cooking": ("recipes", "cuisine"),
        "crime": ("detective", "whodunit"),
        "fantasy": ("sorcery", "wizards"),
        "gardening": ("horticulture",),
        "history": ("antiquity",),
        "travel": ("voyages", "journeys"),
    },
    "flavour": {
        "hazelnut": ("filbert", "nutty"),
        "lemon": ("citrus",),
        "mint": ("peppermint", "menthol"),
    },
    "feature": {
        "fast": ("rapid", "speedy"),
        "foldable": ("folding", "collapsible"),
        "gaming": ("gamer",),
        "mini": ("miniature",),
        "waterproof": ("watertight", "splashproof"),
        "wireless": ("cordless",),
    },
}
"""Attribute → true value → what some shoppers type for it."""


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, split at everything but letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


def forms_on(day: date, simulation: Simulation) -> Forms:
    """What shoppers type on a day."""
    share = simulation.held_back_words
    if not share:
        return typed_forms
    assert simulation.held_back_from is not None, "settings without it are refused"
    return partial(_forms, held_back=share if day < simulation.held_back_from else 0.0)


def _forms(attribute: str, value: str, *, held_back: float) -> tuple[str, ...]:
    further = SYNONYMS.get(attribute, {}).get(value, ())
    return (*typed_forms(attribute, value), *(form for form in further if place_of(own_word(form)) >= held_back))


def held_back_words(share: float) -> frozenset[str]:
    """Words that no shopper types before `held_back_from`."""
    return frozenset(word for word in synonym_words() if place_of(word) < share)


@cache
def synonym_words() -> frozenset[str]:
    """Every synonym's own word."""
    return frozenset(own_word(form) for values in SYNONYMS.values() for forms in values.values() for form in forms)


@cache
def own_word(form: str) -> str:
    """The one word of a synonym that no form in `vocabulary.py` has."""
    (word,) = (word for word in words_of(form) if word not in _usual_words())
    return word


def place_of(word: str) -> float:
    """Where a hash puts a word, from 0 up to 1: it is held back at every share above."""
    return zlib.crc32(f"held_back:{word}".encode()) / 2**32


@cache
def _usual_words() -> frozenset[str]:
    values = {(a, v) for known in (TYPED, SYNONYMS) for a, of in known.items() for v in of}
    return frozenset(word for a, v in values for form in masked_forms(a, v) for word in words_of(form))
