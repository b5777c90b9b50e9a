"""Stage train-tokenizer: subwords from titles and training queries, every script covered."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow.dataset as ds
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from smar_model.data.catalogue import read_catalogue
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext


def run(context: StageContext) -> dict[str, float]:
    """Write tokenizer.json: byte-level BPE, so that no text in any script has an unknown token; id 0 is padding.

    With `network.text.pretrained` the encoder's own tokenizer is taken instead.
    """
    pretrained = context.settings.network.text.pretrained
    if pretrained:
        tokenizer = _pretrained_tokenizer(pretrained)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=context.settings.tokenizer.vocabulary,
            special_tokens=["<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_texts(context), trainer)
    path = context.output("tokenizer.json")
    # Sorted keys: the library writes some of them in an order that changes between processes.
    path.write_text(json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, ensure_ascii=False), encoding="utf-8")
    return {"vocabulary": tokenizer.get_vocab_size()}


def _texts(context: StageContext) -> Iterator[str]:
    """Everything that training may read: items last changed before the cutoff, queries of the training days."""
    catalogue = read_catalogue(context.table("prepare-items", "catalogue"), before=context.run.cutoff)
    for column in ("title", "category", "brand"):
        yield from catalogue[column]
    for attributes in catalogue["attributes"]:
        yield from attributes.values()
    clicks = ds.dataset([str(f) for f in context.table("extract-clicks", "clicks")])
    days = ds.field("day").isin(context.run.training_days)
    yield from sorted(clicks.to_table(columns=["query"], filter=days)["query"].unique().to_pylist())


def _pretrained_tokenizer(name: str) -> Tokenizer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"network.text.pretrained {name!r}: no fast tokenizer to be had: {error}") from error
    if tokenizer.pad_token_id != 0:
        raise InputError(f"network.text.pretrained {name!r}: its padding token is not id 0; choose a BERT-like encoder")
    return backend
