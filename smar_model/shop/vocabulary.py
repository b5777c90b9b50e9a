"""Words for attribute values: what shoppers type, and what masking must take out.

True values are lower case. A value without an entry here is typed as it is, or in the singular.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

Forms = Callable[[str, str], tuple[str, ...]]
"""Attribute and true value → what shoppers type for it, the usual words first."""

TYPED: dict[str, dict[str, tuple[str, ...]]] = {
    "type": {
        "accessory gift set": ("gift set",),
        "backpacks": ("backpack", "bag", "rucksack"),
        "bangle": ("bangles", "bangle"),
        "belts": ("belt",),
        "boots": ("boots", "ankle boots", "winter boots"),
        "booties": ("booties", "baby shoes"),
        "bra": ("bra", "bras"),
        "bracelet": ("bracelet", "wrist band"),
        "briefs": ("briefs", "underwear", "panties"),
        "caps": ("cap", "baseball cap", "hat"),
        "capris": ("capri", "capri pants", "three quarter pants"),
        "casual shoes": ("shoes", "casual shoes", "sneakers"),
        "clutches": ("clutch", "clutch purse"),
        "compact": ("compact", "compact powder"),
        "deodorant": ("deodorant", "deo", "body spray"),
        "dress": ("dress", "frock", "gown"),
        "dresses": ("dress", "frock", "gown"),
        "duffel bag": ("duffel bag", "gym bag", "duffle"),
        "dupatta": ("dupatta", "chunni"),
        "earrings": ("earrings", "ear rings", "studs"),
        "eyeshadow": ("eyeshadow", "eye shadow"),
        "face moisturisers": ("face cream", "moisturiser", "face moisturiser"),
        "flats": ("flats", "flat sandals", "ballerinas"),
        "flip flops": ("flip flops", "slippers", "thongs"),
        "formal shoes": ("formal shoes", "dress shoes", "office shoes"),
        "foundation and primer": ("foundation", "primer"),
        "free gifts": ("gift", "free gift"),
        "handbags": ("handbag", "purse", "bag"),
        "hat": ("hat", "sun hat"),
        "heels": ("heels", "high heels", "pumps"),
        "innerwear vests": ("vest", "innerwear vest", "undershirt"),
        "jackets": ("jacket", "coat", "windcheater"),
        "jacket": ("jacket", "coat"),
        "jeans": ("jeans", "denims", "denim pants"),
        "kajal and eyeliner": ("kajal", "eyeliner", "eye liner"),
        "kurta sets": ("kurta set", "kurta pyjama"),
        "kurtas": ("kurta", "kurti"),
        "kurtis": ("kurti", "kurta"),
        "laptop bag": ("laptop bag", "laptop case"),
        "leggings": ("leggings", "tights"),
        "lip gloss": ("lip gloss", "lipgloss"),
        "lipstick": ("lipstick", "lip colour"),
        "messenger bag": ("messenger bag", "sling bag"),
        "mufflers": ("muffler", "scarf"),
        "nail polish": ("nail polish", "nail paint", "nail enamel"),
        "necklace and chains": ("necklace", "chain"),
        "night suits": ("night suit", "pyjamas", "nightwear"),
        "nightdress": ("nightdress", "nighty", "night gown"),
        "pendant": ("pendant", "locket"),
        "perfume and body mist": ("perfume", "body mist", "fragrance"),
        "ring": ("ring", "finger ring"),
        "sandals": ("sandals", "sandal"),
        "sarees": ("saree", "sari"),
        "scarves": ("scarf", "stole"),
        "shirt": ("shirt", "button down shirt"),
        "shirts": ("shirt", "button down shirt"),
        "shorts": ("shorts", "short pants"),
        "skirt": ("skirt", "mini skirt"),
        "skirts": ("skirt", "mini skirt"),
        "sneakers": ("sneakers", "trainers", "running shoes"),
        "socks": ("socks", "ankle socks"),
        "sports sandals": ("sports sandals", "floaters"),
        "sports shoes": ("sports shoes", "running shoes", "trainers"),
        "stoles": ("stole", "scarf", "wrap"),
        "sunglasses": ("sunglasses", "shades", "goggles"),
        "sweater": ("sweater", "pullover", "jumper"),
        "sweaters": ("sweater", "pullover", "jumper"),
        "sweatshirts": ("sweatshirt", "hoodie"),
        "t-shirt": ("t-shirt", "tshirt", "tee"),
        "ties": ("tie", "necktie"),
        "tops": ("top", "blouse"),
        "track pants": ("track pants", "joggers", "tracks"),
        "tracksuits": ("tracksuit", "track suit"),
        "trousers": ("trousers", "pants", "chinos"),
        "trunk": ("trunks", "boxer briefs"),
        "tshirts": ("t-shirt", "tshirt", "tee"),
        "tunics": ("tunic", "kurti"),
        "wallets": ("wallet", "purse"),
        "watches": ("watch", "wrist watch"),
    },
    "colour": {
        "beige": ("beige", "sand"),
        "black": ("black",),
        "blue": ("blue",),
        "brown": ("brown",),
        "burgundy": ("burgundy", "wine red"),
        "charcoal": ("charcoal", "dark grey"),
        "coffee brown": ("coffee brown", "dark brown"),
        "fluorescent green": ("fluorescent green", "neon green"),
        "gold": ("gold", "golden"),
        "green": ("green",),
        "grey": ("grey", "gray"),
        "grey melange": ("grey melange", "grey"),
        "lavender": ("lavender", "light purple", "lilac"),
        "lime green": ("lime green", "lime"),
        "magenta": ("magenta", "hot pink"),
        "maroon": ("maroon", "dark red"),
        "multi": ("multicolour", "multi colour", "colourful"),
        "mushroom brown": ("mushroom brown", "light brown"),
        "navy": ("navy", "navy blue", "dark blue"),
        "navy blue": ("navy blue", "navy", "dark blue"),
        "off white": ("off white", "ivory"),
        "olive": ("olive", "olive green"),
        "orange": ("orange",),
        "pink": ("pink",),
        "purple": ("purple", "violet"),
        "red": ("red",),
        "sea green": ("sea green", "aqua"),
        "silver": ("silver", "silvery"),
        "skin": ("skin", "skin colour", "nude"),
        "steel": ("steel", "steel grey"),
        "teal": ("teal",),
        "turquoise blue": ("turquoise", "turquoise blue"),
        "white": ("white",),
        "yellow": ("yellow",),
    },
    "gender": {
        "boys": ("boys", "for boys", "boy"),
        "girls": ("girls", "for girls", "girl"),
        "men": ("men", "mens", "for men"),
        "unisex": ("unisex",),
        "women": ("women", "womens", "for women", "ladies"),
    },
    "usage": {
        "casual": ("casual", "everyday"),
        "ethnic": ("ethnic", "traditional", "indian"),
        "formal": ("formal", "office"),
        "party": ("party", "party wear"),
        "smart casual": ("smart casual",),
        "sports": ("sports", "sport", "gym"),
        "travel": ("travel",),
    },
    "pattern": {
        "checked": ("checked", "plaid", "check"),
        "dotted": ("dotted", "polka dot", "spotted"),
        "floral": ("floral", "flower print", "flowery"),
        "plain": ("plain", "solid"),
        "striped": ("striped", "stripes", "stripy"),
    },
    "season": {"summer": ("summer", "for summer"), "winter": ("winter", "warm", "for winter")},
}
"""Attribute → true value → what shoppers type for it, the usual word first."""

_SELLERS_ALSO: dict[str, dict[str, tuple[str, ...]]] = {
    "type": {
        "backpacks": ("bag",),
        "briefs": ("brief", "hipster", "bikini"),
        "casual shoes": ("shoe", "canvas shoe", "loafers", "trainers"),
        "flats": ("sandals", "shoe", "ballerina", "flat"),
        "flip flops": ("flip flop", "slipper", "sandals"),
        "formal shoes": ("shoe", "oxford", "derby", "loafers"),
        "handbags": ("bag", "tote", "hobo", "sling bag"),
        "heels": ("heel", "sandals", "wedges", "flats", "shoe", "stilettos", "peep toes"),
        "kurta sets": ("kurta", "churidar", "salwar"),
        "nail polish": ("nail lacquer", "nail colour"),
        "perfume and body mist": ("eau de toilette", "eau de parfum", "edt", "edp"),
        "sandals": ("floaters",),
        "sports shoes": ("shoe", "sneakers"),
        "sweatshirts": ("sweat shirt", "hooded"),
        "tops": ("tshirt", "camisole", "tank"),
        "track pants": ("pants", "trackpant"),
        "tshirts": ("t shirt", "jersey", "polo"),
        "watches": ("chronograph", "wristwatch"),
        "innerwear vests": ("vest",),
    },
    "colour": {
        "blue": ("sky blue", "royal blue", "light blue"),
        "grey": ("gray",),
        "multi": ("multi", "multicoloured"),
    },
    "gender": {"men": ("man", "gents", "male"), "women": ("woman", "lady", "female"), "unisex": ("unisex",)},
    "usage": {"sports": ("sporty", "training", "running")},
}
"""Further words of sellers, which masking takes out although few shoppers type them."""

AMBIGUOUS = {
    "colour": frozenset(
        (
            "bronze",
            "copper",
            "cream",
            "gold",
            "mauve",
            "metallic",
            "multi",
            "mustard",
            "nude",
            "peach",
            "rose",
            "rust",
            "silver",
            "skin",
            "steel",
            "tan",
            "taupe",
        )
    )
}
"""Values whose words mean other things too ("face cream"): taken out only of items that have this very value."""


def typed_forms(attribute: str, value: str) -> tuple[str, ...]:
    """What shoppers type for a true value, the usual words first."""
    known = TYPED.get(attribute, {}).get(value)
    if known:
        return known
    if attribute == "type":
        return tuple(dict.fromkeys((singular(value), value)))
    return (value,)


def is_listed(attribute: str, value: str) -> bool:
    return value in TYPED.get(attribute, {})


def singular(phrase: str) -> str:
    """Singular of the last word by the common rules of English."""
    if phrase.endswith("ies") and len(phrase) > 4:
        return phrase[:-3] + "y"
    if re.search(r"(?:ss|sh|ch|x)es$", phrase):
        return phrase[:-2]
    return phrase[:-1] if phrase.endswith("s") and not phrase.endswith("ss") else phrase


def masked_forms(attribute: str, value: str) -> tuple[str, ...]:
    """Every phrase that gives a true value away: the value, its parts at "and", its synonyms."""
    forms = [value, *value.split(" and "), *typed_forms(attribute, value)]
    forms += _SELLERS_ALSO.get(attribute, {}).get(value, ())
    return tuple(dict.fromkeys(forms))


@cache
def phrase_pattern(phrases: frozenset[str]) -> re.Pattern[str]:
    """Matches any of the phrases as whole words: any case, singular or plural, with space, hyphen or nothing between
    their words ("t-shirt", "tshirts"), runs of them ("black & white"), and the sign that joins them to a neighbour."""
    variants = phrases | {singular(p) for p in phrases}
    bodies = [r"[\s-]*".join(map(re.escape, re.split(r"[\s-]+", p))) for p in variants if p]
    one = rf"(?<!\w)(?:{'|'.join(sorted(bodies, key=lambda b: (-len(b), b)))})(?:['’]?s|es)?(?!\w)"
    return re.compile(rf"(?:[&/+]\s*)?{one}(?:\s*[&/,+-]\s*{one})*(?:\s*[&/+])?", re.IGNORECASE)
