"""Stage encode-pictures: patch tokens of every picture under the adapted, locked vision encoder, in several views.

Training and item embeddings read them instead of encoding pictures (design, decision 6). While the encoder stays the same,
only pictures that the newest earlier output does not hold are encoded; the result is the same as if all were.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smar_model.data.earlier_rows import find_earlier, take_rows
from smar_model.data.item_pictures import distinct_pictures, find_pictures
from smar_model.data.patch_tokens import read_patch_tokens
from smar_model.data.picture_views import picture_view
from smar_model.data.sorted_keys import find_rows
from smar_model.errors import InputError
from smar_model.lake.digests import digest_bytes, digest_json
from smar_model.lake.stage import StageContext
from smar_model.network.model import RetrievalModel
from smar_model.training.device import device, seed_everything
from smar_model.training.model_files import load_model

BATCH = 64
"""Pictures encoded at a time, always: the last bits of a result may depend on it."""
SHARD_BYTES = 1 << 28
PICTURES_TAKEN_TOGETHER = 4_096


def encoder_digest(model: RetrievalModel) -> str:
    """Digest of a vision encoder: its weights, its architecture with options, its levels and places, and the size of the pictures it reads."""
    weights = [
        (name, digest_bytes(value.cpu().contiguous().numpy().tobytes()))
        for name, value in sorted(model.vision.state_dict().items())
    ]
    shape = model.shape
    size = (shape.picture_width, shape.picture_height)
    vision = shape.network.vision
    levels = (vision.levels, shape.vision_came_with_weights, shape.picture_grid, model.variant.descriptors)
    return digest_json([weights, shape.vision_encoder, vision.options, size, levels])


@torch.inference_mode()
def patches_of(model: RetrievalModel, pixels: np.ndarray) -> Tensor:
    """Patch tokens of pictures, (B, 3, H, W) uint8 to (B, P, C), under a model's vision encoder.

    Raises:
        InputError: they have another size than it was made for.
    """
    shape, place = model.shape, next(model.parameters()).device
    if pixels.shape[2:] != (shape.picture_height, shape.picture_width):
        raise InputError(
            f"pictures are {pixels.shape[3]}×{pixels.shape[2]}, the vision encoder was made for "
            f"{shape.picture_width}×{shape.picture_height}: set settings.pictures back, or train it again"
        )
    return model.picture_patches(torch.from_numpy(pixels).to(place).float() / 255)


def run(context: StageContext) -> dict[str, float | str]:
    """Publish `patch_tokens/`; a variant without a locked encoder, or a shop without pictures, publishes nothing but the fact.

    Raises:
        InputError: the thumbnails have another size than the encoder was made for.
    """
    training = context.settings.training
    seed_everything(training.seed, training.threads)
    model = load_model(context.input("adapt-vision").folder / "model").to(device())
    files = context.table("prepare-items", "pictures")
    digests = find_pictures(files) if model.vision_locked else np.zeros(0, np.bytes_)
    if not len(digests):
        context.output("no_pictures").touch()
        return {"pictures": 0, "pictures_encoded": 0, "pictures_reused": 0}
    # What a row depends on besides its picture. In the metrics, which are no part of the content's digest.
    made_of = {
        "encoder": encoder_digest(model),
        "thumbnails_made_by": context.input("prepare-items").manifest["made_by"],
    }
    shape = (training.picture_views, model.vision.patches, model.vision.channels)
    size = 2 * shape[1] * shape[2]
    context.report(f"a picture's patch tokens: {shape[1]} places of {shape[2]} channels, {size / 1024:.1f} KB a view")
    write = _writer(context.output("patch_tokens"), digests, shape)
    held = np.full(len(digests), -1)
    artifact = find_earlier(context, made_of)
    if earlier := artifact and read_patch_tokens(artifact.folder / "patch_tokens"):
        held = find_rows(earlier.digests, digests)
        take_rows(
            held,
            lambda rows: np.stack([earlier.read(rows, view) for view in range(shape[0])], axis=1),
            write,
            together=PICTURES_TAKEN_TOGETHER,
        )
    is_new = held < 0
    context.report(f"encoding {is_new.sum():,} pictures in {shape[0]} views; {(~is_new).sum():,} are encoded already")
    for rows, pixels in distinct_pictures(files, digests, is_new, together=BATCH):
        names = digests[rows].astype(str).tolist()
        views = [_encode(model, picture_view(pixels, names, view)) for view in range(shape[0])]
        write(rows, torch.stack(views, dim=1).numpy())
    counts = {"pictures_encoded": int(is_new.sum()), "pictures_reused": int((~is_new).sum())}
    return {"pictures": len(digests), **counts, "views": shape[0], **made_of}


def _encode(model: RetrievalModel, pixels: np.ndarray) -> Tensor:
    """(B, 3, H, W) uint8 to (B, P, C) float16, in a batch of always the same size."""
    full = np.zeros((BATCH, *pixels.shape[1:]), np.uint8)
    full[: len(pixels)] = pixels
    return patches_of(model, full)[: len(pixels)].half().cpu()


def _writer(folder: Path, digests: np.ndarray, shape: tuple[int, int, int]) -> Callable[[np.ndarray, np.ndarray], None]:
    """Make the files, and a function that writes rows (B,) and their tokens (B, V, P, C)."""
    folder.mkdir(parents=True)
    np.save(folder / "digests.npy", digests)
    each = max(1, SHARD_BYTES // (2 * int(np.prod(shape))))
    shards = [
        np.lib.format.open_memmap(
            folder / f"{number:05}.npy",
            mode="w+",
            dtype=np.float16,
            shape=(min(each, len(digests) - number * each), *shape),
        )
        for number in range(-(-len(digests) // each))
    ]

    def write(rows: np.ndarray, tokens: np.ndarray) -> None:
        shard = rows // each
        for number in np.unique(shard):
            here = shard == number
            shards[number][rows[here] % each] = tokens[here]

    return write
