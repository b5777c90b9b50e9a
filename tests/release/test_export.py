"""`smar export` and `POST /encode`: another engine gives the same items with the same scores; what cannot be exported is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from smar_model.cli import app as command_line
from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, manifest_path, remove_artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_file
from smar_model.retrieval import exported_items
from smar_model.retrieval.index_files import describe_index
from smar_model.retrieval.item_embeddings import load_embeddings
from smar_model.serving.app import create_app
from smar_model.serving.front import create_front
from tests.evaluation.published_run import NETWORK
from tests.release.exported_shop import Found, ask_engine, load_engine
from tests.serving.serving_shop import ServingShop, make_serving_shop
from tests.tiny_shop import ITEMS

QUERIES = ["red shirt", "blue novel for every day", "black", "rot  Kleid"]
KINDS: dict[str, dict[str, Any]] = {
    "routed, quantised": {"index": {"factory": "SQ8", "minimum_recall": 0.0}},
    "heads": {"network": {**NETWORK, "variant": "dpsr"}},
    "item confidence, parts": {"network": {**NETWORK, "item_confidence": True}, "index": {"parts": 2}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    shop: ServingShop
    server: TestClient


@pytest.fixture(scope="module", params=KINDS)
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        yield serve(make_serving_shop(home, versions=1, **KINDS[request.param]))


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    home = tmp_path_factory.mktemp("flat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        yield serve(make_serving_shop(home, versions=2, index={"parts": 2}))


def serve(shop: ServingShop) -> Released:
    app = create_app(shop.settings)
    app.state.follower.look()
    return Released(shop=shop, server=TestClient(app))


def export(of: Released, to: Path, *more: str) -> dict[str, Any]:
    """What export.json says."""
    done = CliRunner().invoke(
        command_line, ["export", "--to", str(to), "--settings", str(of.shop.settings_file), *more]
    )
    assert done.exit_code == 0, done.output
    return json.loads((to / "export.json").read_text(encoding="utf-8"))


def refused(of: Released, to: Path, *more: str) -> str:
    done = CliRunner().invoke(
        command_line, ["export", "--to", str(to), "--settings", str(of.shop.settings_file), *more]
    )
    assert isinstance(done.exception, InputError), done.output
    return str(done.exception)


def exact(of: Released, query: str, *, k: int = 10, department: str = "", routing: str | None = None) -> Found:
    """By the embeddings themselves, and by no index: the score that the method defines."""
    encoder = of.server.app.state.follower.champion.searcher.encoder  # type: ignore[attr-defined]
    asked, _, _ = of.server.app.state.follower.champion.searcher.encode([query], routing)  # type: ignore[attr-defined]
    items = load_embeddings(of.shop.runs["1"].output("embed").folder)
    dimension = items.text.shape[1]
    share = asked[:, dimension] / asked[:, 0]
    between = items.text[None] + share[:, None, None] * (items.multimodal - items.text)[None]
    by_head = np.einsum("kd,knd->kn", asked[:, :dimension], between)
    scores = encoder.join_heads(by_head)[0]
    titles = dict(
        zip(
            items.item_ids,
            pq.read_table(describe_index(of.shop.runs["1"].output("index").folder)[1][0][1])["department"].to_pylist(),
            strict=False,
        )
    )
    found = [(i, float(s)) for i, s in zip(items.item_ids, scores, strict=True)]
    kept = [pair for pair in found if not department or titles.get(pair[0]) == department]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:k]


def assert_same(found: Found, wanted: Found) -> None:
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-5)
    # Items whose scores differ by less than that may stand either way.
    scores = dict(wanted)
    assert len(found) == len(wanted)
    assert all(name in scores or abs(score - wanted[-1][1]) < 1e-5 for name, score in found), (
        f"{found} in the place of {wanted}"
    )


def test_another_engine_finds_the_same_items_with_the_same_scores(released: Released, tmp_path: Path) -> None:
    """Beside an index that is quantised, or has several heads or parts: the other engine is exact."""
    export(released, tmp_path / "out")
    engine = load_engine(tmp_path / "out")
    for query in QUERIES:
        assert_same(ask_engine(engine, released.server, query), exact(released, query))


@pytest.mark.parametrize("routing", [None, "text", "pictures", "hard", "soft"])
@pytest.mark.parametrize("department", ["", "Books"])
def test_by_every_routing_and_within_a_department_it_answers_as_smar(
    routing: str | None, department: str, flat: Released, tmp_path: Path
) -> None:
    export(flat, tmp_path / "out")
    engine = load_engine(tmp_path / "out")
    asked = {"routing": routing} if routing else {}
    for query in QUERIES:
        only = {"departments": [department]} if department else {}
        answer = flat.server.post("/search", json={"queries": [query], "k": 10, **asked, **only}).json()["answers"][0]
        wanted = [(hit["item_id"], hit["score"]) for hit in answer["hits"]]
        assert_same(ask_engine(engine, flat.server, query, department=department, **asked), wanted)


def test_what_is_exported_is_what_its_contract_and_export_json_say(released: Released, tmp_path: Path) -> None:
    said = export(released, tmp_path / "out")
    run = released.shop.runs["1"]
    index, _ = describe_index(run.output("index").folder)
    dimension = run.settings.network.dimension
    assert (said["version"], said["run"], said["items"]) == ("1", run.name, ITEMS)
    assert (said["model_digest"], said["index_digest"]) == (index.model_digest, run.output("index").digest)
    assert (said["dimension"], said["vector_dimension"]) == (dimension, 2 * dimension)
    assert said["embeddings_from"] == "embeddings"
    encoded = released.server.post("/encode", json={"queries": ["red"]}).json()
    assert (said["heads"], said["head_temperature"]) == (encoded["heads"], encoded["head_temperature"])
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == sorted(["export.json", *said["files"]])
    for name, file in said["files"].items():
        assert file["digest"] == digest_file(tmp_path / "out" / name)
    rows = ds.dataset(tmp_path / "out" / "exported_items").to_table()
    assert rows.schema.field("stored_vector").type == pa.list_(pa.float32(), 2 * dimension)
    plain = pa.schema(
        [f.with_type(pa.list_(pa.float32())) if pa.types.is_fixed_size_list(f.type) else f for f in rows.schema]
    )
    contract = load_contract("exported_items")
    assert contract.differences(pa.schema([plain.field(column.name) for column in contract.columns])) == []
    further = set(load_contract("index_items").arrow_schema().names) - {"row"}
    assert further <= set(rows.schema.names), "what can be filtered by goes with it"
    embeddings = load_embeddings(run.output("embed").folder)
    assert rows["item_id"].to_pylist() == embeddings.item_ids
    assert (np.stack(rows["text_embedding"].to_numpy()) == embeddings.text).all()
    assert (np.stack(rows["multimodal_embedding"].to_numpy()) == embeddings.multimodal).all()


def test_it_is_cut_into_row_groups_and_files_and_takes_further_columns(
    flat: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_items, "ROWS_A_GROUP", 4)
    monkeypatch.setattr(exported_items, "ROWS_A_FILE", 10)
    index = tmp_path / "index"
    shutil.copytree(flat.shop.runs["1"].output("index").folder, index)
    for _, file in describe_index(index)[1]:
        items = pq.read_table(file)
        shelves = pa.array([f"shelf of {item}" for item in items["item_id"].to_pylist()])
        pq.write_table(items.append_column("shelf", shelves), file)
    release = exported_items.ExportedRelease(version="1", run="r", model_digest="m", index_digest="i")
    variant = flat.server.app.state.follower.champion.searcher.encoder.side.variant  # type: ignore[attr-defined]
    said = exported_items.export_items(tmp_path / "out", release, variant, index, None)
    assert len(said.files) > 1 and sum(file.rows for file in said.files.values()) == ITEMS
    rows = ds.dataset(tmp_path / "out" / "exported_items").to_table()
    assert rows["shelf"].to_pylist() == [f"shelf of {item}" for item in rows["item_id"].to_pylist()]
    assert {name: pq.read_metadata(tmp_path / "out" / name).num_rows for name in said.files} == {
        name: file.rows for name, file in said.files.items()
    }


def test_a_refreshed_index_is_exported_with_its_own_items(flat: Released, tmp_path: Path) -> None:
    flat.shop.point_to("2", flat.shop.refreshed["2"])
    said = export(flat, tmp_path / "out", "--version", "2")
    flat.shop.point_to("2", None)
    assert (said["version"], said["items"]) == ("2", ITEMS - 1)
    assert said["index_digest"] == flat.shop.refreshed["2"].digest
    assert said["embeddings_from"] == "embeddings"


def test_without_embeddings_a_flat_index_tells_them(flat: Released, tmp_path: Path) -> None:
    with_them = export(flat, tmp_path / "with", "--version", "2")
    remove_artifact(flat.shop.runs["2"].output("embed"))
    without = export(flat, tmp_path / "without", "--version", "2")
    assert (with_them["embeddings_from"], without["embeddings_from"]) == ("embeddings", "flat index")
    one, other = (ds.dataset(tmp_path / kind / "exported_items").to_table() for kind in ("with", "without"))
    assert one["item_id"] == other["item_id"]
    for name in ("text_embedding", "multimodal_embedding", "stored_vector"):
        assert np.abs(np.stack(one[name].to_numpy()) - np.stack(other[name].to_numpy())).max() < 1e-6


@pytest.mark.parametrize("released", ["routed, quantised"], indirect=True)
def test_without_embeddings_codes_are_refused_with_what_to_do(released: Released, tmp_path: Path) -> None:
    embeddings: Artifact = released.shop.runs["1"].output("embed")
    manifest = manifest_path("embed", embeddings.key)
    content = manifest.read_bytes()
    # What a prune removes of it: it is the manifest that makes an output real.
    manifest.unlink()
    said = refused(released, tmp_path / "out")
    manifest.write_bytes(content)
    assert "version 1" in said and "SQ8" in said and "smar_refresh_index" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(flat: Released, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(flat, tmp_path / "out")
    before = digest_file(tmp_path / "out" / "export.json")
    assert "is there already" in refused(flat, tmp_path / "out")
    assert "cannot be made" in refused(flat, Path("/proc/here"))
    assert digest_file(tmp_path / "out" / "export.json") == before
    assert "'7'" in refused(flat, tmp_path / "other", "--version", "7")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_half_way_leaves_nothing(
    flat: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_items, "ROWS_A_GROUP", 4)
    whole = exported_items.ExactVectors.read

    def full_disk(self: exported_items.ExactVectors, start: int, item_ids: list[str]) -> Any:
        if start:
            raise OSError(28, "No space left on device")
        return whole(self, start, item_ids)

    monkeypatch.setattr(exported_items.ExactVectors, "read", full_disk)
    done = CliRunner().invoke(
        command_line, ["export", "--to", str(tmp_path / "out"), "--settings", str(flat.shop.settings_file)]
    )
    assert done.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_a_query_is_encoded_to_the_last_bit_with_who_encoded_it(released: Released) -> None:
    answer = released.server.post("/encode", json={"queries": [*QUERIES, QUERIES[0]]}).json()
    pair = released.server.app.state.follower.champion  # type: ignore[attr-defined]
    asked, shares, p = pair.searcher.encoder.encode([*QUERIES, QUERIES[0]])
    heads, dimension = pair.searcher.encoder.heads, asked.shape[1] // 2
    assert (answer["version"], answer["model_digest"], answer["index_digest"]) == (
        "1",
        pair.model_digest,
        pair.index_digest,
    )
    assert (answer["heads"], answer["dimension"]) == (heads, dimension)
    assert [one["query"] for one in answer["answers"]] == [*QUERIES, QUERIES[0]]
    for number, one in enumerate(answer["answers"]):
        rows = slice(number * heads, (number + 1) * heads)
        assert (np.array(one["vectors"], np.float32) == asked[rows]).all()
        assert (np.array(one["embeddings"], np.float32) == asked[rows, :dimension]).all()
        assert (one["share"], one["p"]) == (pytest.approx(shares[number]), pytest.approx(p[number]))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "queries: Field required"),
        ({"queries": []}, 422, "queries: List should have at least 1 item"),
        ({"queries": ["red", " "]}, 422, "query 2 is empty"),
        ({"queries": ["red"], "routing": "vision"}, 422, "routing"),
        ({"queries": ["red"] * 257}, 422, "queries: List should have at most 256 items"),
        ({"queries": ["red"], "version": "77"}, 404, "77"),
    ],
)
def test_what_cannot_be_encoded_is_named(body: dict[str, Any], status: int, says: str, flat: Released) -> None:
    answer = flat.server.post("/encode", json=body)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


def test_an_answer_that_would_be_too_long_says_how_many_to_ask_for(
    flat: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smar_model.serving import encoded_queries

    monkeypatch.setattr(encoded_queries, "MAXIMUM_ANSWER", 10_000)
    answer = flat.server.post("/encode", json={"queries": ["red"] * 20})
    assert answer.status_code == 422
    most = int(answer.json()["detail"].split("at most ")[1].split()[0])
    assert 0 < most < 20
    whole = flat.server.post("/encode", json={"queries": ["red"] * most})
    assert whole.status_code == 200 and len(whole.content) < 10_000 + 1_000


class Gone(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route to host")


def test_a_front_lets_any_of_its_parts_encode(flat: Released) -> None:
    """Each holds the whole model, so one that is away is passed over."""
    part = create_app(flat.shop.settings, part=1)
    part.state.follower.look()
    mounts = {"http://one": Gone(), "http://two": httpx.ASGITransport(part)}
    front = TestClient(create_front(list(mounts), httpx.AsyncClient(mounts=mounts)))
    asked = {"queries": QUERIES, "routing": "pictures"}
    found, wanted = (to.post("/encode", json=asked).json() for to in (front, flat.server))
    assert {n: v for n, v in found.items() if n != "milliseconds"} == {
        n: v for n, v in wanted.items() if n != "milliseconds"
    }
    assert front.post("/encode", json={"queries": [" "]}).status_code == 422
    assert front.post("/encode", json={"queries": ["red"], "version": "77"}).status_code == 404
    nobody = TestClient(create_front(["http://one"], httpx.AsyncClient(mounts={"http://one": Gone()})))
    assert nobody.post("/encode", json=asked).status_code == 503
