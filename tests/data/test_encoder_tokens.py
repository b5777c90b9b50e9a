"""An encoder's tokenizer in this project's form: padding is token 0, texts are not cut, what stands around them is known apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.data.text_tokens import encode_queries
from smar_model.errors import InputError
from tests.network.small_text_encoder import write_text_encoder


@pytest.mark.parametrize("padding", [0, 2])
def test_padding_is_token_0_and_all_other_tokens_are_the_encoders_own(padding: int, tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "encoder", padding=padding)
    theirs = Tokenizer.from_file(str(folder / "text" / "tokenizer.json"))
    read = read_encoder_tokenizer(folder)
    assert read.padding == padding
    assert read.tokenizer.token_to_id("[PAD]") == 0
    assert read.tokenizer.get_vocab_size() == theirs.get_vocab_size()
    text = "red shirts for women, " * 10
    theirs.no_padding()
    theirs.no_truncation()
    whole = [theirs.id_to_token(i) for i in theirs.encode(text).ids]
    own = [read.tokenizer.id_to_token(i) for i in read.tokenizer.encode(text, add_special_tokens=False).ids]
    assert whole == ["[CLS]", *own, "[SEP]"]
    assert [read.tokenizer.id_to_token(i) for i in (*read.before, *read.after)] == ["[CLS]", "[SEP]"]
    # As training and search ask: the second row is padded with 0, and nothing else is 0.
    ids = encode_queries(read.tokenizer, ["red blue shirt", "red"], 5)
    assert (ids == 0).tolist() == [[False, False, False], [False, True, True]]


def test_rows_by_the_encoders_ids_follow(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "encoder", padding=2)
    theirs = Tokenizer.from_file(str(folder / "text" / "tokenizer.json")).get_vocab()
    read = read_encoder_tokenizer(folder)
    rows = read.swapped_rows(np.arange(len(theirs)))
    assert {token: rows[row] for token, row in read.tokenizer.get_vocab().items()} == theirs


def test_a_vocabulary_by_place_without_a_padding_token_gives_a_special_token_its_place(tmp_path: Path) -> None:
    """As multilingual encoders' (Unigram); `</s>` is what CLIP and SigLIP pad with."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁red", -1.0), ("</s>", 0.0), ("▁shirt", -1.5)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    (tmp_path / "text").mkdir()
    tokenizer.save(str(tmp_path / "text" / "tokenizer.json"))
    read = read_encoder_tokenizer(tmp_path)
    assert read.padding == 2
    assert read.tokenizer.encode("red shirt").ids == [1, 3]
    assert read.tokenizer.encode("?").ids == [2]  # unknown
    assert (read.before, read.after) == ((), ())


def test_what_cannot_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "text" / "tokenizer.json"
    with pytest.raises(InputError, match=r"text/tokenizer\.json: not a readable tokenizer"):
        read_encoder_tokenizer(tmp_path)
    file.parent.mkdir()
    file.write_text("{}")
    with pytest.raises(InputError, match=r"text/tokenizer\.json: not a readable tokenizer"):
        read_encoder_tokenizer(tmp_path)
    plain = json.loads(Tokenizer(models.WordPiece({"red": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str())
    file.write_text(json.dumps(plain))
    with pytest.raises(InputError, match="no special token that can stand for padding"):
        read_encoder_tokenizer(tmp_path)
    gaps = Tokenizer(models.WordPiece({"red": 1, "[UNK]": 3}, unk_token="[UNK]"))
    gaps.add_special_tokens(["[UNK]"])
    gaps.save(str(file))
    with pytest.raises(InputError, match="its 2 tokens have ids up to 3"):
        read_encoder_tokenizer(tmp_path)
