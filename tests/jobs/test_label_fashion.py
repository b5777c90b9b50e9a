"""label-fashion: which queries are for visual departments, which are not, and which nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact
from smar_model.lake.runs import Run
from smar_model.lake.stage import StageContext
from smar_model.stages import STAGES
from smar_model.training.finetune import read_labels
from tests.tiny_shop import (
    DAYS,
    run_stages,
    take_over,
    tiny_events,
    tiny_items,
    tiny_run,
    tiny_settings,
    write_rows,
    write_tiny_shop,
)

STAGES_BEFORE = ("prepare-items", "extract-clicks", "label-fashion")
CLOTHING, BOOK = "item-000", "item-002"
PLANTED = {
    "all": (9, 0),
    "upper end": (7, 3),
    "over half": (6, 4),
    "lower end": (3, 7),
    "none": (0, 1),
    "later": (2, 0),
}
"""Query → clicks on a shirt and on a novel."""


def rows(artifact: Artifact, table: str) -> list[dict[str, Any]]:
    return [row for file in artifact.files(table) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def labelled(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Artifact]]:
    home = tmp_path_factory.mktemp("labels")
    take_over(tiny_data, home, "prepare-items")
    root = write_tiny_shop(home / "shop")
    for day in DAYS:
        like = tiny_events(day, tiny_items())[0][0]
        events = []
        for query, clicks in PLANTED.items():
            if query == "later" and day != DAYS[-1]:
                continue
            for item, count in zip((CLOTHING, BOOK), clicks, strict=True):
                for n in range(count):
                    key = f"{query}-{item}-{n}"
                    shown = {"request_id": key, "session_id": key, "user_id": key, "query": query, "item_id": item}
                    events += [like | shown | {"event": kind, "position": 1} for kind in ("impression", "click")]
        write_rows(root / "click_log" / f"dt={day}" / "planted.parquet", "click_log", events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMAR_HOME", str(home))
        run = tiny_run(root)
        yield run, run_stages(run, *STAGES_BEFORE)["label-fashion"]


def test_a_query_is_visual_not_or_unsure_by_its_clicks_of_the_training_days(labelled: tuple[Run, Artifact]) -> None:
    run, output = labelled
    labels = {row["query"]: row for row in rows(output, "fashion_labels")}
    assert {query: labels[query]["is_visual"] for query in PLANTED if query in labels} == {
        "all": True,
        "upper end": True,
        "over half": None,
        "lower end": False,
        "none": False,
    }
    days = len(run.training_days)
    for query, (clothing, book) in PLANTED.items():
        if query != "later":
            assert labels[query]["clicks"] == days * (clothing + book)
            assert labels[query]["visual_share"] == pytest.approx(clothing / (clothing + book))
    shares = [row["visual_share"] for row in labels.values()]
    assert output.metrics["queries"] == len(labels)
    assert output.metrics["visual_queries"] == sum(share >= 0.7 for share in shares)
    assert output.metrics["unsure_queries"] == sum(0.3 < share < 0.7 for share in shares) > 0


def test_unsure_queries_are_left_out_of_training(labelled: tuple[Run, Artifact], tmp_path: Path) -> None:
    run, output = labelled
    context = StageContext(
        stage=STAGES["finetune"], run=run, inputs={"label-fashion": output}, folder=tmp_path, key="0" * 64
    )
    read = read_labels(context)["label"]
    assert {query: read.get(query) for query in PLANTED} == {
        "all": 1,
        "upper end": 1,
        "over half": None,
        "lower end": 0,
        "none": 0,
        "later": None,
    }


def test_settings_are_obeyed(labelled: tuple[Run, Artifact]) -> None:
    run, output = labelled
    labels = {"minimum_clicks": 20, "unsure": [0.5, 0.5]}
    other = run_stages(tiny_run(run.settings.shop.root, name="other", labels=labels), *STAGES_BEFORE)["label-fashion"]
    found = {row["query"]: row["is_visual"] for row in rows(other, "fashion_labels")}
    assert set(found) == {row["query"] for row in rows(output, "fashion_labels") if row["clicks"] >= 20}
    assert {query: found[query] for query in PLANTED if query in found} == {
        "upper end": True,
        "over half": True,
        "lower end": False,
    }


def test_ends_in_the_wrong_order_are_an_error() -> None:
    with pytest.raises(InputError, match=r"labels\.unsure: .*the lower end comes first"):
        tiny_settings(Path("shop"), labels={"unsure": [0.7, 0.3]})


def test_any_set_of_departments_is_visual_and_one_that_the_catalogue_lacks_is_an_error(
    labelled: tuple[Run, Artifact],
) -> None:
    run, _ = labelled
    root = run.settings.shop.root
    books = tiny_run(root, name="books", shop={"root": str(root), "visual_departments": ["Books", "Groceries"]})
    found = {
        row["query"]: row["is_visual"]
        for row in rows(run_stages(books, *STAGES_BEFORE)["label-fashion"], "fashion_labels")
    }
    assert (found["all"], found["over half"], found["lower end"]) == (False, None, True)
    typo = tiny_run(root, name="typo", shop={"root": str(root), "visual_departments": ["Cloths"]})
    with pytest.raises(InputError, match=r"visual_departments: none of \['Cloths'\].*'Clothing'"):
        run_stages(typo, *STAGES_BEFORE)
