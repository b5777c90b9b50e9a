from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from jobs.prepare_items import NEAR, look_at
from smar_model.settings import REPOSITORY, Simulation, load_settings
from smar_model.shop.drawing import COLOURS, GARMENTS, HEIGHT, PATTERNS, WIDTH, draw_garment
from smar_model.shop.faults import add_catalogue_faults
from smar_model.shop.sample_shop import DEPARTMENTS, draw_sample_shop
from smar_model.shop.vocabulary import masked_forms, phrase_pattern


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float)


@pytest.mark.parametrize("colour", COLOURS)
def test_pictures_show_the_colour(colour):
    rng = np.random.default_rng(1)
    names, values = list(COLOURS), np.array(list(COLOURS.values()), dtype=float)
    right = 0
    for kind in GARMENTS:
        image = pixels(draw_garment(kind, colour, "plain", rng))
        middle = image[image.shape[0] // 3 : -image.shape[0] // 4].reshape(-1, 3)
        # Cloth is where the picture departs from its ground; a white garment is told by hardly departing.
        cloth = middle[np.abs(middle - image[:4].mean(axis=(0, 1))).max(axis=1) > 40]
        seen = np.median(cloth if len(cloth) > 400 and colour != "white" else middle, axis=0)
        right += names[int(np.argmin(np.linalg.norm(values - seen, axis=1)))] == colour
    assert right >= 0.75 * len(GARMENTS)


@pytest.mark.parametrize("kind", GARMENTS)
def test_patterns_and_types_look_different(kind):
    pictures = {p: pixels(draw_garment(kind, "red", p, np.random.default_rng(3))) for p in PATTERNS}
    assert all(picture.shape == (HEIGHT, WIDTH, 3) for picture in pictures.values())
    # More edges than in the plain one: inside the cloth, neighbours differ.
    edges = {
        p: np.abs(np.diff(picture, axis=0)).mean() + np.abs(np.diff(picture, axis=1)).mean()
        for p, picture in pictures.items()
    }
    assert all(edges[p] > 1.15 * edges["plain"] for p in PATTERNS if p != "plain")


def test_same_seed_same_bytes_and_a_larger_shop_begins_alike():
    small, again, large = (draw_sample_shop(Simulation(seed=4, items=n)) for n in (40, 40, 60))
    assert small.pictures == again.pictures
    assert small.products == again.products
    assert large.products[:40] == small.products
    assert draw_sample_shop(Simulation(seed=5, items=40)).products != small.products


@pytest.fixture(scope="module")
def catalogue():
    return draw_sample_shop(load_settings(REPOSITORY / "configs" / "sample_shop.yaml").shop.simulation)


def test_departments_have_their_shares(catalogue):
    departments = [p.department for p in catalogue.products]
    assert {d: pytest.approx(share, abs=0.04) for d, share in DEPARTMENTS.items()} == {
        d: departments.count(d) / len(departments) for d in DEPARTMENTS
    }


def test_default_shop_can_answer_the_query_of_the_readme(catalogue):
    wanted = {"type": "dress", "colour": "red", "pattern": "floral", "season": "summer"}
    found = [p for p in catalogue.products if wanted.items() <= p.truth.items()]
    assert found
    assert all(p.images for p in found)


def test_titles_are_sparse_and_seldom_wrong(catalogue):
    garments = [p for p in catalogue.products if "colour" in p.truth]
    own = [bool(phrase_pattern(frozenset(masked_forms("colour", p.truth["colour"]))).search(p.title)) for p in garments]
    words = frozenset(form for colour in COLOURS for form in masked_forms("colour", colour))
    some = [bool(phrase_pattern(words).search(p.title)) for p in garments]
    assert 0.6 < np.mean(some) < 0.85
    wrong = np.mean([s and not o for s, o in zip(some, own, strict=True)])
    assert 0.005 < wrong < 0.05
    assert all(p.title.strip() for p in catalogue.products)


def test_catalogue_faults_spoil_few_pictures_and_no_text():
    whole, spoilt = (draw_sample_shop(Simulation(seed=2, items=120)) for _ in range(2))
    kinds = add_catalogue_faults(spoilt, share=0.05, seed=2)
    assert {kind: len(ids) for kind, ids in kinds.items()} == {
        "cut": 2,
        "missing": 2,
        "none": 2,
        "uniform": 2,
        "placeholder": 6,
    }
    products = {p.item_id: p for p in spoilt.products}
    for item_id in kinds["cut"]:
        picture = Image.open(io.BytesIO(spoilt.pictures[products[item_id].images[0]]))
        with pytest.raises(OSError, match="truncated"):
            picture.load()
    assert all(products[i].images[0] not in spoilt.pictures for i in kinds["missing"])
    assert all(products[i].images == [] for i in kinds["none"])
    for before, after in zip(whole.products, spoilt.products, strict=True):
        assert (before.title, before.truth) == (after.title, after.truth)
    same = [n for n in whole.pictures if spoilt.pictures.get(n) == whole.pictures[n]]
    assert len(same) >= len(whole.pictures) - 16
    for item_id in kinds["uniform"]:
        assert look_at(spoilt.pictures[products[item_id].images[0]], (48, 64), uniform_below=2).uniform
    looks = [look_at(spoilt.pictures[products[i].images[0]], (48, 64), uniform_below=2) for i in kinds["placeholder"]]
    assert len({look.thumbnail for look in looks}) > 1
    assert not any(look.uniform for look in looks)
    assert len({look.perceptual_hash for look in looks}) == 1
    assert np.ptp([look.signature for look in looks], axis=0).max() <= NEAR
