"""Every recipe that is shipped reads, validates, and asks its model for things that the model knows how to give."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from vlp.needs import needs
from vlp.objectives.base import build_objectives
from vlp.train.recipe import check_world, load_recipe

FOLDER = ROOT / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "base.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_whole(path: Path) -> None:
    recipe = load_recipe(path, ["data.train=somewhere"])
    assert recipe.name == path.stem
    assert recipe.steps > 0
    check_world(recipe, 1)
    built = build_objectives(recipe.objectives, recipe.model.dim)
    assert all(need in needs for need in built.needs)


def test_the_base_recipe_has_every_key() -> None:
    """Towers and objectives aside, whose keys are those of their kind; `encoders` are of modalities of one's own."""
    tree = yaml.safe_load((FOLDER / "base.yaml").read_text())
    recipe = load_recipe(FOLDER / "clip.yaml", ["data.train=somewhere"])
    for part in ("image", "tokenizer", "model", "data", "optim", "engine", "train", "log"):
        expected = {field.name for field in fields(getattr(recipe, part))} - {"encoders"}
        assert set(tree[part]) == expected, part
    for name in ("text", "augment"):
        assert set(tree["data"][name]) == {field.name for field in fields(getattr(recipe.data, name))}


def test_every_recipe_is_in_the_readme() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    assert not [path.name for path in [*RECIPES, FOLDER / "base.yaml"] if f"recipes/{path.name}" not in readme]
