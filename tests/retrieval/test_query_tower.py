"""The query tower as it is served, without PyTorch: the same answers as the network's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from smar_model.errors import InputError
from smar_model.lake.artifacts import manifest_path
from smar_model.lake.stage import run_stage
from smar_model.retrieval import index as indexing
from smar_model.retrieval import tower_export
from smar_model.retrieval.network_queries import network_encoder
from smar_model.retrieval.query_tower import TOLERANCE, TOWER_FILE, ExportedTower, WordsTower, open_tower
from smar_model.retrieval.search import Searcher
from smar_model.retrieval.tower_export import export_query_tower
from smar_model.settings import TextEncoder
from smar_model.stages import REFRESH_STAGES, STAGES
from smar_model.training.model_files import load_model, save_model
from smar_model.training.model_folder import read_query_side, read_words_weights
from tests.evaluation import published_run
from tests.evaluation.published_run import PublishedRun, publish_run
from tests.network.small_models import small_model
from tests.network.small_text_encoder import write_text_encoder
from tests.retrieval.test_index import model_of, refresh, todays_items

QUERIES = ["red shirt", "", "blue novel for every day in the long winter", "猫", "red shirt"]


@pytest.mark.parametrize(
    ("variant", "pretrained"),
    [("default", None), ("smar", None), ("dpsr", None), ("default", "tiny"), ("smar", "tiny")],
)
def test_an_exported_tower_is_pytorchs_for_any_length_and_number(
    variant: str, pretrained: str | None, tmp_path: Path
) -> None:
    text = TextEncoder(pretrained=pretrained, width=32, heads=2, query_layers=2)
    encoder = write_text_encoder(tmp_path / pretrained, vocab_size=100) if pretrained else None
    model = small_model(variant=variant, text=text, text_encoder=encoder)
    export_query_tower(model, tmp_path / TOWER_FILE, int8=False)
    tower = ExportedTower(tmp_path / TOWER_FILE)
    random = np.random.default_rng(0)
    for rows, length in ((1, 1), (1, 8), (5, 3), (300, 8)):
        ids = random.integers(0, 100, (rows, length))  # 0 is padding, here in any place
        with torch.inference_mode():
            embeddings, logits = model.encode_queries(torch.from_numpy(ids))
        found = tower(ids)
        assert found[0].shape == embeddings.shape
        assert np.abs(found[0] - embeddings.numpy()).max() < TOLERANCE
        assert np.abs(found[1] - logits.numpy()).max() < TOLERANCE


@pytest.mark.parametrize("variant", ["default", "smar", "dpsr"])
def test_a_mean_of_words_is_served_from_the_models_own_weights(variant: str, tmp_path: Path) -> None:
    model = small_model(variant=variant, text=TextEncoder(width=32, heads=2, tower="words"))
    model.header_temperature.fill_(1.7)
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(model, tmp_path / "model", tmp_path / "tokenizer.json")
    side = read_query_side(tmp_path / "model")
    tower = open_tower(tmp_path / "model", tmp_path / TOWER_FILE)
    assert isinstance(tower, WordsTower)
    random = np.random.default_rng(0)
    for rows, length in ((1, 1), (1, 8), (5, 3), (300, 8)):
        ids = random.integers(0, 100, (rows, length))  # 0 is padding, here in any place
        ids[0] = 0
        with torch.inference_mode():
            embeddings, logits = model.encode_queries(torch.from_numpy(ids))
        found = tower(ids)
        assert found[0].shape == embeddings.shape and found[0].dtype == found[1].dtype == np.float32
        assert np.abs(found[0] - embeddings.numpy()).max() < TOLERANCE
        assert np.abs(found[1] - logits.numpy()).max() < TOLERANCE
        alone = [tower(row[None, : int((row != 0).nonzero()[0].max(initial=0)) + 1]) for row in ids]
        for whole, each in zip(found, zip(*alone, strict=True), strict=True):
            np.testing.assert_array_equal(whole, np.concatenate(each))
        logits = 9 * logits
        assert np.abs(side.route(logits.numpy()) - model.route(logits).numpy()).max() < 1e-6
        assert np.abs(side.probability(logits.numpy()) - model.probability(logits).numpy()).max() < 1e-6


def test_a_model_that_is_not_whole_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    words = TextEncoder(width=32, heads=2, tower="words")
    save_model(small_model(text=words), tmp_path / "model", tmp_path / "tokenizer.json")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for read in (read_query_side, read_words_weights):
        with pytest.raises(InputError, match=r"model: not a whole model \(weights\.safetensors, network\.json\)"):
            read(tmp_path / "model")


def test_eight_bits_come_close(tmp_path: Path) -> None:
    model = small_model(variant="smar", text=TextEncoder(width=64, heads=4, query_layers=4))
    sizes = []
    for int8 in (False, True):
        file = tmp_path / f"{int8}.onnx"
        export_query_tower(model, file, int8=int8)
        sizes.append(file.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    ids = np.random.default_rng(0).integers(1, 100, (200, 8))
    with torch.inference_mode():
        embeddings, _ = model.encode_queries(torch.from_numpy(ids))
    cosines = (ExportedTower(file)(ids)[0] * embeddings.numpy()).sum(1)
    assert cosines.min() > 0.98
    assert cosines.max() < 1 - 1e-6, "it is not the same tower"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / TOWER_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable query tower"):
        ExportedTower(tmp_path / TOWER_FILE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tower")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(folder / "var"))
        yield folder


def release(home: Path, name: str, *, layers: int, tower: str = "pytorch") -> PublishedRun:
    """`pytorch` is what settings of older versions say."""
    with pytest.MonkeyPatch.context() as patch:
        if layers:
            text = {"width": 16, "heads": 2, "query_layers": layers, "tower": "transformer"}
            patch.setitem(published_run.NETWORK, "text", text)
        made = publish_run(home / "shop", with_truth=False, name=name, variant="default", index={"query_tower": tower})
    run_stage(STAGES["embed"], made.run)
    return made


def test_a_tower_with_layers_is_exported_and_a_refresh_keeps_it(home: Path, tmp_path: Path) -> None:
    made = release(home, "layers", layers=1)
    index = run_stage(STAGES["index"], made.run)
    manifest = json.loads(index.file("index.json").read_text())
    assert TOWER_FILE in manifest["files"] and manifest["query_tower"] == "onnx"
    assert manifest["query_tower_check"]["largest_difference"] < TOLERANCE
    served = Searcher.load(model_of(made), index.folder)
    assert isinstance(served.encoder.tower, ExportedTower)
    network = network_encoder(load_model(model_of(made)), model_of(made) / "tokenizer.json")
    for found, wanted in zip(served.encoder.encode(QUERIES), network.encode(QUERIES), strict=True):
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    np.testing.assert_array_equal(
        served.rank(QUERIES, 24).rows,
        Searcher(network, served.index, served.items, served.manifest).rank(QUERIES, 24).rows,
    )
    today = refresh(made, "layers-today", todays_items())["refresh-index"]
    assert isinstance(Searcher.load(model_of(made), today.folder).encoder.tower, ExportedTower)
    assert set(REFRESH_STAGES) == {"embed-release", "refresh-index"}
    damaged = tmp_path / "index"
    shutil.copytree(index.folder, damaged)
    (damaged / TOWER_FILE).write_bytes((damaged / TOWER_FILE).read_bytes()[:-1])
    with pytest.raises(InputError, match=r"query_tower\.onnx: damaged"):
        Searcher.load(model_of(made), damaged)


def test_an_older_index_answers_through_pytorch_where_there_is_one_and_a_refresh_exports_its_tower(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = release(home, "older", layers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "export_where_needed", lambda *given: "pytorch")
        index = run_stage(STAGES["index"], made.run)
    assert TOWER_FILE not in index.manifest["files"]
    before = Searcher.load(model_of(made), index.folder).encoder.encode(QUERIES)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "smar_model.retrieval.network_queries")
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(InputError, match=r"an older version exported no query tower.*smar_refresh_index"):
            Searcher.load(model_of(made), index.folder)
    today = refresh(made, "older-today", todays_items())["refresh-index"]
    assert json.loads(today.file("index.json").read_text())["query_tower"] == "onnx"
    after = Searcher.load(model_of(made), today.folder)
    assert isinstance(after.encoder.tower, ExportedTower)
    np.testing.assert_allclose(after.encoder.encode(QUERIES)[0], before, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("tower", "limit", "value", "says"),
    [
        ("onnx", "TOLERANCE", -1.0, r"the query tower that is served \(words\) differs"),
        ("onnx_int8", "LEAST_KEPT", 1.01, "index.query_tower onnx_int8: only"),
    ],
)
def test_a_tower_that_differs_too_much_is_not_published(
    tower: str, limit: str, value: float, says: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = release(home, f"{tower}-{limit}", layers=0, tower=tower)
    for path in manifest_path("index", "any").parent.glob("*.json"):
        path.unlink()  # an index made with the usual limits
    monkeypatch.setattr(tower_export, limit, value)
    with pytest.raises(InputError, match=says):
        run_stage(STAGES["index"], made.run)
    assert made.run.find_output("index") is None
