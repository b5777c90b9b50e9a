"""What the network is fed: token ids, pictures, pairs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from smar_model.data.catalogue import read_catalogue, read_catalogue_numbers
from smar_model.data.item_pictures import read_thumbnails
from smar_model.data.picture_views import look, picture_view
from smar_model.data.query_text import beginning, normalise_query
from smar_model.data.text_tokens import CHARACTERS_A_TOKEN, encode_items, encode_queries, pad, trim
from smar_model.retrieval.network_queries import network_encoder
from smar_model.training.model_files import load_model, save_model
from tests.network.small_models import small_model
from tests.tiny_shop import draw_picture, write_rows


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
    ids, segments = encode_items(tokenizer, catalogue("Red shirt"), 12)
    assert words(tokenizer, ids[0]) == ["red", "shirt", "clothing", "tops", "acme", "cotton"]
    assert segments[0, :6].tolist() == [0, 0, 1, 1, 2, 3]


def test_a_long_title_does_not_push_the_other_parts_out(tokenizer: Tokenizer) -> None:
    ids, _ = encode_items(tokenizer, catalogue(" ".join(f"w{i}" for i in range(40))), 12)
    assert words(tokenizer, ids[0])[-4:] == ["clothing", "tops", "acme", "cotton"]
    assert (ids[0] != 0).sum() == 12


def test_queries_are_normalised_as_training_data_are(tokenizer: Tokenizer) -> None:
    assert np.array_equal(encode_queries(tokenizer, ["  RED\tShirt "], 8), encode_queries(tokenizer, ["red shirt"], 8))


def test_queries_keep_the_numbers_that_the_catalogue_of_their_model_held(tmp_path: Path) -> None:
    items = [
        {"item_id": "i-0986494524", "title": "Brake pads", "attributes": []},
        {"item_id": "i2", "title": "Brake disc 0 986 494 525", "attributes": [("oem", "620.315.485")]},
    ]
    schema = pa.schema(
        [("item_id", pa.string()), ("title", pa.string()), ("attributes", pa.map_(pa.string(), pa.string()))]
    )
    pq.write_table(pa.Table.from_pylist(items, schema), tmp_path / "items.parquet")
    numbers = read_catalogue_numbers([tmp_path / "items.parquet"])
    assert {"0986494524", "0986494525", "620315485"} <= set(numbers)
    written = Tokenizer(models.WordLevel({"<pad>": 0, "?": 1, "0986494524": 2, "<phone>": 3}, unk_token="?"))
    written.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    written.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "numbers").write_text("\n".join(numbers))
    save_model(small_model(), tmp_path / "model", tmp_path / "tokenizer.json", tmp_path / "numbers")
    encoder = network_encoder(load_model(tmp_path / "model"), tmp_path / "model" / "tokenizer.json")
    assert encoder.tokenise(["0986494524", "0986494527"]).tolist() == [[2], [3]]
    save_model(small_model(), tmp_path / "other", tmp_path / "tokenizer.json")
    encoder = network_encoder(load_model(tmp_path / "other"), tmp_path / "other" / "tokenizer.json")
    assert encoder.tokenise(["0986494524", "0986494527"]).tolist() == [[3], [3]]


def test_padding_and_trimming(tokenizer: Tokenizer) -> None:
    assert pad([[1, 2, 3], [4], []], 2).tolist() == [[1, 2], [4, 0], [0, 0]]
    ids = np.array([[1, 0, 2, 0], [3, 0, 0, 0]])
    assert trim(ids)[0].tolist() == [[1, 0, 2], [3, 0, 0]]
    assert trim(np.zeros((2, 4), int))[0].shape == (2, 1)


def test_augmentation_keeps_shape_and_colour() -> None:
    red = np.zeros((5, 3, 20, 16), np.uint8)
    red[:, 0] = 180
    seen = look(red, np.random.default_rng(0).random((5, 4)))
    assert seen.shape == red.shape
    assert seen.dtype == np.uint8
    assert (seen[:, 1:] == 0).all(), "a red product stays red"
    assert len({int(picture[0, 0, 0]) for picture in seen}) > 1, "the light varies"


def test_a_view_depends_on_its_picture_and_number_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 16), dtype=np.uint8)
    names = ["a", "b", "c", "d"]
    assert np.array_equal(picture_view(pixels, names, 0), pixels)
    first, second = picture_view(pixels, names, 1), picture_view(pixels, names, 2)
    assert not np.array_equal(first, second)
    assert np.array_equal(picture_view(pixels[2:3], ["c"], 1)[0], first[2]), "whatever else is in the batch"
    looks = picture_view(np.repeat(pixels[:1], 400, axis=0), [str(n) for n in range(400)], 1)
    assert len(np.unique(looks.reshape(400, -1), axis=0)) > 200, "looks differ between pictures"


@pytest.mark.parametrize("on_disk", [False, True])
def test_thumbnails_are_in_the_order_of_the_items_main_picture_first(on_disk: bool, tmp_path: Path) -> None:
    rows = [
        {"item_id": item, "frame": frame, "picture_digest": "0" * 64, "thumbnail": draw_picture(colour, size=(40, 50))}
        for item, frame, colour in [("b", 1, "blue"), ("a", 0, "red"), ("b", 0, "lime"), ("z", 0, "black")]
    ]
    file = write_rows(tmp_path / "pictures.parquet", "pictures", rows)
    thumbnails = read_thumbnails([file], np.array([b"a", b"b", b"c"]), scratch=tmp_path if on_disk else None)
    assert [f.name for f in tmp_path.iterdir()] == ["pictures.parquet"], "scratch files leave nothing behind"
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


LENGTH = 12
READABLE = LENGTH * CHARACTERS_A_TOKEN
LONG = {
    "ligatures": "\ufdfa" * 10_000,
    "combining marks": "a" + "\u0316\u0301" * 5_000,
    "letters that case folding doubles": "ß" * 10_000,
    "digits": "1234567890" * 1_000,
    "one word": "a" * 10_000,
    "white space": " \u3000\t" * 3_000 + "red shirt",
    "addresses": "a@b.cd " * 1_400,
}


class WatchedTokenizer:
    """A tokenizer that notes how long the texts were that it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.longest = 0

    def encode_batch(self, texts: list[str], **options: bool) -> list:
        self.longest = max([self.longest, *map(len, texts)])
        return self.tokenizer.encode_batch(texts, **options)


@pytest.mark.parametrize("kind", LONG)
def test_a_long_query_costs_no_more_than_its_beginning(tokenizer: Tokenizer, kind: str) -> None:
    watched = WatchedTokenizer(tokenizer)
    ids = encode_queries(watched, [LONG[kind], "red shirt"], LENGTH)  # type: ignore[arg-type]
    assert watched.longest <= READABLE
    assert (
        ids[1] == encode_queries(tokenizer, ["red shirt"], ids.shape[1])[0][:2].tolist() + [0] * (ids.shape[1] - 2)
    ).all()
    if kind == "white space":
        assert ids[0].tolist() == ids[1].tolist()


WORDS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("aÉſß0123 +-@.\u0345\u0301\u0316ﬁ\ufdfa"), max_size=15
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=20).map(" ".join))
def test_what_fits_into_the_beginning_keeps_its_normal_form(text: str) -> None:
    short = text[: READABLE // 18]
    assert normalise_query(beginning(short, READABLE)) == normalise_query(short)


def test_what_a_model_reads_of_queries_that_people_type_is_what_it_read_of_all(tokenizer: Tokenizer) -> None:
    words = [
        "red",
        "Blue",
        "ＳＨＩＲＴ",
        "dress,",
        "Straßenschuhe",
        "w7",
        "a@b.com",
        "İstanbul",
        "红色连衣裙",
        "4111 1111 1111 1111",
        "  ",
        "ﬁne",
    ]
    queries = [
        " ".join(words[(n * step) % len(words)] for n in range(count))
        for step in range(1, 8)
        for count in (1, 3, 12, 40, 400)
    ]
    for length in (LENGTH, 32):
        every = [e.ids for e in tokenizer.encode_batch([normalise_query(q) for q in queries], add_special_tokens=False)]
        assert (encode_queries(tokenizer, queries, length) == pad(every, length)).all()
