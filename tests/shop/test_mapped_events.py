"""Events and judgments of any table: the kinds of what shops' systems write, beside the cases."""

from __future__ import annotations

import json

import pytest
from table_imports import import_events, import_judgments

from smar_model.errors import InputError

AT = "2026-11-19T09:00:00Z"


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("rule", "time"),
    [
        ("t", "2026-11-19 12:00:00+03"),
        ("t", "2026-11-19 10:00:00.0000 +0100"),
        ({"column": "t", "zone": "Europe/Berlin"}, "2026-11-19 10:00:00"),
        ({"column": "t", "format": "%d/%b/%Y:%H:%M:%S %z"}, "19/Nov/2026:09:00:00 +0000"),
        ({"column": "t", "format": "%m/%d/%Y %I:%M %p"}, "11/19/2026 09:00 AM"),
        ({"column": "t", "unit": "us"}, "1795078800000000"),
        ({"column": "t", "unit": "s"}, "1795078800.0"),
    ],
)
def test_times_as_systems_write_them(tmp_path, rule, time):
    (event,) = import_events(tmp_path, f"t,e,sku,p\n{time},click,1,1\n", event_time=rule).events
    assert event["event_time"].isoformat() == "2026-11-19T09:00:00+00:00"


@pytest.mark.parametrize(
    ("rule", "time", "message"),
    [
        ("t", 1795078800000, r"1795078800000 is not a time such as .*`unit` since 1970"),
        ("t", "1795078800000", r"'1795078800000' is not a time such as"),
        ("t", "11/19/2026", r"'11/19/2026' is not a time such as .*`format`"),
        ({"column": "t", "format": "%d.%m.%Y"}, "2026-11-19", r"'2026-11-19' is not a time written as %d\.%m\.%Y"),
        ("t", ["2026-11-19"], r"\['2026-11-19'\] is not a time"),
    ],
)
def test_a_time_that_cannot_be_read_says_how_it_could(tmp_path, rule, time, message):
    row = lines({"t": time, "e": "click", "sku": 1, "p": 1})
    with pytest.raises(InputError, match=rf"log\.jsonl row 1: {message}"):
        import_events(tmp_path, row, name="log.jsonl", event_time=rule)


@pytest.mark.parametrize("time", [None, float("nan"), "", "  ", "NULL", "NaT"])
def test_an_event_without_a_time_is_counted(tmp_path, time):
    rows = lines({"t": time, "e": "click", "sku": 1, "p": 1}, {"t": AT, "e": "click", "sku": 2, "p": 1})
    made = import_events(tmp_path, rows, name="log.jsonl")
    assert [event["item_id"] for event in made.events] == ["acme-2"]
    assert "left out: 1 events without a time (such as " in made.output
    assert "log.jsonl row 1)" in made.output


@pytest.mark.parametrize(
    ("place", "expected"),
    [("1.0", 1), (3.0, 3), (None, None), (float("nan"), None), ("", None), ("NaN", None), (-1, -1)],
)
def test_places(tmp_path, place, expected):
    made = import_events(tmp_path, lines({"t": AT, "e": "click", "sku": " 1 ", "p": place}), name="log.jsonl")
    (event,) = made.events
    assert (event["item_id"], event["position"]) == ("acme-1", expected)


@pytest.mark.parametrize("place", ["1.5", 1.5, "first", "1_0", 10**12, True])
def test_places_that_are_none(tmp_path, place):
    with pytest.raises(InputError, match=r"log\.jsonl row 1: position '.*' is not a whole number"):
        import_events(tmp_path, lines({"t": AT, "e": "click", "sku": 1, "p": place}), name="log.jsonl")


@pytest.mark.parametrize(
    ("rule", "shown", "place", "expected"),
    [
        ({"split": "|"}, "7|8|9", "11", [("7", 11), ("8", 12), ("9", 13)]),
        ({"spread": True}, "[7, 8.0]", "1", [("7", 1), ("8", 2)]),
        ({"spread": True}, "['7', '8']", "[3, 5]", [("7", 3), ("8", 5)]),
        ({"spread": True}, "7", "2", [("7", 2)]),
        ({"spread": True, "digits": 3}, "[7, 18]", "", [("007", None), ("018", None)]),
    ],
)
def test_lists_of_shown_items(tmp_path, rule, shown, place, expected):
    content = f't,e,sku,p\n{AT},impression,"{shown}","{place}"\n'
    made = import_events(tmp_path, content, item_id={"column": "sku"} | rule)
    assert [(event["item_id"].removeprefix("acme-"), event["position"]) for event in made.events] == expected


def test_lists_that_cannot_be_spread(tmp_path):
    rule = {"column": "sku", "spread": True}
    rows = lines({"t": AT, "e": "view", "sku": [], "p": 1}, {"t": AT, "e": "view", "sku": ["1"], "p": 1})
    made = import_events(tmp_path, rows, name="log.jsonl", item_id=rule)
    assert len(made.events) == 1
    assert "left out: 1 events whose list of items is empty" in made.output
    with pytest.raises(InputError, match=r"row 1: 3 positions for 2 items"):
        import_events(
            tmp_path, lines({"t": AT, "e": "v", "sku": [1, 2], "p": [1, 2, 3]}), name="log.jsonl", item_id=rule
        )
    with pytest.raises(InputError, match=r"row 1: column sku holds a list of more than texts"):
        import_events(tmp_path, lines({"t": AT, "e": "v", "sku": [{"id": 1}], "p": 1}), name="log.jsonl", item_id=rule)


def test_queries_stay_as_they_were_typed(tmp_path):
    content = f"t,e,sku,p,q\n{AT},click,1,1, nan \n{AT},click,1,1,NULL\n{AT},click,1,1,\\N\n{AT},click,1,1,M&amp;M\n"
    made = import_events(tmp_path, content, query="q")
    assert [event["query"] for event in made.events] == [" nan ", "NULL", None, "M&amp;M"]
    made = import_events(tmp_path, content, query="q", table={"null_markers": ["NULL"]})
    assert [event["query"] for event in made.events] == [" nan ", None, "\\N", "M&amp;M"]


BOOK = "q,sku,g\nred mug,1,0\nblue mug,1,3\nRed  mug,1,3\nred mug,2,1\nＲＥＤ MUG ,1.0,3\nred mug,1,2\n"


@pytest.mark.parametrize(("combine", "grade"), [("median", 2), ("mean", 2), ("highest", 3), ("lowest", 0)])
def test_raters_of_one_query_are_combined(tmp_path, combine, grade):
    made = import_judgments(tmp_path, BOOK, combine=combine)
    assert made.judgments == {("red mug", "1"): grade, ("blue mug", "1"): 3, ("red mug", "2"): 1}
    assert "changed: 3 further grades of an item for the same query, read as one: " in made.output
    assert "labels.csv row 4: 'Red  mug', 1, 3)" in made.output


def test_the_median_is_what_is_taken_unless_said(tmp_path):
    rows = "".join(f"mug,1,{grade}\n" for grade in (0, 0, 3))
    assert import_judgments(tmp_path, "q,sku,g\n" + rows).judgments == {("mug", "1"): 0}


@pytest.mark.parametrize(
    ("grade", "written", "expected"),
    [
        ("g", ["3.0", "2.00", "NaN", " 1 "], [3, 2, 1]),
        ({"column": "g", "bounds": [0.2, 0.5, 0.8]}, ["0.9", "", "0.2", "-1"], [3, 1, 0]),
        ({"column": "g", "scale": {"good": 3, "bad": 0}}, ["bad", "NULL", "good", "good"], [0, 3, 3]),
        ({"column": "g", "scale": {"1": 0, "10": 3}}, ["1.0", "10", "", ""], [0, 3]),
    ],
)
def test_grades_as_they_are_written(tmp_path, grade, written, expected):
    rows = "".join(f"mug,{n},{text}\n" for n, text in enumerate(written))
    made = import_judgments(tmp_path, "q,sku,g\n" + rows, grade=grade)
    assert list(made.judgments.values()) == expected
    assert f"left out: {len(written) - len(expected)} judgments without a grade" in made.output


@pytest.mark.parametrize("grade", ["2.5", "4", "-1", "high", "3,0"])
def test_a_grade_that_is_none_is_refused(tmp_path, grade):
    with pytest.raises(InputError, match=r"labels\.csv row 2: label .*; expected 0, 1, 2, 3"):
        import_judgments(tmp_path, f'q,sku,g\nmug,1,"{grade}"\n')


def test_judgments_of_nothing_are_counted(tmp_path):
    made = import_judgments(tmp_path, "q,sku,g\nmug,1,3\n,1,3\nmug,,3\n")
    assert made.judgments == {("mug", "1"): 3}
    assert "left out: 1 judgments without a query" in made.output
    assert "left out: 1 judgments without an item_id" in made.output
