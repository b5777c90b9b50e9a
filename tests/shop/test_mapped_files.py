"""Files of any table: encodings, separators, line ends, and what must not fill the memory."""

from __future__ import annotations

import codecs
import gzip
import io
import tracemalloc

import pytest
from table_imports import import_items

from smar_model.errors import InputError
from smar_model.shop.importers import text_files
from smar_model.shop.importers.text_files import text_lines

NAMED = {"item_id": "sku", "title": "name"}
CAFE = "sku,name\n1,Café crème – 5 €\n2,Mug\n"


def titles(made) -> list[str]:
    return [row["title"] for row in made.items.values()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CAFE.encode(), None),
        (codecs.BOM_UTF8 + CAFE.encode(), None),
        (CAFE.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + CAFE.encode("utf-16-be"), "UTF-16"),
        (CAFE.encode("utf-16-le"), "UTF-16"),
        (CAFE.encode("cp1252"), "Windows-1252"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_are_found_and_said(tmp_path, content, said, packed):
    name = "goods.csv.gz" if packed else "goods.csv"
    made = import_items(tmp_path, gzip.compress(content) if packed else content, NAMED, name=name)
    assert titles(made) == ["Café crème – 5 €", "Mug"]
    assert (f"{name}: read as {said} text; `encoding` names another" in made.output) == bool(said)


def test_json_lines_in_another_encoding(tmp_path):
    content = '{"sku": 1, "name": "Café"}\n'
    for written in (content.encode("latin-1"), content.encode("utf-16")):
        assert titles(import_items(tmp_path, written, NAMED, name="goods.ndjson")) == ["Café"]


@pytest.mark.parametrize(("encoding", "title"), [("cp1251", "Кружка красная"), ("gb18030", "红色马克杯")])
def test_other_encodings_are_not_guessed(tmp_path, encoding, title):
    content = f"sku,name\n1,{title}\n".encode(encoding)
    with pytest.raises(InputError, match=r"goods\.csv: text that is neither UTF-8 nor Western European.*`encoding`"):
        import_items(tmp_path, content, NAMED)
    assert titles(import_items(tmp_path, content, NAMED, encoding=encoding)) == [title]


def test_a_damaged_letter_does_not_make_another_encoding(tmp_path):
    content = CAFE.encode() + b"3,caf\xe9\n"
    with pytest.raises(InputError, match=r"goods\.csv row 4: not UTF-8 text"):
        import_items(tmp_path, content, NAMED)
    with pytest.raises(InputError, match=r"goods\.csv row 2: not ascii text"):
        import_items(tmp_path, content, NAMED, encoding="ascii")


@pytest.mark.parametrize("encoding", ["base64", "klingon", "rot13", "hex"])
def test_what_is_no_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(InputError, match=r"items\.encoding: .*no such encoding of text"):
        import_items(tmp_path, CAFE, NAMED, encoding=encoding)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("sku|name|price\n1|Mug, red|3\n", "goods.csv", "'|'"),
        ("sku\tname\n1\tMug, red\n", "goods.csv", r"'\t'"),
        ("sku,name\n1,'Mug, red'\n".replace("'", '"'), "goods.tsv", "','"),
        ("sep=;\nsku;name\n1;Mug, red\n", "goods.csv", "';'"),
        ('"sku" ; "name"\n1;Mug, red\n'.replace('" ', '"').replace(' "', '"'), "goods.csv", "';'"),
        ("\nsku, name\n1,Mug; red\n".replace(";", ";"), "goods.csv", None),
    ],
)
def test_what_separates_is_found(tmp_path, content, name, said):
    made = import_items(tmp_path, content, NAMED, name=name)
    assert titles(made)[0].startswith("Mug")
    assert f"{said} stands between its columns" in made.output if said else "stands between" not in made.output


def test_what_separates_is_named_or_not_found(tmp_path):
    content = "sku~name\n1~Mug\n"
    with pytest.raises(InputError, match=r"row 1: no column sku, name; it has sku~name; if another .* as `delimiter`"):
        import_items(tmp_path, content, NAMED)
    assert titles(import_items(tmp_path, content, NAMED, delimiter="~")) == ["Mug"]
    with pytest.raises(InputError, match=r"items\.delimiter"):
        import_items(tmp_path, content, NAMED, delimiter="::")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"sku,name\r1,Red mug\r2,Blue mug\r", ["Red mug", "Blue mug"]),
        (b"sku,name\r\n1,Red mug\n2,Blue mug\r", ["Red mug", "Blue mug"]),
        (b'sku,name\r1,"Red\rmug"\r2,"Blue\r\nmug"', ["Red mug", "Blue mug"]),
    ],
)
def test_line_ends(tmp_path, content, expected):
    assert titles(import_items(tmp_path, content, NAMED)) == expected
    assert titles(import_items(tmp_path, gzip.compress(content), NAMED, name="g.csv.gz")) == expected


def test_a_row_names_itself_with_old_line_ends(tmp_path):
    with pytest.raises(InputError, match=r"goods\.csv row 3: 3 fields, expected 2"):
        import_items(tmp_path, b"sku,name\r1,Mug\r2,Mug,red\r", NAMED)


@pytest.mark.parametrize(
    "content",
    [
        "sku,name\n1," + "x" * 3_000,
        'sku,name\n1,"' + "x\n" * 1_500,
        "sku,name\n1," + '"a\n",' * 600,
    ],
)
def test_a_row_that_does_not_end_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr(text_files, "LONGEST_ROW", 2_000)
    monkeypatch.setattr("smar_model.shop.importers.delimited_text.LONGEST_ROW", 2_000)
    with pytest.raises(InputError, match=r"goods\.csv row 2: (over 2,000 characters|field larger)"):
        import_items(tmp_path, content, NAMED)


def test_a_line_of_a_packed_file_is_bounded_in_memory(tmp_path):
    file = tmp_path / "bomb.jsonl.gz"
    with gzip.open(file, "wb", compresslevel=1) as packed:
        for _ in range(128):
            packed.write(b" " * 2**20)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.jsonl\.gz row 1: over 16,777,216 characters"):
        list(text_lines(file))
    assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
    tracemalloc.stop()


def test_lines_do_not_depend_on_blocks(tmp_path):
    text = "".join(f"{n},é{'x' * (n % 300)}\r\n" for n in range(20_000))
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert list(text_lines(tmp_path / "a.csv")) == io.StringIO(text, newline="").readlines()
    assert text_files.find_encoding(tmp_path / "a.csv") == text_files.UTF8
