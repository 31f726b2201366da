"""Tables whose few bytes stand for more than memory holds: refused in one line, or read a row at a time."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlp.data.tables import parquet
from vlp.data.tables.parquet import row_at
from vlp.data.tables.read import TableError, rows

MIB = 1 << 20


def repeated(value: bytes | str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([value]))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A table of 100,000 images of 1 MiB and as many reports of 64 KiB: 100 GB that are stored once."""
    path = tmp_path / "bomb.parquet"
    columns = {"image": repeated(b"x" * MIB, 100_000), "report": repeated("y" * (MIB // 16), 100_000)}
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < MIB
    return path


def test_a_value_that_is_stored_once_is_not_written_out_for_all_rows(written: Path) -> None:
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    assert row_at(written, 20, "image") == row_at(written, 21, "image") == b"x" * MIB
    assert row_at(written, 3, "image") == b"x" * MIB
    found = rows(written, skip_bytes=True)
    assert [len(next(found)["report"]) for _ in range(300)] == [MIB // 16] * 300
    assert (pool.max_memory() or 0) - before < 1 << 30


def test_rows_of_a_parquet_table_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path, row_group_size=300)
    order = [5, 6, 299, 300, 999, 0, 650, 12, 599, 600]
    assert [row_at(path, number, "a") for number in order] == order
    with pytest.raises(IndexError):
        row_at(path, 1000, "a")


def test_lists_of_one_text_a_million_times_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    values = repeated("y" * 100_000, 50_000)
    lists = pa.ListArray.from_arrays(pa.array([0, 50_000], pa.int32()), values)
    pq.write_table(pa.table({"a": lists}), path)
    with pytest.raises(TableError, match="lists of 1 rows unpack to more than"):
        list(rows(path))
    few = tmp_path / "few.parquet"
    pq.write_table(pa.table({"a": [["x", "y"], None, []], "b": [[{"c": "d"}], [], None]}), few)
    assert [row["a"] for row in rows(few)] == [["x", "y"], "", []]
    assert next(iter(rows(few)))["b"] == [{"c": "d"}]


def test_lists_of_nothing_are_counted_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nulls.parquet"
    pq.write_table(pa.table({"a": pa.array([[None] * 1_000_000], pa.list_(pa.int64()))}), path)
    assert path.stat().st_size < 2000
    monkeypatch.setattr(parquet, "MAX_NESTED", 100_000)
    with pytest.raises(TableError, match="hold more than 100000 values"):
        list(rows(path))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz"])
def test_a_gzipped_table_is_unpacked_to_a_bound(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.core.untrusted.MIB", 1)
    line = {"a.csv.gz": b"a\n" + b"x\n" * MIB, "a.jsonl.gz": b'{"a": 1}\n' * MIB, "a.json.gz": b" " * 8 * MIB}[name]
    (tmp_path / name).write_bytes(gzip.compress(line * (1 if name.startswith("a.csv") else 2)))
    with pytest.raises(TableError, match=r"cannot read .* more than \d+ bytes unpacked"):
        list(rows(tmp_path / name))


def test_a_line_without_an_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.data.tables.read.MAX_CELL", 1000)
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b'{"a": "' + b"x" * 5000)
        with pytest.raises(TableError, match="longer than 1000"):
            list(rows(tmp_path / name))
