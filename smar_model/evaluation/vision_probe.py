"""`smar probe-vision`: what a linear classifier reads from frozen picture features (the linear probe, Alain and Bengio 2016).

It judges `adapt-vision` apart from search:

1. Products with a picture that says something and with true attributes are divided by a hash of their id. Held out are
   the run's novel items, which the encoder has not seen either; where a run has none, a share of its own.
2. Each encoder gives the mean of its patch tokens for each product's main picture; where the variant reads pictures by descriptors
   alone, its image tower gives what it makes of them. Descriptors and a histogram of colours are features too, and each encoder
   with the descriptors beside it. All are standardised.
3. A logistic regression, its strength of regularisation chosen on a fifth of its training products, learns the true
   colour and the true type. Its accuracy on the held-out products is the figure.

`truth` is read here, as judges may.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from smar_model.data.item_pictures import decode_thumbnail
from smar_model.data.training_pairs import in_novel_bucket
from smar_model.delivery.shop_inputs import ShopInputs
from smar_model.errors import InputError
from smar_model.evaluation.evaluation_record import Estimate
from smar_model.evaluation.evaluation_set import read_contract_table
from smar_model.evaluation.picture_features import (
    EncoderTokens,
    Size,
    adapted_part,
    all_places,
    colour_histogram,
    encode,
    generic_encoder,
)
from smar_model.evaluation.significance import ClusterBootstrap, compare
from smar_model.lake.encoder_store import KINDS, encoder_folder, recorded_encoder
from smar_model.lake.runs import Run
from smar_model.lake.shared_files import replace_file
from smar_model.network.model import RetrievalModel
from smar_model.network.picture_encoder import PictureEncoder
from smar_model.training.device import seed_everything
from smar_model.training.model_files import load_model, new_model

ATTRIBUTES = ("colour", "type")
"""What a picture shows of a product."""
HELD_OUT = 0.2
"""Share of the products that a run without novel items holds out of the probe alone."""
MOST = 20_000
"""Products; more would not move the figures."""
LEAST = 5
"""Products of a value to learn it from; those of rarer values are left out."""
STRENGTHS = (0.003, 0.03, 0.3)
"""Inverse strengths of regularisation to choose from."""
BESIDE = "_beside"
"""End of the name of an encoder's features with the descriptors."""
SEED = 0
NO_WEIGHTS = "no folder of one was given (--generic)"
NAMES = {
    "colour_histogram": "colour histogram",
    "descriptors": "colours and edges by field",
    "unadapted": "{begun}",
    "adapted": "adapted {part}",
    "generic": "generic encoder",
    "unadapted_beside": "{begun}, descriptors beside it",
    "adapted_beside": "adapted {part}, descriptors beside it",
    "generic_beside": "generic encoder, descriptors beside it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    pixels: np.ndarray
    """(N, 3, H, W) uint8."""
    held_out: np.ndarray
    """(N,) bool."""
    attributes: dict[str, np.ndarray]
    """Attribute → true values (N,), None where truth names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeProbe:
    """What linear classifiers read of one true attribute from each encoder's features, by name."""

    values: int
    """Different true values; products of other ones are left out."""
    learned_from: int
    held_out: int
    left_out: int
    most_frequent: float
    """Share of the held-out products that have the most frequent value."""
    accuracy: dict[str, Estimate]
    adapted_minus: dict[str, Estimate]
    """With descriptors beside neither."""
    adapted_beside_minus: dict[str, Estimate]
    """With descriptors beside the adapted one: less the others that have them, and less what none has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionProbe:
    """`vision_probe.json`."""

    run: str
    products: int
    part: str
    pretrained: str | None
    """The encoder that adaptation began with, where it came with weights."""
    unseen_by_encoder: bool
    """Whether the encoder has not seen the products held out either."""
    parameters: dict[str, int]
    dimensions: dict[str, int]
    not_measured: dict[str, str]
    attributes: dict[str, AttributeProbe]


def probe_vision(run: Run, *, generic: Path | None = None) -> VisionProbe:
    """Probe the run's adapted encoder, the one it started from, a colour histogram and, given its folder, a generic encoder.

    Writes `vision_probe.json` into the run's folder.

    Args:
        generic: folder of a timm model with its weights; pictures are enlarged to the size that it was trained on.

    Raises:
        InputError: the shop has no true attributes, the variant adapts no encoder, a stage has not run, or `generic` is no such
            folder.
    """
    settings = run.settings
    adapted = load_model(run.output("adapt-vision").folder / "model")
    if not adapted.variant.adapted:
        raise InputError(
            f"run {run.name}: variant {settings.network.variant!r} adapts no vision encoder; nothing to probe, choose a run of "
            "another variant"
        )
    products = read_products(run)
    encoders: dict[str, Callable[[], tuple[nn.Module, Size | None]]] = {
        "unadapted": lambda: (adapted_part(unadapted_model(run, adapted)), None),
        "adapted": lambda: (adapted_part(adapted), None),
    }
    if generic:
        encoders["generic"] = lambda: generic_encoder(generic)
    height, width = products.pixels.shape[2:]
    features = {
        "colour_histogram": colour_histogram(products.pixels),
        "descriptors": encode(all_places(height, width), products.pixels),
    }
    parameters = {}
    for name, make in encoders.items():
        encoder, size = make()
        parameters[name] = sum(p.numel() for p in encoder.parameters())
        features[name] = encode(encoder, products.pixels, size=size)
        if isinstance(encoder, EncoderTokens):
            features[name + BESIDE] = np.concatenate([features[name], features["descriptors"]], axis=1)
    probed = {
        attribute: probe(features, values, products.held_out, samples=settings.evaluation.bootstrap_samples, seed=SEED)
        for attribute, values in products.attributes.items()
    }
    result = VisionProbe(
        run=run.name,
        products=len(products.pixels),
        part="encoder" if isinstance(adapted.vision, PictureEncoder) else "image tower",
        pretrained=settings.network.vision.pretrained if adapted.shape.vision_came_with_weights else None,
        unseen_by_encoder=settings.segments.novel_range[1] > 0,
        parameters=parameters,
        dimensions={name: table.shape[1] for name, table in features.items()},
        not_measured={} if generic else {"generic": NO_WEIGHTS},
        attributes=probed,
    )
    replace_file(run.folder / "vision_probe.json", json.dumps(asdict(result), indent=1))
    return result


def read_products(run: Run) -> Products:
    """Products with true attributes and an informative picture, the first one of each, at most MOST.

    A held-out product whose very picture stands on one to learn from is left out.

    Raises:
        InputError: the shop has no `truth`, or too few products are left to probe.
    """
    shop = ShopInputs.of(run.settings)
    truth_file = shop.truth_items()
    if truth_file is None:
        raise InputError(
            f"{shop.root}/truth/items.parquet: no such file; the probe needs true attributes, which simulated shops have"
        )
    truth = read_contract_table("truth_items", [truth_file]).set_index("item_id")["attributes"]
    pictures = ds.dataset([str(f) for f in run.output("prepare-items").files("pictures")])
    frame = pictures.to_table(columns=["item_id", "frame", "picture_digest", "uninformative"]).to_pandas()
    frame = frame[frame["uninformative"].isna() & frame["item_id"].isin(truth.index)]
    frame = frame.sort_values(["item_id", "frame"]).drop_duplicates("item_id")
    if len(frame) > MOST:
        frame = frame.sample(MOST, random_state=SEED).sort_values("item_id")
    low, high = run.settings.segments.novel_range
    frame["held_out"] = in_novel_bucket("item", frame["item_id"].tolist(), (low, high or HELD_OUT))
    known = set(frame.loc[~frame["held_out"], "picture_digest"])
    frame = frame[~(frame["held_out"] & frame["picture_digest"].isin(known))]
    rows = pictures.to_table(
        columns=["item_id", "frame", "thumbnail"], filter=ds.field("item_id").isin(frame["item_id"].tolist())
    )
    frame = frame.merge(rows.to_pandas(), on=["item_id", "frame"], validate="1:1")
    true = truth.loc[frame["item_id"]]
    attributes = {name: np.array([a.get(name) for a in true], dtype=object) for name in ATTRIBUTES}
    held_out = frame["held_out"].to_numpy()
    usable = {name: v for name, v in attributes.items() if len(learnable_values(v, held_out)) > 1}
    if not usable:
        raise InputError(
            f"run {run.name}: of {len(frame)} products with a picture and true attributes, {held_out.sum()} of them held "
            f"out, no two values of {' or '.join(ATTRIBUTES)} have {LEAST} products to learn from and one held out"
        )
    pixels = np.stack([decode_thumbnail(data) for data in frame["thumbnail"]])
    return Products(pixels=pixels, held_out=held_out, attributes=usable)


def learnable_values(values: np.ndarray, held_out: np.ndarray) -> list[str]:
    """Values with enough products to learn from; none where no held-out product has one of them."""
    counts = pd.Series(values[~held_out]).value_counts()
    learnable = sorted(counts.index[counts >= LEAST])
    return learnable if pd.Series(values[held_out]).isin(learnable).any() else []


def unadapted_model(run: Run, adapted: RetrievalModel) -> RetrievalModel:
    """The model that the run's adapt-vision began with: the same settings, seed and pretrained encoders.

    Raises:
        InputError: an encoder that the run met is gone, or another one now.
    """
    settings = run.settings
    seed_everything(settings.training.seed, settings.training.threads)
    shape = adapted.shape
    return new_model(
        settings.network,
        vocabulary=shape.vocabulary,
        query_length=shape.query_length,
        item_length=shape.item_length,
        pictures=settings.pictures,
        **{
            f"{kind}_encoder": encoder_folder(recorded, kind, run=run.name)
            for kind in KINDS
            if (recorded := recorded_encoder(run, kind))
        },
    )


def probe(
    features: dict[str, np.ndarray], values: np.ndarray, held_out: np.ndarray, *, samples: int, seed: int
) -> AttributeProbe:
    """Accuracy of a logistic regression on each of the features, and of `adapted` less others, with 95 % intervals.

    Args:
        features: name → (N, C).
        values: (N,) the true ones, None where unknown.
        held_out: (N,) bool.
        samples: of the bootstrap over held-out products.
    """
    known = pd.Series(values).isin(learnable_values(values, held_out)).to_numpy()
    train, test = known & ~held_out, known & held_out
    bootstrap = ClusterBootstrap(np.arange(test.sum()), samples=samples, seed=seed)
    right = {}
    for name, table in features.items():
        classifier = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000, tol=1e-3)),
            {"logisticregression__C": STRENGTHS},
            cv=StratifiedShuffleSplit(1, test_size=0.2, random_state=seed),
        )
        right[name] = classifier.fit(table[train], values[train]).predict(table[test]) == values[test]
    most_frequent = pd.Series(values[train]).mode()[0]
    return AttributeProbe(
        values=len(set(values[train])),
        learned_from=int(train.sum()),
        held_out=int(test.sum()),
        left_out=int((~known).sum()),
        most_frequent=float((values[test] == most_frequent).mean()),
        accuracy={name: bootstrap.estimate(each[:, None])[0] for name, each in right.items()},
        adapted_minus={
            name: compare(bootstrap, right["adapted"], each).difference
            for name, each in right.items()
            if name != "adapted" and "adapted" in right and not name.endswith(BESIDE)
        },
        adapted_beside_minus={
            name: compare(bootstrap, right[f"adapted{BESIDE}"], each).difference
            for name, each in right.items()
            if f"adapted{BESIDE}" in right and name not in ("unadapted", "generic", f"adapted{BESIDE}")
        },
    )


def format_probe(result: VisionProbe) -> str:
    """Plain text: an encoder a row, accuracy in per cent with its 95 % interval."""
    probed = result.attributes
    begun = f"{result.pretrained} as it came" if result.pretrained else f"unadapted {result.part}"
    names = {name: shown.format(part=result.part, begun=begun) for name, shown in NAMES.items()}
    rows = [["", "parameters", *(f"{name}, {p.values} values, n = {p.held_out:,}" for name, p in probed.items())]]
    rows.append(["most frequent value", "", *(f"{100 * p.most_frequent:.1f}" for p in probed.values())])
    for name, shown in names.items():
        if name in result.dimensions:
            size = f"{parameters:,}" if (parameters := result.parameters.get(name)) else ""
            rows.append([shown, size, *(_in_per_cent(p.accuracy[name]) for p in probed.values())])
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]
    lines = ["".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{names[name]:<{widths[0]}}not measured: {reason}" for name, reason in result.not_measured.items()]
    lines.append("")
    first = next(iter(probed.values()))
    for other in first.adapted_minus:
        differences = (f"{name} {_in_per_cent(p.adapted_minus[other], sign='+')}" for name, p in probed.items())
        lines.append(f"adapted less {names[other]}, points: {', '.join(differences)}")
    for other in first.adapted_beside_minus:
        differences = (f"{name} {_in_per_cent(p.adapted_beside_minus[other], sign='+')}" for name, p in probed.items())
        lines.append(f"adapted with descriptors less {names[other]}, points: {', '.join(differences)}")
    lines.append(
        f"The adapted {result.part} has not seen the products held out."
        if result.unseen_by_encoder
        else "Only the probe has not seen the products held out: the run trained its encoder on all "
        "(segments.novel_bucket is 0)."
    )
    return "\n".join(lines)


def _in_per_cent(estimate: Estimate, sign: str = "") -> str:
    return "{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})".format(
        sign=sign, **{name: 100 * value for name, value in asdict(estimate).items()}
    )
