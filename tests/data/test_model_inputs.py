"""What the network is fed: token ids, pictures, pairs."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from smar_model.data.catalogue import augment, read_catalogue, read_thumbnails
from smar_model.data.text_tokens import encode_items, encode_queries, pad, trim
from smar_model.data.training_pairs import read_clicked_pairs, read_synthetic_pairs
from smar_model.errors import InputError
from tests.tiny_shop import draw_picture, write_rows

DAY = date(2026, 11, 18)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        ["red blue shirt dress acme clothing tops cotton " + " ".join(f"w{i}" for i in range(40))],
        trainers.WordLevelTrainer(special_tokens=["<pad>", "?"]),
    )
    return tokenizer


def catalogue(*titles: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(len(titles))],
            "title": titles,
            "category": "Clothing > Tops",
            "brand": "Acme",
            "attributes": [{"material": "cotton"}] * len(titles),
        }
    )


def words(tokenizer: Tokenizer, ids: np.ndarray) -> list[str]:
    return [tokenizer.id_to_token(int(i)) for i in ids if i]


def test_an_item_is_its_title_category_brand_and_attributes_in_segments(tokenizer: Tokenizer) -> None:
    items = encode_items(tokenizer, catalogue("Red shirt"), 12)
    assert words(tokenizer, items.ids[0]) == ["red", "shirt", "clothing", "tops", "acme", "cotton"]
    assert items.segments[0, :6].tolist() == [0, 0, 1, 1, 2, 3]


def test_a_long_title_does_not_push_the_other_parts_out(tokenizer: Tokenizer) -> None:
    items = encode_items(tokenizer, catalogue(" ".join(f"w{i}" for i in range(40))), 12)
    assert words(tokenizer, items.ids[0])[-4:] == ["clothing", "tops", "acme", "cotton"]
    assert (items.ids[0] != 0).sum() == 12


def test_queries_are_normalised_as_training_data_are(tokenizer: Tokenizer) -> None:
    assert np.array_equal(encode_queries(tokenizer, ["  RED\tShirt "], 8), encode_queries(tokenizer, ["red shirt"], 8))


def test_padding_and_trimming(tokenizer: Tokenizer) -> None:
    assert pad([[1, 2, 3], [4], []], 2).tolist() == [[1, 2], [4, 0], [0, 0]]
    ids = np.array([[1, 0, 2, 0], [3, 0, 0, 0]])
    assert trim(ids)[0].tolist() == [[1, 0, 2], [3, 0, 0]]
    assert trim(np.zeros((2, 4), int))[0].shape == (2, 1)


def test_augmentation_keeps_shape_and_colour() -> None:
    red = np.zeros((5, 3, 20, 16), np.uint8)
    red[:, 0] = 180
    seen = augment(red, np.random.default_rng(0))
    assert seen.shape == red.shape
    assert seen.dtype == np.uint8
    assert (seen[:, 1:] == 0).all(), "a red product stays red"
    assert len({int(picture[0, 0, 0]) for picture in seen}) > 1, "the light varies"


def test_thumbnails_are_in_the_order_of_the_items_main_picture_first(tmp_path: Path) -> None:
    rows = [
        {"item_id": item, "frame": frame, "picture_digest": "0" * 64, "thumbnail": draw_picture(colour, size=(40, 50))}
        for item, frame, colour in [("b", 1, "blue"), ("a", 0, "red"), ("b", 0, "lime"), ("z", 0, "black")]
    ]
    file = write_rows(tmp_path / "pictures.parquet", "pictures", rows)
    thumbnails = read_thumbnails([file], ["a", "b", "c"])
    assert thumbnails.count.tolist() == [1, 2, 0]
    brightest = thumbnails.pixels[:, :, 25, 20].argmax(1)
    assert brightest.tolist() == [0, 1, 2]


def test_training_reads_no_item_changed_after_the_cutoff(tmp_path: Path) -> None:
    row = {"title": "t", "category": "c", "department": "c", "brand": "", "attributes": [], "images": []}
    old, new = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 19, tzinfo=UTC)
    rows = [row | {"item_id": "old", "updated_at": old}, row | {"item_id": "new", "updated_at": new}]
    file = write_rows(tmp_path / "catalogue.parquet", "catalogue", rows)
    assert read_catalogue([file], before=new)["item_id"].tolist() == ["old"]
    assert len(read_catalogue([file])) == 2


def click(query: str, item: str, day: date = DAY, clicks: int = 1, orders: int = 0, weight: float = 1.0) -> dict:
    return {
        **{"day": day, "query": query, "item_id": item},
        **{"impressions": 1, "clicks": clicks, "carts": 0, "orders": orders, "weight": weight},
    }


def test_clicked_pairs_are_of_the_training_days_weighted_by_what_shoppers_did(tmp_path: Path) -> None:
    rows = [
        click("red", "a"),
        click("blue", "b", orders=1, weight=2.0),  # one click and order, far down in the list
        click("later", "a", day=date(2026, 11, 19)),
        click("seen only", "a", clicks=0),
        click("gone", "unknown"),
    ]
    file = write_rows(tmp_path / "clicks.parquet", "clicks", rows)
    pairs = read_clicked_pairs([file], ["a", "b"], [DAY])
    assert dict(zip(pairs.queries, pairs.weight, strict=True)) == {
        "red": pytest.approx(0.2),
        "blue": pytest.approx(0.8),
    }
    with pytest.raises(InputError, match="no click on a known item from 2026-11-17"):
        read_clicked_pairs([file], ["a", "b"], [date(2026, 11, 17)])


def test_a_synthetic_batch_has_distinct_items_each_with_a_query_of_its_own(tmp_path: Path) -> None:
    rows = [{"item_id": i, "query": f"{i} {n}", "method": "substring"} for i in "abcd" for n in range(3)]
    file = write_rows(tmp_path / "synthetic.parquet", "synthetic_queries", rows)
    items = ["a", "b", "c", "nothing"]
    pairs = read_synthetic_pairs([file], items)
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        queries, chosen = pairs.sample(10, random)
        assert sorted(chosen) == [0, 1, 2]
        assert all(query.startswith(items[row]) for query, row in zip(queries, chosen, strict=True))
        seen |= set(queries)
    assert len(seen) == 9, "every query comes up in time"
