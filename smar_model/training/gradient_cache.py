"""Between encoding and loss: batches larger than memory, and batches spread over processes.

A contrastive loss needs the embeddings of the whole batch at once, but not their graphs. So an encoder turns a batch
into named tensors with one row a pair, an objective turns those into the loss, and what lies between is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from smar_model.training.batches import Batch
from smar_model.training.processes import gather, own_rows, processes, sum_gradients

Embeddings = dict[str, Tensor]
"""What the losses see of a batch: embeddings, header logits, keys, labels; each with one row a pair."""
Encode = Callable[[Batch], Embeddings]
Objective = Callable[[Embeddings], dict[str, Tensor]]


def backward(
    batch: Batch,
    encode: Encode,
    objective: Objective,
    parameters: Iterable[nn.Parameter],
    *,
    chunk: int | None = None,
    seed: Callable[[int], object] = lambda row: None,
    sent_as: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Set the gradients of `objective(encode(batch))["loss"]`, the batch being that of all processes together.

    1. Encode. With `chunk` smaller than the batch: chunk by chunk without a graph, noting the state of the random
       generators before each (gradient caching, Gao et al. 2021, arXiv 2101.06983).
    2. Gather the embeddings of all processes; compute the loss of them all, and its gradient with respect to this
       process's own.
    3. Carry that gradient back into the parameters. With `chunk`: encode each chunk again, from the noted state so
       that dropout falls alike; memory holds one chunk's graph at a time.
    4. Sum the gradients over processes.

    A batch of one chunk in one process needs none of this: its graph goes from the loss to the parameters.

    Args:
        parameters: those that are trained; their gradients are overwritten.
        chunk: pairs encoded at a time; None: all.
        seed: called before a part is encoded, with the row of the global batch at which it begins.
        sent_as: of gradients between processes.

    Returns:
        The objective's parts.
    """
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad = None
    chunks = [batch] if chunk is None else batch.split(chunk)
    if len(chunks) == processes() == 1:
        seed(0)
        parts = objective(encode(batch))
        parts["loss"].backward()
        return {name: value.detach() for name, value in parts.items()}
    states, encoded = [], []
    begins = own_rows(len(batch.queries) * processes()).start
    for number, part in enumerate(chunks):
        seed(begins + number * (chunk or 0))
        states.append(_random_state())
        with torch.set_grad_enabled(len(chunks) == 1):
            encoded.append(encode(part))
    own = {name: torch.cat([e[name] for e in encoded]).detach() for name in encoded[0]}
    for value in own.values():
        value.requires_grad_(value.is_floating_point())
    parts = objective(gather(own))
    parts["loss"].backward()
    # What the objective itself holds (the temperature) has the whole batch's gradient in every process by now.
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= processes()
    after = _random_state()
    start = 0
    for part, state, graph in zip(chunks, states, encoded, strict=True):
        if len(chunks) > 1:
            _set_random_state(state)
            graph = encode(part)
        rows = slice(start, start + len(part.queries))
        start = rows.stop
        _carry_back(graph, own, rows)
    _set_random_state(after)
    sum_gradients(parameters, sent_as)
    return {name: value.detach() for name, value in parts.items()}


def _carry_back(graph: Embeddings, own: Embeddings, rows: slice) -> None:
    """Add to the parameters' gradients what those of `own` say about a chunk, whose rows these are."""
    outputs, gradients = [], []
    for name, value in graph.items():
        gradient = own[name].grad
        if value.requires_grad and gradient is not None:
            outputs.append(value)
            gradients.append(gradient[rows])
    torch.autograd.backward(outputs, gradients)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else ())]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
