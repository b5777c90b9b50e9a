"""Every variant learns, is saved and loaded alike; what a variant switches is switched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smar_model.errors import InputError
from smar_model.network.fusion import FUSIONS
from smar_model.network.model import RetrievalModel
from smar_model.network.variants import VARIANTS
from smar_model.settings import REPOSITORY, TextEncoder, VisionEncoder, load_settings, validate_settings
from smar_model.training.batches import Batch
from smar_model.training.finetune import routed_loss
from smar_model.training.gradient_cache import Embeddings, backward
from smar_model.training.model_files import load_model, save_model
from smar_model.training.pair_embeddings import encode_pairs
from smar_model.training.pretrain import three_losses
from smar_model.training.variant_costs import measure_variant, variants_page
from tests.network.small_models import small_batch, small_model
from tests.network.small_text_encoder import add_text_encoder

WEIGHTS = (1.0, 0.5, 1.0)


def train_a_little(model: RetrievalModel, batch: Batch, steps: int) -> tuple[list[float], list[float]]:
    """Losses of pretraining and of fine-tuning over one batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    curves = []
    for objective in (
        lambda found: three_losses(model, found, WEIGHTS),
        lambda found: routed_loss(model, found),
    ):
        losses = []
        for _ in range(steps):
            parts = backward(batch, lambda b: encode_pairs(model, b, pictures=True), objective, model.parameters())
            optimizer.step()
            losses.append(parts["loss"].item())
        curves.append(losses)
    model.eval()
    return curves[0], curves[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_learns_and_a_saved_one_embeds_identically(variant: str, tmp_path: Path) -> None:
    model = small_model(variant=variant)
    batch = small_batch(model, further=model.variant.random_negatives)
    for losses in train_a_little(model, batch, steps=6):
        assert min(losses[1:]) < losses[0]
    (tmp_path / "any.json").write_text("{}")
    save_model(model, tmp_path / "model", tmp_path / "any.json")
    loaded = load_model(tmp_path / "model")
    with torch.no_grad():
        wanted, found = (encode_pairs(m, batch, pictures=True) for m in (model, loaded))
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
        if model.variant.reranker:
            rerank = [m.reranker(e["queries"], e["texts"], e["images"]) for m, e in ((model, wanted), (loaded, found))]
            assert torch.equal(*rerank)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_query_side_never_touches_a_picture(variant: str) -> None:
    model = small_model(variant=variant)
    queries, logits = model.encode_queries(torch.randint(1, 100, (3, 8)))
    (queries.sum() + logits.sum()).backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert touched <= {"query_tower", "query_projection", "further_heads", "header"}


@pytest.mark.parametrize("variant", [name for name, v in VARIANTS.items() if v.fusion is None])
def test_a_variant_without_pictures_has_no_part_that_reads_them(variant: str) -> None:
    model = small_model(variant=variant, fusion="concat", routing="soft", item_confidence=True)
    assert model.variant == VARIANTS[variant]
    assert not any(part in name for name in model.state_dict() for part in ("vision", "image", "fusion", "confidence"))


def parts_of_pretraining(variant: str) -> tuple[set[str], set[str]]:
    """Losses and the towers that they reach."""
    model = small_model(variant=variant)
    torch.nn.init.normal_(getattr(model.fusion, "attention", model.fusion).out_proj.weight, std=0.1)
    parts = three_losses(model, encode_pairs(model, small_batch(model), pictures=True), WEIGHTS)
    parts["loss"].backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return parts.keys() & {"text", "image", "multimodal"}, reached & {"image_projection", "fusion", "vision"}


def test_an_ablated_loss_is_gone_and_its_tower_has_no_other_direct_supervision() -> None:
    assert parts_of_pretraining("smar") == ({"text", "image", "multimodal"}, {"image_projection", "fusion", "vision"})
    assert parts_of_pretraining("smar_ni") == ({"text", "multimodal"}, {"fusion", "vision"})
    assert parts_of_pretraining("smar_nt")[0] == {"image", "multimodal"}
    assert parts_of_pretraining("smar_nm") == ({"text", "image"}, {"image_projection", "vision"})
    assert not any(VARIANTS[name].adapted for name in ("smar_ni", "smar_nt", "smar_nm", "smar_nc"))


def test_without_cross_attention_there_are_as_many_parameters() -> None:
    counts = [
        sum(p.numel() for p in FUSIONS[VARIANTS[name].fusion](128, 4, 0.0).parameters()) for name in ("smar", "smar_nc")
    ]
    assert abs(counts[0] - counts[1]) < 0.01 * counts[0]


def test_settings_take_the_place_of_a_variants_parts() -> None:
    model = small_model(
        variant="smar", fusion="mixture", routing="soft", vision=VisionEncoder(name="test_vit", adapted=True)
    )
    assert (model.variant.fusion, model.variant.routing, model.vision_locked) == ("mixture", "soft", True)
    assert not small_model(variant="smar").vision_locked
    words = TextEncoder(width=32, heads=2, tower="words")
    assert small_model(variant="text_only", text=words).variant.text_tower == "words"
    with pytest.raises(InputError, match="need a vision encoder that is locked"):
        small_model(variant="smar", frames=2)


def test_random_items_that_come_with_pairs_survive_gradient_caching() -> None:
    model = small_model(variant="smar_adapted", matryoshka=(4, 16)).train()
    torch.nn.init.normal_(model.fusion.attention.out_proj.weight, std=0.1)
    batch = small_batch(model, 7, further=2)

    def gradients(chunk: int | None) -> dict[str, torch.Tensor]:
        def encode(part: Batch) -> Embeddings:
            return encode_pairs(model, part, pictures=True)

        backward(batch, encode, lambda found: three_losses(model, found, WEIGHTS), model.parameters(), chunk=chunk)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain, cached = gradients(None), gradients(3)
    assert plain.keys() == cached.keys()
    assert max((plain[name] - cached[name]).abs().max() for name in plain) < 1e-5


def test_the_page_of_variants_is_what_the_command_writes() -> None:
    settings = load_settings(REPOSITORY / "configs" / "sample_shop.yaml")
    page = variants_page(settings, source="configs/sample_shop.yaml")
    written = (REPOSITORY / "docs" / "variants.md").read_text(encoding="utf-8")
    assert page == written, "run `smar variants > docs/variants.md`"


def test_an_encoder_trained_inside_costs_its_forward_and_backward_passes() -> None:
    settings = load_settings(REPOSITORY / "configs" / "sample_shop.yaml")
    inside, adapted = measure_variant(settings, "smar"), measure_variant(settings, "smar_adapted")
    # Three times a forward pass, but for the first layer's gradient by its pixels.
    assert 2.7 < (inside.pretraining - adapted.pretraining) / adapted.picture <= 3.0


def test_the_papers_settings_have_the_papers_sizes() -> None:
    settings = load_settings(REPOSITORY / "configs" / "paper_smar.yaml")
    text = settings.network.text
    assert (text.query_layers, text.heads, text.item_layers) == (4, 12, 1)
    model = small_model(**dict(settings.network))
    assert len(model.query_tower.transformer.layers) == 4
    assert model.vision.patches == 48
    assert (model.variant.fusion, model.variant.routing, model.vision_locked) == ("cross_attention", "hard", False)


def test_costs_are_those_of_the_pretrained_encoder_that_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    add_text_encoder("tiny")
    plain = load_settings(REPOSITORY / "configs" / "sample_shop.yaml").model_dump(mode="json")
    content = plain | {"network": {"variant": "smar", "text": {"pretrained": "tiny", "width": 32, "item_layers": 2}}}
    costs = measure_variant(validate_settings(content, source="tests"), "text_only")
    # Layers of 24 numbers: four squares of attention, two matrices to 32 and back, their biases and norms.
    layer = 4 * (24 * 24 + 24) + 2 * 24 * 32 + 32 + 24 + 4 * 24
    embeddings = (69 + 40 + 2) * 24 + 2 * 24
    projections = 24 * 32 + 32 + 32 * 128 + 128 + 32 * 32 + 32 + 32 + 1
    assert costs.query_parameters == 4 * layer + embeddings + 24 + projections
    assert costs.pretraining > 0
    unknown = plain | {"network": {"text": {"pretrained": "gone"}}}
    with pytest.raises(InputError, match=r"network\.text\.pretrained 'gone': no such encoder"):
        measure_variant(validate_settings(unknown, source="tests"), "text_only")
