"""YAML that would end the process, take hours or mean two things is one line that names the file, at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlp.core.config import ConfigError, compose, config, read_yaml, validate


def laughs(item: str, list_of: str) -> str:
    """A million million million values in thirty lines."""
    lines = [f"a0: &a0 {item}"]
    lines += [f"a{n}: &a{n} {list_of.replace('ALIASES', ', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 30)]
    return "\n".join(lines)


BAD = {
    "laughs": (laughs("[x]", "[ALIASES]"), "values, its aliases written out"),
    "laughs_of_merges": (laughs("{x: 1}", "{<<: [ALIASES]}"), "values, its aliases written out"),
    "flow": ("a: " + "[" * 1_000_000, "nested more than 100 levels"),
    "flow_of_mappings": ("a: " + "{a: " * 1_000_000, "nested more than 100 levels"),
    "block": ("".join(" " * level + "a:\n" for level in range(3000)), "nested more than 100 levels"),
    "dashes": ("a:\n " + "- " * 100_000, "nested more than 100 levels"),
    "many": ("a: [" + "1," * 400_000 + "]", "more than 300000 values"),
    "sexagesimal": ("a: " + "1:" * 1_000_000 + "1", "a number of 2000001 characters"),
    "digits": ("a: " + "1" * 100_000, "a number of 100000 characters"),
    "hexadecimal": ("a: 0x" + "f" * 100_000, "a number of 100002 characters"),
    "date": ("a: 2024-99-99", "not valid YAML"),
    "key_of_a_list": ("? [a]\n: b", "unhashable key"),
    "holds_itself": ("a: &a [*a]", "alias *a"),
    "undefined": ("a: *b", "alias *b"),
    "python": ("a: !!python/object/apply:os.system ['true']", "tag '"),
    "timestamp": ("a: !!timestamp x", "tag '"),
    "binary": ("a: !!binary x", "tag '"),
    "own_tag": ("a: !mine x", "tag '!mine'"),
    "control": ("a: \0", "not valid YAML"),
    "half_character": ('a: "\\ud800"', "not valid YAML"),
    "twice": ("a: 1\nb: 2\na: 3", "'a' is given twice"),
    "twice_inside": ("x: {a: 1, a: 2}", "'a' is given twice"),
    "twice_as_numbers": ("1: a\n1: b", "1 is given twice"),
    "documents": ("a: 1\n---\nb: 2", "single document"),
    "list": ("[a]", "expected a mapping"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BAD)
def test_bad_yaml_is_one_line(name: str, tmp_path: Path) -> None:
    text, expected = BAD[name]
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "x.yaml")
    said = str(caught.value)
    assert expected in said and "x.yaml" in said and "\n" not in said and len(said) < 1000


def test_aliases_and_merges_of_ordinary_size_work(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        'a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: [*a, *a]\nf: !!str 5\ng: "' + "1" * 5000 + '"\n'
    )
    assert read_yaml(tmp_path / "x.yaml") == {
        "a": {"b": 1}, "c": {"b": 1, "d": 2}, "e": [{"b": 1}, {"b": 1}], "f": "5", "g": "1" * 5000
    }  # fmt: skip


@pytest.mark.timeout(20)
def test_a_recipe_is_a_regular_utf_8_file_of_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with open(tmp_path / "huge.yaml", "wb") as file:
        file.truncate(1 << 36)
    places = ["fifo.yaml", "folder.yaml", "latin.yaml", "huge.yaml", "/dev/zero"]
    words = ["a FIFO", "a directory", "not UTF-8 (at byte 3)", "more than", "a device"]
    for place, expected in zip(places, words, strict=True):
        with pytest.raises(ConfigError) as caught:
            read_yaml(tmp_path / place)
        assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("parents", ["5", "[5]", "{a: b}"])
def test_inherits_names_files(parents: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"inherits: {parents}\n")
    with pytest.raises(ConfigError, match="inherits: expected the name"):
        compose(tmp_path / "x.yaml")


@pytest.mark.timeout(20)
def test_recipes_that_inherit_twice_of_each_other_are_read_a_bounded_number_of_times(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"inherits: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "40.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="more than 100 recipes"):
        compose(tmp_path / "0.yaml")


def test_numbers_of_a_recipe_are_finite_and_long_values_are_cut_in_messages() -> None:
    @config
    class Optimizer:
        lr: float

    for bad in (float("nan"), float("inf"), "x" * 100_000):
        with pytest.raises(ConfigError, match="lr: ") as caught:
            validate(Optimizer, {"lr": bad})
        assert len(str(caught.value)) < 500
