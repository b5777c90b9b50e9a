"""The query tower of an aligned pair, exported, answers as PyTorch does for any number of queries of any length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smar_model.encoders.adding import add_encoder
from smar_model.retrieval.query_tower import TOLERANCE, ExportedTower
from smar_model.retrieval.tower_export import export_query_tower
from smar_model.settings import Network, Pictures, TextEncoder, VisionEncoder
from smar_model.training.model_files import new_model
from tests.encoders.small_pairs import LAYERS, PICTURE, TEXT_WIDTH, write_pair


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_a_pairs_query_tower_is_exported(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path / "home"))
    write_pair(tmp_path / kind, kind)
    added = add_encoder(kind, str(tmp_path / kind), words=False, report=lambda line: None)
    text = TextEncoder(pretrained=kind, width=TEXT_WIDTH, heads=2, query_layers=LAYERS, item_layers=LAYERS)
    model = new_model(
        Network(variant="smar", dimension=8, text=text, vision=VisionEncoder(pretrained=kind)),
        vocabulary=40,
        query_length=8,
        item_length=8,
        pictures=Pictures(width=PICTURE, height=PICTURE),
        text_encoder=added.place,
        vision_encoder=added.place,
    ).eval()
    export_query_tower(model, tmp_path / "tower.onnx", int8=False)
    tower = ExportedTower(tmp_path / "tower.onnx")
    for count, length in ((1, 1), (5, 8), (3, 6)):
        ids = torch.randint(1, 9, (count, length))
        ids[0, length // 2 + 1 :] = 0
        with torch.inference_mode():
            wanted = model.encode_queries(ids)[0]
        assert torch.allclose(torch.from_numpy(tower(ids.numpy())[0]), wanted, atol=TOLERANCE)
