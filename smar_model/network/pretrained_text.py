"""A text tower cut from a pretrained `transformers` encoder (SMAR, section 2.2: the query tower and the item text tower begin from one)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from smar_model.errors import InputError
from smar_model.network.pair_texts import CLASSES
from smar_model.network.token_vectors import PADDING, TokenVectors
from smar_model.network.towers import by_length, train_part, visible
from smar_model.settings import Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForm:
    """How texts are put to a pretrained encoder; saved in network.json. Models of before there was one put them without anything around."""

    before: tuple[int, ...]
    """Tokens before each text, such as [CLS]."""
    after: tuple[int, ...]
    """Tokens after it, such as [SEP]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedRate:
    """Learning rate of a pretrained weight."""

    peak: float
    share: float
    """Falls by layer, from 1 at the top."""

    def share_of(self, learning_rate: float) -> float:
        """What this weight gets of a stage's learning rate; never more than the top has, nor that more than the stage's own."""
        return min(1.0, self.peak / learning_rate) * self.share


def cut_config(config: Mapping[str, Any], layers: int, *, dropout: float) -> PreTrainedConfig:
    """A `transformers` configuration as a dict, with its first so many layers and this dropout.

    Raises:
        InputError: it has fewer, or `transformers` does not know it.
    """
    try:
        cut = AutoConfig.for_model(**config)
        there = int(cut.num_hidden_layers)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"network.text.pretrained: not a text encoder that transformers knows: {error}") from error
    if layers > there:
        raise InputError(
            f"network.text: query_layers or item_layers is {layers}, the encoder has {there} layers; ask for at most {there}"
        )
    # What some architectures say of each layer has as many entries as layers.
    for name, value in cut.to_dict().items():
        if isinstance(value, list) and len(value) == there and name.startswith("layer"):
            setattr(cut, name, value[:layers])
        elif "dropout" in name and isinstance(value, float):
            setattr(cut, name, dropout)
    cut.num_hidden_layers = layers
    return cut


class PretrainedTextTower(nn.Module):
    """Token ids (B, L) to states (B, A + L + Z, W) and their mask, A tokens being put before each text and Z after it.

    The tower is the encoder's embeddings and first layers. Segments are added to the token vectors where the first layer is trained, else to
    the states, so that no gradient goes through what is locked.
    """

    encoder: Any
    """Of `transformers`."""

    def __init__(
        self,
        config: PreTrainedConfig,
        form: TextForm | None,
        *,
        segments: int,
        width: int,
        trained: Trained,
        last_blocks: int,
        folder: Path | None = None,
        padding: int = PADDING,
    ) -> None:
        """
        Args:
            config: of the encoder as it is used (`cut_config`).
            folder: `text` in the folder of the encoder whose weights are taken; None: they are drawn, to be loaded later.
            padding: id of padding in the encoder's own vocabulary.
        """
        super().__init__()
        self.form = form
        self.encoder = _weights_of(folder, config) if folder else _drawn(config)
        if form and getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # nothing here reads it
        own = self.encoder.get_input_embeddings()
        assert isinstance(own, nn.Embedding)
        tokens = TokenVectors(own.num_embeddings, own.embedding_dim)
        with torch.no_grad():
            tokens.weight.copy_(own.weight)
            tokens.weight[[PADDING, padding]] = own.weight[[padding, PADDING]]
        self.encoder.set_input_embeddings(tokens)
        inner = config.hidden_size
        self.segments = nn.Embedding(segments, inner)
        nn.init.zeros_(self.segments.weight)  # begin as the encoder was trained
        self.project = nn.Identity() if inner == width else nn.Linear(inner, width)
        self.segments_first = form is None or trained == "tuned"
        train_part(self.encoder, trained, last_blocks)

    @property
    def tokens(self) -> TokenVectors:
        vectors = self.encoder.get_input_embeddings()
        assert isinstance(vectors, TokenVectors)
        return vectors

    def share_tokens(self, tokens: TokenVectors) -> None:
        """Have the vectors of another tower."""
        self.encoder.set_input_embeddings(tokens)

    def depths(self) -> dict[nn.Parameter, int]:
        """How many layers stand above each of the encoder's weights, and those that are added up to; embeddings have all above them."""
        lists = {n: m for n, m in self.encoder.named_modules() if isinstance(m, nn.ModuleList)}
        name = max(lists, key=lambda n: len(lists[n]))
        layers, depths, seen = len(lists[name]), {}, False
        for parameter_name, parameter in self.encoder.named_parameters():
            if parameter_name.startswith(f"{name}."):
                seen = True
                depths[parameter] = layers - 1 - int(parameter_name[len(name) + 1 :].split(".")[0])
            else:  # what is registered before the layers works before them
                depths[parameter] = 0 if seen else layers
        return depths

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        whole, mask, added = self._with_around(ids)
        vectors = self.tokens(whole)
        of_segments = F.pad(self.segments(segments) * (ids != PADDING)[..., None], (0, 0, *added))
        if self.segments_first:
            vectors = vectors + of_segments
        states = by_length(self._encode, vectors, mask, training=self.training)
        if not self.segments_first:
            states = states + of_segments
        return self.project(states), mask

    def _encode(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(inputs_embeds=vectors, attention_mask=mask.long()).last_hidden_state

    def _with_around(self, ids: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Ids and mask of texts with what stands around them, which follows a text's last token at once; and how many places that adds
        at the front and at the end."""
        before, after = (self.form.before, self.form.after) if self.form else ((), ())
        if not (before or after):
            return ids, visible(ids), (0, 0)
        added = (len(before), len(after))
        mask = F.pad(ids != PADDING, added)
        ids = F.pad(ids, added)
        place = torch.arange(ids.shape[1], device=ids.device)
        end = (mask * (place + 1)).amax(1, keepdim=True).clamp(min=len(before))  # (B, 1): where the text ends
        for number, token in enumerate(before):
            ids, mask = ids.masked_fill(place == number, token), mask | (place == number)
        for number, token in enumerate(after):
            here = place == end + number
            ids, mask = ids.masked_fill(here, token), mask | here
        return ids, mask, added


def _drawn(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder whose weights are to be loaded."""
    of_a_pair = CLASSES.get(config.model_type)
    return of_a_pair(config) if of_a_pair else AutoModel.from_config(config, dtype=torch.float32)


def _weights_of(folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder's first layers with its weights; never from the net.

    Raises:
        InputError: the folder's weights are not those of the configuration.
    """
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # layers that are left out are no fault
    transformers_logging.disable_progress_bar()
    try:
        encoder, report = CLASSES.get(config.model_type, AutoModel).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"network.text.pretrained: {folder}: not a text encoder with its weights: {error}") from error
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise InputError(
            f"network.text.pretrained: {folder}: its weights lack {', '.join(missing[:3])} of its config.json"
        )
    return encoder.train(False)
