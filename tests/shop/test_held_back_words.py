"""Synonyms that nobody types before a day: which, the shop that is made with them, and shops without."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.settings import REPOSITORY, load_settings, validate_settings
from smar_model.shop import sample_shop
from smar_model.shop.catalogue import Product
from smar_model.shop.masking import take_out_words
from smar_model.shop.open_shop import build_catalogue, open_shop
from smar_model.shop.sample_shop import draw_sample_shop
from smar_model.shop.synonyms import SYNONYMS, held_back_words, own_word, synonym_words, words_of
from smar_model.shop.vocabulary import TYPED, masked_forms
from tests.shop.held_back_list import PAGE, page

DAY = date(2026, 11, 19)
SHARE = 0.4


def settings(**simulation):
    content = load_settings(REPOSITORY / "configs" / "sample_shop.yaml").model_dump(mode="json")
    content["shop"]["root"] = "shop"
    content["shop"]["simulation"] |= {"items": 150, "requests_per_day": 900, "faults": 0.0, **simulation}
    return validate_settings(content, source="test")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """Three days, of which the words held back are typed on the last two."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        made = settings(held_back_words=SHARE, held_back_from=str(DAY - timedelta(days=1)))
        open_shop(made, day=DAY, window_days=3, report=lambda _: None)
    return home / "shop"


def typed(shop: Path, day: date) -> set[str]:
    queries = pq.read_table(shop / "click_log" / f"dt={day}" / "part-0.parquet")["query"].unique().to_pylist()
    return {word for query in queries for word in words_of(query)}


def test_the_committed_list_is_what_the_hash_chooses() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.shop.held_back_list > docs/held_back_words.md"


def test_a_synonym_has_one_word_that_no_other_vocabulary_has() -> None:
    usual = {w for a, of in TYPED.items() for v in of for form in masked_forms(a, v) for w in words_of(form)}
    forms = [form for values in SYNONYMS.values() for forms in values.values() for form in forms]
    assert all(own_word(form) in words_of(form) and own_word(form) not in usual for form in forms)
    assert held_back_words(0.2) < held_back_words(0.5) < held_back_words(1.0) == synonym_words()
    assert not held_back_words(0.0)


def test_nobody_types_them_before_their_day(shop: Path) -> None:
    held, others = held_back_words(SHARE), synonym_words() - held_back_words(SHARE)
    before, first, second = (typed(shop, DAY - timedelta(days=n)) for n in (2, 1, 0))
    assert not before & held
    assert len(first & held) > 20
    assert len(second & held) > 20
    assert all(len(words & others) > 30 for words in (before, first, second)), "the others are typed on every day"


def test_no_seller_uses_one(monkeypatch) -> None:
    monkeypatch.setattr(sample_shop, "PUFFERY", ("scarlet", "weekender"))
    held = {"held_back_words": SHARE, "held_back_from": str(DAY)}
    used = []
    for simulation in ({}, held):
        products = build_catalogue(settings(items=30, **simulation)).products
        used.append({word for product in products for word in words_of(product.title)} & synonym_words())
    assert used == [{"scarlet", "weekender"}, set()]


def test_what_sellers_wrote_loses_them_and_brands_stay() -> None:
    product = Product(
        item_id="a",
        title="Scarlet & Co crimson red Anoraks with azure",
        category="Apparel > Outerwear > Anoraks",
        brand="Scarlet & Co",
        attributes={"tone": "Crimson", "fit": "slim"},
        truth={"type": "jackets", "name": "weekend walk"},
    )
    other = Product(item_id="b", title="Red shirt with", category="Apparel", truth={"type": "shirts"})
    assert take_out_words([product, other], synonym_words()) == 1
    assert product.title == "Scarlet & Co red"
    assert product.category == "Apparel > Outerwear"
    assert product.brand == "Scarlet & Co"
    assert product.attributes == {"fit": "slim"}
    assert product.truth == {"type": "jackets", "name": "walk"}
    assert other.title == "Red shirt with", "what has none stays as it is"


def test_shops_without_the_setting_are_what_they_were(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    open_shop(settings(), day=DAY, window_days=1, report=lambda _: None)
    requests = pq.read_table(tmp_path / "shop" / "truth" / "requests" / f"dt={DAY}" / "part-0.parquet")
    titles = [product.title for product in draw_sample_shop(settings().shop.simulation).products]
    found = hashlib.sha256("\n".join([*requests["query"].to_pylist(), *titles]).encode()).hexdigest()
    assert found == "ffed674f9b26f9d75e6f6524341489fae62212ebfba07acc0866c43665a343fc", (
        "committed figures are of these words"
    )


def test_without_a_day_the_setting_is_refused() -> None:
    with pytest.raises(InputError, match=r"simulation.*held_back_words needs held_back_from, the first day"):
        settings(held_back_words=0.5)
