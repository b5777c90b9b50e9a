"""A text encoder's folder, as Hugging Face keeps it, into the form of the store: `text/` and `words.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from smar_model.encoders.quiet_loading import quiet_loading
from smar_model.encoders.source_folders import CONFIG, INDEX, WEIGHTS, read_config, require_safetensors
from smar_model.encoders.word_vectors import PROBE, word_vectors
from smar_model.encoders.writing_systems import known_scripts
from smar_model.errors import InputError, first_line
from smar_model.lake.encoder_store import WORDS

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""Without any of them transformers makes up an empty tokenizer."""
OF_ANOTHER_MACHINE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
"""What a configuration says of how it was saved: equal weights are equal files, whoever saved them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    parameters: int
    scripts: list[str]


def convert_text_encoder(folder: Path, to: Path, *, words: bool, report: Callable[[str], None]) -> TextSide:
    """Read an encoder, try it, and write it below `to`.

    Args:
        words: whether vectors for the words tower are distilled.

    Raises:
        InputError: its weights are pickled, lack some of those of its configuration, or are those of no text encoder.
    """
    read_config(folder / CONFIG)
    require_safetensors(folder, WEIGHTS, INDEX)
    tokenizer = read_tokenizer(folder)
    encoder = load_weights(folder, but_for=("pooler",))
    _try(folder, encoder, tokenizer)
    write_text_side(to, encoder, tokenizer)
    if words:
        write_words(to, encoder, tokenizer, report=report)
    return TextSide(parameters=sum(p.numel() for p in encoder.parameters()), scripts=known_scripts(tokenizer))


def load_weights(folder: Path, *, but_for: tuple[str, ...] = ()) -> Any:
    """The model of `transformers` in a folder, in evaluation mode.

    Args:
        but_for: parts whose weights it may lack.

    Raises:
        InputError: it cannot be read, or lacks other weights.
    """
    try:
        with quiet_loading():
            model, loaded = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `refuse_lacking` names them
            )
    except Exception as error:  # what a configuration that makes no sense leads to: a division by zero, any other
        raise InputError(f"{folder}: not a model that transformers reads: {first_line(error)}") from None
    refuse_lacking(folder, loaded, but_for=but_for)
    refuse_no_numbers(folder, model)
    return model.eval()


def read_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer in a folder, without padding and truncation.

    Raises:
        InputError: there is none.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(f"{folder}: has no tokenizer; a text encoder's folder has one of {', '.join(VOCABULARIES)}")
    try:
        with quiet_loading():
            wrapped = AutoTokenizer.from_pretrained(
                folder, use_fast=True, local_files_only=True, trust_remote_code=False
            )
        tokenizer: Tokenizer = Tokenizer.from_str(wrapped.backend_tokenizer.to_str())
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"{folder}: no tokenizer that can be read (tokenizer.json, or what transformers makes one of): {first_line(error)}"
        ) from None
    tokenizer.no_truncation()
    if wrapped.pad_token_id is None:
        tokenizer.no_padding()
    else:
        tokenizer.enable_padding(pad_id=wrapped.pad_token_id, pad_token=wrapped.pad_token)
    return tokenizer


def refuse_lacking(folder: Path, loaded: dict[str, Any], *, but_for: tuple[str, ...] = ()) -> None:
    """Raises InputError where weights are not all there or have other shapes: what lacks would be drawn at random."""
    lacking = sorted(name for name in loaded["missing_keys"] if not any(part in name for part in but_for))
    lacking += sorted(str(entry[0]) for entry in loaded.get("mismatched_keys", ()))
    if lacking:
        raise InputError(
            f"{folder}: its weights are not those of its {CONFIG}: {len(lacking)} lack or have another shape, such as {lacking[0]}"
        )


def refuse_no_numbers(folder: Path, model: nn.Module) -> None:
    """Raises InputError where a weight is none: the text that a model is tried with meets few of its tokens."""
    for name, weights in model.named_parameters():
        if not bool(weights.isfinite().all()):
            raise InputError(f"{folder}: its weights are not all numbers, such as those of {name}; fetch it again")


def _try(folder: Path, encoder: nn.Module, tokenizer: Tokenizer) -> None:
    """Raises InputError where the model does not turn a text into states, as the towers ask it."""
    ids = torch.tensor([tokenizer.encode(PROBE).ids])
    config: Any = encoder.config
    problem = "it is a decoder, or has one" if config.is_encoder_decoder or getattr(config, "is_decoder", False) else ""
    table = encoder.get_input_embeddings()  # type: ignore[operator]
    if not problem and int(ids.max()) >= table.num_embeddings:
        problem = f"its tokenizer has token {int(ids.max())}, its weights {table.num_embeddings} tokens"
    if not problem:
        try:
            with torch.inference_mode():
                states = encoder(inputs_embeds=table(ids), attention_mask=torch.ones_like(ids)).last_hidden_state
            right = states.shape == (*ids.shape, config.hidden_size) and bool(states.isfinite().all())
            problem = "" if right else "its states are not finite, or of another width than config.json says"
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
            problem = first_line(error)
    if problem:
        raise InputError(
            f"{folder}: not a text encoder as the towers ask for one: {problem}; take one such as BERT, MiniLM or XLM-R"
        )


def write_text_side(to: Path, encoder: nn.Module, tokenizer: Tokenizer) -> None:
    """config.json, model.safetensors and tokenizer.json in `text/`."""
    folder = to / "text"
    folder.mkdir(parents=True)
    config: Any = encoder.config
    content = {name: value for name, value in config.to_dict().items() if name not in OF_ANOTHER_MACHINE}
    (folder / CONFIG).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    save_tensors(encoder.state_dict(), folder / WEIGHTS)
    text = json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """As safetensors, each tensor with memory of its own."""
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, file, metadata={"format": "pt"})


def write_words(to: Path, encoder: nn.Module, tokenizer: Tokenizer, *, report: Callable[[str], None]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vectors = word_vectors(encoder.to(device), tokenizer, report=report)
    encoder.cpu()
    save_tensors({"vectors": vectors}, to / WORDS)
