"""Clones of Hub data sets whose card says which file is of which split."""

from pathlib import Path

import pytest

from tests.data_prep.pipeline.built import build, samples
from tests.data_prep.sources import trees
from vlp_prep.readers.hub_card import is_named

COMMON = ("--max-rejected", 1, "--workers", 0)


def clone(place: Path, card: str, *names: str) -> Path:
    for at, name in enumerate(names):
        folder = Path(name).parent
        trees.picture(place / folder / f"i{at}.png", at)
        trees.put(place / name, f"image,report\ni{at}.png,{name}\n")
    trees.put(place / "README.md", f"---\nlicense: mit\n{card}\n---\n# A set\n")
    return place


def splits(place: Path, *words: object) -> dict[str, str | None]:
    out = place.parent / "out"
    build("hf", "--dataset", place, "--out", out, *COMMON, *words)
    return {sample.report.text: sample.split for sample in samples(out).values() if sample.report}


STATED = """configs:
- config_name: default
  data_files:
  - split: train
    path: ["a/one.csv", "a/t*.csv"]
  - split: validation
    path: "b/**/x-*.csv"
  - split: test
    path: trainers.csv
"""
FILES = ("a/one.csv", "a/two.csv", "b/c/d/x-0.csv", "trainers.csv", "a/unnamed.csv")


def test_the_splits_of_a_card_are_those_of_its_files(tmp_path: Path) -> None:
    expected = {"a/one.csv": "train", "a/two.csv": "train", "b/c/d/x-0.csv": "val", "trainers.csv": "test"}
    assert splits(clone(tmp_path / "clone", STATED, *FILES)) == expected


CONFIGS = """configs:
- config_name: chest
  data_files: {train: chest/a.csv, test: chest/b.csv}
- config_name: hand
  data_dir: hand
  data_files: "*.csv"
"""


def test_a_configuration_is_chosen_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = clone(tmp_path / "clone", CONFIGS, "chest/a.csv", "chest/b.csv", "hand/test.csv")
    assert splits(place, "--subset", "chest") == {"chest/a.csv": "train", "chest/b.csv": "test"}
    assert splits(place, "--subset", "hand", "--overwrite") == {"hand/test.csv": "test"}
    build("hf", "--dataset", place, "--out", tmp_path / "x", *COMMON, code=2)
    assert "give --subset, one of 'chest', 'hand'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("configs: [{data_files: '../secret.csv'}]", "refused"),
        ("configs: [{data_files: /etc/passwd}]", "refused"),
        ("configs: [{data_files: 'https://example.org/a.csv'}]", "refused"),
        ("configs: [{data_files: 'hf://datasets/a/b/c.csv'}]", "refused"),
        ("configs: [{data_dir: '..', data_files: a.csv}]", "refused"),
        ("configs: [{data_files: gone.csv}]", "no such file"),
        ("configs: [{data_files: {train: a.csv, test: '*.csv'}}]", "in two splits"),
        ("configs: [{data_files: [1]}]", "expected paths"),
        ("configs: {a: 1}", "expected a list"),
        ("configs: [{data_files: &a [*a]}]", "cannot be read"),
        ("configs: [{data_files: README.md}]", "no table or image"),
    ],
)
def test_a_card_that_cannot_be_followed_is_one_line(
    stated: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = clone(tmp_path / "clone", stated, "a.csv")
    trees.put(tmp_path / "secret.csv", "image,report\na.png,secret\n")
    build("hf", "--dataset", place, "--out", tmp_path / "out", *COMMON, code=2)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_images_of_a_card_are_classes_in_its_splits(tmp_path: Path) -> None:
    for at, name in enumerate(("x/sick/a.png", "x/well/b.png", "y/well/c.png")):
        trees.picture(tmp_path / "clone" / name, at)
    stated = "configs: [{config_name: c, data_files: [{split: train, path: 'x/**'}, {split: test, path: 'y/*/*'}]}]"
    trees.put(tmp_path / "clone/README.md", f"---\n{stated}\n---\n")
    build("hf", "--dataset", tmp_path / "clone", "--out", tmp_path / "out", *COMMON, "--no-text", "keep")
    assert sorted((one.split, *one.labels.items()) for one in samples(tmp_path / "out").values()) == [
        ("test", ("sick", 0), ("well", 1)),
        ("train", ("sick", 0), ("well", 1)),
        ("train", ("sick", 1), ("well", 0)),
    ]


@pytest.mark.parametrize(
    ("place", "pattern", "named"),
    [
        ("a.csv", "a.csv", True),
        ("b/a.csv", "*.csv", False),
        ("b/a.csv", "**/*.csv", True),
        ("a.csv", "**/*.csv", True),
        ("a/b/c", "a/**", True),
        ("a/b/c", "a/**/c", True),
        ("a/c", "a/**/**/c", True),
        ("data/train-00000-of-00001.parquet", "data/train-*", True),
        ("data/x/train-0", "data/train-*", False),
        ("A.csv", "a.csv", False),
        ("a" * 900, "*a" * 400 + "b", False),
    ],
)
def test_patterns_of_files(place: str, pattern: str, named: bool) -> None:
    assert is_named(place, pattern) is named
