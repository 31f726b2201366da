"""Which side and which shard a record falls on: properties over random data sets."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.core.config import ConfigError
from vlp.data.tables.boxes import parse_boxes
from vlp.data.tables.cells import CellError
from vlp.data.tables.labels import label_value, names_in
from vlp.sample import Box
from vlp_prep.pipeline.shard_plan import plan, standard_split
from vlp_prep.sources.base import LEARN, Record, safe_key
from vlp_prep.splits.split import choose, leaks, parse_shares, without_test


def test_shares_are_met_and_seeds_differ() -> None:
    shares = parse_shares("0.7,0.2,0.1")
    counts = Counter(choose(f"p{number}", shares, 0) for number in range(20_000))
    for name, share in shares.items():
        assert abs(counts[name] / 20_000 - share) < 0.015
    moved = sum(choose(f"p{n}", shares, 0) != choose(f"p{n}", shares, 1) for n in range(1000))
    assert 300 < moved < 700  # two independent draws agree in .7² + .2² + .1² = 54 %
    assert all(choose(f"p{n}", parse_shares("train=1"), 0) == "train" for n in range(100))
    assert choose("p", parse_shares("none"), 0) is None


@pytest.mark.parametrize("text", ["0.5", "0.5,0.6", "a,b", "0.2,0.2,0.2,0.4", "1.5,-0.5", ""])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--split"):
        parse_shares(text)


records = st.lists(
    st.builds(
        lambda key, patient, split: Record(key=f"k{key}", patient=f"p{patient}", split=split),
        st.integers(0, 40),
        st.integers(0, 12),
        st.sampled_from([None, None, None, "validate"]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(records, st.integers(1, 7), st.integers(0, 3))
def test_a_plan_holds_every_record_once_and_no_patient_twice(found: list[Record], size: int, seed: int) -> None:
    shards = list(plan(found, parse_shares("0.5,0.25,0.25"), seed, size))
    placed = [index for shard in shards for index, _ in [*shard.records, *shard.duplicates]]
    assert sorted(placed) == list(range(len(found)))
    keys = [record.key for shard in shards for _, record in shard.records]
    assert len(keys) == len(set(keys)) and set(keys) == {record.key for record in found}
    assert [shard.ordinal for shard in shards] == list(range(len(shards)))
    assert len({shard.name for shard in shards}) == len(shards)
    assert all(len(shard.records) <= size for shard in shards)
    sides = [(str(shard.split), record.patient, record.key) for shard in shards for _, record in shard.records]
    hashed = [row for row in sides if next(one for one in found if one.key == row[2]).split is None]
    assert leaks(hashed) == []


def test_what_a_publisher_keeps_out_of_its_test_set_never_gets_into_ours() -> None:
    ours = [Record(key=f"k{number}", split=LEARN) for number in range(3000)]
    theirs = [Record(key=f"t{number}", split="test") for number in range(50)]
    sizes: Counter[str | None] = Counter()
    for shard in plan([*ours, *theirs], parse_shares("0.6,0.2,0.2"), 0, 512):
        sizes[shard.split] += len(shard.records)
        assert shard.split != "test" or all(record.key.startswith("t") for _, record in shard.records)
    assert sizes["test"] == 50 and abs(sizes["val"] / 3000 - 0.25) < 0.03 and sizes["train"] + sizes["val"] == 3000
    assert without_test(parse_shares("test=1")) == {"train": 1.0} and without_test({}) == {}


def test_leaks_are_groups_on_two_sides() -> None:
    rows = [("train", "a", "1"), ("test", "a", "2"), ("train", "b", "3"), ("train", "b", "4"), ("test", None, "5")]
    assert leaks(rows) == ["patient in test and train: 2, 1"]


def test_names_of_splits_and_keys() -> None:
    assert [standard_split(name) for name in ("validate", "Valid", "dev", "TEST", "test a/b")] == [
        "val",
        "val",
        "val",
        "test",
        "test_a_b",
    ]
    assert safe_key("p10_s5-a") == "p10_s5-a"
    assert safe_key("a.b") != safe_key("a_b") and "." not in safe_key("a.b") and "/" not in safe_key("../é")
    assert len(safe_key("x" * 500)) < 120


def test_labels_and_boxes_as_tables_write_them() -> None:
    assert [label_value(cell) for cell in ("1.0", "0", "-1", "", "nan", 1, True)] == [1, 0, -1, None, None, 1, 1]
    with pytest.raises(CellError, match="bad_label"):
        label_value("2")
    assert names_in("['a b', \"c's\"]") == ["a b", "c's"] and names_in("a|b; c") == ["a", "b", "c"]
    assert parse_boxes('{"nodule": [[0, 1, 2, 3], [4, 5, 6, 7]]}') == (
        Box("nodule", (0, 1, 2, 3)),
        Box("nodule", (4, 5, 6, 7)),
    )
    assert parse_boxes([{"label": "mass", "bbox": [1, 2, 3, 4]}], "xywh") == (Box("mass", (1, 2, 4, 6), "mass"),)
    for wrong in ("[3, 3, 1, 1]", '{"a": 5}', "[1, 2"):
        with pytest.raises(CellError):
            parse_boxes(wrong)
