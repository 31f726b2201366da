"""What a cell says, and what a table is: properties over made-up cells, and files as other programs write them."""

import csv
import gzip
import io
import json
import math
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.tables.boxes import parse_boxes
from vlp.data.tables.cells import CellError, absent, identity, text, texts, word
from vlp.data.tables.keys import Names
from vlp.data.tables.labels import cell_labels, label_value, names_in
from vlp.data.tables.read import TableError, columns_of, numbered_rows, rows
from vlp.sample import Box

SAYS_NOTHING = ("", " ", "None", "none", "N/A", "n/a", "NA", "NULL", "null", "NaN", "nan", "<NA>", "#N/A", "NaT", "\\N")
SAYS_NOTHING += ("#REF!", "undefined", "\u00a0", None, float("nan"))


@pytest.mark.parametrize("value", SAYS_NOTHING)
def test_a_word_for_nothing_is_nothing_whatever_the_cell_is_for(value: object) -> None:
    assert absent(value) and text(value, "c") == "" and texts(value, "c") == () and identity(value, "c") is None
    assert word(value, "c") is None and label_value(value) is None and cell_labels(value, "c", False) == {}
    assert not absent(f"{value}x") and not absent(0) and not absent("0") and not absent("No")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("007", "007"),
        ("P1  ", "P1"),
        ("\ufeffP1\u00a0", "P1"),
        ("12.0", "12"),
        ("0012.00", "0012"),
        (12.0, "12"),
        (12, "12"),
        ("1.5", "1.5"),
        ("A.0", "A.0"),
        ("1e5", "1e5"),
    ],
)
def test_ids_keep_leading_zeros_and_lose_what_programs_put_behind(value: object, found: str) -> None:
    assert identity(value, "patient") == found


@pytest.mark.parametrize("value", [True, 1.5, 1e17, ["P1"], {"a": 1}, "1.23E+11", "1,2E+5", "a\ud800"])
def test_what_is_no_id_is_refused_without_being_quoted(value: object) -> None:
    with pytest.raises(CellError, match="column 'mrn'") as caught:
        identity(value, "mrn")
    assert "1.23E+11" not in str(caught.value) and "P1" not in str(caught.value)


def test_nested_reports_are_their_texts() -> None:
    nested = {"findings": "Clear lungs.", "impression": ["Normal.", None], "note": None}
    wanted = "FINDINGS: Clear lungs.\nIMPRESSION: Normal."
    for spelled in (nested, json.dumps(nested), str(nested)):
        assert text(spelled, "report") == wanted
    assert text(["a", "", "b"], "report") == text("['a', '', 'b']", "report") == "a\nb"
    assert text({"text": "a", "sentences": [[0, 1]]}, "report") == "a"
    for kept in ("[**2101-1-1**] Clear.", "{not JSON", "[1] see [2]", "a [b]"):
        assert text(kept, "report") == kept
    assert texts('["a", "b", null]', "captions") == texts(["a", "b"], "captions") == ("a", "b")
    assert texts("[CLS] a", "captions") == ("[CLS] a",) and texts({"en": "a", "de": ["b"]}, "captions") == ("a", "b")
    for wrong in (5, True, [1, 2], {"a": {"b": {"c": {"d": "e"}}}}, {"a": 1}, b"bytes", "half \ud800"):
        with pytest.raises(CellError, match="bad_text"):
            text(wrong, "report")


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.binary(max_size=5))
cells = st.recursive(
    values,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
)


@settings(max_examples=300, deadline=None)
@given(cells)
def test_any_cell_is_read_or_refused_and_never_pythons_repr(cell: object) -> None:
    for reader in (text, texts, identity, word):
        try:
            found = reader(cell, "c")  # type: ignore[operator]
        except CellError:
            continue
        for part in found if isinstance(found, tuple) else [found]:
            assert part is None or isinstance(part, str)
            if part and isinstance(cell, (list, dict)):
                assert str(cell) != part
    for reader in (lambda one: cell_labels(one, "c", False), lambda one: cell_labels(one, "c", True)):
        try:
            found = reader(cell)
        except CellError:
            continue
        assert all(isinstance(name, str) and value in (0, 1, -1) for name, value in found.items())
    try:
        boxes = parse_boxes(cell)
    except CellError:
        return
    for box in boxes:
        assert all(map(math.isfinite, box.xyxy)) and box.xyxy[0] < box.xyxy[2] and box.xyxy[1] < box.xyxy[3]


def test_a_label_cell_is_a_value_or_refused_and_never_cut() -> None:
    assert [label_value(cell) for cell in ("yes", "No", "TRUE", "present", "uncertain", "1.00", 0.0, -1)] == [
        *(1, 0, 1, 1, -1, 1, 0, -1)
    ]
    for wrong in ("2", 0.7, "-0.5", "0,5", "50%", "maybe", "see report", 1e300, float("inf"), [1]):
        with pytest.raises(CellError, match="bad_label") as caught:
            label_value(wrong, "Edema")
        assert "see report" not in str(caught.value)
    assert cell_labels("Edema|Mass", "c", False) == {"Edema": 1, "Mass": 1}
    assert cell_labels({"Edema": 0, "Mass": "yes"}, "c", False) == {"Edema": 0, "Mass": 1}
    for wrong in ("maybe", "Edema|Mass"):
        with pytest.raises(CellError):
            cell_labels(wrong, "c", True)
    for wrong in ("1;2", [0, 1, 1], "0.7", "Mr Smith was seen " * 9, {"Edema": 0.3}, "a\x1b[31m"):
        with pytest.raises(CellError):
            cell_labels(wrong, "c", False)
    assert names_in("None|Edema") == ["Edema"]


def test_boxes_in_every_spelling() -> None:
    one = (Box("mass", (1, 2, 4, 6)),)
    assert parse_boxes({"mass": [1, 2, 4, 6]}) == parse_boxes('[{"phrase": "mass", "xywh": [1, 2, 3, 4]}]') == one
    assert parse_boxes({"bbox": [[1, 2, 3, 4]], "category": ["mass"]}, "xywh") == one
    assert parse_boxes([{"phrase": "left mass", "label": "Mass", "box": [1, 2, 4, 6]}])[0].label == "Mass"
    assert parse_boxes("") == parse_boxes(None) == parse_boxes([]) == ()
    wrong = ([1, 2, float("nan"), 4], [1, 2, float("inf"), 4], [True, 0, 1, 1], [1, 2, "3", 4], [4, 4, 1, 1], {"a": 5})
    wrong += (
        {"bbox": [[1, 2, 3, 4]], "category": [3]},
        {"bbox": [[1, 2, 3, 4]], "category": ["a", "b"]},
        [10**400] * 4,
    )
    for cell in wrong:
        with pytest.raises(CellError, match="bad_box"):
            parse_boxes(cell)
    assert len(parse_boxes([[4, 4, 1, 1]], keep_flat=True)) == 1
    with pytest.raises(CellError):
        parse_boxes("[" * 100_000)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab/._-\\é", min_size=1, max_size=6), min_size=1, max_size=30, unique=True))
def test_different_names_never_share_a_key(found: list[str]) -> None:
    names = Names()
    for name in found:
        names.add(name, True, name)
    names.close()
    assert len({names.key(name, True) for name in found}) == len(found)


def test_a_key_that_no_other_name_makes_stays_as_it_is() -> None:
    names = Names()
    for name in ("p1/s1.png", "p1_s1.png", "q.png", "q.jpg", "r/s.png"):
        names.add(name, True, name)
    names.close()
    assert names.key("r/s.png", True) == "r_s" and names.key("q.png", True).startswith("q-")


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.jsonl.gz", "t.parquet"])
def test_fields_are_the_union_over_rows(name: str, tmp_path: Path) -> None:
    found = [{"a": "1"}, {"b": "2", "a": "3"}, {"c": None}]
    if name == "t.parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"a": ["1", "3", None], "b": [None, "2", None], "c": [None] * 3}), tmp_path / name)
    else:
        data = (json.dumps(found) if "jsonl" not in name else "\n".join(map(json.dumps, found))).encode()
        put(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    read = list(rows(tmp_path / name, ("a", "b", "c")))
    assert read == [{"a": "1", "b": "", "c": ""}, {"a": "3", "b": "2", "c": ""}, {"a": "", "b": "", "c": ""}]
    with pytest.raises(TableError, match="no column 'd'"):
        list(rows(tmp_path / name, ("d",)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1\n", "line 2: 1 cells, the header has 2"),
        ("a,b\n1,2\n\n1,2,3\n", "line 4: 3 cells"),
        ('a,b\n"x\ny",1\n"z" w,2\n', "line 4: ',' expected after"),
        ('a,b\n1,2\n"3,4\n5,6\n', "begins in line 3: unexpected end of data"),
        ("a,b,a\n1,2,3\n", "column 'a' occurs twice"),
        ("a, a\n1,2\n", "column 'a' occurs twice"),
        ("a;b\n1;2\n", "separated by ';'"),
        ("a\tb\n1\t2\n", "separated by 'tab'"),
        ("a|b\n1|2\n", "separated by '|'"),
        ("", "name the columns"),
        (b"a,b\n\x93x\x94,1\n", "--encoding cp1252"),
        (b"a,b\nOpacit\xe9,1\n", "--encoding cp1252"),
        (b"a,b\n\x81\xe9,1\n", "--encoding latin-1"),
        ("a,b\n1,2\n".encode("utf-16-le"), "--encoding utf-16-le"),
        ("a,b\n1,2\n".encode("utf-16-be"), "--encoding utf-16-be"),
        (b"PK\x03\x04rest", "a spreadsheet or zip"),
        (gzip.compress(b"a,b\n", mtime=0), "must end in .gz"),
    ],
)
def test_a_csv_that_is_broken_is_named_with_its_line(content: bytes | str, said: str, tmp_path: Path) -> None:
    path = put(tmp_path, "t.csv", content)
    with pytest.raises(TableError) as caught:
        list(rows(path, ("a",)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ('{"a": 1}\n\n[1]\n', "line 3: expected a JSON object, found a list of 1"),
        ('{"a": 1, "a": 2}\n', "line 1: key 'a' is given twice"),
        ('{"a": ' + "[" * 100_000, "line 1: nested too deeply"),
    ],
)
def test_a_broken_json_line_is_named(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        list(rows(put(tmp_path, "t.jsonl", content)))
    assert said in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_obeyed_and_contradiction_is_named(encoding: str, tmp_path: Path) -> None:
    path = put(tmp_path, "t.csv", "a,b\né,2\n".encode(encoding))
    assert list(rows(path)) == [{"a": "é", "b": "2"}]
    assert list(rows(path, encoding=encoding)) == [{"a": "é", "b": "2"}]
    with pytest.raises(TableError, match="begins with the mark of"):
        list(rows(path, encoding="cp1252"))


def test_given_encodings_and_separators_are_used(tmp_path: Path) -> None:
    path = put(tmp_path, "t.csv", "a;b\n3–4 cm;2,5\n".encode("cp1252"))
    assert list(rows(path, ("a",), "cp1252", separator=";")) == [{"a": "3–4 cm", "b": "2,5"}]
    with pytest.raises(TableError, match="line 2: in latin-1 these are control characters: give --encoding cp1252"):
        list(rows(path, encoding="latin-1", separator=";"))
    with pytest.raises(TableError, match="'klingon' is no encoding"):
        list(rows(path, encoding="klingon"))
    path = put(tmp_path, "u.csv", "a\tb\n1\t2\n")
    assert list(rows(path, separator="tab")) == [{"a": "1", "b": "2"}]
    assert list(rows(put(tmp_path, "v.tsv", "a\tb,c\n1\t2,3\n"))) == [{"a": "1", "b,c": "2,3"}]


def test_a_fifo_is_no_table_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(TableError, match="regular file"):
        list(rows(tmp_path / "t.csv"))


table_texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(table_texts, table_texts), max_size=8))
def test_a_csv_of_any_text_comes_back_with_the_lines_of_its_rows(found: list[tuple[str, str]]) -> None:
    import tempfile

    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([("a", "b"), *found])
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder), "t.csv", file.getvalue())
        read = list(numbered_rows(path))
        assert columns_of(path) == ["a", "b"]
    wanted = [{"a": "" if absent(a) else a, "b": "" if absent(b) else b} for a, b in found]
    assert [row for _, row in read] == wanted
    lines = file.getvalue().split("\n")
    assert [line for line, _ in read] == sorted({line for line, _ in read}) and all(
        line <= len(lines) for line, _ in read
    )


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.csv.gz"]), st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_line(name: str, data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder), name, data)
        with suppress(TableError):
            list(rows(path))
