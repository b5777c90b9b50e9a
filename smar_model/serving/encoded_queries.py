"""`POST /encode`: queries as an index is asked them, for an engine that holds the vectors of `smar export`."""

from __future__ import annotations

import time

import numpy as np

from smar_model.errors import InputError
from smar_model.network.variants import HEAD_TEMPERATURE
from smar_model.serving.api_schemas import EncodeAnswer, EncodedQuery, EncodeQuestion
from smar_model.serving.bounded_work import MAXIMUM_ANSWER
from smar_model.serving.served_pair import ServedPair

BYTES_A_NUMBER = 22
"""The most that one of single precision takes in JSON, with its comma."""


def encode_and_write(pair: ServedPair, question: EncodeQuestion) -> bytes:
    """JSON of an `EncodeAnswer`.

    Raises:
        InputError: it would be longer than an answer may be.
    """
    started, encoder = time.perf_counter(), pair.searcher.encoder
    asked, shares, probabilities = pair.searcher.encode(question.queries, question.routing)
    heads, dimension = encoder.heads, asked.shape[1] // 2
    if 3 * asked[:, :dimension].size * BYTES_A_NUMBER > MAXIMUM_ANSWER:
        most = MAXIMUM_ANSWER // (3 * heads * dimension * BYTES_A_NUMBER)
        raise InputError(f"an answer of more than {MAXIMUM_ANSWER:,} bytes; ask for at most {most} queries at once")
    numbers = _written_short(asked)
    answers = [
        EncodedQuery(
            query=query,
            p=float(p),
            share=float(share),
            embeddings=[vector[:dimension] for vector in vectors],
            vectors=vectors,
        )
        for query, p, share, vectors in zip(
            question.queries,
            probabilities,
            shares,
            (numbers[start : start + heads] for start in range(0, len(numbers), heads)),
            strict=True,
        )
    ]
    answer = EncodeAnswer(
        version=pair.version,
        model_digest=pair.model_digest,
        index_digest=pair.index_digest,
        dimension=dimension,
        heads=heads,
        head_temperature=HEAD_TEMPERATURE if heads > 1 else None,
        answers=answers,
        milliseconds=1_000 * (time.perf_counter() - started),
    )
    return answer.model_dump_json().encode()


def _written_short(numbers: np.ndarray) -> list[list[float]]:
    """Single precision to nine digits, from which the same single comes back; as doubles they would be written with twice as many."""
    scale = 10.0 ** (8 - np.floor(np.log10(np.maximum(np.abs(numbers.astype(np.float64)), 1e-30))))
    return (np.round(numbers.astype(np.float64) * scale) / scale).tolist()
