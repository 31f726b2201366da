"""The options of a build: flags and full names set the same thing, by one declaration."""

from pathlib import Path

import pytest

from vlp.core.config import ConfigError
from vlp.core.declared import docs_of
from vlp_prep.cli import main
from vlp_prep.images.store import ImageOptions
from vlp_prep.pipeline.build import Build
from vlp_prep.pipeline.options import BuildOptions, _leaves, read_options


def test_an_option_may_be_set_by_its_full_name(tmp_path: Path) -> None:
    words = ["image.max_side=64", "text.concepts=none", "source.n=12", "workers=0", "seed=3"]
    options = read_options("synthetic", {"out": str(tmp_path)}, words)
    assert options.image == ImageOptions(max_side=64) and options.text.concepts == "none"
    assert options.workers == 0 and options.seed == 3 and options.source == {"kind": "synthetic", "n": 12}


def test_a_flag_and_a_full_name_build_the_same_set(tmp_path: Path) -> None:
    flags = ["--n", "6", "--size", "48", "--max-side", "32", "--shard-size", "4", "--workers", "0"]
    names = ["source.n=6", "source.size=48", "image.max_side=32", "shard_size=4", "workers=0", f"out={tmp_path / 'b'}"]
    assert main(["build", "synthetic", *flags, "--out", str(tmp_path / "a")]) == 0
    assert main(["build", "synthetic", *names]) == 0
    for path in sorted((tmp_path / "a").iterdir()):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_seed_of_the_build_is_that_of_the_source(tmp_path: Path) -> None:
    assert read_options("synthetic", {"seed": "4", "out": "x"}, []).source["seed"] == "4"
    with Build(read_options("synthetic", {"seed": "4", "out": str(tmp_path / "x")}, ["source.n=3"])) as build:
        assert build.source.config.seed == 4 and build.options.seed == 4 and build.options.text.no_text == "reject"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("imag.max_side=64", "did you mean 'image'"),
        ("image.max_sid=64", "did you mean 'max_side'"),
        ("source.siz=64", "did you mean 'size'"),
        ("image.format=gif", "found 'gif'"),
        ("folder", "not of the form a.b=value"),
        ("shard_of=4/4", "expected I/N"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, says: str) -> None:
    assert main(["build", "synthetic", word, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "x").exists()


def test_every_option_of_a_build_says_what_it_is() -> None:
    names = [path[-1] for path, _ in _leaves(BuildOptions)]
    assert len(names) == len(set(names)), "the last words of two options are one flag"
    assert all(text for _, (_, _, text) in _leaves(BuildOptions))
    assert docs_of(int) == {}
    with pytest.raises(ConfigError, match="missing key 'out'"):
        read_options("synthetic", {}, [])
