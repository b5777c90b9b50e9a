"""What commands that people wait for import: each in an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smar_model.retrieval.item_embedder import embed_catalogue
from smar_model.retrieval.network_queries import DenseRanker
from smar_model.serving import served_pair
from smar_model.serving.running_server import announced
from smar_model.serving.served_pair import open_text_only
from smar_model.settings import REPOSITORY
from smar_model.training.model_files import load_model
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.tiny_shop import ITEMS

NEVER = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "onnxscript",
    "pyspark",
    "py4j",
    "airflow",
    "great_expectations",
}
NOT_TO_ASK = NEVER | {"pandas", "polars", "scipy", "sklearn", "matplotlib", "duckdb", "bm25s", "jinja2"}
NOT_TO_TELL = NOT_TO_ASK | {"mlflow", "sqlalchemy", "faiss", "fastapi", "onnxruntime", "tokenizers"}
COMMANDS = {
    "--help": NOT_TO_TELL,
    "history": NOT_TO_TELL,
    "doctor": NOT_TO_TELL,
    "champion": NOT_TO_ASK | {"faiss", "onnxruntime", "tokenizers"},
    "search": NOT_TO_ASK | {"onnxruntime"},
}
"""Command → packages that it must not have loaded at its end. A mean of words is answered without ONNX Runtime."""
SCRIPT = """
import sys
from smar_model.cli import main
try:
    main()
finally:
    packages = {name.split(".")[0] for name, module in list(sys.modules.items()) if module}
    print("LOADED", *sorted(packages), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=1) as shop:
        yield shop


def start(*words: str) -> tuple[str, set[str]]:
    """What a command prints, and the packages that its process has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    said, _, loaded = done.stderr.partition("LOADED")
    assert loaded and "Traceback" not in said, done.stderr
    return done.stdout, set(loaded.split())


def test_the_list_of_what_is_looked_for_is_installed_here() -> None:
    """Else a command could not load it, and the test below would say nothing."""
    script = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    done = subprocess.run([sys.executable, "-c", script, *sorted(NOT_TO_TELL)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_what_it_needs_and_no_more(shop: ServingShop, command: str) -> None:
    settings = ("--settings", str(shop.settings_file))
    words = {"champion": settings, "search": ("red shirt", "--filter", "department:Clothing", *settings)}
    said, loaded = start(command, *words.get(command, ()))
    assert "smar_model" in loaded and said
    assert not loaded & COMMANDS[command]


def test_search_asks_nobody_where_the_server_that_is_noted_has_gone(shop: ServingShop, tmp_path: Path) -> None:
    """Its process lives, and nothing answers at the address; or its process has gone."""
    note = shop.home / "servers" / "smar.json"
    with announced(shop.settings, "http://127.0.0.1:9"):
        kept = json.loads(note.read_text())
        assert kept["process"]["pid"] == os.getpid()
        said, _ = start("search", "red shirt", "--json", "--settings", str(shop.settings_file))
        assert json.loads(said)["server"] is None and len(json.loads(said)["hits"]) == 10
    assert not note.exists()
    note.write_text("no JSON")
    said, _ = start("search", "red shirt", "--json", "--settings", str(shop.settings_file))
    assert json.loads(said)["server"] is None


def test_the_text_only_baseline_answers_by_what_evaluate_kept(
    shop: ServingShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its network over the run's catalogue would; nothing is embedded for that."""
    run = shop.runs["1"]
    folder = run.output("train-text-only").folder / "model"
    model, tokenizer = load_model(folder), folder / "tokenizer.json"
    embeddings = embed_catalogue(model, tokenizer, run.output("prepare-items").files("catalogue"), ())
    monkeypatch.setattr(served_pair, "_embedded_now", lambda *given: pytest.fail("embedded again"))
    searcher = open_text_only(run.name).searcher
    queries = ["red shirt", "novel", ""]
    assert searcher.item_ids[:] == embeddings.item_ids
    expected = DenseRanker(model, tokenizer, embeddings).rank(queries, ITEMS)
    np.testing.assert_allclose(searcher.rank(queries, ITEMS).scores, expected.scores, atol=1e-5)


def test_the_shell_is_told_the_commands() -> None:
    variables = {"_SMAR_COMPLETE": "complete_bash", "COMP_WORDS": "smar cham", "COMP_CWORD": "1"}
    smar = Path(sys.executable).with_name("smar")
    done = subprocess.run([smar], env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["champion"], done.stderr
