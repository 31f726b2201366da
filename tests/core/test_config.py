"""Recipes: composition, overrides, and complaints that name the path and the nearest right name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.core.config import (
    ConfigError,
    compose,
    config,
    digest,
    dump_yaml,
    load,
    merge,
    parse_override,
    to_tree,
    validate,
)


@config
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@config
class Source:
    path: str
    weight: float = 1.0


@config
class Toy:
    name: str
    optim: Optim = Optim()
    sources: tuple[Source, ...] = ()
    steps: int = 10


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_parent_is_merged_key_by_key_and_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "optim: {lr: 0.1, betas: [0.8, 0.9]}\nsources: [{path: a}, {path: b}]\n")
    child = write(tmp_path, "child.yaml", "inherits: base.yaml\nname: x\noptim: {lr: 1e-4}\nsources: [{path: c}]\n")
    recipe = load(Toy, child)
    assert recipe.optim == Optim(lr=1e-4, betas=(0.8, 0.9))
    assert recipe.sources == (Source(path="c"),)


def test_another_kind_replaces_the_mapping_whole() -> None:
    assert merge({"image": {"kind": "conv", "width": 3}}, {"image": {"kind": "timm", "name": "vit"}}) == {
        "image": {"kind": "timm", "name": "vit"}
    }
    assert merge({"image": {"kind": "conv", "width": 3}}, {"image": {"width": 4}}) == {
        "image": {"kind": "conv", "width": 4}
    }


def test_a_circle_of_parents_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "inherits: b.yaml\n")
    b = write(tmp_path, "b.yaml", "inherits: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        compose(b)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5000.0),
        ("1.5e+2", 150.0),
        ("3", 3),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("e4", "e4"),
        ("", None),
    ],
)
def test_override_values_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_override(f"a.b={text}", {}) == {"a": {"b": value}}


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "name: x\nsources: [{path: a}, {path: b, weight: 2}]\n")
    assert load(Toy, path, ["sources.1.path=c"]).sources == (Source(path="a"), Source(path="c", weight=2))
    with pytest.raises(ConfigError, match="index into the list of 2"):
        compose(path, ["sources.7.path=c"])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "x", "optim": {"lrr": 1}}, "unknown key 'optim.lrr': did you mean 'lr'?"),
        (
            {"name": "x", "sources": [{"path": "a", "wieght": 2}]},
            "unknown key 'sources.0.wieght': did you mean 'weight'?",
        ),
        ({}, "missing key 'name'"),
        ({"name": "x", "steps": "many"}, "steps: Input should be a valid integer"),
    ],
)
def test_complaints_name_the_path(tree: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(Toy, tree)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_key_given_twice(tmp_path: Path) -> None:
    write(tmp_path, "smoke.yaml", "name: x\nname: y\n")
    with pytest.raises(ConfigError, match=r"no such file: .*smok.yaml: did you mean 'smoke.yaml'"):
        compose(tmp_path / "smok.yaml")
    with pytest.raises(ConfigError, match=r"smoke.yaml:2: key 'name' is given twice"):
        compose(tmp_path / "smoke.yaml")
    write(tmp_path, "broken.yaml", "a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        compose(tmp_path / "broken.yaml")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    recipe = Toy(name="x", optim=Optim(lr=3e-5), sources=(Source(path="a"),))
    path = write(tmp_path, "resolved.yaml", dump_yaml(recipe))
    assert load(Toy, path) == recipe
    assert digest(load(Toy, path)) == digest(recipe) == digest(dict(reversed(to_tree(recipe).items())))
    assert digest(Toy(name="y")) != digest(recipe)


trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


@given(trees, trees, trees)
def test_merging_is_associative_and_the_empty_tree_is_neutral(a: dict, b: dict, c: dict) -> None:  # type: ignore[type-arg]
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) or not _mappings_agree(a, b, c)
    assert merge(a, {}) == a == merge({}, a)


def _mappings_agree(*trees: dict) -> bool:  # type: ignore[type-arg]
    """Associativity is promised where no key is a mapping in one tree and a value in another."""
    for key in {key for tree in trees for key in tree}:
        values = [tree[key] for tree in trees if key in tree]
        if len({isinstance(value, dict) for value in values}) > 1:
            return False
        if isinstance(values[0], dict) and not _mappings_agree(*values):
            return False
    return True
