"""How many threads compute a training step quickest: those of a small network wait for each other longer than they share.

`smar start` asks once in a home for each network and batch. The number stands in the run's settings, and so in the keys of its training
stages: another one ends with other last digits. What was found is kept in <home>/step_threads/, lest it change from day to day.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.lake.digests import digest_json
from smar_model.lake.earlier_outputs import NamedEncoder
from smar_model.lake.records import OPEN, parse_record
from smar_model.lake.shared_files import create_if_absent, is_file, read_bytes
from smar_model.settings import Settings, home
from smar_model.training.device import mixed_precision, seed_everything
from smar_model.training.loop import make_optimizer
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import three_losses
from smar_model.training.variant_costs import random_batch, untrained_model

ROUNDS, ROUND_SECONDS = 3, 0.5
"""Turns of every number of threads, and the least time of one."""
WORTH = 0.95
"""More threads must bring a step down to this share of its time, or they are better left to others."""


@with_config(OPEN)
class _Found(TypedDict):
    threads: int
    milliseconds: dict[str, float]
    """Number of threads → a step's time in its best turn."""


_FOUND = TypeAdapter(_Found)


def with_step_threads(
    settings: Settings, encoders: Mapping[Literal["text", "vision"], NamedEncoder], report: Callable[[str], None]
) -> Settings:
    """Settings that say how many of their threads compute a step; unchanged where a GPU trains.

    Args:
        encoders: the pretrained ones of the settings, by kind.

    Raises:
        InputError: the settings' network cannot be built.
        DamagedRecord: what was found earlier cannot be read.
    """
    if torch.cuda.is_available():
        return settings
    training = settings.training
    asked = [
        *(settings.section(name) for name in ("network", "tokenizer", "pictures")),
        *(training.pretrain.batch, training.pretrain.chunk, training.pretrain.random_negatives),
        *(training.precision, training.threads, {kind: encoder.digest for kind, encoder in encoders.items()}),
    ]
    record = home() / "step_threads" / f"{digest_json(asked)}.json"
    if not is_file(record):
        times = _probe(settings)
        fewest = min(n for n in times if times[n] <= min(times.values()) / WORTH)
        found = _Found(threads=fewest, milliseconds={str(n): round(1000 * t, 2) for n, t in times.items()})
        create_if_absent(record, json.dumps(found))
        told = ", ".join(f"{n}: {t} ms" for n, t in found["milliseconds"].items())
        report(f"threads that compute a training step: {fewest} (time of a step by threads: {told})")
    chosen = parse_record(read_bytes(record), _FOUND, path=record, what_to_do="remove it; the next start probes again")
    return settings.model_copy(update={"training": training.model_copy(update={"step_threads": chosen["threads"]})})


def _probe(settings: Settings) -> dict[int, float]:
    """Seconds of a step with all three losses, by threads: the best of turns that alternate, on random tokens and patches."""
    most, optimisation = settings.training.threads, settings.training.pretrain
    seed_everything(settings.training.seed, most)
    model = untrained_model(settings)
    batch = random_batch(model, pairs=optimisation.chunk or optimisation.batch)
    optimizer, weights = make_optimizer(model, optimisation), settings.training.modality_weights

    def step() -> None:
        optimizer.zero_grad()
        with mixed_precision(settings.training.precision):
            found = encode_pairs(model, batch, pictures=True)
        three_losses(model, {n: v.float() if v.is_floating_point() else v for n, v in found.items()}, weights)[
            "loss"
        ].backward()
        optimizer.step()

    numbers = sorted({*(2**n for n in range(most.bit_length())), most})
    best = dict.fromkeys(numbers, float("inf"))
    step()  # what is allocated once
    for _ in range(ROUNDS):
        for number in numbers:
            torch.set_num_threads(number)
            steps, began = 0, time.monotonic()
            while not steps or time.monotonic() - began < ROUND_SECONDS:
                step()
                steps += 1
            best[number] = min(best[number], (time.monotonic() - began) / steps)
    return best
