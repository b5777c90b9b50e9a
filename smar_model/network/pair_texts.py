"""Text towers of aligned pairs (CLIP, SigLIP, SigLIP 2), asked as other text encoders are: by token vectors and a mask.

`transformers` asks them by token ids. In each the state at a text's last token is the one that its projection leads into the space of the
pair; SigLIP's own is that of the last place of a text that is padded to full length, and stands there in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, Siglip2TextModel, SiglipTextModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutput

from smar_model.network.token_vectors import PADDING


class ClipTexts(CLIPTextModel):
    """Vectors (B, L, W) and mask (B, L) to states (B, L, W); a token sees those before it."""

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        states = self.embeddings(inputs_embeds=inputs_embeds)
        seen = create_causal_mask(
            config=self.config, inputs_embeds=states, attention_mask=attention_mask, past_key_values=None
        )
        states = self.encoder(inputs_embeds=states, attention_mask=seen, is_causal=True).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.final_layer_norm(states))


class SiglipTexts(SiglipTextModel):
    """Likewise; a text is always padded to the length that the model was trained with, and padding is seen."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.head: Any = torch.nn.Identity()  # kept apart, as the pair's projection

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        return siglip_states(self, inputs_embeds, attention_mask)


class Siglip2Texts(Siglip2TextModel):
    """As `SiglipTexts`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.head: Any = torch.nn.Identity()

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        return siglip_states(self, inputs_embeds, attention_mask)


def siglip_states(model: SiglipTexts | Siglip2Texts, vectors: Tensor, mask: Tensor) -> BaseModelOutput:
    """States (B, L, W) of vectors (B, L, W), the pooled one at each text's last place that the mask shows."""
    count, length, _ = vectors.shape
    table: Any = model.get_input_embeddings()
    padding = table.weight[PADDING]
    whole = torch.where(mask.bool()[..., None], vectors, padding)
    further = model.config.max_position_embeddings - length
    whole = torch.cat([whole, padding.expand(count, further, -1)], dim=1)
    states = model.encoder(inputs_embeds=model.embeddings(inputs_embeds=whole), attention_mask=None).last_hidden_state
    states = model.final_layer_norm(states)
    place = torch.arange(length, device=mask.device)
    is_last = place == last_place(mask)[:, None]
    return BaseModelOutput(last_hidden_state=torch.where(is_last[..., None], states[:, -1:], states[:, :length]))


def last_place(mask: Tensor) -> Tensor:
    """The last place that a mask (B, L) shows, (B,)."""
    return (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).sub(1).clamp(min=0)


CLASSES: dict[str, Any] = {
    "clip_text_model": ClipTexts,
    "siglip_text_model": SiglipTexts,
    "siglip2_text_model": Siglip2Texts,
}
"""By `model_type` of their configuration; of all others `AutoModel` knows the class."""
