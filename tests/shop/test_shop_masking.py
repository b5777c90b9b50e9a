from __future__ import annotations

import copy
import re

import pytest

from smar_model.errors import InputError
from smar_model.shop.catalogue import Product
from smar_model.shop.masking import mask_products


def product(item_id: str = "p1", **parts) -> Product:
    parts = {"title": "item", "category": "Apparel > Topwear > Tshirts", "brand": None, **parts}
    return Product(item_id=item_id, **parts)


SHIRT = product(
    title="Nike Men Navy Blue & White T-Shirts",
    brand="Nike",
    attributes={"colour": "Navy Blue", "gender": "Men"},
    images=["a.jpg"],
    truth={"type": "tshirts", "colour": "navy blue", "gender": "men", "brand": "nike"},
)
WATCH = product(
    title="Titan Women Wrist Watch Steel",
    category="Accessories > Watches > Watches",
    brand="Titan",
    attributes={"colour": "Steel"},
    truth={"type": "watches", "colour": "steel", "gender": "women", "brand": "titan"},
)
SHOES = product(
    title="Red Tape Men's Brown Casual Shoes",
    category="Footwear > Shoes > Casual Shoes",
    brand="Red Tape",
    truth={"type": "casual shoes", "colour": "brown", "gender": "men", "brand": "red tape"},
)
CREAM = product(
    title="Olay Face Cream", category="Personal Care > Skin > Creams", truth={"type": "creams", "colour": "white"}
)


@pytest.mark.parametrize(
    ("original", "attribute", "title", "category"),
    [
        (SHIRT, "colour", "Nike Men White T-Shirts", "Apparel > Topwear > Tshirts"),
        (SHIRT, "type", "Nike Men Navy Blue & White", "Apparel > Topwear"),
        (SHIRT, "gender", "Nike Navy Blue & White T-Shirts", "Apparel > Topwear > Tshirts"),
        (SHIRT, "brand", "Men Navy Blue & White T-Shirts", "Apparel > Topwear > Tshirts"),
        (WATCH, "colour", "Titan Women Wrist Watch", "Accessories > Watches > Watches"),
        # The level above the leaf says the same: it goes too.
        (WATCH, "type", "Titan Women Steel", "Accessories"),
        # A brand is a name, whatever its words.
        (SHOES, "colour", "Red Tape Men's Casual Shoes", "Footwear > Shoes > Casual Shoes"),
        (SHOES, "gender", "Red Tape Brown Casual Shoes", "Footwear > Shoes > Casual Shoes"),
        (SHOES, "type", "Red Tape Men's Brown", "Footwear"),
        # "Cream" is no colour here.
        (CREAM, "colour", "Olay Face Cream", "Personal Care > Skin > Creams"),
    ],
)
def test_attribute_leaves_title_category_and_seller_attributes(original, attribute, title, category):
    masked = copy.deepcopy(original)
    assert mask_products([masked, *map(copy.deepcopy, (SHIRT, SHOES))], {attribute: 1.0}, seed=0)
    assert masked.title == title
    assert masked.category == category
    assert attribute not in masked.attributes
    assert masked.attributes == {k: v for k, v in original.attributes.items() if k != attribute}
    assert masked.brand == (None if attribute == "brand" else original.brand)
    assert masked.truth == original.truth
    assert masked.images == original.images


def test_other_words_for_the_colour_go_as_well():
    shirt = product(title="Arrow Navy Check Shirt", truth={"type": "shirts", "colour": "blue"})
    other = product("p2", title="Arrow Navy Blue Shirt", truth={"type": "shirts", "colour": "navy blue"})
    striped = product("p3", title="Arrow White & Blue Striped/Black Shirt", truth={"type": "shirts", "colour": "white"})
    black = product("p4", title="Black", truth={"type": "shirts", "colour": "black"})
    mask_products([shirt, other, striped, black], {"colour": 1.0}, seed=0)
    assert shirt.title == "Arrow Check Shirt"
    assert striped.title == "Arrow Striped Shirt"


@pytest.mark.parametrize(("brand", "title"), [("Levis", "Levis"), (None, "item")])
def test_emptied_title_keeps_the_brand_or_says_item(brand, title):
    jeans = product(title="Blue Jeans", brand=brand, truth={"type": "jeans", "colour": "blue"})
    mask_products([jeans], {"colour": 1.0, "type": 1.0}, seed=0)
    assert jeans.title == title


def many() -> list[Product]:
    return [
        product(
            f"p{n:04d}", title=f"Nike Men {colour} T-shirt {n}", truth={"type": "tshirts", "colour": colour.lower()}
        )
        for n, colour in enumerate(["Red", "Blue", "Navy Blue", "Black", "Olive"] * 40)
    ]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_share_is_as_asked_and_the_others_are_untouched(share):
    products = many()
    masked = set(mask_products(products, {"colour": share}, seed=3)["colour"])
    assert len(masked) == share * len(products)
    for before, after in zip(many(), products, strict=True):
        if after.item_id in masked:
            assert not re.search(before.truth["colour"], after.title, re.IGNORECASE)
        else:
            assert after == before


def test_choice_depends_on_seed_and_ids_alone():
    def chosen(products, seed):
        return mask_products(products, {"colour": 0.5, "type": 0.5}, seed=seed)

    assert chosen(many(), 1) == chosen(many()[::-1], 1)
    assert chosen(many(), 1) != chosen(many(), 2)
    one = chosen(many(), 1)
    assert one["colour"] != one["type"], "attributes are masked independently"


def test_share_counts_items_that_have_the_attribute():
    without = [product(f"q{n}", title="Red Onion", truth={"type": "onion"}) for n in range(50)]
    masked = mask_products([*many(), *without], {"colour": 1.0}, seed=0)
    assert len(masked["colour"]) == 200
    assert all(p.title == "Red Onion" for p in without)


def test_unknown_attribute_is_named():
    with pytest.raises(InputError, match="'color': no product has it; the products' attributes are colour, type"):
        mask_products(many(), {"color": 0.5}, seed=0)
