"""Overrides keep their text: a field that holds a text gets what was typed, others what YAML makes of it."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import pytest

from tests import ROOT
from vlp.core.config import ConfigError, config, load
from vlp.train.recipe import Recipe, load_recipe

TEXTS = [
    "/x/set #2",
    "#hash",
    "/x/a: b",
    "a b ",
    " lead",
    "on",
    "no",
    "1e-3",
    "012",
    "0x10",
    "1:30",
    "2024-01-01",
    "12_000",
    "true",
    "'quoted'",
    'half"quoted',
    "/x/a\nb",
    "/x/{a}",
    "[a]/set",
    "{a: b}/set",
    "[set",
    "&anchor",
    "*alias",
    "!tag",
    "| block",
    "- item",
    "%x",
    "@x",
    "`x`",
    "bücher",
    "-dash",
    "a=b",
    "\t",
    "? key",
]


@config
class Inner:
    path: str = ""


@config
class Holder:
    text: str = "t"
    path: Path = Path()
    maybe: str | None = "m"
    either: str | tuple[Inner, ...] = ""
    number: float = 0.0
    count: int = 0
    flag: bool = False
    names: tuple[str, ...] = ()
    nested: Inner = Inner()
    scales: Mapping[str, float] = field(default_factory=dict)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text("text: x\nnested: {path: y}\n")
    return path


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["text", "maybe", "either", "nested.path"])
def test_a_text_stays_as_it_was_typed(recipe: Path, key: str, text: str) -> None:
    held: Any = load(Holder, recipe, [f"{key}={text}"])
    for name in key.split("."):
        held = getattr(held, name)
    assert held == text


def test_a_path_stays_as_it_was_typed(recipe: Path) -> None:
    assert load(Holder, recipe, ["path=/x/set #2"]).path == Path("/x/set #2")


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("number=1e-3", "number", 1e-3),
        ("number= 5 ", "number", 5.0),
        ("number=.5", "number", 0.5),
        ("count=012", "count", 12),
        ("count=1e6", "count", 1_000_000),
        ("count=-1_000", "count", -1000),
        ("flag=on", "flag", True),
        ("flag=False", "flag", False),
        ("maybe=null", "maybe", None),
        ("maybe=", "maybe", None),
        ("text=", "text", ""),
        ("names=[012, on, 1e-3, null]", "names", ("012", "on", "1e-3", "null")),
        ("names=['a # b', c]", "names", ("a # b", "c")),
        ("either=[{path: 012}, {path: 'a #2'}]", "either", (Inner(path="012"), Inner(path="a #2"))),
        ("nested={path: no}", "nested", Inner(path="no")),
        ("scales={on: 1e-1}", "scales", {"on": 0.1}),
    ],
)
def test_other_fields_get_what_their_type_makes_of_it(recipe: Path, override: str, name: str, value: object) -> None:
    found = getattr(load(Holder, recipe, [override]), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("override", ["names=[a, b", "names=[a] # b", "number=5 # five", "flag=5 #", "count=1.5"])
def test_what_no_type_fits_is_an_error_that_names_the_key(recipe: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load(Holder, recipe, [override])


def test_the_components_of_a_recipe_declare_their_keys_too() -> None:
    smoke = ROOT / "recipes" / "smoke_cpu.yaml"
    recipe: Recipe = load_recipe(
        smoke,
        [
            "data.train=/x/set #2",
            "name=012",
            "log.wandb=off",
            "model.image={kind: timm, name: 012}",
            "model.text.kind=hf",
            "model.text.path=on #1",
            "objectives=[{kind: siglip, weight: 1e-1}]",
            "train.samples=1e3",
        ],
    )
    assert recipe.data.train == "/x/set #2" and recipe.name == "012" and recipe.log.wandb == "off"
    assert recipe.model.image == {"kind": "timm", "name": "012"}
    assert recipe.model.text["path"] == "on #1"
    assert recipe.objectives == ({"kind": "siglip", "weight": 0.1},)
    assert recipe.train.samples == 1000


def test_one_of_a_few_values_keeps_its_type() -> None:
    """`Literal[1, 2]` in a list of objectives, as JSON on the command line: a number, and not its letters."""
    from vlp.core.declared import read

    assert read("2", Literal[1, 2]) == 2 and read("2", Literal["1", "2"]) == "2" and read("3", Literal[1, 2]) == "3"
    assert read("true", Literal[True, "auto"]) is True and read("auto", Literal[True, "auto"]) == "auto"
