"""Item embeddings: several pictures, none, an item's confidence in its own; and what the stage does not do twice."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from smar_model.data.catalogue import read_catalogue, read_item_digests
from smar_model.data.item_pictures import decode_thumbnail, read_item_pictures, read_thumbnails
from smar_model.data.patch_tokens import PatchTokens
from smar_model.data.sorted_keys import as_bytes
from smar_model.data.text_tokens import encode_items, load_tokenizer
from smar_model.data.token_tables import ItemTokens
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, find_checkpoints, manifest_path
from smar_model.lake.digests import digest_json
from smar_model.lake.runs import Run
from smar_model.lake.stage import run_stage
from smar_model.lake.sweeping import sweep_orphans
from smar_model.network.model import RetrievalModel
from smar_model.retrieval import embed as embedding
from smar_model.retrieval import embed_shards
from smar_model.retrieval.item_embedder import ItemEmbedder, ItemPatches, embed_catalogue, tokenise
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.stages import STAGES
from smar_model.training.model_files import load_model
from tests.evaluation.published_run import PublishedRun, publish_run, write_items
from tests.network.small_models import small_model
from tests.tiny_shop import draw_picture, flip_byte, publish_with, tiny_items, write_rows

PICTURES = {"a": [], "b": ["red"], "c": ["blue", "green", "white"], "d": ["white"]}
PLACEHOLDER = "d"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("embed")
    words = ["<pad>", "<other>", "shirt", "clothing"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<other>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    items = [
        {
            "item_id": item,
            "title": f"shirt {item}",
            "category": "Clothing > Shirts",
            "department": "Clothing",
            "brand": "",
            "attributes": [],
            "images": colours,
            "informative_pictures": len(colours),
            "text_digest": digest_json(item),
            "content_digest": digest_json([item, colours]),
            "updated_at": datetime(2026, 11, 1, tzinfo=UTC),
        }
        for item, colours in PICTURES.items()
    ]
    pictures = [
        {
            "item_id": item,
            "frame": frame,
            "picture_digest": f"{item}{frame}".ljust(64, "0"),
            "perceptual_hash": 0,
            "signature": [0] * 144,
            "uninformative": "uniform" if item == PLACEHOLDER else None,
            "thumbnail": thumbnail(colour),
        }
        for item, colours in PICTURES.items()
        for frame, colour in enumerate(colours)
    ]
    return {
        "tokenizer": folder / "tokenizer.json",
        "catalogue": write_rows(folder / "catalogue.parquet", "catalogue", items),
        "pictures": write_rows(folder / "pictures.parquet", "pictures", pictures),
    }


def thumbnail(colour: str) -> bytes:
    image = Image.open(io.BytesIO(draw_picture(colour))).resize((48, 64))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def trained_model(**network: object) -> RetrievalModel:
    """Weights as after training: the fusion adds something, and every frame and item differs."""
    model = small_model(**network)
    torch.manual_seed(2)
    parts = [model.fusion, model.image_tower, *([model.confidence_head] if model.variant.item_confidence else [])]
    for parameter in (p for part in parts for p in part.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def by_hand(
    model: RetrievalModel, files: dict[str, Path]
) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """S_t, S_m and c of each item, one at a time, S_m and c of each picture where they are looked at one by one."""
    catalogue = read_catalogue([files["catalogue"]])
    texts = encode_items(load_tokenizer(files["tokenizer"]), catalogue, model.shape.item_length)
    thumbnails = read_thumbnails([files["pictures"]], as_bytes(catalogue["item_id"]))
    found = {}
    for row, item in enumerate(catalogue["item_id"]):
        ids, segments = (torch.from_numpy(a[row : row + 1]).long() for a in texts)
        states, mask, text = model.encode_texts(ids[:, : int((ids != 0).sum())], segments[:, : int((ids != 0).sum())])
        first, count = thumbnails.first[row], thumbnails.count[row]
        pixels = torch.from_numpy(thumbnails.pixels[first : first + count]).float() / 255
        patches = model.picture_patches(pixels if count else torch.zeros(1, 3, 64, 48))
        has = torch.full((max(1, count),), bool(count))
        if model.shape.network.frames > 1:
            patches, has = patches[None, : model.shape.network.frames], has[None, : model.shape.network.frames]
        views = [
            (states, mask, model.encode_images(p, h)[0], model.image_mask(h))
            for p, h in zip(patches.split(1), has.split(1), strict=True)
        ]
        found[item] = (
            text[0],
            torch.cat([model.fuse(*view) for view in views]),
            torch.cat([model.confidence(*view) for view in views])
            if model.variant.item_confidence
            else torch.ones(len(views)),
        )
    return found


@pytest.mark.parametrize(
    "network", [{}, {"frames": 2}, {"frames": 3, "item_confidence": True}, {"item_confidence": True}]
)
def test_items_are_embedded_as_one_at_a_time(network: dict, files: dict[str, Path]) -> None:
    model = trained_model(**network)
    embeddings = embed_catalogue(model, files["tokenizer"], [files["catalogue"]], [files["pictures"]])
    assert embeddings.item_ids == list(PICTURES)
    for row, (text, fused, confidence) in enumerate(by_hand(model, files).values()):
        assert embeddings.text[row] == pytest.approx(text.numpy(), abs=1e-5)
        multimodal = torch.nn.functional.normalize(fused.mean(0), dim=0)
        served = text + confidence.mean() * (multimodal - text)
        assert embeddings.multimodal[row] == pytest.approx(served.numpy(), abs=1e-5)
    if "item_confidence" not in network:
        assert (embeddings.multimodal**2).sum(1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("network", [{}, {"frames": 2}])
def test_pictures_that_are_encoded_already_are_not_encoded_again(
    network: dict, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained_model(**network)
    inputs = (files["tokenizer"], [files["catalogue"]], [files["pictures"]])
    direct = embed_catalogue(model, *inputs)
    rows = pq.read_table(files["pictures"]).sort_by([("picture_digest", "descending")]).to_pylist()[::-1]
    pixels = np.stack([decode_thumbnail(row["thumbnail"]) for row in rows])
    with torch.no_grad():
        patches = model.picture_patches(torch.from_numpy(pixels).float() / 255).half().numpy()
    digests = np.array([row["picture_digest"].encode() for row in rows])
    monkeypatch.setattr(RetrievalModel, "picture_patches", None)
    tokens = PatchTokens(digests=digests, shards=[patches[:3, None], patches[3:, None]])
    items = tokenise(model, files["tokenizer"], [files["catalogue"]], tmp_path / "items")
    pictures = read_item_pictures([files["pictures"]], items.item_ids, digests)
    embedder = ItemEmbedder(model, ItemPatches(pictures=pictures, read=partial(tokens.read, views=0)))
    text, multimodal = embedder.embed(items, np.arange(4), np.arange(4))
    assert [item.decode() for item in items.item_ids] == direct.item_ids
    np.testing.assert_array_equal(text, direct.text)
    np.testing.assert_allclose(multimodal, direct.multimodal, atol=3e-3)  # half precision


def test_a_picture_that_says_nothing_is_as_none(files: dict[str, Path]) -> None:
    model = trained_model()
    before = by_hand(model, files)
    torch.nn.init.normal_(model.image_tower.no_picture, std=3.0)
    moved = by_hand(model, files)
    changed = [item for item in PICTURES if not torch.allclose(moved[item][1], before[item][1], atol=1e-3)]
    assert changed == ["a", PLACEHOLDER]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedRun:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "var"))
    return publish_run(tmp_path / "shop", with_truth=False, variant="default")


def embed(run: Run) -> Artifact:
    return run_stage(STAGES["embed"], run)


def counts(artifact: Artifact) -> tuple[float, float]:
    return artifact.metrics["items_embedded"], artifact.metrics["items_reused"]


def change_items(made: PublishedRun, items: list[dict]) -> None:
    for path in manifest_path("prepare-items", "any").parent.glob("*.json"):
        path.unlink()
    made.publish("prepare-items", lambda folder: write_items(folder, items))


def forget_embeddings() -> None:
    for path in manifest_path("embed", "any").parent.glob("*.json"):
        path.unlink()


def assert_as_embedded_directly(made: PublishedRun, artifact: Artifact) -> None:
    folder, tables = made.run.output("finetune").folder / "model", made.run.output("prepare-items")
    files = (tables.files("catalogue"), tables.files("pictures"))
    direct, stored = (
        embed_catalogue(load_model(folder), folder / "tokenizer.json", *files),
        load_embeddings(artifact.folder),
    )
    assert stored.item_ids == direct.item_ids
    assert isinstance(stored.text, np.memmap)
    for name in ("text", "multimodal"):
        np.testing.assert_allclose(getattr(stored, name), getattr(direct, name), atol=1e-6)


def test_only_what_has_changed_is_embedded_again(made: PublishedRun) -> None:
    first = embed(made.run)
    assert counts(first) == (24, 0)
    items = tiny_items()
    items[7] |= {"brand": "Other"}
    items[9] |= {"attributes": items[9]["attributes"] | {"colour": "black"}}  # its picture is drawn by it
    items[11] |= {"updated_at": datetime(2026, 11, 5, tzinfo=UTC)}  # no part of what the towers read
    items[0] |= {"item_id": "item-000-b"}
    change_items(made, items)
    second = embed(made.run)
    assert counts(second) == (2, 22), "an item under another key has the embedding that it had"
    assert_as_embedded_directly(made, second)
    old, new = load_embeddings(first.folder), load_embeddings(second.folder)
    same = [i for i in new.item_ids if i in old.item_ids and i not in (items[7]["item_id"], items[9]["item_id"])]
    for name in ("text", "multimodal"):
        was, now = (getattr(e, name)[[e.item_ids.index(i) for i in same]] for e in (old, new))
        np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("changed", ["model", "thumbnails", "damaged"])
def test_nothing_is_taken_from_another_model_other_thumbnails_or_a_damaged_output(
    changed: str, made: PublishedRun
) -> None:
    first = embed(made.run)
    if changed == "model":
        for path in manifest_path("finetune", "any").parent.glob("*.json"):
            path.unlink()
        made.publish_model("finetune", variant="default", seed=1)
    else:
        change_items(made, tiny_items()[:20])
        if changed == "damaged":
            flip_byte(first.folder / "embeddings" / "text.npy")
        else:
            publish_with("prepare-items", made.run.output("prepare-items").key, made_by="other")
    second = embed(made.run)
    assert counts(second)[1] == 0
    assert_as_embedded_directly(made, second)


def test_what_train_tokenizer_has_tokenised_is_not_tokenised_again(
    made: PublishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[ItemTokens] = []
    tokenise = embedding.tokenise
    monkeypatch.setattr(embedding, "tokenise", lambda *args: tokenised.append(tokenise(*args)) or tokenised[-1])
    run_stage(STAGES["train-tokenizer"], made.run)
    first = embed(made.run)
    assert not tokenised
    assert_as_embedded_directly(made, first)
    forget_embeddings()
    tokenised.clear()
    # Training leaves out an item of today; its row is tokenised here.
    late = datetime(2026, 11, 19, 8, tzinfo=UTC)
    change_items(made, [item | ({"updated_at": late} if n == 5 else {}) for n, item in enumerate(tiny_items())])
    run_stage(STAGES["train-tokenizer"], made.run)
    for path in manifest_path("finetune", "any").parent.glob("*.json"):
        path.unlink()
    made.publish_model("finetune", variant="default")
    second = embed(made.run)
    assert [tokens.item_ids.tolist() for tokens in tokenised] == [[b"item-005"]]
    assert_as_embedded_directly(made, second)


def test_a_stage_that_was_killed_goes_on_from_its_finished_shards(
    made: PublishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_shards, "SHARD", 7)
    training = made.run.settings.training.model_copy(update={"threads": 1})  # one process, which the test can look into
    run = replace(made.run, settings=made.run.settings.model_copy(update={"training": training}))
    whole = embed(run)
    sweep_orphans()
    forget_embeddings()
    assert not find_checkpoints("embed")
    direct, done = ItemEmbedder.embed, []

    def stopping(self: ItemEmbedder, items: ItemTokens, *args: np.ndarray, threads: int) -> np.ndarray:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args[1])
        return direct(self, items, *args, threads=threads)

    monkeypatch.setattr(ItemEmbedder, "embed", stopping)
    with pytest.raises(KeyboardInterrupt):
        embed(run)
    assert len(find_checkpoints("embed")) == 2
    done.clear()
    monkeypatch.setattr(
        ItemEmbedder, "embed", lambda self, *args, **more: done.append(args[2]) or direct(self, *args, **more)
    )
    again = embed(run)
    assert [len(rows) for rows in done] == [7, 3], "of four shards two were there"
    assert again.digest == whole.digest
    sweep_orphans()
    assert not find_checkpoints("embed")


def test_several_processes_embed_as_one(made: PublishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_shards, "SHARD", 8)
    assert made.run.settings.training.threads == 2
    artifact = embed(made.run)
    assert_as_embedded_directly(made, artifact)
    assert len(find_checkpoints("embed")) == 3
    assert not list(artifact.folder.rglob("patches.npy"))


def test_a_variant_without_pictures_stores_one_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "var"))
    made = publish_run(tmp_path / "shop", with_truth=False, variant="text_only")
    artifact = embed(made.run)
    assert_as_embedded_directly(made, artifact)
    assert {f.name for f in (artifact.folder / "embeddings").iterdir()} == {
        "item_ids.npy",
        "digests.npy",
        "row_digests.npy",
        "text.npy",
    }
    items = tiny_items()
    items[9] |= {"images": []}
    change_items(made, items)
    assert counts(embed(made.run)) == (0, 24), "it reads no pictures"


def test_a_catalogue_of_an_older_version_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    older = tmp_path / "catalogue.parquet"
    pq.write_table(pq.read_table(files["catalogue"]).drop_columns(["content_digest"]), older)
    with pytest.raises(
        InputError, match=r"has no column content_digest, .* run `smar prepare-items` for this run again"
    ):
        read_item_digests([older], "content_digest")
    item_ids, digests = read_item_digests([files["catalogue"]], "content_digest")
    assert (item_ids.tolist(), digests.shape) == ([b"a", b"b", b"c", b"d"], (4, 2))
    assert digests[1].tobytes().hex() == digest_json(["b", ["red"]])[:32]
