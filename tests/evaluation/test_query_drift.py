"""measure-drift: figures known beforehand, what the classifier may not learn by heart, and the page."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from smar_model.checks.drift_limits import drift_measures
from smar_model.evaluation.query_drift import Encoder, divergence, measure, measure_all, render_page, tell_apart
from smar_model.lake.artifacts import Artifact
from smar_model.lake.contracts import load_contract
from smar_model.lake.digests import digest_file
from smar_model.stages import STAGES
from tests.tiny_shop import run_stages, tiny_run, write_rows

COLOURS, KINDS = ("red", "blue", "green", "black", "white"), [f"kind{n}" for n in range(60)]


def texts(count: int, *, seed: int, backwards: bool = False) -> pd.Series:
    chance = random.Random(seed)
    found: set[str] = set()
    while len(found) < count:
        words = [chance.choice(COLOURS), chance.choice(KINDS), str(chance.randrange(50))]
        found.add(" ".join(words[::-1] if backwards else words))
    return pd.Series(sorted(found))


def test_divergence_is_that_of_lin() -> None:
    assert divergence(Counter("aab"), Counter("aab")) == 0
    assert divergence(Counter("ab"), Counter("cd")) == 1
    # ½·KL((1, 0) ‖ (¾, ¼)) + ½·KL((½, ½) ‖ (¾, ¼)), in bits
    assert divergence(Counter("aa"), Counter("ab")) == pytest.approx(0.3113, abs=1e-4)


def test_figures_of_known_texts() -> None:
    true, synthetic = pd.Series(["red shirt", "red hat", "red hat"]), pd.Series(["red", "big red shirt"])
    drift = measure("all", "all", true, synthetic, 10, Encoder())
    assert (drift.true_queries, drift.synthetic_queries) == (2, 2), "a text counts once"
    assert (drift.true_words, drift.synthetic_words) == (2, 2)
    assert (drift.true_characters, drift.synthetic_characters) == (8, 8)
    assert (drift.true_vocabulary, drift.synthetic_vocabulary) == (3, 3)
    assert (drift.unknown_true, drift.unknown_synthetic) == (0.25, 0.25)
    assert drift.auc is None, "too few to train on"


def test_only_what_differs_is_told_apart() -> None:
    encoder = Encoder()
    same = measure("all", "all", texts(800, seed=1), texts(800, seed=2), 800, encoder)
    assert same.auc == pytest.approx(0.5, abs=0.06)
    assert same.word_divergence == pytest.approx(same.chance_divergence, abs=0.02)
    turned = measure("all", "all", texts(800, seed=1), texts(800, seed=2, backwards=True), 800, encoder)
    assert turned.auc is not None and turned.auc > 0.95, "the order of the words differs"
    assert turned.word_divergence == same.word_divergence, "the words do not"
    assert turned == measure("all", "all", texts(800, seed=1), texts(800, seed=2, backwards=True), 800, encoder)


def test_a_text_on_both_sides_is_not_learned_by_heart() -> None:
    both = texts(300, seed=3).tolist()
    assert tell_apart(both, both, Encoder()) == 0.5


def test_departments_and_methods_are_rows_of_their_own() -> None:
    true = pd.DataFrame({"query": texts(200, seed=1), "department": ["A", "B"] * 100})
    synthetic = pd.DataFrame(
        {
            "query": texts(300, seed=2),
            "department": ["A", "C"] * 150,
            "origin": ["swap"] * 200 + ["drop"] * 100,
        }
    )
    rows = measure_all(true, synthetic)
    found = [(row.scope, row.segment, row.true_queries) for row in rows]
    assert found == [("all", "all", 200), ("department", "A", 100), ("method", "drop", 100), ("method", "swap", 200)]
    page = render_page(rows, true.assign(query="<b>" + true["query"]), synthetic, title="Drift")
    assert page.count("<svg") == 4 and "http" not in page
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_the_stage_bounds_what_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    run = tiny_run(tmp_path / "shop")
    sample = [{"query": q, "department": "A", "origin": "true"} for q in texts(120, seed=1)]
    sample += [{"query": q, "department": "A", "origin": "swap"} for q in texts(120, seed=2, backwards=True)]
    folder = tmp_path / "lake" / "generate-queries" / "attempts" / "made"
    file = write_rows(folder / "query_sample" / "part-0.parquet", "query_sample", sample)
    files = {"query_sample/part-0.parquet": {"bytes": file.stat().st_size, "sha256": digest_file(file)}}
    made = Artifact(
        stage="generate-queries", key="k", place=folder, manifest={"digest": "d", "files": files, "content": {}}
    )
    monkeypatch.setattr(type(run), "output", lambda self, stage: made)
    drift = run_stages(run, "measure-drift")["measure-drift"]
    table = pq.read_table(drift.files("query_drift")[0]).to_pylist()
    assert [row["scope"] for row in table] == ["all", "department", "method"]
    assert drift.metrics["auc"] == table[0]["auc"] and drift.metrics["auc_swap"] == table[2]["auc"]
    measures = {(m.metric, m.severity): (m.value, m.most) for m in drift_measures(drift)}
    limits = load_contract("query_drift").drift
    assert set(limits) == {"auc", "word_divergence", "unknown_true"}
    assert measures == {
        (f"drift_{f}", s): (drift.metrics[f], most) for f, by in limits.items() for s, most in by.items()
    }
    assert "measure-drift" in STAGES["check-data"].inputs
