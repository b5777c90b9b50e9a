"""Stage train-tokenizer: subwords from titles and training queries, every script covered; and all token ids, once.

The training stages read the ids of items and pairs from here (`data/token_tables.py`) and tokenise nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow.dataset as ds
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from smar_model.data.catalogue import read_catalogue, read_catalogue_numbers
from smar_model.data.encoder_tokens import read_encoder_tokenizer
from smar_model.data.text_tokens import NUMBERS_FILE, load_tokenizer
from smar_model.data.token_tables import COUNTS_FILE, count_tokens, write_item_tokens, write_pair_tokens
from smar_model.data.training_pairs import clicked_pairs, synthetic_pairs
from smar_model.errors import InputError
from smar_model.lake.stage import StageContext


def run(context: StageContext) -> dict[str, float]:
    """Write tokenizer.json: byte-level BPE, so that no text in any script has an unknown token; id 0 is padding.

    With `network.text.pretrained` the encoder's own tokenizer is taken instead, in the form of `data/encoder_tokens.py`, and by a run that
    builds on an earlier one's pretraining that one's. Token tables are in `tokens/`; numbers that the catalogue holds in catalogue_numbers.txt.
    """
    pretrained = context.encoder("text")
    if base := context.inputs.get("base"):
        tokenizer = load_tokenizer(base.file("tokenizer.json"))
    elif pretrained:
        tokenizer = read_encoder_tokenizer(pretrained).tokenizer
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
    if numbers := read_catalogue_numbers(context.table("prepare-items", "catalogue")):
        context.output(NUMBERS_FILE).write_text("".join(f"{number}\n" for number in numbers), encoding="ascii")
    return {"vocabulary": tokenizer.get_vocab_size(), **_write_tokens(context, tokenizer)}


def _write_tokens(context: StageContext, tokenizer: Tokenizer) -> dict[str, float]:
    """Items last changed before the cutoff, clicked pairs of the training days, synthetic pairs; those known to be in
    neither novel bucket.

    Raises:
        InputError: there are no items, or no pairs of one kind.
    """
    lengths, days, bucket = context.settings.tokenizer, context.run.training_days, context.settings.segments.novel_range
    folder = context.output("tokens")
    items = write_item_tokens(
        folder / "items",
        context.table("prepare-items", "catalogue"),
        tokenizer,
        length=lengths.item_length,
        before=context.run.cutoff,
    )
    clicks, made = context.table("extract-clicks", "clicks"), context.table("generate-queries", "synthetic_queries")
    clicked = write_pair_tokens(
        folder / "clicked",
        partial(clicked_pairs, clicks, days, novel_bucket=bucket),
        items,
        tokenizer,
        length=lengths.query_length,
    )
    if clicked is None:
        raise InputError(f"clicks: no click on a known item from {days[0]} to {days[-1]}; check the log of these days")
    synthetic = write_pair_tokens(
        folder / "synthetic",
        partial(synthetic_pairs, made, novel_bucket=bucket),
        items,
        tokenizer,
        length=lengths.query_length,
    )
    if synthetic is None:
        raise InputError("synthetic_queries: no row for any item of the catalogue; run generate-queries again")
    counts = count_tokens([items.ids, clicked.ids, synthetic.ids], tokenizer.get_vocab_size())
    np.save(folder / COUNTS_FILE, counts)
    return {"items": len(items.item_ids), "clicked_pairs": len(clicked.rows), "synthetic_pairs": len(synthetic.rows)}


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
