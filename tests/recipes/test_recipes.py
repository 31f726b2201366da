"""Every recipe that is shipped reads, validates, and asks its model for things that the model knows how to give."""

from pathlib import Path

import pytest

from tests import ROOT
from vlp.needs import needs
from vlp.objectives.combine import build_objectives
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


def test_every_recipe_is_in_the_readme() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    assert not [path.name for path in [*RECIPES, FOLDER / "base.yaml"] if f"recipes/{path.name}" not in readme]
