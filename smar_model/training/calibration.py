"""Calibration of the prediction header: of the queries for which P(q) says .8, four fifths are visual.

The header's loss ends where every label that it learns from is right beyond doubt, so its sigmoid may promise too much for
other queries. Some labels are therefore kept from it; one temperature, fitted to those after training, divides its logits (Guo
et al. 2017, arXiv 1706.04599). P(q) = .5 stays where it was, and so does hard routing.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from smar_model.data.text_tokens import pad
from smar_model.data.token_tables import is_held_out, query_keys
from smar_model.network.model import RetrievalModel
from smar_model.training.device import device

QUERIES_AT_A_TIME = 512


def split_labels(labels: pd.DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """Labels to learn from and labels to calibrate by, by query.

    Kept from learning are those queries that early stopping holds out which belong to the rarer half: they are most like
    queries that nobody has asked yet, and a frequent one without its label would be routed wrongly too often.

    Args:
        labels: label and clicks by query.
    """
    kept = is_held_out(query_keys(labels.index.tolist())) & (labels["clicks"] <= labels["clicks"].median()).to_numpy()
    return labels.loc[~kept, "label"].to_dict(), labels.loc[kept, "label"].to_dict()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature t > 0 with which σ(logit / t) makes the labels likeliest.

    Its logarithm has a standard normal prior: few labels move it little, none not at all.

    Args:
        logits: (N,)
        labels: 0 or 1 (N,)
    """
    logits, labels = logits.double(), labels.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        errors = F.binary_cross_entropy_with_logits(logits / log_temperature.exp(), labels, reduction="sum")
        posterior = errors + log_temperature.square() / 2
        posterior.backward()
        return posterior.item()

    with torch.enable_grad():
        optimizer.step(loss)
    return log_temperature.exp().item()


@torch.no_grad()
def calibrate(model: RetrievalModel, tokenizer: Tokenizer, labels: Mapping[str, int]) -> dict[str, float]:
    """Set the temperature of the model's header by labels that it has not learned from; returns what was found."""
    model.eval()
    queries = sorted(labels)
    encoded = tokenizer.encode_batch(queries, add_special_tokens=False)
    ids = torch.from_numpy(pad([e.ids for e in encoded], model.shape.query_length))
    parts = [model.encode_queries(part.to(device()))[1].cpu() for part in ids.split(QUERIES_AT_A_TIME) if len(part)]
    logits = torch.cat([torch.zeros(0), *parts])
    temperature = fit_temperature(logits, torch.tensor([labels[query] for query in queries]))
    model.header_temperature.fill_(temperature)
    return {"gate_temperature": temperature, "gate_labels_held_out": float(len(queries))}
